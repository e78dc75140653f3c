"""Measures a policy: accuracy on a text task, returns on control."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from textenv.algos.config import check_integer
from textenv.algos.episodes.environments import max_turns
from textenv.algos.episodes.policy_call import declared
from textenv.algos.episodes.trajectory import scored_rewards
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.errors import ConfigError, RewardError
from textenv.tasks.dataset import Dataset

MOST_STEPS = 100_000
"""An evaluation gives up an episode of control that has not ended after so many steps."""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured, as means over the examples."""

    accuracy: float | None
    """Share of right answers; None if the task has no verifier."""
    reward: float
    """Mean return of an episode."""
    length: float
    """Mean number of tokens that the policy wrote in an episode."""
    examples: int
    """How many examples there were."""

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for a file."""
        return asdict(self)


def evaluation_ids(env: Any, count: int) -> list[int]:
    """Ids of up to ``count`` different examples of an environment's task.

    The ids are the same at every call.

    Raises:
        ConfigError: if the environment is not a TextGen environment.
    """
    task = getattr(env.unwrapped, "task", None)
    if task is None:
        raise ConfigError(
            f"{type(env.unwrapped).__name__} has no task to evaluate on; expected TextGen-v0"
        )
    if isinstance(task, Dataset):
        return task.ids[:count]
    ids: dict[str, int] = {}
    for example_id in range(20 * count):  # a small task repeats examples, and has fewer
        ids.setdefault(task.example(example_id)["prompt"], example_id)
        if len(ids) == count:
            break
    return list(ids.values())


def evaluate(policy: Any, env: Any, examples: int = 500, deterministic: bool = True) -> Evaluation:
    """Play one episode for each of a fixed set of examples, and measure the answers.

    Args:
        policy: a policy that writes text.
        env: a TextGen environment of the split to evaluate on.
        examples: how many examples; fewer if the task has fewer.
        deterministic: whether answers are greedy, or sampled.

    Raises:
        RewardError: if the reward functions abstained from all of them.
    """
    ids = evaluation_ids(env, examples)
    runner = RolloutRunner(env, policy, max_steps=max_turns(env))
    trajectories = runner.play(ids, deterministic).trajectories
    rewards = scored_rewards(trajectories)
    if not rewards:
        raise RewardError(
            f"{' and '.join(env.unwrapped.reward.names)} returned None for all {len(ids)} "
            "completions: a reward function must score some of them"
        )
    correct = [t.is_correct for t in trajectories if t.is_correct is not None]
    return Evaluation(
        accuracy=float(np.mean(correct)) if correct else None,
        reward=float(np.mean(rewards)),
        length=float(np.mean([sum(t.token_mask or ()) for t in trajectories])),
        examples=len(ids),
    )


def episode_returns(
    policy: Any, env: gym.Env, episodes: int = 20, seed: int = 0, deterministic: bool = True
) -> np.ndarray:
    """Play whole episodes of a control environment, and give the return of each.

    Args:
        policy: a policy for this environment. If it declares ``episode_start`` or ``infos``, it
            is given them.
        env: a single environment. The first episode is reset with ``seed``, the next with
            ``seed + 1``, and so on.
        episodes: how many episodes, at least 1.
        seed: the seed of the first episode. Training draws its seeds, so that these differ.
        deterministic: passed on to the policy.

    Returns:
        The returns (episodes,), float64: sums of the rewards, without a discount.

    Raises:
        ConfigError: if fewer than one episode is asked for, or if one does not end.
    """
    check_integer("episodes", episodes, 1)
    most = most_steps(env)
    given = declared(policy, ("episode_start", "infos"))
    returns = np.zeros(episodes)
    for episode in range(episodes):
        observation, info = env.reset(seed=seed + episode)
        ended, start = False, True
        steps = 0
        while not ended:
            refuse_endless(env, steps, most)
            now = {"episode_start": start, "infos": info}
            action, _ = policy(
                observation, deterministic=deterministic, **{name: now[name] for name in given}
            )
            observation, reward, terminated, truncated, info = env.step(action)
            returns[episode] += float(reward)
            ended, start = terminated or truncated, False
            steps += 1
    return returns


def most_steps(env: Any) -> int:
    """After how many steps an evaluation gives an episode up: `MOST_STEPS`, or the TimeLimit's."""
    return max(MOST_STEPS, getattr(getattr(env, "spec", None), "max_episode_steps", None) or 0)


def refuse_endless(env: Any, steps: int, most: int) -> None:
    """Give up an episode that goes on after ``most`` steps.

    Raises:
        ConfigError: if ``steps`` has reached ``most``; says how the environment gets a limit.
    """
    if steps >= most:
        raise ConfigError(
            f"an evaluation episode of {_name(env)} goes on after {most:,} steps: an environment "
            "that never ends needs a limit. Register it with max_episode_steps, or wrap it in "
            "gymnasium.wrappers.TimeLimit(env, max_episode_steps); or train without evaluation "
            "(textenv train --eval-episodes 0)"
        )


def _name(env: Any) -> str:
    spec = getattr(env, "spec", None)
    return type(env.unwrapped).__name__ if spec is None else str(spec.id)
