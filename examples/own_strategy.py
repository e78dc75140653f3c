"""A part of a rollout strategy of your own: train on the extremes of each group.

    python examples/own_strategy.py --max-steps 20

All completions are played, and only the best and the worst ones of a group are trained on. Every
command takes the part by its file, with its settings behind a colon:

    textenv train --strategy examples/own_strategy.py:Extremes:keep=4
"""

import argparse
from dataclasses import dataclass

from textenv.algos import GRPOConfig, GRPOTrainer
from textenv.algos.strategies import Selection


@dataclass
class Extremes(Selection):
    """Keeps the best and the worst completions of each group."""

    keep: int = 4
    """How many are kept, half of them the best ones."""

    def select(self, groups):
        """Groups are lists of trajectories that began with the same prompt."""
        return [self.extremes(group) for group in groups]

    def extremes(self, group):
        """The `keep` trajectories with the lowest and the highest rewards."""
        ordered = sorted(group, key=lambda trajectory: trajectory.total_reward)
        low = self.keep // 2
        return [*ordered[:low], *ordered[len(ordered) - (self.keep - low) :]]


def main():
    """Train with the part, and print how many of the tokens were trained on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max-steps", type=int, default=20)
    args = parser.parse_args()
    config = GRPOConfig(max_steps=args.max_steps, strategy=(f"{__file__}:Extremes:keep=4",))
    trainer = GRPOTrainer("tiny-lm", "TextGen-v0", config)
    print(trainer.describe())
    for metrics in trainer.train():
        share = metrics["strategy/tokens_trained"] / metrics["strategy/tokens_generated"]
        print(
            f"step {metrics['step']:.0f}: accuracy {metrics['accuracy']:.3f}, "
            f"trained on {share:.0%} of the tokens"
        )


if __name__ == "__main__":
    main()
