"""Where a training is told of: trackers, lines of JSON, warnings alone."""

import csv
import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest

from textenv.algos.cli import main
from textenv.algos.cli.shared.reporting import Reporting, json_line
from textenv.algos.cli.shared.run_folder import RunFolder


def printed(reporting, tmp_path):
    """What goes to standard output and standard error of lines, a warning, and a step."""
    out, err = io.StringIO(), io.StringIO()
    folder = RunFolder(tmp_path / "run")
    with redirect_stdout(out), redirect_stderr(err):
        with reporting.streams():
            reporting.attach(folder)
            folder.create({})
            print("a line")
            reporting.warn("cut off \x1b[31m")
            folder.add_metrics({"step": 1.0, "reward": 0.5})
        print("behind")
    assert out.getvalue().endswith("behind\n")
    return out.getvalue().removesuffix("behind\n"), err.getvalue()


ROW = '{"step": 1.0, "reward": 0.5}\n'
WARNING = "warning: cut off \\x1b[31m\n"


@pytest.mark.parametrize(
    ("quiet", "as_json", "out", "err"),
    [
        (False, False, "a line\n" + WARNING, ""),
        (True, False, "", WARNING),
        (False, True, ROW, "a line\n" + WARNING),
        (True, True, ROW, WARNING),
    ],
)
def test_what_is_printed_where(tmp_path, quiet, as_json, out, err):
    assert printed(Reporting(quiet=quiet, json=as_json), tmp_path) == (out, err)


def test_what_is_not_finite_is_null_in_json():
    line = json_line({"a": float("nan"), "b": float("-inf"), "c": 0.5, "warnings": ["</script>"]})
    expected = {"a": None, "b": None, "c": 0.5, "warnings": ["</script>"]}
    assert json.loads(line, parse_constant=pytest.fail) == expected and "\n" not in line


CONTROL = ["train", "--algo", "ppo", "--env", "CartPole-v1", "--total-timesteps", "512"]
CONTROL += ["--n-steps", "256", "--n-epochs", "1", "--eval-episodes", "1", "--export", "off"]


def test_a_training_prints_its_steps_as_json_and_logs_them(tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*CONTROL, "--out", str(run), "--json", "--log-to", "csv"]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows == [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and "before: return greedy" in err
    lines = (run / "progress.csv").read_text().splitlines()
    assert len(lines) == 1 + 1 + 2 + 1  # names, the evaluation before, two updates, and after
    assert "before/greedy/return" in lines[0]
    assert 'log_to = [\n    "csv",\n]' in (run / "config.toml").read_text()
    assert "quiet" not in (run / "config.toml").read_text() and not (run / "tensorboard").exists()


def test_a_run_that_goes_on_is_logged_behind_its_beginning(tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*CONTROL, "--out", str(run), "--quiet", "--log-to", "csv"]) == 0
    more = ["--total-timesteps", "1024", "--allow-changed", "total-timesteps"]
    assert main(["train", "--resume", str(run), *more, "--quiet", "--json"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["time/total_timesteps"] for line in out] == [768, 1024]
    with (run / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    after = [bool(row["after/greedy/return"]) for row in rows]
    assert after == [False, False, False, True, False, False, True]
    steps = [row["time/total_timesteps"] for row in rows]
    assert steps == ["", "256.0", "512.0", "", "768.0", "1024.0", ""]
    assert [float(row["step"]) for row in rows] == sorted(float(row["step"]) for row in rows)


def test_a_quiet_training_prints_nothing(tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*CONTROL, "--out", str(run), "--quiet", "--log-to"]) == 0
    assert capsys.readouterr() == ("", "")
    assert sys.stdout.write  # it is as it was
    assert not list(run.glob("*.csv")) and not (run / "tensorboard").exists()


def test_tensorboard_is_written_where_it_is_installed(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="TensorBoard is not installed: extra tensorboard",
    )
    run = tmp_path / "run"
    assert main([*CONTROL, "--out", str(run), "--quiet"]) == 0
    events = accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = events.Scalars("time/total_timesteps")
    assert [(e.step, e.value) for e in found] == [(256, 256.0), (512, 512.0)]
    losses = [e.value for e in events.Scalars("train/value_loss")]
    assert losses == pytest.approx([row["train/value_loss"] for row in rows], rel=1e-6)


def test_an_error_of_a_quiet_training_is_still_printed(tmp_path, refused):
    line = refused(*CONTROL, "--quiet", "--out", str(tmp_path), "--n-steps", "0")
    assert "n_steps" in line
