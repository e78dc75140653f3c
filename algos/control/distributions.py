"""The distributions that a control policy draws actions from, one for each kind of action space.

Each is written twice: in NumPy for rollouts, and in MLX for the loss. The tests compare the two
with each other and with Stable-Baselines3's.

Shapes: B rows, P outputs of the actor, K components of an action.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from textenv.algos.control.observations import refuse_action_space, stack_numbers
from textenv.errors import DataError

if TYPE_CHECKING:
    import mlx.core as mx

_MASKED = -1e8  # the logit of an action that is not allowed, as in sb3-contrib
_LOG_2PI = math.log(2 * math.pi)


class Categorical:
    """The distribution for Discrete and MultiDiscrete: K independent choices, each with its logits.

    Args:
        space: the action space.
    """

    learns_std = False

    def __init__(self, space: spaces.Discrete | spaces.MultiDiscrete):
        self.space = space
        self.single_choice = isinstance(space, spaces.Discrete)
        counts = [space.n] if isinstance(space, spaces.Discrete) else space.nvec.reshape(-1)
        self._counts = [int(n) for n in counts]
        self._starts = np.asarray(space.start, np.int64).reshape(-1)
        self._ends = np.cumsum(self._counts)[:-1]
        self.outputs = sum(self._counts)
        """P, the number of the actor's outputs."""
        self.action_size = len(self._counts)
        """K, the number of components of an action."""

    def draw(
        self,
        outputs: np.ndarray,
        log_std: np.ndarray | None,
        rng: np.random.Generator,
        deterministic: bool,
        mask: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw actions, or take the most probable ones.

        Args:
            outputs: (B, P) logits.
            log_std: unused.
            rng: the source of the noise.
            deterministic: whether to take the most probable action.
            mask: (B, P), 0 for choices that are not allowed.

        Returns:
            Actions (B, K) int64 counted from 0, and their log-probabilities (B,).
        """
        if mask is not None:
            outputs = np.where(mask, outputs, np.float32(_MASKED))
        actions = np.empty((len(outputs), self.action_size), np.int64)
        logprob = np.zeros(len(outputs), np.float32)
        rows = np.arange(len(outputs))
        for k, logits in enumerate(np.split(outputs, self._ends, axis=1)):
            logits = logits - logits.max(axis=1, keepdims=True)
            logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
            if deterministic:
                chosen = logits.argmax(axis=1)
            else:
                cumulative = np.exp(logits, dtype=np.float64).cumsum(axis=1)
                noise = rng.random(len(logits))[:, None] * cumulative[:, -1:]
                chosen = (cumulative <= noise).sum(axis=1)
            actions[:, k] = chosen
            logprob += logits[rows, chosen]
        return actions, logprob

    def score(
        self, outputs: mx.array, log_std: mx.array | None, actions: mx.array, mask: mx.array | None
    ) -> tuple[mx.array, mx.array]:
        """Log-probabilities (B,) of actions (B, K), and entropies (B,)."""
        import mlx.core as mx

        from textenv.algos.lm.kernels.block_sums import block_sum

        if mask is not None:
            outputs = mx.where(mask > 0, outputs, _MASKED)
        parts = mx.split(outputs, self._ends.tolist(), axis=1) if len(self._ends) else [outputs]
        logprob, entropy = mx.zeros(()), mx.zeros(())
        for k, logits in enumerate(parts):
            logits = logits - mx.stop_gradient(mx.max(logits, axis=1, keepdims=True))
            logits = logits - mx.log(block_sum(mx.exp(logits), keepdims=True))
            logprob = logprob + mx.take_along_axis(logits, actions[:, k : k + 1], axis=1)[:, 0]
            entropy = entropy - block_sum(mx.exp(logits) * logits)
        return logprob, entropy

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Turn actions (B, K) into a batch of actions of the space."""
        shifted = actions + self._starts
        return shifted.reshape(-1, *(self.space.shape or ()))

    def from_env(self, actions: Sequence[Any]) -> np.ndarray:
        """Turn a list of actions of the space into actions (B, K), counted from 0.

        Raises:
            DataError: if one is not of the space; says which.
        """
        drawn = stack_numbers(actions, self.space.shape or (), "action", "biu").astype(np.int64)
        drawn -= self._starts
        _refuse_outside((drawn >= 0) & (drawn < self._counts), actions, self.space)
        return drawn


class Gaussian:
    """The distribution for Box: K independent normal distributions.

    Their standard deviations do not depend on the observation. What is drawn has no bounds; the
    environment gets it clipped to the space.

    Args:
        space: the action space.
    """

    learns_std = True

    def __init__(self, space: spaces.Box):
        self.space = space
        self.outputs = self.action_size = int(np.prod(space.shape))

    def draw(
        self,
        outputs: np.ndarray,
        log_std: np.ndarray | None,
        rng: np.random.Generator,
        deterministic: bool,
        mask: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw actions (B, K) float32, not clipped, and their log-probabilities (B,).

        Args:
            outputs: (B, K) means.
            log_std: (K,) logarithms of the standard deviations.
            rng: the source of the noise.
            deterministic: whether to take the means.
            mask: unused; a Box has no mask.
        """
        assert log_std is not None
        if deterministic:
            actions = outputs
        else:
            noise = rng.standard_normal(outputs.shape, dtype=np.float32)
            actions = outputs + np.exp(log_std) * noise
        scaled = (actions - outputs) * np.exp(-log_std)
        logprob = -(0.5 * scaled**2 + log_std + 0.5 * _LOG_2PI).sum(axis=1)
        return actions, logprob.astype(np.float32)

    def score(
        self, outputs: mx.array, log_std: mx.array | None, actions: mx.array, mask: mx.array | None
    ) -> tuple[mx.array, mx.array]:
        """Log-probabilities (B,) of actions (B, K), and entropies (B,)."""
        import mlx.core as mx

        assert log_std is not None
        scaled = (actions - outputs) * mx.exp(-log_std)
        logprob = -(0.5 * scaled * scaled + log_std + 0.5 * _LOG_2PI).sum(axis=1)
        entropy = (log_std + 0.5 * (1 + _LOG_2PI)).sum()
        return logprob, mx.broadcast_to(entropy, logprob.shape)

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Turn actions (B, K) into a batch of actions of the space, clipped to its bounds."""
        shaped = actions.reshape(-1, *self.space.shape)
        return np.clip(shaped, self.space.low, self.space.high).astype(self.space.dtype)

    def from_env(self, actions: Sequence[Any]) -> np.ndarray:
        """Turn a list of actions into actions (B, K); they may be out of the space's bounds.

        Raises:
            DataError: if one is not of the space's shape, or not finite; says which.
        """
        drawn = stack_numbers(actions, self.space.shape, "action").astype(np.float32)
        _refuse_outside(np.isfinite(drawn), actions, self.space)
        return drawn


Distribution = Categorical | Gaussian


def _refuse_outside(fits: np.ndarray, actions: Sequence[Any], space: spaces.Space) -> None:
    bad = np.flatnonzero(~fits.all(axis=1))
    if len(bad):
        raise DataError(f"action {bad[0]}: {actions[bad[0]]!r:.80} is not of the space {space}")


def make_distribution(space: spaces.Space) -> Distribution:
    """Make the distribution for an action space.

    Raises:
        ConfigError: if there is none for this space; names a wrapper that helps.
    """
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return Categorical(space)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return Gaussian(space)
    raise refuse_action_space(space)
