"""Rollout strategies: parts that decide what is played, kept and reused.

To write a part, derive a dataclass from the class of its slot::

    @register("shortest")
    @dataclass
    class Shortest(Selection):
        keep: int = 4

        def select(self, groups):
            return [sorted(group, key=lambda t: len(t.token_ids))[: self.keep] for group in groups]

Then use it by its name: ``create_strategy("grpo", parts=["shortest:keep=2"])``.
"""

from textenv.algos.strategies.groups import is_uniform, outcome, start_key, thin
from textenv.algos.strategies.protocols import (
    Generation,
    Group,
    Prompts,
    Reuse,
    Selection,
    Setup,
    Start,
)
from textenv.algos.strategies.registry import make_part, names, register

__all__ = [
    "Generation",
    "Group",
    "Prompts",
    "Reuse",
    "Selection",
    "Setup",
    "Start",
    "is_uniform",
    "make_part",
    "names",
    "outcome",
    "register",
    "start_key",
    "thin",
]
