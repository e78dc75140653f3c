"""The files of a comparison agree with each other."""

import csv
import json

import numpy as np
import pytest

from textenv.algos.cli import main
from textenv.algos.compare.results import PARTS

SHORT = ["--total-timesteps", "512", "--eval-every", "256", "--eval-episodes", "3"]


def parse_tables(text):
    """The tables of a Markdown file, as lists of rows by title."""
    tables, rows = [], None
    for line in text.splitlines():
        if not line.startswith("| "):
            rows = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if rows is None:
            titles, rows = cells, []
            tables.append(rows)
        elif not set(line) <= set("|- "):
            assert len(cells) == len(titles), line
            rows.append(dict(zip(titles, cells)))
    return tables


def test_the_files_agree(tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["--agents", "ppo", "random", "--seeds", "2", "--seed", "3", "--reach", "15"]
    assert main(["compare", *argv, *SHORT, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("seed 3") == printed.count("seed 4") == 2
    assert sorted(p.name for p in out.iterdir()) == [
        *("curves.png", "results.csv", "results.json", "results.md")
    ]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")

    whole = json.loads((out / "results.json").read_text())
    assert whole["settings"]["seeds"] == [3, 4] and whole["machine"]["threads"]["MLX"]
    assert whole["agents"]["ppo"]["settings"]["learning_rate"] == 1e-3
    assert [(r["agent"], r["seed"]) for r in whole["runs"]] == [
        *(("ppo", 3), ("random", 3), ("ppo", 4), ("random", 4))
    ]
    for run in whole["runs"]:
        assert sum(run["parts"].values()) == pytest.approx(run["seconds"])
        assert set(run["parts"]) == set(PARTS) and min(run["parts"].values()) >= 0
        assert run["parts"]["environment"] > 0 and run["parts"]["policy"] > 0
        assert (run["parts"]["update"] > 0) == (run["agent"] == "ppo")
        assert [e["steps"] for e in run["evaluations"]] == [0, 256, 512]
        assert run["evaluations"][-1]["seconds"] <= run["seconds"]

    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    evaluations = [(r, e) for r in whole["runs"] for e in r["evaluations"]]
    assert len(rows) == len(evaluations) == 12
    for row, (run, e) in zip(rows, evaluations):
        assert (row["agent"], int(row["seed"])) == (run["agent"], run["seed"])
        assert int(row["steps"]) == e["steps"] and float(row["seconds"]) == e["seconds"]
        assert float(row["mean_return"]) == pytest.approx(np.mean(e["returns"]), rel=1e-12)
        assert float(row["std_return"]) == pytest.approx(np.std(e["returns"]), rel=1e-12)
        assert int(row["final"]) == (e is run["evaluations"][-1])

    finals, times, reached, by_seed = parse_tables((out / "results.md").read_text())
    for name, final, time, reach in zip(("ppo", "random"), finals, times, reached):
        summary = whole["summary"][name]
        mine = [float(r["mean_return"]) for r in rows if r["agent"] == name and r["final"] == "1"]
        assert final["agent"] == time["agent"] == reach["agent"] == name
        assert float(final["IQM"]) == pytest.approx(np.mean(mine), rel=1e-3)
        assert summary["final_iqm"] == pytest.approx(np.mean(mine))
        assert float(time["seconds"]) == pytest.approx(summary["seconds"], abs=0.006)
        shares = [float(time[part].rstrip("%")) for part in PARTS]
        assert sum(shares) == pytest.approx(100, abs=2)
        assert reach["reached"] == f"{summary['reach']['reached']} of 2"
    assert [row["seed"] for row in by_seed] == ["3", "4"]
