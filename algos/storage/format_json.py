"""Rollouts as JSON, or as compressed JSON Lines with one trajectory a line.

The JSON Schema of such a file is ``rollout.schema.json`` beside this module; it describes every
part. Reading a file takes no more than ``json`` and NumPy.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from textenv.algos.episodes.trajectory import Buffer
from textenv.algos.storage.checks import LARGEST_LINE
from textenv.algos.storage.codec import decode_rollout, encode_rollout, encode_source
from textenv.errors import DataError

FORMAT = "textenv.rollout"
SCHEMA_VERSION = 3
_LEAST_LIMIT = 2**28  # bytes that any file may unpack to
_LARGEST_RATIO = 300  # rollouts pack to a tenth or a hundredth
SCHEMA_PATH = Path(__file__).with_name("rollout.schema.json")


def prepare(rollout: Buffer) -> Callable[[Path], None]:
    """Encode a rollout; returns a function that writes it to a path."""
    head, rows = make_header(rollout), encode_rollout(rollout)

    def write(path: Path) -> None:
        lines = [json.dumps(row, allow_nan=False) for row in rows]
        if path.suffix == ".gz":
            if (longest := max(map(len, lines), default=0)) > LARGEST_LINE:
                raise DataError(
                    f"a trajectory of {longest} bytes is larger than the {LARGEST_LINE} of a line: "
                    "save it as Parquet"
                )
            text = "".join(line + "\n" for line in [json.dumps(head, allow_nan=False), *lines])
            path.write_bytes(gzip.compress(text.encode(), mtime=0))
        else:
            opening = json.dumps(head, allow_nan=False)[:-1]
            path.write_text(
                opening + ', "trajectories": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8"
            )

    return write


def read(path: Path) -> Buffer:
    """Read a rollout from a file of JSON or JSON Lines."""
    rows: Any
    try:
        if path.name.endswith((".jsonl.gz", ".jsonl")):
            head, *rows = [_parse(line) for line in read_lines(path)]
        else:
            head = _parse(path.read_text(encoding="utf-8"))
            rows = head.pop("trajectories", None) if isinstance(head, dict) else None
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error, RecursionError) as error:
        raise DataError(f"{path} is cut off or not a rollout: {error}") from error
    check_header(head, path)
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of trajectories, got {rows!r:.40}")
    check_count(head, len(rows), path)
    return decode_rollout(rows, head.get("source"), path)


def make_header(rollout: Buffer) -> dict[str, Any]:
    """The part of a file before the trajectories: the format, the layout and the source."""
    source = rollout.source
    num_envs = source.num_envs if source else None
    total = rollout.num_transitions
    shares = Counter[int | None]()
    for trajectory in rollout:
        shares[trajectory.env_index] += len(trajectory)
    even = num_envs is not None and set(shares.values()) == {total / num_envs}
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "layout": {
            "num_envs": num_envs,
            "n_steps": total // num_envs if num_envs and even else None,
            "num_trajectories": len(rollout),
            "num_transitions": total,
            **_notes(),
        },
        "source": encode_source(source),
    }


def check_header(head: Any, path: Path) -> None:
    """Check that this is the header of a rollout of this schema version.

    Raises:
        DataError: if it is not; names the file.
    """
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise DataError(f"{path} is not a rollout of textenv")
    if head.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{path} has schema version {head.get('schema_version')!r}; "
            f"this textenv reads version {SCHEMA_VERSION}"
        )


def check_count(head: dict[str, Any], count: int, path: Path) -> None:
    """Check that a file holds as many trajectories as its header says.

    Raises:
        DataError: if it does not; names the file and both numbers.
    """
    layout = head.get("layout")
    said = layout.get("num_trajectories") if isinstance(layout, dict) else None
    if said not in (None, count):
        raise DataError(f"{path} is cut off or changed: it holds {count} trajectories of {said}")


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a file, unpacked one after another.

    Raises:
        ValueError: for a line longer than `LARGEST_LINE`, or a file that unpacks to far more than
            rollouts do.
    """
    opened: Any = gzip.open if path.suffix == ".gz" else open
    most = max(_LEAST_LIMIT, path.stat().st_size * _LARGEST_RATIO)
    with opened(path, "rb") as file:
        while line := file.readline(LARGEST_LINE + 1):
            most -= len(line)
            if len(line) > LARGEST_LINE:
                raise ValueError(f"a line is longer than {LARGEST_LINE} bytes")
            if most < 0:
                raise ValueError(f"it unpacks to more than {_LARGEST_RATIO} times its size")
            yield line.decode("utf-8")


def _parse(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


@cache
def _notes() -> dict[str, Any]:
    """The schema's words about the layout, for readers who have nothing but the file."""
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    trajectory = schema["$defs"]["trajectory"]
    return {
        "cut": trajectory["description"],
        "fields": {name: rule["description"] for name, rule in trajectory["properties"].items()},
    }
