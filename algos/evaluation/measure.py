"""Measures a policy: accuracy on a text task, returns on control."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from textenv.algos.config import check_integer
from textenv.algos.episodes.environments import innermost, max_turns
from textenv.algos.episodes.policy_call import declared
from textenv.algos.evaluation.results import Evaluation, Record
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.algos.strategies.protocols import Start
from textenv.errors import ConfigError, RewardError
from textenv.tasks.dataset import Dataset

MOST_STEPS = 100_000
"""An evaluation gives up an episode of control that has not ended after so many steps."""
FEWEST = 32
"""The first answers of an evaluation, from whose time it is decided how many examples follow."""

_MOST_ROWS = 128  # answers that are played side by side
_MAX_NOISE = 2**62  # so large that the seeds of two episodes and their turns do not meet

OnProgress = Callable[[int, int], None]
"""``on_progress(done, total)`` is called with how many examples have been played, of how many."""


def evaluation_ids(env: Any, count: int) -> list[int]:
    """Ids of up to ``count`` different examples of an environment's task.

    The ids are the same at every call.

    Raises:
        ConfigError: if the environment is not a TextGen environment, or ``count`` is below 0.
    """
    task = getattr(env.unwrapped, "task", None)
    if task is None:
        raise ConfigError(
            f"{type(env.unwrapped).__name__} has no task to evaluate on; expected TextGen-v0"
        )
    check_integer("examples", count, 0)
    if isinstance(task, Dataset):
        return task.ids[:count]
    ids: dict[str, int] = {}
    for example_id in range(20 * count):  # a small task repeats examples, and has fewer
        ids.setdefault(task.example(example_id)["prompt"], example_id)
        if len(ids) == count:
            break
    return list(ids.values())


def evaluate(
    policy: Any,
    env: Any,
    examples: int | Sequence[int] = 500,
    deterministic: bool = True,
    *,
    samples: int = 1,
    most_seconds: float | None = None,
    fewest: int = 0,
    on_progress: OnProgress | None = None,
    on_reward_error: str | float = "fail",
) -> Evaluation:
    """Play episodes of a fixed set of examples, and measure the answers.

    Sampled answers follow from the policy's seed and the example's id, if the policy declares
    ``seeds``: each is the same whatever else is played.

    Args:
        policy: a policy that writes text.
        env: a TextGen environment of the split to evaluate on.
        examples: how many examples, fewer if the task has fewer; or their ids.
        deterministic: whether answers are greedy, or sampled.
        samples: how many answers to each example; 1 if they are greedy.
        most_seconds: about how long it may last. After the first batch, and after each further
            one, it is decided how many examples follow; those that are left out are a random part,
            which is always the same. None plays them all.
        fewest: how many examples are played even if that takes longer.
        on_progress: called after each batch.
        on_reward_error: as in `RolloutRunner`; with ``"skip"`` the answer is not scored.

    Raises:
        ConfigError: if there is no example or no sample, or several greedy ones of each example.
        RewardError: if a reward function fails, or no answer was scored.
    """
    check_integer("samples", samples, 1)
    if deterministic and samples > 1:
        raise ConfigError(f"samples={samples}: greedy answers to one example are all the same")
    ids = evaluation_ids(env, examples) if isinstance(examples, int) else list(examples)
    check_integer("examples", len(ids), 1)
    order = np.arange(len(ids))
    if most_seconds is not None:  # a part of them must not be the first rows of a sorted file
        order = np.random.default_rng(0).permutation(len(ids))
    runner = RolloutRunner(env, policy, max_steps=max_turns(env), on_reward_error=on_reward_error)
    records: dict[int, Record] = {}
    total, size = len(ids), max(1, FEWEST // samples)
    began = time.perf_counter()
    while len(records) < total:
        places = order[len(records) : min(len(records) + size, total)].tolist()
        played = _play(runner, [ids[place] for place in places], deterministic, samples)
        records |= dict(zip(places, played))
        if most_seconds is not None:
            each = (time.perf_counter() - began) / len(records)
            affordable = int(most_seconds / each) if each > 0 else len(ids)
            total = min(len(ids), max(affordable, fewest, len(records)))
        if on_progress is not None:
            on_progress(len(records), total)
        size = min(2 * size, max(1, _MOST_ROWS // samples))
    kept = [records[place] for place in sorted(records)]
    if all(record.reward is None for record in kept):
        raise RewardError(
            f"{' and '.join(env.unwrapped.reward.names)} returned None for all "
            f"{len(kept) * samples} completions, or failed: a reward function must score some "
            "of them"
        )
    return Evaluation.of(kept, left_out=len(ids) - len(kept))


def _play(
    runner: RolloutRunner, ids: Sequence[int], deterministic: bool, samples: int
) -> list[Record]:
    """Play episodes of these examples, so many of each, and record them."""
    starts = []
    for number, example_id in enumerate(ids):
        noise = np.random.default_rng((0, example_id)).integers(_MAX_NOISE, size=samples).tolist()
        options = {"example_id": example_id}
        starts += [Start(number, 0, options, None if deterministic else n) for n in noise]
    trajectories = runner.play_alone(starts, deterministic)
    task = innermost(runner.env).task
    records = []
    for number, example_id in enumerate(ids):
        own = trajectories[number * samples : (number + 1) * samples]
        expected = task.example(example_id).get("answer")
        record = Record(example_id, own[0].prompt or "", expected)
        for trajectory in own:
            record.add(trajectory)
        records.append(record)
    return records


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
