"""Plays a part of a rollout and trains on it, to see what a step does and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from textenv.algos.episodes.rollout import Rollout
from textenv.algos.rollouts.runner import RolloutRunner


@dataclass(frozen=True)
class Rehearsal:
    """What a part of a step was like."""

    rollout: Rollout
    """What was played."""
    groups: int
    """How many groups it has."""
    of: int
    """How many groups the rollout of a whole step has."""
    generate: float
    """Seconds of generation and rewards."""
    update: float
    """Seconds of the update, in which every completion had a signal."""

    @property
    def step(self) -> float:
        """Seconds of a whole step, in proportion: at most so many, as larger batches are faster."""
        return (self.generate + self.update) * self.of / self.groups


def rehearse(runner: RolloutRunner, groups: int, update: Callable[[Rollout], Any]) -> Rehearsal:
    """Play some groups of text, and train on them.

    The update takes as long as if every completion had a signal: it is given rewards of 0 and 1 in
    turn. It changes the weights, so use a trainer for this that is then given up.

    Args:
        runner: plays.
        groups: how many groups, at most those of a rollout.
        update: trains on a rollout.
    """
    groups = min(groups, runner.num_groups)
    began = time.perf_counter()
    played = runner.play_starts(runner.plan(groups))
    generated = time.perf_counter()
    told_apart = [
        replace(t, rewards=[float(i % 2), *[0.0] * (len(t) - 1)]) for i, t in enumerate(played)
    ]
    update(Rollout(told_apart))
    return Rehearsal(
        rollout=Rollout(played),
        groups=groups,
        of=runner.num_groups,
        generate=generated - began,
        update=time.perf_counter() - generated,
    )
