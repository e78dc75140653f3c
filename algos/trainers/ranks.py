"""Shares the rollouts and the gradients of a training among its ranks.

All ranks plan the same rollouts, each plays some of the groups, and then all of them have the
whole rollout. So the strategy, the advantages, the microbatches and the metrics are the same on
each. Each rank computes the gradient of some microbatches. Their losses are parts of the loss of
the whole batch, which is divided by the tokens of the whole batch: the sum of the ranks' gradients
is the gradient that one process would compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from textenv.algos.config import to_table
from textenv.algos.episodes.rollout import Rollout
from textenv.algos.episodes.trajectory import Buffer, Trajectory
from textenv.algos.grpo_config import GRPOConfig
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.algos.runtime import backend
from textenv.algos.runtime.versions import versions
from textenv.algos.storage.codec import decode_rollout, encode_rollout
from textenv.algos.strategies.protocols import Start
from textenv.algos.training.microbatches import LossResult, MicroBatch
from textenv.errors import ConfigError

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_flatten, tree_map  # noqa: E402

from textenv.algos.lm.models.weights import checksums  # noqa: E402
from textenv.algos.runtime.ranks import Ranks  # noqa: E402
from textenv.algos.training.gradient import GradientComputer  # noqa: E402
from textenv.algos.training.optimizer import widened  # noqa: E402

_FITTED = ("num_prompts", "num_generations", "micro_batch_size")  # by the memory of each machine


class RankRunner:
    """Collects the rollouts of a runner, of which each rank plays a share.

    Args:
        runner: the same on all ranks: the same environment, policy, strategy and seed.
        ranks: all of them collect at the same time.
    """

    def __init__(self, runner: RolloutRunner, ranks: Ranks):
        self._runner, self._ranks = runner, ranks

    def collect(self) -> Rollout:
        """Collect one rollout, which is the same on all ranks.

        Raises:
            RankError: if another rank has ended.
            DataError: if a trajectory has a value that JSON cannot hold, such as a reward of NaN.
        """
        return self._runner.collect(self._play)

    def close(self) -> None:
        """Close the environments."""
        self._runner.close()

    def _play(self, starts: Sequence[Start]) -> list[Trajectory]:
        """Play this rank's share of whole groups, and give it to the others for theirs."""
        size, seconds = self._runner.strategy.num_generations, self._runner.seconds
        share, before = self._ranks.share(len(starts) // size), dict(seconds)
        own = starts[share.start * size : share.stop * size]
        played = self._runner.play_starts(own) if own else []
        spent = {name: seconds[name] - before[name] for name in before}
        answers = self._ranks.gather({"rows": encode_rollout(Buffer(played)), "seconds": spent})
        trajectories: list[Trajectory] = []
        for rank, answer in enumerate(answers):
            trajectories += decode_rollout(answer["rows"], None, f"rank {rank}").trajectories
            for name, value in answer["seconds"].items():
                seconds[name] += value if rank != self._ranks.rank else 0.0
        return trajectories


class RankGradient:
    """Computes a gradient together with the other ranks.

    Args:
        model: the gradient is by its trainable weights, which are the same on all ranks.
        gradient: computes the gradient of this rank's microbatches.
        ranks: all of them compute at the same time.
    """

    def __init__(self, model: nn.Module, gradient: GradientComputer, ranks: Ranks):
        self._model, self._own, self._ranks = model, gradient, ranks
        self.shares = ranks.size * gradient.shares

    def gradient(self, microbatches: Sequence[MicroBatch]) -> tuple[list[LossResult], Any]:
        """The loss of each microbatch, and the gradient of the sum of the losses.

        Args:
            microbatches: those of all ranks, the same on each.
        """
        own = microbatches[self._ranks.share(len(microbatches))]
        results: list[LossResult] = []
        if own:
            results, gradient = self._own.gradient(own)
        else:
            gradient = widened(tree_map(mx.zeros_like, self._model.trainable_parameters()))
        total = self._ranks.sum(gradient)
        answers = self._ranks.gather([list(result) for result in results])
        return [LossResult(*result) for answer in answers for result in answer], total


def agree(ranks: Ranks, asked: GRPOConfig, fitted: GRPOConfig, model: nn.Module) -> GRPOConfig:
    """The settings of all ranks.

    Those that were left open and fitted to the memory of each rank are the least of any.

    Args:
        ranks: all of them.
        asked: the settings that this rank was given.
        fitted: the same without gaps.
        model: this rank's, at the beginning.

    Raises:
        ConfigError: for ``num_workers``, which several ranks cannot have.
        RankError: if other settings, the weights or the versions of libraries are not the same.
    """
    if ranks.size == 1:
        return fitted
    if asked.num_workers:
        raise ConfigError(
            f"{ranks.size} ranks and num_workers={asked.num_workers}: a rank plays and computes "
            "by itself; start more ranks in place of workers"
        )
    weights: Any = tree_flatten(model.parameters())
    versioned = {"weights": [int(each) for each in checksums(weights)], **versions()}
    ranks.check_equal(to_table(asked) | versioned)
    found = ranks.gather([getattr(fitted, name) for name in _FITTED])
    least: dict[str, Any] = {
        n: min(filter(None, all_), default=None) for n, all_ in zip(_FITTED, zip(*found))
    }
    return replace(fitted, **least)
