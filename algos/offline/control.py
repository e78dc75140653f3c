"""Trains control policies from saved rollouts of any policy, without playing the environment.

- ``bc``, behaviour cloning, makes the recorded actions likely.
- ``filtered_bc`` does so with the best share of the complete episodes (Chen et al. 2021, "Decision
  Transformer", arXiv 2106.01345, section 5, there called %BC).
- ``awr`` is advantage-weighted regression (Peng et al. 2019, arXiv 1910.00177, algorithm 1). Every
  action is weighted by exp(advantage / temperature), with an upper bound. The critic is fitted to
  TD(lambda) returns, so that it values the policy that collected the data.

Deviations from AWR's paper:
- Advantages are standardised over the data before they are divided by the temperature, as in the
  authors' code, so that the temperature does not depend on the scale of the rewards.
- After some passes for the critic alone, actor and critic are trained side by side, and values
  and weights are computed again before each pass. The paper alternates between complete fits.
- Adam replaces gradient descent with momentum.

Every method fits a critic too, so that the policy has values as any other control policy.

Shapes: N transitions, B of a minibatch, D features, P outputs of the actor, K components of an
action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textenv.algos.config import check_bounds, check_choice, check_types, check_widths
from textenv.algos.control.mlp_policy import ACTIVATIONS, MLPPolicy
from textenv.algos.control.mlp_training import (
    Adam,
    Figures,
    MLPWeights,
    mean_figures,
    score_actions,
    transition_arrays,
)
from textenv.algos.episodes.trajectory import Buffer, Trajectory
from textenv.algos.offline.data import (
    JoinedEpisode,
    best_episodes,
    check_transitions,
    common_source,
    discounted,
    hash_of,
    join_episodes,
    mean_return,
    spaces_of,
)
from textenv.algos.offline.loop import TrainsOnData
from textenv.algos.ppo import explained_variance, gae
from textenv.algos.runtime import backend
from textenv.algos.storage.checkpoints.state import State, load_rng, save_rng
from textenv.algos.storage.source import check_source
from textenv.algos.trainers.callbacks import Callback
from textenv.algos.trainers.resuming import HasState
from textenv.algos.training.guard import SKIPPED, StepGuard
from textenv.errors import ConfigError, DataError

backend.prepare()

import mlx.core as mx  # noqa: E402

METHODS = {
    "awr": "advantage-weighted regression: actions count by how much better they were than usual",
    "filtered_bc": "behaviour cloning of the best share of the complete episodes",
    "bc": "behaviour cloning: repeat the recorded actions",
}
_MAX_GRAD_NORM = 1.0
_EPSILON = 1e-5
_LEAST_SPREAD = 1e-3  # standard deviation assumed for an action that never changes
_NARROWING = 5.0  # how far a log standard deviation may fall below that of the actions in the data


@dataclass(frozen=True)
class OfflineConfig:
    """Settings of `OfflineTrainer`.

    Raises:
        ConfigError: if a value is out of range; names the field.
        ConfigTypeError: if a value has the wrong type; names the field.
    """

    method: str = "awr"
    """The method: awr; filtered_bc if only a few episodes are good; bc for an expert's data."""
    epochs: int = 40
    """Passes over the data. Use fewer if holdout/logprob falls."""
    critic_epochs: int = 20
    """awr: passes that train the critic alone, before all others."""
    batch_size: int = 256
    """Transitions in a minibatch."""
    learning_rate: float = 1e-3
    """Adam's learning rate."""
    gamma: float | None = None
    """Discount of a step; unset: the one that the rollouts were collected for, or 0.99."""
    gae_lambda: float | None = None
    """Lambda of the returns that the critic is fitted to: 0 trusts the critic after one step, 1
    only the rewards. Unset: the one that the rollouts were collected for, or 0.95."""
    temperature: float = 1.0
    """awr: divisor of the standardised advantages. A low one trusts them: only the best actions
    count. A high one comes close to bc."""
    max_weight: float = 20.0
    """awr: largest weight of an action."""
    share: float = 0.25
    """filtered_bc: the share of the complete episodes to train on, those with the highest returns.
    Not for tasks in which the return depends more on the start than on the actions."""
    holdout: float = 0.1
    """Share of the episodes that is kept out of training for the holdout/ metrics; 0 keeps none."""
    normalize_observations: bool = True
    """Standardise observations by the statistics of the data."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of each hidden layer, the same for actor and critic."""
    activation: str = "tanh"
    """Activation of the hidden layers: tanh or relu."""
    save_steps: int = 0
    """Write a checkpoint every so many passes, from which resume goes on bit for bit; 0: not by
    passes. There is always one at the end."""
    save_minutes: float = 10.0
    """Write one after a pass if the last is so many minutes old; 0: not by time."""
    seed: int = 0
    """Seed of the initial weights, the minibatches and the choice of held-out episodes."""

    def __post_init__(self) -> None:
        check_types(self)
        check_choice(self, method=METHODS, activation=ACTIVATIONS)
        check_widths("hidden", self.hidden)
        check_bounds(
            self,
            **dict.fromkeys(("epochs", "batch_size"), (1, None)),
            **dict.fromkeys(("critic_epochs", "learning_rate"), (0, None)),
            **dict.fromkeys(("gamma", "gae_lambda", "share"), (0, 1)),
            temperature=(1e-6, None),
            max_weight=(1, None),
            save_steps=(0, None),
            save_minutes=(0, None),
            holdout=(0, 0.9),
        )
        if not self.share:
            raise ConfigError("share must be above 0, got 0: there would be nothing to train on")


