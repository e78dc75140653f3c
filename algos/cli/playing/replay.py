"""Shows recorded episodes turn by turn."""

from __future__ import annotations

import sys
from pathlib import Path

from textenv.algos.cli.shared.escape import count, say, shown
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.storage.files import load_rollout
from textenv.algos.storage.run_files import recordings
from textenv.errors import MissingFileError

_LISTED = 5  # recordings that a message names


def tidy(value: object) -> str:
    """An observation as it is shown, without line breaks at its ends."""
    return shown(value).strip("\n")


def replay(path: Path, episodes: int | None) -> int:
    """Show the first episodes of a file; on a terminal each turn waits for Enter.

    Args:
        path: a transcript or a rollout.
        episodes: how many; None shows all.

    Raises:
        MissingFileError: if there is no such file; for a folder it says which of its files to give.
        DataError: if the file holds something else.
    """
    if path.is_dir() and path.suffix != ".minari":
        raise MissingFileError(_which_file(path))
    trajectories = load_rollout(path).trajectories
    some = trajectories[:episodes]
    if not some:
        say(f"{path.name}: no episodes")
    waits = sys.stdin.isatty() and sys.stdout.isatty()
    try:
        for number, trajectory in enumerate(some):
            _show(trajectory, f"episode {number + 1} of {len(trajectories)}", waits)
    except (EOFError, KeyboardInterrupt):
        say()
    return 0


def _which_file(folder: Path) -> str:
    """What to give instead of a folder."""
    found = [str(path) for path in recordings(folder)]
    if not found:
        return (
            f"{folder} is a folder without recordings: --replay shows a file, such as the "
            "transcript_0.jsonl that --record writes or a rollout_... of a run"
        )
    rest = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    listed = ", ".join(found[:_LISTED])
    return f"{folder} is a folder, and --replay shows one file: give one of {listed}{rest}"


def _show(trajectory: Trajectory, title: str, waits: bool) -> None:
    """Print a recorded episode, one turn after another."""
    start = trajectory.reset_info
    about = [str(start["task"])] if "task" in start else []
    about += [f"example {start['example_id']}"] if "example_id" in start else []
    about += [f"seed {trajectory.seed}"] if trajectory.seed is not None else []
    say(f"\n== {title}{': ' if about else ''}{', '.join(about)}")
    first = [*trajectory.observations, trajectory.final_observation][0]
    say(tidy(first))
    for step in trajectory.transitions:
        if waits:
            input("-- Enter shows the next turn ")
        say(f"> {shown(step.action)}")
        said = step.next_observation
        before = f"{step.observation}{step.action}"
        if isinstance(said, str) and said.startswith(before):  # a transcript: only the new text
            said = said[len(before) :]
        if said := tidy(said):
            say(said)
        say(f"reward {step.reward:g}")
    ending = "terminated" if trajectory.terminated else "truncated"
    if not (trajectory.terminated or trajectory.truncated):
        ending = "left in the middle"
    say(
        f"{ending} after {count(len(trajectory), 'turn')}, total reward {trajectory.total_reward:g}"
    )
