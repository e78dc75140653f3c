"""How well a policy answers a task's examples."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from textenv.errors import ConfigError
from textenv.tasks.dataset import Dataset
from textenv.wrappers.step import DictStep, standardize_reset, standardize_step


@dataclass(frozen=True)
class Evaluation:
    """Means over a set of examples."""

    accuracy: float | None
    """Share of right answers; None where no verifier can tell."""
    reward: float
    length: float
    """Mean completion length in tokens."""
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
        policy: a batched policy of text.
        env: a TextGen environment, of the split to evaluate on.
        examples: how many examples; fewer where the task has fewer.
        deterministic: greedy answers, or sampled ones.
    """
    inner = DictStep(env)
    ids = evaluation_ids(env, examples)
    starts = []
    for example_id in ids:
        start = standardize_reset(inner.reset(seed=0, options={"example_id": example_id}))
        starts.append(start["observation"])
    completions, extras = policy(starts, deterministic=deterministic)
    rewards, correct = [], []
    for example_id, completion in zip(ids, completions):
        inner.reset(seed=0, options={"example_id": example_id})
        step = standardize_step(inner.step(completion))
        rewards.append(step["reward"])
        if "is_correct" in step["info"]:
            correct.append(step["info"]["is_correct"])
    lengths = [len(ids) for ids in extras["token_ids"]] if "token_ids" in extras else [0]
    return Evaluation(
        accuracy=float(np.mean(correct)) if correct else None,
        reward=float(np.mean(rewards)),
        length=float(np.mean(lengths)),
        examples=len(ids),
    )
