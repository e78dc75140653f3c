"""textenv envs: lists the environments, tasks and reward functions."""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from textenv import rewards, tasks
from textenv.algos.cli.shared.escape import say
from textenv.tasks import Task


@dataclass
class Args:
    """List the environments, tasks and reward functions."""

    seed: int = 0
    """Number of the example that is shown of each task."""


def run(args: Args) -> int:
    """Print environments, tasks and reward functions, a line each."""
    say("Environments")
    for name, spec in sorted(gym.registry.items()):
        point = spec.entry_point
        if isinstance(point, str) and point.startswith("textenv."):
            task = spec.kwargs.get("task")
            says = tasks.describe(task) if task else _first_line(load_env_creator(point))
            say(f"  {name:<23} {says}")
    say("\nTasks: gym.make('TextGen-v0', task=NAME)")
    for name in tasks.names():
        if ":" in name:  # of another library: some take seconds to draw an example
            say(f"  {name:<39} {tasks.describe(name)}".rstrip())
            continue
        example = _example(tasks.make(name), args.seed)
        say(f"  {name:<16} {tasks.describe(name)}  {example}")
    say("\nReward functions: gym.make('TextGen-v0', prompts=..., reward_fn=NAME)")
    for name in rewards.names():
        say(f"  {name:<16} {_first_line(rewards.get(name))}")
    return 0


def _first_line(thing: object) -> str:
    return (getattr(thing, "__doc__", None) or "").strip().split("\n")[0]


def _example(task: Task, example_id: int) -> str:
    example = task.example(example_id)
    try:
        return f"({example['prompt']!r} -> {task.oracle(example)!r})"
    except NotImplementedError:
        return f"({example['prompt']!r})"
