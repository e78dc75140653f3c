"""textenv bench: a small run from end to end, what it refuses, and what an interruption leaves."""

import json

import pytest

from textenv.algos.bench.results import Measurement
from textenv.algos.cli import bench, main


def test_a_small_run(tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["bench", "--parts", "hardware", "generate", "--size", "tiny", "--rounds", "1"]
    assert main([*argv, "--peers", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "on two cores; the results go to" in lines[0]
    assert lines[1].startswith("1/2 generate (tiny, 4 prompts of 24 to 40 tokens, 4), textenv")
    assert "tokens/s" in lines[1] and "GFLOP/s" in lines[2]

    whole = json.loads((out / "results.json").read_text())
    assert whole["settings"]["command"].startswith("textenv bench --parts hardware generate")
    assert whole["machine"]["versions"]["mlx"]
    generation, hardware = whole["rows"]
    (run,) = generation["sides"]["textenv"]["runs"]
    assert 1 <= run["tokens"] <= 4 and 24 <= run["prompt_tokens"] <= 40
    assert 20 < run["memory_mb"] < 2_000 and run["blas"] and len(run["samples"]) == 2
    (rates,) = hardware["sides"]["textenv"]["runs"]
    assert rates["gflops"]["square"] > 1 and rates["gb_per_s"] > 0.1
    text = (out / "results.md").read_text()
    assert "## Limits of this machine" in text and "## Where a step goes" in text

    again, before = tmp_path / "again", str(out / "results.json")
    argv = ["bench", "--parts", "generate", "--size", "tiny", "--rounds", "1", "--peers"]
    assert main([*argv, "--compare", before, "--out", str(again)]) == 0
    said = capsys.readouterr().out  # one round knows no noise
    assert f"nothing is slower than {before} by more than the noise" in " ".join(said.split())
    assert "## Beside an earlier state" in (again / "results.md").read_text()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--parts", "stpe"], "unknown part 'stpe'; did you mean 'step'? Known: step, memory"),
        (
            ["--size", "large"],
            "unknown size 'large'; known: tiny, small, medium, vocabulary, smollm2",
        ),
        (["--peers", "verl"], "unknown peer 'verl'; known: trl, mlx-lm, llama.cpp"),
        (["--rounds", "0"], "rounds must be an integer >= 1, got 0"),
        (["--compare", "no-such"], "--compare"),  # by git, or since this is no clone
    ],
)
def test_what_is_refused(tmp_path, capsys, argv, said):
    out = tmp_path / "out"
    assert main(["bench", *argv, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not out.exists()


def test_an_interruption_leaves_what_was_measured(tmp_path, capsys, monkeypatch):
    def run_plan(results, rows, rounds, folder, watcher):
        results.add(0, "textenv", Measurement(1, {"seconds": 0.5, "memory_mb": 100.0}))
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "run_probe", lambda *arguments: {})
    monkeypatch.setattr(bench, "run_plan", run_plan)
    out = tmp_path / "out"
    argv = ["bench", "--parts", "step", "--size", "tiny", "--out", str(out)]
    assert main(argv) == 130
    assert "1 run(s) that were finished" in capsys.readouterr().out
    assert json.loads((out / "results.json").read_text())["rows"][0]["sides"]["textenv"]["runs"]
    assert "| 0.500 s |" in (out / "results.md").read_text()
