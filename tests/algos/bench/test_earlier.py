"""Measurements beside those of an earlier commit or file: verdicts worked by hand."""

import json
import os
import subprocess
from dataclasses import replace

import pytest

import textenv
from tests.algos.bench.shared import WORK, results_of, run_of, two_sides
from textenv.algos.bench import earlier
from textenv.algos.bench.earlier import check_out, comparisons, read_results, said_of
from textenv.algos.bench.plan import OURS, Row, with_commit
from textenv.algos.bench.report import to_json, to_markdown
from textenv.algos.bench.results import Earlier
from textenv.errors import ConfigError

TWIN = f"{OURS} at abc"


def measured(now, before):
    """Results of one row, in which a commit has its turns."""
    row = with_commit(two_sides(), "abc", "/package")
    results = results_of(
        [row],
        {
            (0, OURS): [run_of(seconds, 0) for seconds in now],
            (0, TWIN): [run_of(seconds, 0) for seconds in before],
        },
    )
    return replace(results, earlier=Earlier("abc"))


def test_a_commit_takes_its_turn_after_each_side(monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    row = with_commit(two_sides(), "abc", "/package")
    assert [(side.name, side.of) for side in row.sides] == [(OURS, ""), (TWIN, OURS), ("trl", "")]
    assert row.sides[1].environ == {"PYTHONPATH": "/package"}
    assert row.sides[1].arguments == row.sides[0].arguments
    assert [side.name for side in row.present] == [OURS, "trl"]
    monkeypatch.setenv("PYTHONPATH", "/own")
    row = with_commit(two_sides(), "abc", "/package")
    assert row.sides[1].environ == {"PYTHONPATH": os.pathsep.join(["/package", "/own"])}
    hardware = Row("hardware", "", None, two_sides().sides)
    assert with_commit(hardware, "abc", "/package") == hardware


@pytest.mark.parametrize(
    ("now", "before", "ratios", "verdict"),
    [
        ([2.0, 2.0, 2.0], [1.0, 1.1, 1.2], (0.5, 0.55, 0.6), "slower"),
        ([1.0, 1.0, 1.0], [1.5, 1.6, 1.7], (1.5, 1.6, 1.7), "faster"),
        ([1.0, 1.0, 1.0], [0.9, 0.8, 1.0], (0.9, 0.8, 1.0), ""),  # 0.1 from 1, 0.2 apart
        ([2.0], [1.0], (0.5,), ""),  # one round knows no noise
    ],
)
def test_what_a_commit_is_slower_than(now, before, ratios, verdict):
    results = measured(now, before)
    (found,) = comparisons(results)
    assert found.ratios == pytest.approx(ratios) and found.verdict == verdict
    said = said_of(results)
    if verdict == "slower":
        assert said == [
            "slower than abc by more than the noise: step (tiny, 2 prompts of 8 to 12 tokens, "
            "4 x 4), textenv: 0.55 times as fast (0.50 to 0.60)"
        ]
    else:
        assert said == ["nothing is slower than abc by more than the noise"]


def test_the_table(monkeypatch):
    results = measured([2.0, 2.0, 2.0], [1.0, 1.1, 1.2])
    line = (
        "| GRPO step | tiny | 2 prompts of 8 to 12 tokens, 4 x 4 | textenv | 1.1000 | 2.0000 "
        "| 0.55 (0.50 to 0.60) | slower |"
    )
    assert line in to_markdown(results).splitlines()
    (row,) = json.loads(to_json(results))["rows"]
    assert row["ratios"][f"{TWIN} / {OURS}"]["seconds"] == {"1": 0.5, "2": 0.55, "3": 0.6}
    assert said_of(replace(results, earlier=None)) == []


def test_a_file_is_compared_run_by_run(tmp_path):
    before = results_of([two_sides()], {(0, OURS): [run_of(1.0, 0), run_of(1.2, 0)]})
    path = tmp_path / "results.json"
    path.write_text(to_json(before))
    now = results_of([two_sides()], {(0, OURS): [run_of(2.0, 0), run_of(4.0, 0)]})
    now.earlier = read_results(path)
    (found,) = comparisons(now)
    assert sorted(found.ratios) == pytest.approx([0.25, 0.3, 0.5, 0.6])
    assert (found.before, found.now, found.rounds) == (pytest.approx(1.1), 3.0, 2)
    assert found.verdict == "slower"  # 0.6 from 1, 0.35 apart
    other = replace(two_sides(), work=WORK._replace(prompts=3))
    assert list(comparisons(replace(now, rows=[other]))) == []


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": "other"}', '{"format": "textenv.bench", "rows": [1]}', "[" * 9999],
)
def test_what_is_no_such_file(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"--compare takes a commit, or the results.json") as said:
        read_results(path)
    assert "\n" not in str(said.value) and str(path) in str(said.value)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone with two commits, of which the package's first lines tell."""
    root = tmp_path / "clone"
    for name in ("textenv", "wrappers", "algos"):
        (root / name).mkdir(parents=True)

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)

    git("init", "-q")
    for number in (1, 2):
        for name in ("textenv", "wrappers", "algos"):
            (root / name / "__init__.py").write_text(f"STATE = {number}\n")
        git("add", ".")
        git("commit", "-q", "-m", "a message")
        git("tag", f"v{number}")
    monkeypatch.setattr(earlier.textenv, "__file__", str(root / "textenv" / "__init__.py"))
    return root


def test_a_commit_is_laid_out_as_a_package(clone, tmp_path):
    package = check_out("v1", tmp_path)
    for name in ("", "wrappers", "algos"):
        assert (package / "textenv" / name / "__init__.py").read_text() == "STATE = 1\n"
    assert (clone / "textenv" / "__init__.py").read_text() == "STATE = 2\n"


@pytest.mark.parametrize("commit", ["v3", "--help", "", "v1:textenv"])
def test_a_commit_that_is_none(clone, tmp_path, commit):
    with pytest.raises(ConfigError, match=rf"git finds no commit '{commit}'") as said:
        check_out(commit, tmp_path)
    assert "\n" not in str(said.value)


def test_commits_need_a_clone(tmp_path, monkeypatch):
    monkeypatch.setattr(textenv, "__file__", str(tmp_path / "textenv" / "__init__.py"))
    with pytest.raises(ConfigError, match="there is no such file, and commits need git"):
        check_out("HEAD", tmp_path)
