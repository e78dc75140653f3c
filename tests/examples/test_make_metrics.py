"""The page of metrics is up to date, and shows each metric of the table once."""

import re
import sys

import pytest

from textenv.algos.rollouts.health.metric_table import METRICS


@pytest.fixture(scope="module")
def script(example):
    return example("make_metrics")


def test_the_page_is_that_of_the_table(script):
    page = script.PAGE.read_text(encoding="utf-8")
    assert page == script.page()
    rows = [re.split(r" ?\| ?", line)[1:-1] for line in page.splitlines() if line.startswith("| `")]
    assert [row[0].strip("`") for row in rows] == [m.name for t in METRICS.values() for m in t]
    assert all(len(row) == 4 and row[1] and row[2] for row in rows)


def test_a_page_that_is_out_of_date_is_named(script, tmp_path, monkeypatch, capsys):
    old = tmp_path / "metrics.md"
    old.write_text(script.page().replace("`reward_std`", "`reward_deviation`"), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["make_metrics.py", "--check", "--out", str(old)])
    assert script.main() == 1
    assert f"{old} is out of date: run examples/make_metrics.py" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["make_metrics.py", "--out", str(old)])
    assert script.main() == 0
    monkeypatch.setattr(sys, "argv", ["make_metrics.py", "--check", "--out", str(old)])
    assert script.main() == 0
