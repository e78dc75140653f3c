"""Reads what lies in a run's folder; it may be cut off, as in a run that is still written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_RECORDINGS = ("rollout_*", "transcript_*")


def json_object(line: bytes) -> dict[str, Any] | None:
    """The JSON object that a line or a file holds; None if it is cut off, or holds something else.

    Example:
        >>> json_object(b'{"step": 1}'), json_object(b'{"st'), json_object(b"1")
        ({'step': 1}, None, None)
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # also for too many digits or levels
        return None
    return row if isinstance(row, dict) else None


def recordings(folder: Path) -> list[Path]:
    """The rollouts and transcripts of a folder and of its ``rollouts/``, by their names."""
    places = (folder, folder / "rollouts")
    return sorted(path for place in places for name in _RECORDINGS for path in place.glob(name))
