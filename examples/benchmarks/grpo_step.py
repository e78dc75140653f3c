"""Seconds a GRPO step on random prompts, to run beside another trainer on the same work.

    python examples/benchmarks/grpo_step.py --model FOLDER --num-prompts 8 --num-generations 8

The reward is the share of digits in a completion, so that groups differ. Prints the median step
after the first, its parts, and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import sys

from textenv.algos import GRPOConfig, GRPOTrainer

ALPHABET = "abcdefghij 0123456789+-="


def random_prompts(count: int, shortest: int, longest: int) -> list[str]:
    """Prompts of random characters and lengths."""
    rng = random.Random(0)
    return [
        "".join(rng.choice(ALPHABET) for _ in range(rng.randint(shortest, longest)))
        for _ in range(count)
    ]


def share_of_digits(prompt: str, completion: str, example: dict) -> float:
    """The reward."""
    return sum(c.isdigit() for c in completion) / 32


def main() -> None:
    """Train for some steps and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny-lm")
    parser.add_argument("--num-prompts", type=int, default=8)
    parser.add_argument("--num-generations", type=int, default=8)
    parser.add_argument("--shortest", type=int, default=24, help="prompt, in characters")
    parser.add_argument("--longest", type=int, default=40, help="prompt, in characters")
    parser.add_argument("--max-new", type=int, default=24, help="completion, in tokens")
    parser.add_argument("--steps", type=int, default=6)
    args = parser.parse_args()
    config = GRPOConfig(
        max_steps=args.steps,
        num_prompts=args.num_prompts,
        num_generations=args.num_generations,
        max_completion_length=args.max_new,
        learning_rate=1e-5,
    )
    prompts = random_prompts(args.num_prompts * args.steps, args.shortest, args.longest)
    kwargs = {"prompts": prompts, "reward_fn": share_of_digits}
    trainer = GRPOTrainer(args.model, "textenv:TextGen-v0", config, env_kwargs=kwargs)
    history = trainer.train()[1:]

    def median(name: str) -> float:
        return statistics.median(metrics[name] for metrics in history)

    unit = 1e6 if sys.platform == "darwin" else 1e3  # ru_maxrss: bytes there, kilobytes here
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(
        f"textenv: {median('step_time'):.3f} s/step ({median('time/generate'):.3f} generate, "
        f"{median('time/update'):.3f} update), "
        f"{median('completions/mean_length'):.1f} tokens a completion, peak {peak:.0f} MB"
    )


if __name__ == "__main__":
    main()
