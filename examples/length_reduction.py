"""Length reduction: a reward for shorter answers that stay right.

tiny-lm often puts two spaces between the numbers that it sorts. That is not wrong, and costs
tokens. A wrong answer earns nothing here, however short it is, and a right one earns the more
the shorter it is: so length goes down and accuracy does not.

    python examples/length_reduction.py --max-steps 60
"""

import argparse

import gymnasium as gym

from textenv.algos import GRPOConfig, GRPOTrainer
from textenv.algos.evaluation import evaluate

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--max-steps", type=int, default=60)
args = parser.parse_args()


def short_and_right(prompt, completion, example):
    """1 for a right answer without a needless character, less for a longer one."""
    right = completion.split() == example["answer"].split()
    return float(right) * len(example["answer"]) / max(1, len(completion))


def report(metrics, rollout):
    """Print every tenth step."""
    if metrics["step"] % 10 == 0:
        length = metrics["completions/mean_length"]
        print(f"step {metrics['step']:.0f}: reward {metrics['reward']:.3f}, length {length:.1f}")


def show(when, policy):
    """Print accuracy and length on the test split."""
    result = evaluate(policy, gym.make("TextGen-v0", task="sort", split="test"))
    print(f"{when}: accuracy {result.accuracy:.3f}, length {result.length:.1f} tokens")


env = gym.make("textenv:TextGen-v0", task="sort", reward_fn=short_and_right)
trainer = GRPOTrainer("tiny-lm", env, GRPOConfig(max_steps=args.max_steps), on_step=report)
show("before", trainer.policy)
trainer.train()
show("after", trainer.policy)
