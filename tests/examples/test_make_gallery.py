"""The gallery page is up to date: it shows every task as it is now."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from textenv import tasks

pytest.importorskip("reasoning_gym")
SCRIPT = Path(__file__).parents[2] / "examples" / "make_gallery.py"


@pytest.fixture(scope="module")
def gallery(example):
    return example("make_gallery")


@pytest.fixture(scope="module")
def page(gallery):
    return gallery.PAGE.read_text(encoding="utf-8")


def test_the_page_has_every_task_of_today(gallery, page):
    assert gallery.faults(page) == []
    shown = re.findall("^### ([a-z0-9_]+)$", page, re.MULTILINE)
    built_in = [name for name in tasks.names() if ":" not in name]
    datasets = [
        name.partition(":")[2] for name in tasks.names() if name.startswith("reasoning_gym:")
    ]
    assert shown[: len(built_in)] == built_in
    assert sorted(shown[len(built_in) :]) == datasets and len(datasets) > 100


def test_what_is_wrong_is_named(gallery, page):
    assert gallery.faults(page.replace("### sudoku\n", "### sudoku!\n")) == ["sudoku is missing"]
    assert gallery.faults(page.replace("### sort\n", "### sorted\n")) == [
        *("sort is missing", "sorted is there, and is not a task", "sort is out of date"),
    ]
    assert gallery.faults(page.replace("```text\n89+59=", "```text\n89+58=")) == [
        "arithmetic is out of date"
    ]
    assert gallery.faults(page + "### sudoku\n") == ["sudoku is there twice"]


def test_a_new_built_in_task_is_missed(gallery, page, monkeypatch):
    class New(tasks.BUILT_IN[0]):
        name = "brand_new"

    tasks.register_task("brand_new", New)
    try:
        monkeypatch.setattr(gallery, "BUILT_IN", (*gallery.BUILT_IN, New))
        assert gallery.faults(page) == ["brand_new is missing", "brand_new is out of date"]
    finally:
        del tasks._factories["brand_new"]


def test_long_texts_keep_their_beginning_and_their_end(gallery):
    text = "\n".join(f"line {i}" for i in range(40))
    lines = gallery.fenced(text).split("\n")
    assert lines[1] == "line 0" and lines[-3] == "line 39"
    left_out = re.fullmatch(r"… \((\d+) lines\)", lines[13])
    assert int(left_out.group(1)) + len(lines) - 4 == 40
    words = "word " * 60
    assert gallery.fenced(words).replace("\n", " ").split()[1:-1] == words.split()
    assert max(map(len, gallery.fenced("x" * 999).split("\n"))) == 100
    fenced = gallery.fenced("a\n````\nb")
    assert fenced.startswith("`````text\n") and fenced.endswith("\n`````\n")


def test_twice_the_same_bytes(tmp_path):
    """The page does not depend on the hash seed of the process that makes it."""
    runs = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), "--out", str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "random")
    ]
    assert [run.wait(120) for run in runs] == [0, 0]
    first, second = ((tmp_path / seed).read_bytes() for seed in ("1", "random"))
    assert first == second and len(first) > 20_000
