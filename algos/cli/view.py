"""textenv view: shows transcripts, rollouts and runs, in the terminal or as a page."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from textenv.algos.cli.plot.series import flat
from textenv.algos.cli.shared.display import Terminal
from textenv.algos.cli.shared.escape import count, one_line, printable, say
from textenv.algos.cli.shared.run_folder import RunFolder
from textenv.algos.config import check_integer, read_toml
from textenv.algos.episodes.trajectory import Buffer, Trajectory, scored_rewards
from textenv.algos.evaluation.paired import compare
from textenv.algos.storage.files import load_rollout
from textenv.algos.storage.run_files import json_object, recordings
from textenv.errors import ConfigError, DataError, MissingFileError

_PAGES = (".html", ".htm")
_WIDEST = 500  # characters; no terminal shows longer lines


@dataclass
class Args:
    """Show an overview of a transcript, a rollout, or a run, or of two side by side."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """A transcript, a rollout, or a folder of these, or two runs to compare; none takes the newest
    folder in runs/."""
    html: str | None = None
    """Write one self-contained page, which any browser opens from the disk: to this file, or with
    --html alone to view.html in the run's folder."""
    serve: bool = False
    """Serve the page on this machine alone, and refresh it while the run goes on."""
    port: int = 0
    """Port of --serve; 0 takes a free one."""
    episodes: int = 20
    """How many episodes are listed; the figures count all episodes."""
    seed: int = 0
    """Seed that decides which episodes are listed, if there are more."""


def parse(argv: Sequence[str]) -> Args:
    """Parse the options; the file of ``--html`` may be left out."""
    given = list(argv)
    for number, word in enumerate(given):
        after = given[number + 1] if number + 1 < len(given) else "-"
        if word == "--html" and (after.startswith("-") or _is_shown(Path(after))):
            given.insert(number + 1, "")
            break
    return tyro.cli(Args, args=given, prog="textenv view", description=Args.__doc__)


def _is_shown(path: Path) -> bool:
    """Whether this is something to show, and no page to write."""
    return path.is_dir() or (path.is_file() and path.suffix not in _PAGES)


def run(args: Args) -> int:
    """Print the overview, or write or serve the page."""
    check_integer("episodes", args.episodes, 1)
    check_integer("port", args.port, 0)
    paths = args.paths or (_newest_run(),)
    if len(paths) > 2:
        raise ConfigError(f"textenv view shows one run or two, got {len(paths)}")
    for path in paths:
        if not path.exists():
            raise MissingFileError(f"{path} is not there")
    if args.html is not None:
        _write_page(paths, args.html)
    if args.serve:
        return _serve(paths, args.port)
    if args.html is not None:
        return 0
    console = Terminal(soft_wrap=False)
    if len(paths) == 2:
        view_two(console, paths, args.episodes)
        return 0
    return _view_one(console, args, paths[0])


def _write_page(paths: Sequence[Path], file: str) -> None:
    from textenv.algos.cli.page import write_page

    place = Path(file) if file else _page_of(paths)
    if place.exists() and place.suffix not in _PAGES:
        raise ConfigError(f"{place} is there already and no page: choose a name that ends in .html")
    write_page(paths, place)
    say(f"{place}: {place.stat().st_size / 1e6:.1f} MB, for any browser, with nothing beside it")


def _page_of(paths: Sequence[Path]) -> Path:
    """Where a page lies by default: in the first run's folder, or beside a file."""
    first, *others = paths
    name = "-".join(["view", *(other.resolve().name.partition(".")[0] for other in others)])
    if first.is_dir():
        return first / f"{name}.html"
    return first.with_name(f"{first.name.partition('.')[0]}.html")


def _serve(paths: Sequence[Path], port: int) -> int:
    from textenv.algos.cli.page.serving import PageServer

    with PageServer(paths, port) as server:
        server.page()  # what is no run is refused here
        say(f"{server.url} shows {' beside '.join(map(str, paths))}; Ctrl-C ends it")
        sys.stdout.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("ended")
    return 0


def _view_one(console: Console, args: Args, path: Path) -> int:
    if path.is_dir() and (files := _rollouts(path)) is not None:
        _say(console, str(path))
        _view_summary(console, path / "summary.json")
        _view_metrics(console, path / "metrics.jsonl")
        newest = None
        for file in files:
            try:
                newest = load_rollout(file)
            except (DataError, MissingFileError) as error:  # the rest is shown all the same
                _say(console, f"{file.name}: {error}")
            else:
                _say(console, f"{file.name}: {figures(newest)}")
        if newest is not None:
            console.print(_table(newest, args.episodes, args.seed))
        return 0
    if path.is_dir() and not path.name.endswith(".minari"):
        raise MissingFileError(
            f"{path} is not a file of a rollout, and no run's folder: it has no config.toml and no "
            "rollouts"
        )
    rollout = load_rollout(path)
    _say(console, f"{path.name}: {figures(rollout)}")
    console.print(_table(rollout, args.episodes, args.seed))
    return 0


