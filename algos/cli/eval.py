"""textenv eval: how well a model answers a task's test examples."""

from __future__ import annotations

from dataclasses import dataclass, field

import gymnasium as gym

from textenv.algos.evaluation import evaluate
from textenv.algos.models import load_model
from textenv.algos.policy import create_policy
from textenv.errors import ConfigError


@dataclass
class Args:
    """What to evaluate."""

    model: str = "tiny-lm"
    """tiny-lm, a folder (a run's model, say), or a name on the Hugging Face hub."""
    task: str = "arithmetic"
    """Name of the task."""
    task_kwargs: dict[str, int | str] = field(default_factory=dict)
    """Difficulty parameters of the task, as --task-kwargs digits 3."""
    split: str = "test"
    """train or test."""
    examples: int = 500
    """How many examples; fewer where the task has fewer."""
    max_completion_length: int = 64
    """Longest completion in tokens."""
    temperature: float = 1.0
    """Of the sampled answers."""
    seed: int = 0
    """Of the sampled answers."""


def run(args: Args) -> int:
    """Print accuracy, reward and length, greedy and sampled."""
    if args.examples < 1:
        raise ConfigError(f"examples must be an integer >= 1, got {args.examples}")
    env = gym.make(
        "TextGen-v0", task=args.task, split=args.split, task_kwargs=args.task_kwargs or None
    )
    params = {
        "max_tokens": args.max_completion_length,
        "temperature": args.temperature,
        "seed": args.seed,
    }
    policy = create_policy(*load_model(args.model), params)
    for name, deterministic in (("greedy", True), ("sampled", False)):
        result = evaluate(policy, env, args.examples, deterministic)
        accuracy = "-" if result.accuracy is None else f"{result.accuracy:.3f}"
        print(
            f"{name:<8} accuracy {accuracy}  reward {result.reward:.3f}  "
            f"length {result.length:.1f} tokens  ({result.examples} {args.split} examples)"
        )
    return 0
