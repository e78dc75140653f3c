"""What an evaluation found: its figures with their intervals, and a record of each example."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    pass_at_k,
    share_interval,
)
from textenv.errors import ConfigError


@dataclass(frozen=True)
class Record:
    """The answers to one example; each list has an item for each of its samples."""

    example_id: int
    prompt: str
    expected: Any
    """The example's ``answer``; None if it has none."""
    completions: list[str] = field(default_factory=list)
    """What the policy wrote; in a task of several turns, the turns' texts, each on a new line."""
    answers: list[Any] = field(default_factory=list)
    """What was scored: ``info["answer"]`` if the environment extracts answers, which is None if it
    found none; else the last completion."""
    rewards: list[float | None] = field(default_factory=list)
    """The return of each episode; None if no reward function scored it."""
    components: list[dict[str, float]] = field(default_factory=list)
    """The reward components by name, summed over the turns."""
    correct: list[bool | None] = field(default_factory=list)
    """Whether the answer is right; None if the task cannot tell."""
    lengths: list[int] = field(default_factory=list)
    """How many tokens the policy wrote."""
    truncated: list[bool] = field(default_factory=list)
    """Whether a completion was cut off, since it ran out of tokens."""

    def add(self, trajectory: Trajectory) -> None:
        """Add a sample: the episode that a policy played."""
        infos = trajectory.infos
        self.completions.append("\n".join(map(str, trajectory.actions)))
        self.answers.append(infos[-1].get("answer", trajectory.actions[-1]))
        self.rewards.append(trajectory.total_reward if trajectory.is_scored else None)
        parts: dict[str, float] = {}
        for info in infos:
            for name, value in info.get("rewards", {}).items():
                parts[name] = parts.get(name, 0.0) + value
        self.components.append(parts)
        self.correct.append(trajectory.is_correct)
        self.lengths.append(sum(trajectory.token_mask or ()))
        self.truncated.append(bool(trajectory.completion_truncated))

    @property
    def accuracy(self) -> float | None:
        """The share of right answers among those that were judged; None if none was."""
        judged = [verdict for verdict in self.correct if verdict is not None]
        return sum(judged) / len(judged) if judged else None

    @property
    def reward(self) -> float | None:
        """The mean return of the episodes that were scored; None if none was."""
        scored = [reward for reward in self.rewards if reward is not None]
        return sum(scored) / len(scored) if scored else None


