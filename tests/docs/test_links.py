"""Each relative link of a page resolves, those of images and to headings too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest


def broken_links(page, root) -> Iterator[str]:
    prose = re.sub(r"(`+)(.+?)\1", "", page.prose, flags=re.S)
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)", prose)
    targets += re.findall(r"^\s*\[[^\]]+\]:\s*(\S+)", prose, re.M)
    targets += re.findall(r"(?:src|href)=[\"']([^\"']+)", prose)
    for target in targets:
        if re.match(r"(https?:)?//|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (root / page.name).parent / path
        if path and not (place.exists() and place.resolve().is_relative_to(root)):
            yield f"{page.name}: no file {target}"
        elif anchor:
            file = place / "README.md" if place.is_dir() else place
            there = replace(page, text=file.read_text(encoding="utf-8")) if path else page
            if anchor not in there.anchors:
                yield f"{page.name}: no heading {target}"


def test_links_resolve(page, root):
    assert list(broken_links(page, root)) == []


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("[a](LICENSE) [b](tests/) ![c](examples/reward.png)", 0),
        ("[a](https://example.com/nowhere) [b](mailto:a@example.com)", 0),
        ("# One `two`, three!\n\n[a](#one-two-three) [b](README.md#layout)", 0),
        ("# Twice\n# Twice\n[a](#twice-1)", 0),
        ("`[a](nowhere.md)`\n```text\n[a](nowhere.md)\n```", 0),
        ("[a](nowhere.md)", 1),
        ("![a](nowhere.png)", 1),
        ("[![a](examples/reward.png)](nowhere.md)", 1),
        ("[a][b]\n\n[b]: nowhere.md", 1),
        ('<img src="nowhere.png">', 1),
        ("[a](#nowhere)", 1),
        ("[a](README.md#nowhere)", 1),
        ("```text\n# One\n```\n[a](#one)", 1),
        ("[a](../outside.md) [b](..)", 2),
    ],
)
def test_the_check_finds_broken_links(text, bad, make_page, root):
    assert len(list(broken_links(make_page(text), root))) == bad
