"""Reads the options of a reset, and draws the examples that episodes begin with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from textenv.errors import ConfigError, ConfigTypeError
from textenv.tasks import Task
from textenv.tasks.dataset import Dataset

_MAX_ID = 2**48  # ids of generated examples are drawn below this


def named(options: dict[str, Any]) -> tuple[int | None, int | None]:
    """The ``example_id`` and the ``level`` in reset options, checked; None for what is absent."""
    if not isinstance(options, Mapping):
        raise ConfigTypeError(f"options must be a dict, got {type(options).__name__}")
    if unknown := options.keys() - {"example_id", "level"}:
        names = ", ".join(sorted(map(repr, unknown)))
        raise ConfigError(f"unknown reset options {names}; known: 'example_id', 'level'")
    example_id = options.get("example_id")
    if "example_id" in options:
        if isinstance(example_id, bool) or not isinstance(example_id, (int, np.integer)):
            raise ConfigTypeError(f"example_id must be an integer, got {type(example_id).__name__}")
        example_id = int(example_id)
    return example_id, options.get("level")


def draw_ids(task: Task, rngs: Sequence[np.random.Generator]) -> list[int]:
    """Draw one example id of a task from each random generator."""
    if task.size is None:
        # Ten times as fast as integers() and, for a power of two, just as uniform.
        return [rng.bit_generator.random_raw() % _MAX_ID for rng in rngs]
    if isinstance(task, Dataset):
        return [task.ids[int(rng.integers(len(task.ids)))] for rng in rngs]
    return [int(rng.integers(task.size)) for rng in rngs]
