"""textenv train --algo sft, from a file of rows to the folder of a run."""

import json

import pytest

from textenv.algos import load_model
from textenv.algos.cli import main
from textenv.algos.config import read_toml

ROWS = [{"prompt": f"{a}+{b}=", "answer": f"{a + b}"} for a in range(10, 50) for b in range(10, 15)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def rows(tmp_path):
    return write(tmp_path / "rows.jsonl", ROWS)


def test_a_run_leaves_a_whole_folder(rows, tmp_path, capsys):
    out = tmp_path / "run"
    argv = ["--dataset", str(rows), "--max-steps", "6", "--seed", "3", "--eval-examples", "10"]
    assert main(["train", "--algo", "sft", *argv, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "sft: loss on the answers of" in printed and "step 6/6" in printed
    assert "before: held-out loss" in printed and "on 10 rows" in printed
    assert "accuracy greedy" not in printed  # nothing says what a right answer is

    summary = json.loads((out / "summary.json").read_text())
    assert summary["state"] == "finished" and summary["algo"] == "sft" and summary["steps"] == 6
    held_out = [summary[when]["held_out"] for when in ("before", "after")]
    assert held_out[1]["loss"] < held_out[0]["loss"] and held_out[0]["rows"] == 10
    assert 150 < summary["rows"] < len(ROWS)  # the others were held out
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in lines] == list(range(1, 7))
    assert {"loss", "mean_token_accuracy", "num_tokens", "entropy", "epoch"} <= lines[0].keys()
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    load_model(out / "model")

    # Its own config makes the same run, and an option wins over it.
    assert read_toml(out / "config.toml")["sft"]["max_steps"] == 6
    again, other = tmp_path / "again", tmp_path / "other"
    config = ["--config", str(out / "config.toml")]
    assert main(["train", *config, "--out", str(again)]) == 0
    assert main(["train", *config, "--seed", "4", "--out", str(other)]) == 0
    losses = [_losses(folder) for folder in (out, again, other)]
    assert losses[0] == losses[1] != losses[2]


def _losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_without_a_dataset_it_trains_on_the_answers_of_the_tasks_oracle(tmp_path, capsys):
    out = tmp_path / "run"
    argv = ["--examples", "64", "--epochs", "1", "--eval-examples", "20"]
    assert main(["train", "--algo", "sft", *argv, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "tiny-lm on arithmetic" in printed and "answers of 64 rows; 4 steps of 16" in printed
    summary = json.loads((out / "summary.json").read_text())
    assert summary["before"]["held_out"]["rows"] == summary["before"]["greedy"]["examples"] == 20
    assert summary["after"]["greedy"]["accuracy"] is not None


def test_a_reward_scores_the_answers_to_held_out_rows(rows, tmp_path):
    out = tmp_path / "run"
    argv = ["--dataset", str(rows), "--reward", "exact_match", "--max-steps", "1"]
    assert main(["train", "--algo", "sft", *argv, "--out", str(out)]) == 0
    before = json.loads((out / "summary.json").read_text())["before"]
    assert before["greedy"]["examples"] == before["held_out"]["rows"] > 10
    assert 0 < before["greedy"]["accuracy"] < 1


def test_columns_a_system_prompt_and_an_own_file_to_evaluate_on(tmp_path, capsys):
    named = [{"q": row["prompt"], "gold": row["answer"]} for row in ROWS]
    rows, other = write(tmp_path / "rows.jsonl", named), write(tmp_path / "other.jsonl", named[:7])
    out = tmp_path / "run"
    argv = ["--dataset", str(rows), "--columns", "q=prompt", "gold=answer", "--limit", "50"]
    argv += ["--eval-dataset", str(other), "--max-steps", "1"]
    assert main(["train", "--algo", "sft", *argv, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "answers of 50 rows" in printed and "on 7 rows" in printed
    second = tmp_path / "second"
    argv += ["--system-prompt", "Add.", "--out", str(second)]
    assert main(["train", "--algo", "sft", *argv]) == 0
    tokens = [_first(folder, "num_tokens") for folder in (out, second)]
    more = len("System:\nAdd.\n\nUser:\n" + "\n\nAssistant:\n")
    assert tokens[1] == tokens[0] + 16 * more  # tiny-lm has a token for each character


def _first(folder, name):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])[name]


def test_nothing_is_held_out_where_nothing_is_evaluated(rows, tmp_path, capsys):
    out = tmp_path / "run"
    argv = ["--dataset", str(rows), "--max-steps", "1", "--eval-examples", "0"]
    assert main(["train", "--algo", "sft", *argv, "--out", str(out)]) == 0
    assert f"answers of {len(ROWS)} rows" in capsys.readouterr().out
    assert json.loads((out / "summary.json").read_text())["before"] is None
    few = write(tmp_path / "few.jsonl", ROWS[:1])
    argv = ["--dataset", str(few), "--max-steps", "1", "--out", str(tmp_path / "few")]
    assert main(["train", "--algo", "sft", *argv]) == 0
    printed = capsys.readouterr().out
    assert "too few rows to hold some back" in printed and "on 1 rows" in printed


def test_what_was_cut_is_said(rows, tmp_path, capsys):
    write(rows, [*ROWS, {"prompt": "1" * 30, "answer": "2"}, {"prompt": "1+1=", "answer": "3" * 9}])
    out = tmp_path / "run"
    argv = ["--dataset", str(rows), "--max-steps", "1", "--max-length", "10"]
    assert main(["train", "--algo", "sft", *argv, "--eval-examples", "0", "--out", str(out)]) == 0
    assert "1 of them cut to 10 tokens, and 1 more left out" in capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["rows_cut"], summary["rows_left_out"]) == (1, 1)


def test_an_interrupted_run_is_whole(rows, tmp_path, monkeypatch, capsys):
    from textenv.algos.cli.shared.run_folder import RunFolder

    add = RunFolder.add_metrics

    def stop(self, metrics):
        add(self, metrics)
        if metrics["step"] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "add_metrics", stop)
    out = tmp_path / "run"
    argv = ["--dataset", str(rows), "--eval-examples", "5", "--out", str(out)]
    assert main(["train", "--algo", "sft", *argv]) == 130
    summary = json.loads((out / "summary.json").read_text())
    assert summary["state"] == "interrupted" and summary["steps"] == 3
    assert summary["after"]["held_out"]["rows"] == 5
    load_model(out / "model")
    assert "interrupted after 3 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--task", "guess_number"], "guess_number' has several turns"),
        (["--task", "sort", "--dataset", "rows.jsonl"], "give --task or --dataset, not both"),
        (["--dataset", "nowhere.jsonl"], "nowhere.jsonl is not a file"),
        (["--max-length", "1"], "max_length must be at least 2"),
        (["--examples", "0"], "examples must be an integer >= 1"),
    ],
)
def test_what_is_refused(options, said, tmp_path, refused):
    assert said in refused("train", "--algo", "sft", *options, "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "1+1="}, "there is no answer"),
        ({"prompt": "1+1=", "answer": "2" * 600}, "exceed the model's context of 512 tokens"),
        ({"messages": [{"role": "user", "content": "a"}]}, "there is no answer"),
    ],
)
def test_rows_that_are_refused_are_named(row, said, rows, tmp_path, refused):
    write(rows, [*ROWS, row])
    argv = ["--dataset", str(rows), "--out", str(tmp_path / "run")]
    error = refused("train", "--algo", "sft", *argv)
    assert f"rows.jsonl, row {len(ROWS) + 1}: " in error and said in error


def test_rollouts_are_no_rows(tmp_path, refused):
    folder = tmp_path / "rollouts"
    argv = ["--task", "arithmetic", "--n-steps", "16", "--out", str(folder)]
    assert main(["rollout", *argv]) == 0
    error = refused("train", "--from-rollouts", str(folder), "--algo", "sft")
    assert "--algo sft trains on the answers of a --dataset" in error and "rft" in error