def view_two(console: Console, paths: Sequence[Path], episodes: int) -> None:
    """Print two runs side by side: settings that differ, last metrics, and answers that changed.

    Args:
        console: the console to print to.
        paths: the folders of the two runs.
        episodes: how many examples that only one of them gets right are listed.

    Raises:
        MissingFileError: if one is not a run's folder.
    """
    for path in paths:
        if not (path / "config.toml").is_file():
            raise MissingFileError(
                f"{path} is not a run's folder: two are compared by their config.toml and metrics"
            )
    names = [path.resolve().name for path in paths]
    if names[0] == names[1]:
        names = [str(path) for path in paths]
    broken: list[DataError] = []
    settings = [_settings(path / "config.toml", broken) for path in paths]
    rows = [
        (name, *(str(each.get(name, "-")) for each in settings))
        for name in sorted({*settings[0], *settings[1]})
        if settings[0].get(name) != settings[1].get(name)
    ]
    _say(console, f"{names[0]} and {names[1]} differ in {count(len(rows), 'setting')}")
    for error in broken:
        _say(console, f"settings: {error}")
    if rows:
        console.print(_columns(("setting", *names), rows))
    last = [_last_metrics(console, path / "metrics.jsonl") for path in paths]
    both = [name for name, value in last[0].items() if last[1].get(name, value) != value]
    if both:
        _say(console, "the last metrics of each, as far as they differ")
        rows = [
            (name, f"{a:.4g}", f"{b:.4g}", f"{b - a:+.4g}")
            for name in both
            for a, b in [(last[0][name], last[1][name])]
        ]
        console.print(_columns(("metric", *names, "difference"), rows))
    _view_answers(console, paths, names, episodes)


def _settings(path: Path, broken: list[DataError]) -> dict[str, Any]:
    """The settings of a run by their dotted names; none if the file is ``broken``."""
    try:
        return dict(flat(read_toml(path)))
    except DataError as error:
        broken.append(error)
        return {}


def _last_metrics(console: Console, path: Path) -> dict[str, float]:
    """The newest value of each metric of a run that is a number."""
    found: dict[str, float] = {}
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        row = json_object(line) or {}
        found |= {name: value for name, value in row.items() if _is_number(value)}
    if not found:
        _say(console, f"{path} holds no metrics yet")
    return found


def _view_answers(
    console: Console, paths: Sequence[Path], names: Sequence[str], episodes: int
) -> None:
    """Compare the greedy answers after the two trainings, if they are to the same examples."""
    try:
        found = [RunFolder(path, resumed=True).read_last() for path in paths]
    except DataError as error:  # all else has been shown
        _say(console, f"answers: {error}")
        return
    if found[0] is None or found[1] is None:
        return
    try:
        said = compare(found[0], found[1]).describe()
    except ConfigError as error:  # other examples
        _say(console, f"answers: {error}")
        return
    _say(console, f"greedy answers of {names[0]} and {names[1]}: {said}")
    rows = [
        (a.prompt, str(a.expected), a.completions[0], b.completions[0])
        for a, b in zip(found[0].records, found[1].records)
        if a.correct[:1] != b.correct[:1]
    ]
    if rows:
        shown = min(episodes, len(rows))
        _say(console, f"{shown} of the {count(len(rows), 'example')} that one of them gets right")
        texts = [tuple(map(one_line, row)) for row in rows[:episodes]]
        console.print(_columns(("prompt", "expected", *names), texts))


def _columns(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose columns are cut to the width of the terminal."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for number, title in enumerate(titles):
        table.add_column(one_line(title), no_wrap=True, overflow="ellipsis", ratio=int(not number))
    for row in rows:
        table.add_row(*(one_line(cell) for cell in row))
    return table


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
    found = recordings(folder)
    if not found and not (folder / "config.toml").exists():
        return None
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def _view_summary(console: Console, path: Path) -> None:
    if not path.is_file():
        return
    summary = json_object(path.read_bytes())
    if summary is None:
        _say(console, f"  {path.name}: cut off, or not a JSON object")
        return
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
    rows = [json_object(line) for line in path.read_bytes().splitlines()]
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
