"""Writes examples/gallery.md: a prompt and an answer of every task.

    python examples/make_gallery.py            # writes the page
    python examples/make_gallery.py --check    # fails where it lacks a task

It needs the extra ``tasks``. reasoning-gym draws from sets of text in a few datasets, so that an
example depends on ``PYTHONHASHSEED``: the script starts itself again with 0.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

from textenv import tasks
from textenv.tasks import BUILT_IN, reasoning_gym

PAGE = Path(__file__).with_name("gallery.md")
EXAMPLE_ID = 0
FIRST_LINES, LAST_LINES, MOST_COLUMNS = 12, 8, 100
NO_ANSWER = "No answer: the dataset gives none that its own verifier takes."

HEAD = """\
# Gallery

Example {example_id} of every built-in task and of every dataset of reasoning-gym ({version}): the
prompt, and the oracle's answer, in the train split and with the default settings. Made by
`examples/make_gallery.py`. Lines are wrapped at {columns} characters; of a long text the first
{first} and the last {last} lines are shown. What stands below "reasoning-gym" was written by that
library.

The examples of `isomorphic_strings` and `ransom_note`, and the wording of a few answers, depend on
Python's hash of text: this page was made with `PYTHONHASHSEED=0`.
"""


def fenced(text: str) -> str:
    """A text as a block of Markdown, cut where it is long."""
    lines = [part.rstrip() for line in text.strip("\n").split("\n") for part in wrapped(line)]
    left_out = len(lines) - FIRST_LINES - LAST_LINES
    if left_out > 1:  # to say that one is left out would take its place
        lines[FIRST_LINES:-LAST_LINES] = [f"… ({left_out} lines)"]
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}text", *lines, fence, ""])


def wrapped(line: str) -> list[str]:
    """A line as lines that are not too long; its spaces stay."""
    return textwrap.wrap(
        line, MOST_COLUMNS, expand_tabs=False, replace_whitespace=False, drop_whitespace=False
    ) or [""]


def section(name: str) -> str:
    """One task."""
    task = tasks.make(name)
    example = task.example(EXAMPLE_ID)
    try:
        answer = f"Answer:\n\n{fenced(task.oracle(example))}"
    except NotImplementedError:
        answer = f"{NO_ANSWER}\n"
    says = f"{tasks.describe(name)}\n\n" if ":" not in name else ""
    turns = f"Up to {task.max_turns} turns.\n\n" if task.max_turns > 1 else ""
    title = name.partition(":")[2] or name
    return f"### {title}\n\n{says}{turns}{fenced(example['prompt'])}\n{answer}"


def page() -> str:
    """All of it: the built-in tasks, then reasoning-gym's by kind."""
    version = importlib.metadata.version("reasoning-gym")
    head = HEAD.format(
        example_id=EXAMPLE_ID,
        version=version,
        columns=MOST_COLUMNS,
        first=FIRST_LINES,
        last=LAST_LINES,
    )
    parts = [head, "## Built-in\n"]
    parts += [section(name) for name in built_in()]
    kinds: dict[str, list[str]] = {}
    for name in reasoning_gym.names():
        kinds.setdefault(tasks.describe(name).partition(":")[0], []).append(name)
    for kind in sorted(kinds):
        parts.append(f"## reasoning-gym: {kind}\n")
        parts += [section(name) for name in kinds[kind]]
    return "\n".join(parts)


def built_in() -> list[str]:
    """Names of the built-in tasks."""
    return sorted(task.name for task in BUILT_IN)


def faults(text: str) -> list[str]:
    """What is wrong with a page: tasks missing or too many, built-in ones that changed.

    What a dataset of reasoning-gym shows may change with that library, and is no fault.
    """
    ours, _, theirs = text.partition("## reasoning-gym")
    found = []
    for part, expected in (
        (ours, built_in()),
        (theirs, [name.partition(":")[2] for name in reasoning_gym.names()]),
    ):
        shown = re.findall("^### ([a-z0-9_]+)$", part, re.MULTILINE)
        found += [f"{name} is missing" for name in sorted({*expected} - {*shown})]
        found += [f"{name} is there, and is no task" for name in sorted({*shown} - {*expected})]
        found += [f"{name} is there twice" for name in sorted({*shown}) if shown.count(name) > 1]
    found += [f"{name} is out of date" for name in built_in() if section(name) not in ours]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    parser.add_argument("--out", type=Path, default=PAGE)
    args = parser.parse_args()
    if args.check:
        wrong = faults(args.out.read_text(encoding="utf-8"))
        for line in wrong:
            print(f"{args.out}: {line}: run examples/make_gallery.py")
        return 1 if wrong else 0
    if os.environ.get("PYTHONHASHSEED") != "0":
        again = [sys.executable, *sys.argv]
        return subprocess.run(again, env={**os.environ, "PYTHONHASHSEED": "0"}).returncode
    args.out.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
