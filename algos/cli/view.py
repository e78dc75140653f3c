"""textenv view: shows an overview of a transcript, a saved rollout, or a run's folder."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from textenv.algos.cli.shared.display import Terminal
from textenv.algos.cli.shared.escape import count, one_line, printable
from textenv.algos.config import check_integer
from textenv.algos.episodes.trajectory import Buffer, Trajectory, scored_rewards
from textenv.algos.storage.files import load_rollout
from textenv.errors import DataError, MissingFileError

_NAMES = ("rollout_*", "transcript_*")
_WIDEST = 500  # characters; no terminal shows longer lines


@dataclass
class Args:
    """Show an overview of a transcript, a rollout, or a run."""

    path: Annotated[Path | None, tyro.conf.Positional] = None
    """A transcript, a rollout, or a folder of these; None takes the newest folder in runs/."""
    episodes: int = 20
    """How many episodes are listed; the figures count all episodes."""
    seed: int = 0
    """Seed that decides which episodes are listed, if there are more."""


def run(args: Args) -> int:
    """Print the overview."""
    check_integer("episodes", args.episodes, 1)
    path = _newest_run() if args.path is None else args.path
    if not path.exists():
        raise MissingFileError(f"{path} is not there")
    console = Terminal(soft_wrap=False)
    if path.is_dir() and (files := _rollouts(path)) is not None:
        _say(console, str(path))
        _view_summary(console, path / "summary.json")
        _view_metrics(console, path / "metrics.jsonl")
        newest = None
        for file in files:
            try:
                newest = load_rollout(file)
            except DataError as error:  # the rest of the run is shown all the same
                _say(console, f"{file.name}: {error}")
            else:
                _say(console, f"{file.name}: {figures(newest)}")
        if newest is not None:
            console.print(_table(newest, args.episodes, args.seed))
        return 0
    rollout = load_rollout(path)
    _say(console, f"{path.name}: {figures(rollout)}")
    console.print(_table(rollout, args.episodes, args.seed))
    return 0


def figures(rollout: Buffer) -> str:
    """Describe a rollout in one line: episodes, steps, rewards, how the episodes ended."""
    if not len(rollout):
        return "no episodes"
    rewards = scored_rewards(rollout) or [0.0]
    ends = [_end(t) for t in rollout]
    groups = {t.group_id for t in rollout} - {None}
    parts = [
        count(len(rollout), "episode") + (f" in {count(len(groups), 'group')}" if groups else ""),
        count(rollout.num_transitions, "step"),
        f"reward {sum(rewards) / len(rewards):.3f} ({min(rewards):g} to {max(rewards):g})",
        *(f"{ends.count(end)} {end}" for end in ("terminated", "truncated", "open") if end in ends),
    ]
    return ", ".join(parts)


def _end(trajectory: Trajectory) -> str:
    if trajectory.terminated:
        return "terminated"
    return "truncated" if trajectory.truncated else "open"


def _table(rollout: Buffer, episodes: int, seed: int) -> Table:
    """A table with a line for each episode; texts are cut to the width of the terminal."""
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    for title in ("episode", "steps", "reward"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("end", no_wrap=True)
    table.add_column("prompt", no_wrap=True, ratio=1)
    table.add_column("completion", no_wrap=True, ratio=1)
    picked = range(len(rollout))
    if len(rollout) > episodes:
        picked = sorted(random.Random(seed).sample(picked, episodes))  # type: ignore[assignment]
    trajectories = rollout.trajectories
    for number in picked:
        t = trajectories[number]
        first = t.observations[0] if t.observations else t.final_observation
        texts = one_line(first if t.prompt is None else t.prompt), _actions(t)
        cells = (str(number), str(len(t)), f"{t.total_reward:g}", _end(t), *texts)
        table.add_row(*cells)
    return table


def _actions(trajectory: Trajectory) -> str:
    """The actions in one line, as many as a terminal can show."""
    text = ""
    for number, action in enumerate(trajectory.actions):
        text += (" | " if number else "") + one_line(action)
        if len(text) > _WIDEST:
            break
    return text


def _rollouts(folder: Path) -> list[Path] | None:
    """The rollouts of a folder, the newest last; None if it is neither a run nor has rollouts."""
    places = (folder, folder / "rollouts")
    found = [path for place in places for name in _NAMES for path in place.glob(name)]
    if not found and not (folder / "config.toml").exists():
        return None
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def _view_summary(console: Console, path: Path) -> None:
    if not path.is_file():
        return
    summary = _row(path.read_bytes())
    if summary is None:
        raise DataError(f"{path} is not JSON, or not an object")
    for key, value in summary.items():
        if isinstance(value, (str, int, float)):
            _say(console, f"  {key}: {value}")
    warnings = summary.get("warnings")
    for warning in warnings if isinstance(warnings, list) else []:
        if isinstance(warning, dict):
            step, what, remedy = (warning.get(key) for key in ("step", "what", "remedy"))
            _say(console, f"  warning at step {step}: {what}. Try: {remedy}")
    before, after = (_part(summary, when) for when in ("before", "after"))
    for kind in before.keys() & after.keys():
        for figure in ("accuracy", "reward", "length"):
            was, now = (_part(half, kind).get(figure) for half in (before, after))
            if _is_number(was) and _is_number(now):
                _say(console, f"  {kind} {figure}: {was:.3f} -> {now:.3f}")


def _view_metrics(console: Console, path: Path) -> None:
    """Show the last line of a run's metrics that is whole."""
    if not path.is_file():
        return
    rows = [_row(line) for line in path.read_bytes().splitlines()]
    whole = [row for row in rows if row is not None]
    if len(whole) < len(rows):
        lost = count(len(rows) - len(whole), "line")
        _say(console, f"  {path.name}: {lost} cut off, or not a JSON object")
    if not whole:
        return
    metrics = {name: value for name, value in whole[-1].items() if _is_number(value)}
    cells = [printable(f"{name} {value:.4g}") for name, value in metrics.items() if name != "step"]
    _say(console, f"  last metrics, step {metrics.get('step', len(rows)):g}:")
    width = max(map(len, cells), default=1) + 2
    across = max(1, (console.width - 4) // width)
    for row in range(0, len(cells), across):
        _say(console, "    " + "".join(f"{cell:{width}}" for cell in cells[row : row + across]))


def _row(line: bytes) -> Mapping[str, Any] | None:
    """The JSON object that a line holds; None if it holds none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _part(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object in an object; an empty one if there is none."""
    value = row.get(key)
    return value if isinstance(value, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max


def _newest_run() -> Path:
    found: Sequence[Path] = sorted(
        (path for path in Path("runs").glob("*") if (path / "config.toml").is_file()),
        key=lambda path: path.stat().st_mtime_ns,
    )
    if not found:
        raise MissingFileError("there is no run in runs/: name a file or a folder to view")
    return found[-1]


def _say(console: Console, line: str) -> None:
    """Print a line, cut to the width of the terminal."""
    console.print(printable(line.rstrip(), keep=""), no_wrap=True, overflow="ellipsis")
