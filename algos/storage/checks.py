"""Checks what a rollout file holds: files come from others, and what they hold is trained on.

``rollout.schema.json`` says the same for one trajectory; the lengths of its lists are said in the
descriptions there.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np

from textenv.algos.episodes.trajectory import Buffer, Trajectory
from textenv.errors import DataError

# How each field of a trajectory is written. The others (infos, support, ...) may hold any value.
COLUMNS = ("observations", "actions", "unclipped_actions")
FLOAT_LISTS = (
    *("rewards", "values", "logprobs"),
    *("token_logprobs", "token_entropies", "token_weights", "token_advantages"),
)
INT_LISTS = ("prompt_ids", "token_ids", "token_mask")
FLOATS = ("last_value", "temperature", "shaping")
INTS = (
    *("seed", "group_id", "policy_version", "env_index", "episode", "first_step"),
    *("parent", "branch_at"),
)
BOOLS = ("terminated", "truncated", "completion_truncated")

LARGEST_LINE = 2**29
"""Characters of a line of JSON Lines: one trajectory of 100 million numbers or so."""

LARGEST_TEXT = 2**28
"""Bytes of an array of text, whose items are all as wide as the longest."""

_LARGEST_ID = 2**31 - 1  # of a token
_LARGEST_INT = 2**63 - 1
_BY_STEP = ("actions", "observations", "rewards", "infos")
_BY_STEP_OR_NONE = ("values", "logprobs", "unclipped_actions")
_BY_TOKEN = (
    *("token_mask", "token_logprobs", "token_entropies"),
    *("support", "token_weights", "token_advantages"),
)
_NEEDED = (
    *("observations", "actions", "rewards", "infos", "reset_info", "terminated", "truncated"),
    "first_step",
)
_FROM_ZERO = ("env_index", "episode", "first_step", "parent", "branch_at")


def check_rollout(rollout: Buffer, where: Any) -> None:
    """Check each trajectory: types, lengths and ranges.

    Args:
        rollout: what was read.
        where: the file, for messages.

    Raises:
        DataError: for the first that is wrong; names the file, the trajectory and the field.
    """
    for number, trajectory in enumerate(rollout):
        try:
            _check_values(trajectory)
            _check_lengths(trajectory)
        except ValueError as error:
            raise DataError(f"{where}, trajectory {number}: {error}") from error


def _check_values(trajectory: Trajectory) -> None:
    """Raises ValueError for a field of another type, or out of its range."""
    for field in fields(trajectory):
        name, value = field.name, getattr(trajectory, field.name)
        if value is None:
            if name in _NEEDED:
                raise ValueError(f"{name} is null")
        elif name in FLOAT_LISTS:
            _check_numbers(name, value)
        elif name == "token_mask":
            _check_whole(name, value, 0, 1)
        elif name in INT_LISTS:
            _check_whole(name, value, 0, _LARGEST_ID)
        elif name == "support":
            for ids in _a_list(name, value):
                if ids is not None:
                    listed = ids.tolist() if isinstance(ids, np.ndarray) else ids
                    _check_whole(name, listed, 0, _LARGEST_ID)
        elif name in FLOATS:
            _check_numbers(name, [value])
        elif name in INTS:
            least = 0 if name in _FROM_ZERO else -_LARGEST_INT
            if type(value) is not int or not least <= value <= _LARGEST_INT:  # the quick way
                _check_whole(name, [value], least, _LARGEST_INT)
        elif name in BOOLS:
            _check_kinds(name, [value], {bool}, "true or false")
        elif name == "prompt":
            _check_kinds(name, [value], {str}, "text")
        elif name == "infos":
            _check_kinds(name, value, {dict}, "objects")
        elif name == "reset_info":
            _check_kinds(name, [value], {dict}, "an object")


def _check_lengths(trajectory: Trajectory) -> None:
    """Raises ValueError for a list that has another length than the steps or the tokens.

    A list by steps may also be empty, where somebody did not record it.
    """
    tokens = trajectory.token_ids
    first, steps = "", 0
    for name in (*_BY_STEP, *_BY_STEP_OR_NONE):
        count = len(getattr(trajectory, name) or ())
        if count and steps and count != steps:
            raise ValueError(f"{name} has {count} items for {steps} {first}")
        first, steps = (first, steps) if steps else (name, count)
    for name in _BY_TOKEN:
        value = getattr(trajectory, name)
        if value is not None and len(value) != len(tokens or ()):
            raise ValueError(f"{name} has {len(value)} items for {len(tokens or ())} token_ids")
    for name in ("token_mask", "token_logprobs", "prompt_ids"):
        if tokens is not None and getattr(trajectory, name) is None:
            raise ValueError(f"token_ids are there, and {name} is not")
    if trajectory.branch_at is not None and trajectory.branch_at > len(tokens or ()):
        raise ValueError(f"branch_at is {trajectory.branch_at} for {len(tokens or ())} token_ids")


def _a_list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list, got {value!r:.40}")
    return value


def _check_kinds(name: str, value: Any, kinds: set[type], expected: str) -> None:
    """Check the types of a list's items."""
    if not set(map(type, _a_list(name, value))) <= kinds:
        wrong = next(item for item in value if type(item) not in kinds)
        raise ValueError(f"{name} must be {expected}, got {wrong!r:.40}")


def _check_numbers(name: str, value: Any) -> None:
    """Check that all items of a list are finite numbers."""
    _check_kinds(name, value, {int, float}, "finite numbers")
    try:
        finite = all(map(math.isfinite, value))
    except OverflowError:  # a whole number that no float is as large as
        finite = False
    if not finite:
        raise ValueError(f"{name} must be finite numbers, got NaN, an infinity or one beyond float")


def _check_whole(name: str, value: Any, least: int, most: int) -> None:
    """Check that all items of a list are whole numbers in a range."""
    _check_kinds(name, value, {int}, "whole numbers")
    if value and (min(value) < least or max(value) > most):
        raise ValueError(f"{name} must be whole numbers from {least} to {most}")