class OfflineTrainer(TrainsOnData):
    """Trains a control policy from saved rollouts.

    Args:
        rollouts: rollouts of one environment, in the order in which they were collected
            (`textenv.algos.load_rollouts`).
        config: the settings; None takes the defaults.
        env: the environment that the rollouts must be of, single or vector. It is needed only if
            the rollouts do not name their spaces.
        on_step: called with the metrics after each pass.
        out: a folder in which ``checkpoints`` will be what `resume` goes on from; None writes none.
        callbacks: called while the training goes on; see `Callback`.

    Attributes:
        policy: the policy that is trained; usable at any time.
        history: the metrics of each pass so far.
        checkpoints: writes the checkpoints; the newest is its ``last``.
        data_return: mean return of the complete episodes in the data; None if none is complete.

    Raises:
        ConfigError: if the networks cannot take the spaces.
        DataError: if the rollouts are of text, of different environments or of another one than
            ``env``, or if nothing is left to train on.

    Example:
        >>> from textenv.algos import MLPPolicy, RolloutRunner
        >>> import gymnasium as gym
        >>> env = gym.make("CartPole-v1")
        >>> policy = MLPPolicy(env.observation_space, env.action_space)
        >>> rollout = RolloutRunner(env, policy, max_steps=256).collect()
        >>> trainer = OfflineTrainer([rollout], OfflineConfig("bc", epochs=3), env)
        >>> len(trainer.train())
        3
    """

    algorithm = "offline"

    def __init__(
        self,
        rollouts: Sequence[Buffer],
        config: OfflineConfig | None = None,
        env: Any = None,
        *,
        on_step: Callable[[dict[str, float]], None] | None = None,
        out: str | Path | None = None,
        callbacks: Sequence[Callback] | Callback = (),
    ):
        self.config = config = config or OfflineConfig()
        source = common_source(rollouts)
        if env is not None:
            for rollout in rollouts:
                check_source(rollout, env)
        if any(t.prompt is not None for rollout in rollouts for t in rollout):
            raise DataError(
                "these are rollouts of text: OfflineTextTrainer trains a language model on them"
            )
        gamma, lam = config.gamma, config.gae_lambda
        self.gamma = next(x for x in (gamma, source.gamma, 0.99) if x is not None)
        self.gae_lambda = next(x for x in (lam, source.gae_lambda, 0.95) if x is not None)
        self.policy = MLPPolicy(
            *spaces_of(source, env),
            config.hidden,
            config.activation,
            config.normalize_observations,
            config.seed,
        )
        check_transitions(rollouts, self.policy)
        self._rng = np.random.default_rng((config.seed, 1))
        self.episodes = join_episodes(rollouts)
        """The episodes of the data."""
        self.data_return = mean_return(self.episodes)
        self._kept, held = self._choose()
        self._data = transition_arrays(self._kept, self.policy)
        self.policy.masked = self._data.masks is not None
        self._held = transition_arrays(held, self.policy) if held else None
        self.policy.update_stats(self._data.observations)
        returns = [discounted(t.rewards, self.gamma) for t in self._kept]
        self.policy.reward_scale = float(np.std(np.concatenate(returns))) or 1.0
        self._widen()
        self._optimizer = Adam(self.policy.weights, self._loss, _MAX_GRAD_NORM)
        self._guard = StepGuard()
        self._prepare(out, on_step, callbacks)

    def train(self) -> list[dict[str, float]]:
        """Train for ``epochs`` passes over the data, after those for awr's critic alone.

        If training is interrupted, the policy is as the last complete pass left it.

        A further call goes on counting. If a call was interrupted, the next one makes the passes
        that are left; else it makes ``epochs`` more. If there is an ``out``, passes are saved.

        Returns:
            The metrics of each pass; the same list as `history`.

        Raises:
            NotFiniteError: if five passes in a row had no finite loss. They change nothing.
            ConfigError: if ``out`` has checkpoints of another training.
            StorageError: if a checkpoint cannot be written.
        """
        return self._take_steps(self.config.epochs)

    def _take_step(self) -> dict[str, float]:
        metrics = self._pass(critic_alone=len(self.history) < self._critic_passes)
        return metrics | {"epoch": len(self.history) + 1.0}

    @property
    def _length(self) -> int:
        return self.passes

    def _parts(self) -> dict[str, HasState]:
        return {"policy": self.policy, "adam": self._optimizer}

    def _counts(self) -> dict[str, Any]:
        return {**super()._counts(), "minibatches": save_rng(self._rng)}

    def _set_counts(self, state: State) -> None:
        super()._set_counts(state)
        load_rng(self._rng, state.value("minibatches"))

    def _data_hash(self) -> str:
        lengths = [len(trajectory) for trajectory in self._kept]
        rewards = [reward for trajectory in self._kept for reward in trajectory.rewards]
        return hash_of([self._data.observations, self._data.actions, rewards, lengths])

    def describe(self) -> str:
        """Describe in one line what is trained, and on what data."""
        c = self.config
        layers = " x ".join(map(str, c.hidden))
        how = {
            "awr": f", temperature {c.temperature:g}, weights up to {c.max_weight:g}",
            "filtered_bc": f" ({c.share:.0%}, {len(self._kept)} episodes)",
            "bc": "",
        }[c.method]
        return (
            f"{c.method}: {METHODS[c.method]}{how}; {len(self._data.actions)} transitions, "
            f"{c.epochs} passes in minibatches of {c.batch_size}, Adam at {c.learning_rate:g}; "
            f"actor and critic of {layers} {c.activation} units"
        )

    def save(self, folder: str | Path) -> None:
        """Write the policy with its statistics to a folder; `load_policy` reads it."""
        self.policy.save(folder)
        self._after_save(folder)

    @property
    def passes(self) -> int:
        """The number of passes over the data in the whole training."""
        return self._critic_passes + self.config.epochs

    @property
    def _critic_passes(self) -> int:
        return self.config.critic_epochs if self.config.method == "awr" else 0

    def _choose(self) -> tuple[list[Trajectory], list[Trajectory]]:
        """The trajectories to train on, and those held out."""
        chosen: list[JoinedEpisode] = self.episodes
        if self.config.method == "filtered_bc":
            chosen = best_episodes(chosen, self.config.share)
        order = self._rng.permutation(len(chosen))
        held = set(order[: int(self.config.holdout * len(chosen))].tolist())
        parts: tuple[list[Trajectory], list[Trajectory]] = ([], [])
        for i, episode in enumerate(chosen):
            parts[i in held].append(episode.trajectory)
        return parts

    def _widen(self) -> None:
        """For a Box, set the initial standard deviations to those of the actions in the data."""
        self._least_log_std: np.ndarray | None = None
        if self.policy.distribution.learns_std:
            spread = np.maximum(self._data.actions.std(axis=0), _LEAST_SPREAD)
            log_std = np.log(spread).astype(np.float32)
            self.policy.set_weights(self.policy.weights | {"log_std": log_std})
            self._least_log_std = log_std - np.float32(_NARROWING)

    def _pass(self, critic_alone: bool) -> dict[str, float]:
        """Make one pass over the data; returns its metrics."""
        data, config = self._data, self.config
        size = len(data.actions)
        advantages, returns, values = self._targets()
        weights = np.ones(size)
        metrics: dict[str, float] = {}
        if critic_alone:
            weights = np.zeros(size)
        elif config.method == "awr":
            weights = advantage_weights(advantages, config.temperature, config.max_weight)
            metrics = {
                "train/weight_max": float(weights.max()),
                # Kish's effective sample size: as many equal weights would be as good.
                "train/effective_share": float(weights.sum() ** 2 / (weights**2).sum() / size),
            }
        parts = [
            self.policy.normalize(data.observations),
            data.actions,
            weights.astype(np.float32),
            (returns / self.policy.reward_scale).astype(np.float32),
        ]
        if data.masks is not None:
            parts.append(data.masks)
        before = self._optimizer.vectors
        # All minibatches have one size, for which the step is compiled; the rest of the rows is
        # left out of this pass.
        batch = min(config.batch_size, size)
        rows = self._rng.permutation(size)[: size // batch * batch].reshape(-1, batch)
        steps = [
            self._optimizer.step(config.learning_rate, [part[r] for part in parts]) for r in rows
        ]
        try:
            means = mean_figures(steps)
        except FloatingPointError as error:
            self._optimizer.vectors = before
            self._guard.skipped(error, self._kept)
            return {SKIPPED: float(len(rows))}
        self._guard.taken()
        self.policy.set_weights(self._bounded(self._optimizer.weights))
        metrics |= {f"train/{name}": mean for name, mean in means.items()}
        metrics["train/explained_variance"] = explained_variance(values, returns)
        metrics["train/n_updates"] = float(self._optimizer.vectors[3])
        if self._held is not None:
            metrics["holdout/logprob"] = self._held_out_logprob()
        return metrics

    def _targets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Advantages, TD(lambda) returns and values (N,) by the present critic."""
        scale = self.policy.reward_scale
        values = self.policy.forward(self._data.observations)[1].astype(np.float64) * scale
        ends = [t.final_observation for t in self._kept if not t.terminated]
        after = iter(self.policy.values(ends) if ends else ())
        advantages, start = [], 0
        for trajectory in self._kept:
            end = start + len(trajectory)
            after_end = 0.0 if trajectory.terminated else float(next(after))
            own = gae(trajectory.rewards, values[start:end], after_end, self.gamma, self.gae_lambda)
            advantages.append(own[0])
            start = end
        found = np.concatenate(advantages)
        return found, found + values, values

    def _loss(
        self,
        weights: MLPWeights,
        settings: list[mx.array],
        observations: mx.array,
        actions: mx.array,
        counts: mx.array,
        returns: mx.array,
        mask: mx.array | None = None,
    ) -> tuple[mx.array, Figures]:
        """The weighted negative log-likelihood plus the critic's squared error."""
        logprobs, entropies, values = score_actions(
            self._bounded(weights), self.policy, observations, actions, mask
        )
        policy_loss = -(counts * logprobs).mean()
        error = ((returns - values) ** 2).mean()
        parts = {"policy_loss": policy_loss, "value_loss": error, "entropy": entropies.mean()}
        return policy_loss + error, {k: mx.stop_gradient(v) for k, v in parts.items()}

    def _bounded(self, weights: dict[str, Any]) -> dict[str, Any]:
        """The weights, with a lower bound on standard deviations to keep likelihoods finite."""
        if self._least_log_std is None:
            return weights
        log_std, least = weights["log_std"], self._least_log_std
        bounded = (
            np.maximum(log_std, least)
            if isinstance(log_std, np.ndarray)
            else mx.maximum(log_std, mx.array(least))
        )
        return weights | {"log_std": bounded}

    def _held_out_logprob(self) -> float:
        """Mean log-probability of the actions that were held out."""
        held = self._held
        assert held is not None
        weights = {name: mx.array(value) for name, value in self.policy.weights.items()}
        rows = mx.array(self.policy.normalize(held.observations))
        mask = None if held.masks is None else mx.array(held.masks)
        logprobs, _, _ = score_actions(weights, self.policy, rows, mx.array(held.actions), mask)
        return float(np.array(logprobs).mean())


def advantage_weights(
    advantages: np.ndarray, temperature: float = 1.0, max_weight: float = 20.0
) -> np.ndarray:
    """The weight of each action: exp(standardised advantage / temperature), with an upper bound.

    Args:
        advantages: (N,), in any unit.
        temperature: divisor of the standardised advantages.
        max_weight: the upper bound.

    Returns:
        (N,) float64.

    Example:
        >>> advantage_weights(np.array([-1.0, 0.0, 1.0])).round(2).tolist()
        [0.29, 1.0, 3.4]
    """
    advantages = np.asarray(advantages, np.float64)
    standard = (advantages - advantages.mean()) / (advantages.std() + _EPSILON)
    # The bound is applied to the exponent, because the exponential could overflow.
    return np.exp(np.minimum(standard / temperature, np.log(max_weight)))
