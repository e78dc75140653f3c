"""The map of algos/ tells the truth: each name that it says is in a file is defined there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

NAMES = r"((?:`[\w.]+`(?:, | and ))*`[\w.]+`) in \[?`([\w./]+\.py)`"


def defined(tree, before="") -> Iterator[str]:
    """The names of functions, classes, methods and constants of a module or class."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield before + node.name
        if isinstance(node, ast.ClassDef):
            yield from defined(node, f"{before}{node.name}.")
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (before + t.id for t in targets if isinstance(t, ast.Name))


def places(page, root) -> Iterator[tuple[str, str]]:
    """Each pair of a name and the file that it is said to be in, from the root."""
    for names, file in re.findall(NAMES, " ".join(page.prose.split())):
        # The page writes textenv/ for the files of textenv where it speaks of them alone.
        folder = root if file.startswith("textenv/") else (root / page.name).parent
        path = (folder / file).resolve().relative_to(root)
        yield from ((name, str(path)) for name in re.findall(r"`([\w.]+)`", names))


def misplaced(page, root) -> Iterator[str]:
    for name, file in places(page, root):
        if not (root / file).is_file():
            yield f"{page.name}: no file {file}"
        elif name not in defined(ast.parse((root / file).read_text(encoding="utf-8"))):
            yield f"{page.name}: no {name} in {file}"


@pytest.fixture
def map_of_algos(make_page, root):
    text = (root / "algos/README.md").read_text(encoding="utf-8")
    return replace(make_page(text), name="algos/README.md")


def test_names_are_where_the_map_says(map_of_algos, root):
    assert list(misplaced(map_of_algos, root)) == []


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("draw", "algos/lm/generation/sampling.py"),
        ("Samples.add", "algos/lm/generation/rows.py"),
        ("Lane.record", "algos/episodes/episode.py"),
        ("compute_advantages", "algos/grpo.py"),
        ("Reward.__call__", "textenv/rewards/__init__.py"),
        ("encode_rollout", "algos/storage/codec.py"),
        ("RolloutWorker.set_weights", "algos/rollouts/workers/worker.py"),
    ],
)
def test_the_map_has_what_a_newcomer_asks_for(name, file, map_of_algos, root):
    assert (name, file) in list(places(map_of_algos, root))


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("`draw` in `algos/lm/generation/sampling.py`", 0),
        ("`Samples.add` in\n[`algos/lm/generation/rows.py`](algos/lm/generation/rows.py)", 0),
        ("`save_adapters` and `load_adapters` in `algos/lm/models/adapters.py`", 0),
        ("`_HOMES` in `algos/__init__.py`", 0),
        ("`add` in `algos/lm/generation/rows.py`", 1),
        ("`save_adapters` and `nothing` in `algos/lm/models/adapters.py`", 1),
        ("`draw` in `algos/nothing.py`", 1),
    ],
)
def test_the_check_finds_names_that_have_moved(text, bad, make_page, root):
    assert len(list(misplaced(make_page(text), root))) == bad
