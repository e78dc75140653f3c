"""Prompts in the uniform order, which is also the order of a rollout without such a part.

A finite task is gone through in shuffled epochs. Other tasks draw each prompt by a fresh seed.
"""

from __future__ import annotations

from dataclasses import dataclass

from textenv.algos.strategies.protocols import Prompts


@dataclass
class Uniform(Prompts):
    """Plays every prompt, in the order in which they come."""

    name = "uniform"
