"""How well a policy answers a task's examples."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from textenv.algos.config import check_integer
from textenv.algos.episodes.environments import max_turns
from textenv.algos.episodes.policy_call import declared
from textenv.algos.rollouts.runner import RolloutRunner
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
    correct = [t.is_correct for t in trajectories if t.is_correct is not None]
    return Evaluation(
        accuracy=float(np.mean(correct)) if correct else None,
        reward=float(np.mean([t.total_reward for t in trajectories])),
        length=float(np.mean([sum(t.token_mask or ()) for t in trajectories])),
        examples=len(ids),
    )


def episode_returns(
    policy: Any, env: gym.Env, episodes: int = 20, seed: int = 0, deterministic: bool = True
) -> np.ndarray:
    """Play whole episodes of a single environment of control, and return each one's return.

    Args:
        policy: a policy of that environment; one that declares ``episode_start`` or ``infos`` is
            given them.
        env: the environment; the first episode is reset with ``seed``, the next with seed + 1.
        episodes: how many, at least 1.
        seed: of the first episode; those of training are drawn, so that these are others.
        deterministic: passed on to the policy.

    Returns:
        Returns (episodes,), float64, of the rewards as they are.

    Raises:
        ConfigError: for fewer than one episode.
    """
    check_integer("episodes", episodes, 1)
    given = declared(policy, ("episode_start", "infos"))
    returns = np.zeros(episodes)
    for episode in range(episodes):
        observation, info = env.reset(seed=seed + episode)
        ended, start = False, True
        while not ended:
            now = {"episode_start": start, "infos": info}
            action, _ = policy(
                observation, deterministic=deterministic, **{name: now[name] for name in given}
            )
            observation, reward, terminated, truncated, info = env.step(action)
            returns[episode] += float(reward)
            ended, start = terminated or truncated, False
    return returns
