"""Write examples/gallery.md, the page with a prompt and an answer of every task.

    python examples/make_gallery.py            # writes the page
    python examples/make_gallery.py --check    # fails if a task is missing or out of date

It needs the extra ``tasks``. A few datasets of reasoning-gym draw from sets of text, so their
examples depend on ``PYTHONHASHSEED``. The script starts itself again with the value 0.
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
from textenv.tasks import BUILT_IN
from textenv.tasks.libraries import reasoning_gym

PAGE = Path(__file__).with_name("gallery.md")
EXAMPLE_ID = 0
FIRST_LINES, LAST_LINES, MOST_COLUMNS = 12, 8, 100
NO_ANSWER = "No answer: the dataset gives none that its own verifier accepts."

HEAD = """\
# Gallery

One example of every built-in task and of every dataset of reasoning-gym ({version}): the prompt,
and the task's own right answer. It is example {example_id} of the train split, with the default
settings. Lines are wrapped at {columns} characters. If a text is long, its first {first} and its
last {last} lines are shown. The texts of the sections "reasoning-gym" come from that library.

`examples/make_gallery.py` writes this page. The examples of `isomorphic_strings` and `ransom_note`,
and the wording of a few answers, depend on Python's hash of text; the page is made with
`PYTHONHASHSEED=0`.
"""


def fenced(text: str) -> str:
    """A text as a code block of Markdown; the middle of a long text is left out."""
    lines = [part.rstrip() for line in text.strip("\n").split("\n") for part in wrapped(line)]
    left_out = len(lines) - FIRST_LINES - LAST_LINES
    if left_out > 1:  # a note about a single line would be as long as the line
        lines[FIRST_LINES:-LAST_LINES] = [f"… ({left_out} lines)"]
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}text", *lines, fence, ""])


def wrapped(line: str) -> list[str]:
    """A line, split into lines of at most `MOST_COLUMNS` characters; spaces are kept."""
    return textwrap.wrap(
        line, MOST_COLUMNS, expand_tabs=False, replace_whitespace=False, drop_whitespace=False
    ) or [""]


def section(name: str) -> str:
    """The section of the page about one task."""
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
    """The whole page: the built-in tasks, then the datasets of reasoning-gym by kind."""
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
    """The names of the built-in tasks, sorted."""
    return sorted(task.name for task in BUILT_IN)


def faults(text: str) -> list[str]:
    """The faults of a page: missing, unknown and repeated tasks, and built-in ones that changed.

    An example of reasoning-gym may change with that library, so a changed one is not a fault.
    """
    ours, _, theirs = text.partition("## reasoning-gym")
    found = []
    for part, expected in (
        (ours, built_in()),
        (theirs, [name.partition(":")[2] for name in reasoning_gym.names()]),
    ):
        shown = re.findall("^### ([a-z0-9_]+)$", part, re.MULTILINE)
        found += [f"{name} is missing" for name in sorted({*expected} - {*shown})]
        found += [f"{name} is there, and is not a task" for name in sorted({*shown} - {*expected})]
        found += [f"{name} is there twice" for name in sorted({*shown}) if shown.count(name) > 1]
    found += [f"{name} is out of date" for name in built_in() if section(name) not in ours]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="check the page, and write nothing")
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
