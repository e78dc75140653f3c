"""Tells from what a reward function returned whether a completion is correct."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def full_marks(name: str, outcome: Any, verifies: bool) -> bool | None:
    """Whether an outcome says that the completion is correct; None if it does not say.

    In a dict, the component ``"correct"`` decides: 1 is correct. If there is none and the function
    verifies, the component of the function's own name decides, or else the sum of all components.

    Args:
        name: the name of the reward function.
        outcome: what it returned: a number, a dict of components, or None, which abstains.
        verifies: whether 1 from this function means that the completion is correct.
    """
    value = outcome
    if isinstance(outcome, Mapping):
        verifies = verifies or "correct" in outcome
        scored = [component for component in outcome.values() if component is not None]
        value = outcome.get("correct", outcome.get(name, sum(scored) if scored else None))
    return None if value is None or not verifies else float(value) >= 1.0
