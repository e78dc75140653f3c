"""A task of your own in twenty lines: an example for every id, and a score for every answer.

    python examples/own_task.py --max-steps 30

Every command takes it too:

    textenv validate --task examples/own_task.py:Carry
    textenv train --task examples/own_task.py:Carry --task-kwargs largest 49
"""

import argparse
from dataclasses import dataclass

import textenv
from textenv.algos import GRPOConfig, GRPOTrainer
from textenv.tasks import GeneratedTask


@dataclass(frozen=True)
class Carry(GeneratedTask):
    """Sums with a carry. `GeneratedTask` takes care of ids and of the split for tests."""

    name = "carry"
    largest: int = 99
    split: str = "train"

    def generate(self, rng):
        """A problem: its prompt, its answer, and whatever else the score needs."""
        a = b = 0
        while a % 10 + b % 10 < 10:
            a, b = rng.randint(10, self.largest), rng.randint(10, self.largest)
        return {"prompt": f"{a}+{b}=", "answer": str(a + b)}

    def score(self, example, completion):
        """1 for the right answer, 0 for any other."""
        return float(completion.strip() == example["answer"])


def main():
    """Train tiny-lm, which forgets the carry, and measure it on the test split."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max-steps", type=int, default=30)
    args = parser.parse_args()
    textenv.register_task("carry", Carry)
    config = GRPOConfig(max_steps=args.max_steps)
    trainer = GRPOTrainer("tiny-lm", "TextGen-v0", config, env_kwargs={"task": "carry"})
    print(f"accuracy before: {trainer.evaluate().accuracy:.3f}")
    trainer.train()
    print(f"accuracy after: {trainer.evaluate().accuracy:.3f}")


if __name__ == "__main__":
    main()