@dataclass(frozen=True)
class Evaluation:
    """What `textenv.algos.evaluation.measure.evaluate` measured: means over the examples.

    With several samples of an example, its own mean counts. Intervals are of 95%; which they are,
    `textenv.algos.evaluation.statistics` says.
    """

    accuracy: float | None
    """Share of right answers (mean@k of k samples); None if the task has no verifier."""
    reward: float
    """Mean return of an episode."""
    components: dict[str, float]
    """Mean of each reward component, by name."""
    length: float
    """Mean number of tokens that the policy wrote in an episode."""
    truncated: float
    """Share of episodes with a completion that was cut off."""
    examples: int
    """How many examples there were."""
    samples: int = 1
    """How many answers to each example there were."""
    left_out: int = 0
    """How many examples were left out to save time."""
    records: tuple[Record, ...] = field(default=(), repr=False, compare=False)
    """What was asked and answered, example by example."""

    @classmethod
    def of(cls, records: Sequence[Record], left_out: int = 0) -> Evaluation:
        """The evaluation of some records, each with as many samples, and one of them scored."""
        components: dict[str, list[float]] = {}
        for record in records:
            for parts in record.components:
                for name, value in parts.items():
                    components.setdefault(name, []).append(value)
        accuracies = [r.accuracy for r in records if r.accuracy is not None]
        return cls(
            accuracy=float(np.mean(accuracies)) if accuracies else None,
            reward=float(np.mean([r.reward for r in records if r.reward is not None])),
            components={name: float(np.mean(values)) for name, values in components.items()},
            length=float(np.mean([length for r in records for length in r.lengths])),
            truncated=float(np.mean([cut for r in records for cut in r.truncated])),
            examples=len(records),
            samples=len(records[0].completions),
            left_out=left_out,
            records=tuple(records),
        )

    @cached_property
    def accuracy_interval(self) -> Interval | None:
        """The interval of the accuracy; None if there is no accuracy."""
        shares = [r.accuracy for r in self.records if r.accuracy is not None]
        return share_interval(shares, self.samples) if shares else None

    @cached_property
    def reward_interval(self) -> Interval:
        """The interval of the mean reward; rewards that are all 0 or 1 are shares."""
        means = [r.reward for r in self.records if r.reward is not None]
        if all(reward in (0, 1, None) for r in self.records for reward in r.rewards):
            return share_interval(means, self.samples)
        return bootstrap_interval(means)

    def pass_at(self, k: int) -> tuple[float, Interval]:
        """The probability that one of k answers is right, and its interval.

        Raises:
            ConfigError: if k is above the number of samples, or the task cannot tell what is right.
        """
        if self.accuracy is None:
            raise ConfigError(
                f"pass@{k} counts right answers, and no reward function says which are right: one "
                "with verifies=True does, or a reward component called 'correct'"
            )
        shares = [
            pass_at_k(len(judged), sum(judged), k)
            for record in self.records
            if (judged := [verdict for verdict in record.correct if verdict is not None])
        ]
        return float(np.mean(shares)), share_interval(shares, self.samples // k)

    def as_dict(self) -> dict[str, Any]:
        """The figures and their intervals as plain values, for a file; without the records."""
        found = {
            "accuracy": self.accuracy,
            "accuracy_interval": self.accuracy_interval and list(self.accuracy_interval),
            "reward": self.reward,
            "reward_interval": list(self.reward_interval),
            "rewards": self.components,
            "length": self.length,
            "truncated": self.truncated,
            "examples": self.examples,
            "samples": self.samples,
        }
        return found | ({"left_out": self.left_out} if self.left_out else {})

    def records_as_dicts(self) -> list[dict[str, Any]]:
        """The records as plain values, for a file."""
        return [asdict(record) for record in self.records]

    def to_json(self) -> dict[str, Any]:
        """All of it in JSON's types, for `from_json`; other objects in answers become text."""
        return self._json

    @cached_property
    def _json(self) -> dict[str, Any]:
        """What `to_json` gives, made once: each step of a training has it in its state."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self), default=repr))
        return found

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `to_json` gave."""
        records = tuple(Record(**record) for record in found["records"])
        return cls(**{**found, "records": records})

    def metrics(self) -> dict[str, float]:
        """The figures as metrics of a training step; their names begin with ``eval/``."""
        figures = {
            "accuracy": self.accuracy,
            "accuracy_interval": self.accuracy_interval,
            "reward": self.reward,
            "rewards": self.components,
            "length": self.length,
            "truncated": self.truncated,
            "examples": self.examples,
        }
        return metrics_of_figures(figures)


def metrics_of_figures(figures: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a training step that figures as those of `Evaluation.as_dict` stand for.

    Args:
        figures: the figures. They may come from a file: what is no number is left out.
    """
    interval, rewards = figures.get("accuracy_interval"), figures.get("rewards")
    accuracy = [figures.get("accuracy"), *interval] if isinstance(interval, Sequence) else []
    parts = rewards if isinstance(rewards, Mapping) else {}
    named = {
        **dict(zip(("eval/accuracy", "eval/accuracy_low", "eval/accuracy_high"), accuracy)),
        "eval/reward": figures.get("reward"),
        **{f"eval/rewards/{name}/mean": value for name, value in parts.items()},
        "eval/mean_length": figures.get("length"),
        "eval/clipped_ratio": figures.get("truncated"),
        "eval/examples": figures.get("examples"),
    }
    return {
        name: float(value)
        for name, value in named.items()
        if isinstance(value, float) or (type(value) is int and abs(value) < 2**63)
    }
