"""What is to be computed, the same for all sides: prompts, lengths, the reward."""

from __future__ import annotations

import random
from typing import NamedTuple

ALPHABET = "abcdefghij 0123456789+-="


class Work(NamedTuple):
    """A rollout, and how often it is timed."""

    prompts: int
    generations: int = 1
    """Completions of each prompt."""
    shortest: int = 24
    """Prompt, in tokens."""
    longest: int = 40
    max_new: int = 24
    """Longest completion, in tokens."""
    timed: int = 3
    """Steps or rollouts that are timed, after one that is not."""
    task: str = ""
    """A task of TextGen-v0, in the place of random prompts."""

    @property
    def completions(self) -> int:
        """Of a rollout."""
        return self.prompts * self.generations

    @property
    def title(self) -> str:
        """In words."""
        lengths = f"{self.shortest}"
        if self.longest > self.shortest:
            lengths += f" to {self.longest}"
        what = f"of {self.task}" if self.task else f"of {lengths} tokens"
        each = f"{self.generations} x {self.max_new}" if self.generations > 1 else self.max_new
        return f"{self.prompts} prompt{'s' if self.prompts > 1 else ''} {what}, {each}"


def random_prompts(work: Work, count: int, seed: int) -> list[str]:
    """Prompts of random characters, one token each."""
    rng = random.Random(seed)
    return [
        "".join(rng.choice(ALPHABET) for _ in range(rng.randint(work.shortest, work.longest)))
        for _ in range(count)
    ]


def batches(work: Work, seed: int) -> list[list[str]]:
    """Prompts of a batch that is not timed and of those that are, all different."""
    prompts = random_prompts(work, work.completions * (work.timed + 1), seed)
    return [prompts[i :: work.timed + 1] for i in range(work.timed + 1)]


def digits(completion: str) -> float:
    """The reward: the share of digits. All vocabularies have them, so that groups differ."""
    return sum(c.isdigit() for c in completion) / max(1, len(completion))


def reward(prompt: str, completion: str, example: dict) -> float:
    """The same as a reward function of here."""
    return digits(completion)
