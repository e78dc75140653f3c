"""Trains an `MLPPolicy` on any loss: transitions as arrays, the forward pass in MLX, and Adam.

Shapes: B rows of a minibatch, D features, P outputs of the actor, K components of an action, H
units of a layer, W weights in all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from textenv.algos.control.mlp_policy import MLPPolicy, stack_masks
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.runtime import backend
from textenv.algos.storage.checkpoints.state import State
from textenv.errors import DataError

backend.prepare()

import mlx.core as mx  # noqa: E402

from textenv.algos.lm.kernels.block_sums import block_sum  # noqa: E402
from textenv.algos.lm.kernels.fast_math import tanh  # noqa: E402
from textenv.algos.runtime.compile import compiled  # noqa: E402

_BETAS = (0.9, 0.999)
_ADAM_EPSILON = 1e-5
_VECTORS = ("weights", "first_moment", "second_moment")

MLPWeights = dict[str, mx.array]
"""The weights of an `MLPPolicy` by name, in MLX."""

Figures = dict[str, mx.array]
"""Numbers by name that MLX has not computed yet."""

MLPLossFn = Callable[..., "tuple[mx.array, Figures]"]
"""``loss_fn(weights, settings, *data) -> (loss, figures)``; the figures have no gradient."""


class TransitionArrays(NamedTuple):
    """Observations, actions and masks of N transitions, in the order of their trajectories."""

    observations: np.ndarray
    """(N, D) float32, not normalised."""
    actions: np.ndarray
    """(N, K), as the distribution draws them: counted from 0, or not clipped."""
    masks: np.ndarray | None
    """(N, P) bool; None if every action is always allowed."""


def transition_arrays(
    trajectories: Sequence[Trajectory], policy: MLPPolicy, where: str = ""
) -> TransitionArrays:
    """The transitions of some trajectories as arrays for a policy's networks.

    Args:
        trajectories: the trajectories, one or more.
        policy: the policy.
        where: where they are from, as the beginning of a message.

    Raises:
        DataError: if an observation or an action does not fit the policy's spaces; says which.
    """
    rows, actions = [], []
    for index, trajectory in enumerate(trajectories):
        try:
            rows.append(policy.encoder.rows(trajectory.observations))
            actions.append(policy.distribution.from_env(_drawn(trajectory, policy)))
        except DataError as error:
            raise DataError(f"{where}trajectory {index}, {error}") from error
        if len(rows[-1]) != len(actions[-1]):
            raise DataError(
                f"{where}trajectory {index}: {len(actions[-1])} actions and {len(rows[-1])} "
                "observations; there must be one before each action"
            )
        if trajectory.final_observation is not None:
            try:
                policy.encoder.rows([trajectory.final_observation])
            except DataError as error:
                raise DataError(f"{where}trajectory {index}, its last {error}") from error
    infos = [info for t in trajectories for info in (t.reset_info, *t.infos[:-1])]
    drawn = np.concatenate(actions)
    return TransitionArrays(
        np.concatenate(rows), drawn, stack_masks(infos, len(drawn), policy.distribution.space)
    )


def _drawn(trajectory: Trajectory, policy: MLPPolicy) -> list[Any]:
    """The actions before they were clipped, if they are recorded; otherwise the actions.

    An agent that squashes its actions (SAC) records something else under that name: what it drew
    before it was stretched to the bounds.
    """
    drawn, distribution = trajectory.unclipped_actions, policy.distribution
    if drawn is None:
        return trajectory.actions
    clipped = distribution.to_env(distribution.from_env(drawn))
    same = np.shape(clipped) == np.shape(trajectory.actions)
    return drawn if same and np.allclose(clipped, trajectory.actions) else trajectory.actions


def forward(weights: MLPWeights, x: mx.array, activation: str) -> tuple[mx.array, mx.array]:
    """Outputs of the actor (B, P) and of the critic (B,) for normalised observations (B, D).

    This is `MLPPolicy.forward` in MLX.
    """
    x = x[None]
    layer = 0
    while f"hidden.{layer}.weight" in weights:
        x = x @ weights[f"hidden.{layer}.weight"] + weights[f"hidden.{layer}.bias"]  # (2, B, H)
        x = tanh(x) if activation == "tanh" else mx.maximum(x, 0)
        layer += 1
    outputs = x[0] @ weights["actor.weight"] + weights["actor.bias"]
    return outputs, (x[1] @ weights["critic.weight"] + weights["critic.bias"])[:, 0]


def score_actions(
    weights: MLPWeights,
    policy: MLPPolicy,
    observations: mx.array,
    actions: mx.array,
    masks: mx.array | None,
) -> tuple[mx.array, mx.array, mx.array]:
    """How likely actions are under weights of a policy, and what its critic says.

    Args:
        weights: the weights; those of the policy itself are not used.
        policy: the policy, for its activation and its distribution.
        observations: (B, D), normalised.
        actions: (B, K), as the distribution draws them.
        masks: (B, P), 0 for choices that are not allowed; None if all are.

    Returns:
        Log-probabilities of the actions, entropies and values, each (B,).
    """
    outputs, values = forward(weights, observations, policy.activation)
    log_std = weights.get("log_std")
    logprobs, entropies = policy.distribution.score(outputs, log_std, actions, masks)
    return logprobs, entropies, values


class Adam:
    """Adam (Kingma and Ba 2015) on all weights of a policy as one vector.

    A step is one call of a compiled function: forward, backward, clipping of the gradient, and
    the update. The learning rate is an argument, so that the function is compiled only once for
    each size of minibatch.

    Args:
        weights: the weights by name, as in `MLPPolicy.weights`.
        loss_fn: the loss that is minimised, see `MLPLossFn`.
        max_grad_norm: the gradient's global norm is clipped to this; 0 does not clip.

    Attributes:
        vectors: the vector (W,) of all weights, its two moments, and the number of steps so far.
            Nothing in it is changed in place, so that putting earlier ones back undoes the steps
            since.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], loss_fn: MLPLossFn, max_grad_norm: float):
        self._shapes = {name: value.shape for name, value in weights.items()}
        flat = np.concatenate([np.asarray(value).reshape(-1) for value in weights.values()])
        self.vectors: tuple[mx.array, mx.array, mx.array, int] = (
            *(mx.array(flat), mx.zeros(len(flat)), mx.zeros(len(flat))),
            0,
        )
        mx.eval(*self.vectors[:3])  # another thread than this one may take the steps
        self._loss_fn, self._max_grad_norm = loss_fn, max_grad_norm
        self._step: Any = compiled(self._one_step, "minibatches of few sizes need few")

    @property
    def size(self) -> int:
        """W, the number of weights."""
        return int(self.vectors[0].size)

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The weights by name."""
        return self._split(np.array(self.vectors[0]))

    def step(
        self, learning_rate: float, data: Sequence[np.ndarray], settings: Sequence[float] = ()
    ) -> Figures:
        """Take one step on a minibatch.

        Args:
            learning_rate: the learning rate of this step.
            data: arrays of the minibatch, which the loss is given.
            settings: numbers that change from step to step, which the loss is given as a list.

        Returns:
            The figures of the loss before the step, and ``grad_norm``; `mean_figures` reads them.
        """
        flat, first, second, steps = self.vectors
        steps += 1
        # The powers are computed here: the compiled step would compute them once for each weight.
        corrections = learning_rate / (1 - _BETAS[0] ** steps), 1 / (1 - _BETAS[1] ** steps)
        numbers = [mx.array(number) for number in (*corrections, *settings)]
        minibatch = [mx.array(part) for part in data]
        flat, first, second, figures = self._step(flat, first, second, numbers, minibatch)
        mx.async_eval(flat, first, second, figures)
        self.vectors = flat, first, second, steps
        return figures

    def state(self) -> State:
        """The vectors and the number of steps."""
        arrays = dict(zip(_VECTORS, map(np.array, self.vectors[:3])))
        return State(arrays, {"steps": self.vectors[3]})

    def load_state(self, state: State) -> None:
        """Go on from what `state` gave.

        Raises:
            DataError: if it is of a policy with another number of weights.
        """
        vectors = [mx.array(state.array(name)) for name in _VECTORS]
        if any(vector.shape != (self.size,) for vector in vectors):
            raise DataError(
                f"the state of Adam is of {len(vectors[0])} weights; this policy has {self.size}"
            )
        mx.eval(vectors)
        flat, first, second = vectors
        self.vectors = flat, first, second, int(state.value("steps"))

    def _split(self, flat: Any) -> dict[str, Any]:
        weights, start = {}, 0
        for name, shape in self._shapes.items():
            end = start + math.prod(shape)
            weights[name] = flat[start:end].reshape(shape)
            start = end
        return weights

    def _one_step(
        self,
        flat: mx.array,
        first: mx.array,
        second: mx.array,
        settings: list[mx.array],
        data: list[mx.array],
    ) -> tuple[mx.array, mx.array, mx.array, Figures]:
        (_, figures), grads = mx.value_and_grad(self._loss_fn)(
            self._split(flat), settings[2:], *data
        )
        gradient = mx.concatenate([grads[name].reshape(-1) for name in self._shapes])
        norm = mx.sqrt(block_sum(gradient * gradient))
        if self._max_grad_norm:
            gradient = gradient * mx.minimum(self._max_grad_norm / (norm + 1e-6), 1)
        first = _BETAS[0] * first + (1 - _BETAS[0]) * gradient
        second = _BETAS[1] * second + (1 - _BETAS[1]) * gradient * gradient
        flat = flat - settings[0] * first / (mx.sqrt(second * settings[1]) + _ADAM_EPSILON)
        return flat, first, second, figures | {"grad_norm": norm}


def mean_figures(history: Sequence[Figures]) -> dict[str, float]:
    """The mean of each figure over several steps.

    Raises:
        FloatingPointError: if a mean is not finite.
    """
    names = history[0] if history else {}
    means = {name: float(np.mean([row[name].item() for row in history])) for name in names}
    if not np.isfinite(list(means.values())).all():
        raise FloatingPointError(
            "the loss of a minibatch is not finite: lower learning_rate, or look for "
            "observations or rewards that are too large; the weights were left as they were"
        )
    return means
