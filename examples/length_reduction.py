"""Length reduction: a reward that makes answers shorter and keeps them right.

tiny-lm often writes two spaces between the numbers that it sorts. Such an answer is right, but it
costs more tokens than it needs. Here a wrong answer earns 0, however short it is, and a right
answer earns more if it is shorter. Length goes down, and accuracy does not.

    python examples/length_reduction.py --max-steps 60
"""

import argparse

import gymnasium as gym

from textenv.algos import GRPOConfig, GRPOTrainer
from textenv.algos.evaluation.measure import evaluate

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--max-steps", type=int, default=60)
args = parser.parse_args()


def short_and_right(prompt, completion, example):
    """1 for a right answer as short as possible, less for a longer one, 0 for a wrong one."""
    right = completion.split() == example["answer"].split()
    return float(right) * len(example["answer"]) / max(1, len(completion))


def report(metrics, rollout):
    """Print the metrics of every tenth step."""
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
