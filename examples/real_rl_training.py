"""A whole training on your own prompts and your own reward: GRPO on sums.

tiny-lm often forgets the carry. About half of its sums are right before the training, and nearly
all of them after it, measured on sums that it was not trained on.

    python examples/real_rl_training.py --max-steps 60
"""

import argparse
import random

import gymnasium as gym

from textenv.algos import GRPOConfig, GRPOTrainer
from textenv.algos.evaluation.measure import evaluate

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--max-steps", type=int, default=60)
args = parser.parse_args()

sums = [(a, b) for a in range(10, 100) for b in range(10, 100)]
random.Random(0).shuffle(sums)
held_out, training = sums[:400], sums[400:]


def right_sum(prompt, completion, example):
    """1 for the right number, 0 for any other answer."""
    return {"right": float(completion.strip() == str(example["sum"]))}


def make_env(pairs):
    """A text environment whose prompts are these sums."""
    return gym.make(
        "textenv:TextGen-v0",
        prompts=[f"{a}+{b}=" for a, b in pairs],
        examples=[{"sum": a + b} for a, b in pairs],
        reward_fn=right_sum,
    )


def report(metrics, rollout):
    """Print the reward of every tenth step."""
    if metrics["step"] % 10 == 0:
        print(f"step {metrics['step']:.0f}: reward {metrics['rewards/right/mean']:.3f}")


trainer = GRPOTrainer(
    "tiny-lm", make_env(training), GRPOConfig(max_steps=args.max_steps), on_step=report
)
print(f"held out, before: reward {evaluate(trainer.policy, make_env(held_out)).reward:.3f}")
trainer.train()
print(f"held out, after: reward {evaluate(trainer.policy, make_env(held_out)).reward:.3f}")
