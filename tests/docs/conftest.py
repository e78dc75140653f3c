"""Pages, read: what the tests of this folder look at."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HISTORY = {"CHANGELOG.md"}  # may name what is there no more


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    code: str
    line: int
    """Of its first line of code, counted from 1."""
    reason: str | None
    """Why it is not run, by ``<!-- not run: reason -->`` above it; None if it is run."""

    @property
    def is_code(self) -> bool:
        return self.language in ("python", "bash")


@dataclass(frozen=True)
class Page:
    """A page of Markdown."""

    name: str
    """Its path from the root."""
    text: str

    @cached_property
    def blocks(self) -> list[Block]:
        """The fenced blocks."""
        found, lines = [], self.text.splitlines()
        i = 0
        while i < len(lines):
            fence = re.match(r" {0,3}(`{3,}|~{3,})\s*(\S*)", lines[i])
            if fence:
                start = i + 1
                ends = (j for j in range(start, len(lines)) if lines[j].strip() == fence[1])
                i = next(ends, len(lines))
                code = "\n".join(lines[start:i]) + "\n"
                found.append(Block(fence[2], code, start + 1, _reason(lines[: start - 1])))
            i += 1
        return found

    @cached_property
    def prose(self) -> str:
        """The page without its fenced blocks; lines keep their numbers."""
        lines = self.text.splitlines()
        for block in self.blocks:
            first = block.line - 2
            for i in range(first, min(first + block.code.count("\n") + 2, len(lines))):
                lines[i] = ""
        return "\n".join(lines)

    @cached_property
    def spans(self) -> list[str]:
        """What stands between backticks in the prose."""
        return [" ".join(span.split()) for _, span in re.findall(r"(`+)(.+?)\1", self.prose, re.S)]

    @cached_property
    def indented(self) -> list[str]:
        """Lines of code that are indented, and have no fence."""
        return re.findall(r"^ {4,}.*$", self.prose, re.M)

    @cached_property
    def anchors(self) -> set[str]:
        """What GitHub makes of the headings."""
        found: set[str] = set()
        for title in re.findall(r"^#{1,6}\s+(.*?)\s*#*$", self.prose, re.M):
            plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", title)
            slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
            numbered = (f"{slug}-{i}" if i else slug for i in range(len(found) + 1))
            found.add(next(name for name in numbered if name not in found))
        return found


def _reason(above: Sequence[str]) -> str | None:
    for line in reversed(above):
        if not re.fullmatch(r"\s*<!--.*-->\s*", line):
            return None
        if marker := re.fullmatch(r"\s*<!-- not run: (.*\S) -->\s*", line):
            return marker[1]
    return None


def _pages() -> list[Page]:
    """All pages of the project; not those of virtual environments and of runs."""
    names = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name == ".github" or not name.startswith(".")]
        folders[:] = sorted({*folders} - {"runs", "build", "dist"})
        inside = Path(folder).relative_to(ROOT)
        names += sorted(str(inside / name) for name in files if name.endswith(".md"))
    assert {"README.md", "algos/training/README.md", ".github/CONTRIBUTING.md"} <= {*names}
    return [Page(name, (ROOT / name).read_text(encoding="utf-8")) for name in names]


def pytest_generate_tests(metafunc):
    """A test with the argument ``page`` is run for each page."""
    for argument, left_out in (("page", set()), ("current_page", HISTORY)):
        if argument in metafunc.fixturenames:
            found = [page for page in _pages() if page.name not in left_out]
            metafunc.parametrize(argument, found, ids=[page.name for page in found])


@pytest.fixture
def make_page():
    """A page of a text, to try a check on."""
    return lambda text: Page("page.md", text)


@pytest.fixture
def root():
    """The folder that pages' names count from."""
    return ROOT
