"""Prompts in the uniform order: what a rollout does where no part chooses.

A finite task is gone through in shuffled epochs, others are drawn by seed.
"""

from __future__ import annotations

from dataclasses import dataclass

from textenv.algos.strategies.protocols import Prompts


@dataclass
class Uniform(Prompts):
    """Plays what comes next."""

    name = "uniform"
