"""Holds the weights that were the best, so that a training that has broken a model can go back."""

from __future__ import annotations

from collections.abc import Sequence

from textenv.algos.episodes.rollout import Rollout
from textenv.algos.episodes.trajectory import scored_rewards
from textenv.algos.runtime import backend
from textenv.algos.storage.checkpoints.state import State

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import numpy as np  # noqa: E402
from mlx.utils import tree_map, tree_unflatten  # noqa: E402

from textenv.algos.lm.models.weights import arrays_like, as_numpy  # noqa: E402


class LastGood:
    """Holds the trained weights that were the best so far.

    It takes as much memory as the weights that are trained. A rollout is as good as its share of
    right answers, or as its mean reward if the task cannot tell what is right. Once there is an
    evaluation on held-out examples, evaluations alone tell: a reward may know nothing of how good
    a model is.

    Args:
        model: the model whose trainable weights are held.

    Attributes:
        step: the optimizer steps that the held weights had seen; None before the first offer.
        value: how good their rollout or their evaluation was.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._weights = model.trainable_parameters()
        self._by_evaluation = False
        self.step: int | None = None
        self.value = float("-inf")

    def offer(self, step: int, rollout: Rollout) -> None:
        """Hold the present weights if their rollout is the best, and there is no evaluation yet.

        Args:
            step: the optimizer steps so far.
            rollout: what these weights played.
        """
        if not self._by_evaluation:
            self._hold(step, how_good(rollout))

    def judge(self, step: int, evaluations: Sequence[tuple[int, float]]) -> None:
        """Hold the present weights if their evaluation is the best so far.

        Args:
            step: the optimizer steps so far.
            evaluations: all evaluations so far, each with the step that it was made at and the
                accuracy. One at step 0 tells how good the weights are that the training began with.
        """
        if not evaluations:
            return
        (first, before), (last, now) = evaluations[0], evaluations[-1]
        if not self._by_evaluation:
            self._by_evaluation = True
            self.value = before if first == self.step == 0 else float("-inf")
        if last == step:
            self._hold(step, now)

    def _hold(self, step: int, value: float) -> None:
        if value > self.value:
            # Arrays do not change: an update puts others in their place.
            self._weights = tree_map(lambda weight: weight, self._model.trainable_parameters())
            self.step, self.value = step, value

    def state(self) -> State:
        """The weights that are held, and how good they are."""
        values = {"step": self.step, "value": self.value, "by_evaluation": self._by_evaluation}
        return State(as_numpy(self._weights), values)

    def load_state(self, state: State) -> None:
        """Go on from what `state` gave."""
        self._weights = tree_unflatten(list(arrays_like(self._weights, state.arrays).items()))
        self.step, self.value = state.value("step"), state.value("value")
        self._by_evaluation = state.value("by_evaluation")

    def go_back(self, step: int) -> str:
        """Give the model the weights that are held.

        Args:
            step: the optimizer steps so far.

        Returns:
            What was done, in words.
        """
        self._model.update(self._weights)
        mx.eval(self._model.parameters())
        why = "whose evaluation was the best" if self._by_evaluation else "which played best"
        model = f"the model is that of step {self.step}, {why}"
        return f"stopped at a collapse after {step} steps; {model}"


def how_good(rollout: Rollout) -> float:
    """The share of right answers of all that was played; the mean reward if that is not known."""
    judged = [t.is_correct for t in rollout.played if t.is_correct is not None]
    values = judged or scored_rewards(rollout.played)
    return float(np.mean(values)) if values else float("-inf")
