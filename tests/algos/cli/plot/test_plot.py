"""textenv plot: from folders to files."""

import json

import pytest

from textenv.algos.cli import main


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    rows = [
        {"step": float(i), "step_time": 1.0, "num_tokens": 5.0 * i, "reward": i / 4, "loss": 1 / i}
        for i in range(1, 5)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def plot(capsys, *argv):
    assert main(["plot", *map(str, argv)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out.splitlines()


def test_the_usual_metric_over_steps_as_png_and_svg(run, capsys):
    said = plot(capsys, run)
    assert said == [
        f"{run / 'reward-by-steps'}{ending}: reward over steps, 1 curve of 1 run"
        for ending in (".png", ".svg")
    ]
    assert {path.name for path in run.iterdir()} == {
        "metrics.jsonl",
        "reward-by-steps.png",
        "reward-by-steps.svg",
    }


def test_other_metrics_axes_and_files(run, capsys, tmp_path):
    plot(capsys, run, run, "--x", "tokens", "--y", "loss", "--out", tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<?xml")
    plot(capsys, run, "--x", "seconds", "--y", "loss", "--out", tmp_path / "v1.2")
    assert (tmp_path / "v1.2.png").is_file() and (tmp_path / "v1.2.svg").is_file()


@pytest.mark.parametrize("name", ["x.jpg", "x.PNG", "x.png.pdf"])
def test_other_endings_are_refused(run, refused, tmp_path, name):
    said = refused("plot", str(run), "--out", str(tmp_path / "new" / name))
    assert "--out must end in .png or .svg, or have no ending for both, got " in said
    assert said.endswith(f"{name}\n") and not (tmp_path / "new").exists()


def test_the_newest_run_is_the_default(run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    run.rename(tmp_path / "runs" / "mine")
    assert plot(capsys)[0].startswith("runs/mine/reward-by-steps.png: ")


def test_what_is_left_out_is_said(run, capsys):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "reward": NaN}\n{"step"')
    notes = plot(capsys, run)[:2]
    assert notes == [
        f"note: {run / 'metrics.jsonl'}: 1 line cut off, left out",
        "note: run: 1 value of reward not finite, left out",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--y", "rewrd"], "--y: unknown metric 'rewrd'; did you mean 'reward'? Known: loss, "),
        (["--x", "hours"], "--x: unknown metric 'hours'"),
    ],
)
def test_unknown_metrics(run, refused, options, said):
    assert said in refused("plot", str(run), *options)


def test_a_run_without_any_usual_metric_asks_for_one(run, refused):
    (run / "metrics.jsonl").write_text('{"step": 1, "a": 2}\n')
    assert "name a metric, one of a, step, steps" in refused("plot", str(run))


def test_a_run_without_any_metric_is_said_to_have_none(run, refused):
    (run / "metrics.jsonl").write_text("{}\n")
    assert refused("plot", str(run)).strip().endswith("was measured: there is no metric at all")


def test_numbers_whose_differences_no_float_holds_are_left_out(run, capsys):
    """1e308 - -1e308 is infinite, and no axis reaches from one to the other."""
    rows = [{"step": step, "loss": value} for step, value in enumerate([1e308, -1e308, 1e100] * 7)]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    said = plot(capsys, run, "--y", "loss")
    assert said[0] == "note: run: 14 values of loss not finite, left out"
    assert "loss over steps, 1 curve of 1 run" in said[1]
