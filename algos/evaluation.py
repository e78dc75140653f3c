"""How well a policy answers a task's examples."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from textenv.algos.rollout import RolloutRunner, max_turns
from textenv.errors import ConfigError
from textenv.tasks.dataset import Dataset


@dataclass(frozen=True)
class Evaluation:
    """Means over a set of examples."""

    accuracy: float | None
    """Share of right answers; None where no verifier can tell."""
    reward: float
    length: float
    """Mean tokens that the policy wrote in an episode."""
    examples: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self)


def evaluation_ids(env: Any, count: int) -> list[int]:
    """Ids of up to ``count`` different examples of an environment's task, always the same ones.

    Raises:
        ConfigError: where the environment is not a TextGen environment.
    """
    task = getattr(env.unwrapped, "task", None)
    if task is None:
        raise ConfigError(
            f"{type(env.unwrapped).__name__} has no task to evaluate on; expected TextGen-v0"
        )
    if isinstance(task, Dataset):
        return task.ids[:count]
    ids: dict[str, int] = {}
    for example_id in range(20 * count):  # a small task repeats itself, and has fewer
        ids.setdefault(task.example(example_id)["prompt"], example_id)
        if len(ids) == count:
            break
    return list(ids.values())


def evaluate(policy: Any, env: Any, examples: int = 500, deterministic: bool = True) -> Evaluation:
    """Play one episode of each of a fixed set of examples.

    Args:
        policy: a policy of text.
        env: a TextGen environment, of the split to evaluate on.
        examples: how many examples; fewer where the task has fewer.
        deterministic: greedy answers, or sampled ones.
    """
    ids = evaluation_ids(env, examples)
    runner = RolloutRunner(env, policy, max_steps=max_turns(env))
    trajectories = runner.play(ids, deterministic).trajectories
    last = [t.infos[-1] for t in trajectories]
    correct = [info["is_correct"] for info in last if "is_correct" in info]
    return Evaluation(
        accuracy=float(np.mean(correct)) if correct else None,
        reward=float(np.mean([t.total_reward for t in trajectories])),
        length=float(np.mean([sum(t.token_mask or ()) for t in trajectories])),
        examples=len(ids),
    )
