"""The files of a comparison of strategies: tables, what is said of each, and reading again."""

import json
from dataclasses import replace

import pytest

from tests.algos.compare.strategies.shared import BAD, FAST, PLAIN, comparison_of, run_of
from textenv.algos.compare.strategies.report import (
    check_same,
    read_comparison,
    to_markdown,
    verdicts,
    write_report,
    write_runs,
)
from textenv.algos.compare.strategies.results import Try
from textenv.errors import ConfigError, DataError


def test_tables_and_verdicts_by_hand():
    found = comparison_of(*PLAIN, *FAST, *BAD)
    summary = found.summary()
    lines = verdicts(summary)
    assert "`fast` is not worse" in lines[0] and "+0.000" in lines[0]
    assert "`bad` is WORSE than plain" in lines[1] and "-0.200" in lines[1]
    text = to_markdown(found, summary)
    assert "| bad | 0 of 2 | - | - | no end to no end | - | - | no end to no end |" in text
    assert "| 0 | 190 | 130 | - |" in text
    assert "| fast | 2 | 100 | 20 | 80 | 3 | 25% | 3.0 |" in text


def test_without_a_gain_the_tables_know_no_place_to_reach():
    found = comparison_of(run_of("plain", 0, (0, 0, 0.5), (100, 1, 0.4)))
    assert "gain" not in to_markdown(found, found.summary())


def test_what_is_read_is_what_was_written(tmp_path):
    found = comparison_of(*PLAIN, *FAST, tries=[Try("fast", 1e-3, 0.5, 10, 2.0)])
    write_runs(found, tmp_path)
    assert read_comparison(tmp_path / "results.json") == found
    write_report(found, tmp_path)  # with the summary
    assert read_comparison(tmp_path / "results.json") == found
    assert json.loads((tmp_path / "results.json").read_text())["summary"].keys() == {
        "plain",
        "fast",
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "curves.png",
        "results.json",
        "results.md",
    ]


def test_a_comparison_without_runs_has_no_tables(tmp_path):
    write_report(comparison_of(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"format": "textenv.compare"},
        {"version": 0},
        {"runs": [{"strategy": "plain"}]},
        {"tries": 3},
        {"tries": [3]},
        {"runs": [3]},
    ],
)
def test_files_of_others_are_named(tmp_path, change):
    path = tmp_path / "results.json"
    write_runs(comparison_of(*PLAIN), tmp_path)
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | change))
    with pytest.raises(DataError, match="no comparison of strategies"):
        read_comparison(path)
    for text in ("{", "[" * 5000 + "]" * 5000):
        path.write_text(text)
        with pytest.raises(DataError, match="no comparison of strategies"):
            read_comparison(path)


def test_settings_that_differ_are_all_named(tmp_path):
    found, path = comparison_of(*PLAIN, *FAST), tmp_path / "results.json"
    check_same(found, comparison_of(*PLAIN, *BAD), path)  # another strategy is no difference
    wanted = comparison_of(*PLAIN, *FAST)
    wanted.settings = wanted.settings | {"tokens": 7}
    wanted.strategies = {"plain": "plain", "fast": "faster"}
    with pytest.raises(ConfigError, match="choose another --out") as caught:
        check_same(found, wanted, path)
    assert "fast was fast, is faster; tokens was 200, is 7" in str(caught.value)


def test_a_run_is_read_whole(tmp_path):
    run = replace(PLAIN[0], learning_rate=0.1 + 0.2)  # to the last bit
    write_runs(comparison_of(run), tmp_path)
    assert read_comparison(tmp_path / "results.json").runs == [run]
