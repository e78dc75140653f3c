"""What a training keeps beside a saved rollout, for people who look at it.

A rollout's file holds what was played. Its inspection holds what only the trainer knew: the texts
of the tokens, the advantages that the loss used, how the update changed the probability of each
token, and the answer that the example has. Of ``RUN/rollouts/NAME.json`` it is
``RUN/inspection/NAME.jsonl.gz``: compressed JSON Lines, a header and then a line for each
trajectory. JSON has no NaN and no infinities: an advantage or a ratio that is one is written as
text, by the name that JavaScript has for it (``"NaN"``, ``"Infinity"``, ``"-Infinity"``).
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from textenv.algos.storage.format_json import read_lines
from textenv.algos.storage.replacing import write_whole
from textenv.errors import DataError, StorageError

FORMAT = "textenv.inspection"
VERSION = 1
FOLDER = "inspection"
"""The name of the folder beside that of the rollouts."""

_DIGITS = 5  # of a number, which a reader looks at and does not compute with
_FLOAT_LISTS = ("token_advantages", "token_ratios")
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass
class Inspected:
    """What is known of one trajectory; None is not known. The lists go by its ``token_ids``."""

    token_texts: list[str] | None = None
    """Together they are the text, with special tokens written out. A token that ends within a
    character has the text "", and the one that completes the character has it."""
    advantage: float | None = None
    """The advantage of all tokens that are trained on, if it is the same."""
    token_advantages: list[float] | None = None
    """The advantage of each token, if they differ; 0 for tokens that are not trained on."""
    token_ratios: list[float] | None = None
    """The probability of each token after the update, by that before it; 1 for tokens that are not
    trained on. None also if there was no update."""
    expected: Any = None
    """The example's ``answer``."""


@dataclass
class Inspection:
    """What is known of the trajectories of a rollout."""

    step: int
    """How many optimizer steps there had been after the update with this rollout."""
    rows: list[Inspected]
    """One for each trajectory of the rollout, in its order."""


def inspection_path(rollout: Path) -> Path:
    """The file of the inspection of a rollout's file."""
    name = rollout.name.partition(".")[0]
    return rollout.parent.parent / FOLDER / f"{name}.jsonl.gz"


def save_inspection(inspection: Inspection, path: Path) -> None:
    """Write an inspection, whole or not at all.

    Raises:
        StorageError: if the disk is full, or the folder cannot be written to.
    """
    head = {
        "format": FORMAT,
        "version": VERSION,
        "step": inspection.step,
        "num_trajectories": len(inspection.rows),
    }
    lines = [json.dumps(head), *(_encode(row) for row in inspection.rows)]
    packed = gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda staged: staged.write_bytes(packed))
    except OSError as error:
        raise StorageError(f"{path} cannot be written to: {error.strerror or error}") from error


def load_inspection(rollout: Path) -> Inspection | None:
    """Read the inspection of a rollout's file; None if there is none.

    Raises:
        DataError: if its file is cut off, is something else, or has another version.
    """
    path = inspection_path(rollout)
    if not path.is_file():
        return None
    try:
        head, *rows = (json.loads(line) for line in read_lines(path))
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            raise ValueError("it is no inspection of textenv")
        if head.get("version") != VERSION:
            raise ValueError(f"version {head.get('version')!r:.40}; this textenv reads {VERSION}")
        if type(head.get("step")) is not int or head.get("num_trajectories") != len(rows):
            said = head.get("num_trajectories")
            raise ValueError(f"it holds {len(rows)} trajectories of {said!r:.40}")
        return Inspection(head["step"], [_decode(row, i) for i, row in enumerate(rows)])
    except (ValueError, OverflowError, EOFError, OSError, zlib.error, RecursionError) as error:
        raise DataError(f"{path} is cut off or not an inspection: {error}") from error


def _encode(row: Inspected) -> str:
    known = {name: value for name, value in asdict(row).items() if value is not None}
    for name in _FLOAT_LISTS:
        if name in known:
            known[name] = [_short(value) for value in known[name]]
    if "advantage" in known:
        known["advantage"] = _short(known["advantage"])
    return json.dumps(known, default=repr)


def _short(value: float) -> float | str:
    """A number with few digits; the name of one that is not finite."""
    if math.isfinite(value):
        return float(f"{value:.{_DIGITS}g}")
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _decode(row: Any, number: int) -> Inspected:
    known = {field.name for field in fields(Inspected)}
    if not isinstance(row, dict) or row.keys() - known:
        raise ValueError(f"trajectory {number}: expected an object of {sorted(known)}")
    texts = row.get("token_texts")
    if texts is not None and not (isinstance(texts, list) and {str}.issuperset(map(type, texts))):
        raise ValueError(f"trajectory {number}: token_texts must be a list of texts")
    row = dict(row)
    for name in _FLOAT_LISTS:
        if row.get(name) is not None:
            row[name] = _numbers(
                row[name], f"trajectory {number}: {name} must be a list of numbers"
            )
    if row.get("advantage") is not None:
        said = f"trajectory {number}: advantage must be a number"
        [row["advantage"]] = _numbers([row["advantage"]], said)
    sizes = {len(row[name]) for name in ("token_texts", *_FLOAT_LISTS) if row.get(name) is not None}
    if len(sizes) > 1:
        raise ValueError(f"trajectory {number}: its lists have {sorted(sizes)} items")
    return Inspected(**row)


def _numbers(values: Any, said: str) -> list[float]:
    """The numbers that `_short` wrote; an error that says so if they are something else."""
    if not isinstance(values, list):
        raise ValueError(said)
    found: list[float] = []
    for value in values:
        if isinstance(value, str) and value in _NOT_FINITE:
            found.append(_NOT_FINITE[value])
        elif type(value) in (int, float) and math.isfinite(value):
            found.append(value)
        else:
            raise ValueError(said)
    return found
