"""Puts a page together: the script, the styles, and the data as compressed blocks.

Text of a model reaches the page as base64 of gzip, which holds no markup, and the script shows it
as text alone. The page's policy lets it load nothing, and run no other script than its own.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from textenv import __version__
from textenv.algos.cli.page.episodes import details, table
from textenv.algos.cli.page.frames import render
from textenv.algos.cli.page.run import PageRun, read_run
from textenv.algos.episodes.trajectory import Buffer
from textenv.algos.storage.files import load_rollout
from textenv.algos.storage.inspection import Inspected, Inspection, load_inspection
from textenv.algos.storage.replacing import write_whole
from textenv.errors import ConfigError, DataError, MissingFileError, StorageError

ASSETS = Path(__file__).with_name("assets")
"""The folder of the page's own script and styles, and of the chart library."""

_SCRIPTS = (
    *("base.js", "charts.js", "overview.js", "episodes.js", "tokens.js"),
    *("tree.js", "control.js", "compare.js", "main.js"),
)
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
script-src '{script}'; style-src '{style}'; base-uri 'none'; form-action 'none'">
<link rel="icon" href="data:,">
<title>textenv run</title>
"""
_BODY = """</head>
<body>
<noscript>This page shows a run by a script of its own, and scripts are turned off here.</noscript>
<p id="loading" class="empty waiting" role="status">Loading...</p>
<div id="page"></div>
"""


def write_page(runs: Sequence[Path], file: Path) -> None:
    """Write the page of a run, or of two side by side.

    Args:
        runs: one or two folders of runs, or files of rollouts.
        file: the page; one that is there is replaced.

    Raises:
        ConfigError: for no run, or more than two.
        MissingFileError: if a run is not there.
        DataError: if a folder is no run's and holds no rollouts.
        StorageError: if the page cannot be written.
    """
    text = page_html(runs)
    try:
        write_whole(file, text)
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error.strerror}") from error


def page_html(runs: Sequence[Path], refresh: float = 0) -> str:
    """The page as text; see `write_page`.

    Args:
        runs: one or two folders of runs, or files of rollouts.
        refresh: load the page again every so many seconds while a run goes on; 0 never.
    """
    if not 1 <= len(runs) <= 2:
        raise ConfigError(f"a page shows one run or two, got {len(runs)}")
    read = [read_run(path) for path in runs]
    blocks = [
        [*_answer_blocks(number, run), *_rollout_blocks(number, run)]
        for number, run in enumerate(read)
    ]
    said = {
        "version": __version__,
        "refresh": refresh,
        "runs": [_about(run, known) for run, known in zip(read, blocks)],
    }
    script = f'"use strict";\n{asset("uPlot.iife.min.js")}\n(() => {{\n{_joined()}\n}})();\n'
    style = asset("uPlot.min.css") + asset("page.css")
    head = _HEAD.format(script=_hash(script), style=_hash(style))
    parts = [head, f"<!--\n{asset('uPlot.LICENSE')}-->\n<style>{style}</style>\n", _BODY]
    parts += [_block("main", said), *(element for known in blocks for element, _ in known)]
    return "".join([*parts, f"<script>{script}</script>\n</body>\n</html>\n"])


def asset(name: str) -> str:
    """A file of the page."""
    return (ASSETS / name).read_text(encoding="utf-8")


def _joined() -> str:
    return "\n".join(asset(name) for name in _SCRIPTS)


_Block = tuple[str, dict[str, Any] | None]  # an element, and what `_about` says of it


def _rollout_blocks(number: int, run: PageRun) -> Iterator[_Block]:
    """Two blocks for each rollout that can be read; others become notes."""
    for index, path in enumerate(run.rollouts):
        try:
            rollout = load_rollout(path)
        except (DataError, MissingFileError) as error:  # it may be gone by now
            run.notes.append(str(error))
            continue
        inspection = _inspection(path, rollout, run)
        known = [Inspected()] * len(rollout) if inspection is None else inspection.rows
        version = None if rollout.source is None else rollout.source.policy_version
        name = f"r{number}-{index}"
        about = {
            "name": name,
            "file": path.name,
            "step": run.step_of(version) if inspection is None else inspection.step,
            "episodes": len(rollout),
            "env": None if rollout.source is None else rollout.source.env_id,
        }
        rows, shown = table(rollout, known), details(rollout, known)
        if rows["control"] and index in (0, len(run.rollouts) - 1):
            _add_frames(rows, shown, rollout, run)
        yield _block(f"{name}-table", rows), about
        yield _block(f"{name}-details", shown), None


def _add_frames(rows: dict[str, Any], shown: dict[str, Any], rollout: Buffer, run: PageRun) -> None:
    """Add the frames of some episodes to their details, or a note that says why there are none."""
    frames, why = render(rollout)
    rows["rows"]["frames"] = [False] * len(rollout)
    for number, pictures in frames.items():
        shown["episodes"][number]["frames"] = pictures
        rows["rows"]["frames"][number] = True
    if why and why not in run.notes:
        run.notes.append(why)


def _inspection(path: Path, rollout: Buffer, run: PageRun) -> Inspection | None:
    """What the run kept of a rollout; None, with a note if it is broken, if there is nothing."""
    try:
        found = load_inspection(path)
    except DataError as error:
        run.notes.append(str(error))
        return None
    if found is not None and len(found.rows) != len(rollout):
        run.notes.append(
            f"{path.name} has {len(rollout)} trajectories, its inspection another number"
        )
        return None
    return found


def _answer_blocks(number: int, run: PageRun) -> Iterator[_Block]:
    if run.answers:
        yield _block(f"r{number}-answers", run.answers), None


def _about(run: PageRun, blocks: list[_Block]) -> dict[str, Any]:
    """What the page needs of a run at once."""
    return {
        "name": run.path.name or str(run.path),
        "path": str(run.path),
        "config": run.config,
        "summary": run.summary,
        "notes": run.notes,
        "warnings": run.warnings(),
        **run.columns(),
        "answers": bool(run.answers),
        "rollouts": [about for _, about in blocks if about is not None],
    }


def _block(name: str, value: Any) -> str:
    """A value as compressed JSON in an element that runs nothing."""
    packed = gzip.compress(json.dumps(value, allow_nan=False).encode(), 6, mtime=0)
    content = base64.b64encode(packed).decode()
    return f'<script type="text/plain" id="block-{name}">{content}</script>\n'


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
