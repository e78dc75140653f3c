"""textenv train: whatever ends a run, what it learnt is kept, and it can go on."""

import json
import math
import os
import shutil
import signal
import sys

import pytest

from textenv.algos.cli import main
from textenv.algos.cli.shared.run_folder import RunFolder
from textenv.algos.storage.checkpoints import schedule

SHORT = ["--max-steps", "3", "--num-prompts", "2", "--num-generations", "4", "--eval-examples", "0"]


@pytest.fixture(autouse=True)
def hold_all(monkeypatch):
    """Steps of a few milliseconds have a state in memory too."""
    monkeypatch.setattr(schedule, "HELD_SHARE", math.inf)


def summary_of(out):
    return json.loads((out / "summary.json").read_text())


def lines_of(out):
    """The metrics of a run, without those that measure time."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {n: value for n, value in row.items() if not n.startswith("time/") and n != "step_time"}
        for row in rows
    ]


def at_step(monkeypatch, step, act):
    """Let something happen when the metrics of a step (None: of any) have been written."""
    add = RunFolder.add_metrics

    def also(self, metrics):
        add(self, metrics)
        if step is None or metrics["step"] == step:
            act(self)

    monkeypatch.setattr(RunFolder, "add_metrics", also)


def tell(number):
    return lambda folder: os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_the_system_ends_goes_on_and_comes_out_the_same(
    tmp_path, monkeypatch, capsys, number
):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["train", *SHORT, "--out", str(whole)]) == 0
    with monkeypatch.context() as patch:
        at_step(patch, 2, tell(number))
        assert main(["train", *SHORT, "--out", str(cut)]) == 128 + number
    assert f"to go on: textenv train --resume {cut}" in capsys.readouterr().out
    summary = summary_of(cut)
    assert (summary["state"], summary["steps"]) == ("interrupted", 2)
    assert summary["reason"] == f"{number.name} after 2 updates"
    assert (cut / "model" / "model.safetensors").exists()
    assert main(["train", "--resume", str(cut)]) == 0
    assert "going on after 2 updates" in capsys.readouterr().out
    assert summary_of(cut)["state"] == "finished" and "reason" not in summary_of(cut)
    assert lines_of(cut) == lines_of(whole)
    for name in ("config.toml", "model/model.safetensors"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()
    damaged = (cut / "metrics.jsonl").read_bytes()[:-9]
    (cut / "metrics.jsonl").write_bytes(damaged)
    assert main(["train", "--resume", str(cut)]) == 2
    assert "has finished, after 3 steps" in capsys.readouterr().err
    assert (cut / "metrics.jsonl").read_bytes() == damaged  # what is refused changes nothing


CONTROL = ["--n-steps", "128", "--num-envs", "2", "--batch-size", "64", "--n-epochs", "1"]
CONTROL += ["--eval-episodes", "0", "--total-timesteps", "512", "--env", "CartPole-v1"]
TEXT = ["--n-steps", "16", "--batch-size", "8", "--n-epochs", "1", "--total-timesteps", "64"]
ALGORITHMS = {
    "ppo on control": ["--algo", "ppo", *CONTROL],
    "ppo on text": ["--algo", "ppo", *TEXT, "--eval-examples", "0"],
    "sft": ["--algo", "sft", "--task", "sort", "--max-steps", "4", "--eval-examples", "4"],
    "offline on control": ["--from-rollouts", "control", "--epochs", "4", "--eval-episodes", "0"],
    "offline on text": ["--from-rollouts", "text", "--epochs", "4", "--eval-examples", "0"],
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_runs_of_every_algorithm_go_on(tmp_path, monkeypatch, algorithm):
    monkeypatch.chdir(tmp_path)
    argv = ["train", *ALGORITHMS[algorithm]]
    if "offline" in algorithm:
        kind = algorithm.rpartition(" ")[2]
        made = ["--env", "CartPole-v1"] if kind == "control" else ["--task", "arithmetic"]
        assert main(["rollout", *made, "--n-steps", "64", "--num-envs", "1", "--out", kind]) == 0
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main([*argv, "--out", str(whole)]) == 0
    done = []

    def tell_once(folder):
        if len(done) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        done.append(1)

    with monkeypatch.context() as patch:
        at_step(patch, None, tell_once)
        assert main([*argv, "--out", str(cut)]) == 143
    assert len(lines_of(cut)) == 2 < len(lines_of(whole))
    assert main(["train", "--resume", str(cut)]) == 0
    assert lines_of(cut) == lines_of(whole)
    weights = sorted((whole / "model").glob("*.safetensors"))
    assert weights and all(w.read_bytes() == (cut / "model" / w.name).read_bytes() for w in weights)


def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    """All that it wrote after that checkpoint is made again, and is there once."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    argv = ["train", *SHORT, "--max-steps", "5", "--save-steps", "2", "--rollouts-every", "1"]
    argv += ["--eval-examples", "4"]
    assert main([*argv, "--out", str(whole)]) == 0
    copy = tmp_path / "copy"  # what a process that is killed leaves

    def take(folder):
        wait = [p.name for p in (cut / "checkpoints").iterdir()]
        assert wait == ["step-00000002"]
        shutil.copytree(cut, copy)

    with monkeypatch.context() as patch:
        at_step(patch, 3, take)
        assert main([*argv, "--out", str(cut)]) == 0
    assert summary_of(copy)["state"] == "running" and len(lines_of(copy)) == 3
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4.0, "rew')  # it was killed as it wrote this
    assert len(list((copy / "rollouts").iterdir())) == 3
    assert main(["train", "--resume", str(copy)]) == 0
    assert lines_of(copy) == lines_of(whole)
    assert len(list((copy / "rollouts").iterdir())) == 5
    before, after = summary_of(whole), summary_of(copy)
    for key in ("before", "after", "change", "steps"):
        assert after[key] == before[key]


def test_a_reward_that_fails_loses_its_step_alone(tmp_path, capsys, refused):
    rows, reward = tmp_path / "rows.jsonl", tmp_path / "mine.py"
    rows.write_text("".join(f'{{"prompt": "{n}+1=", "answer": "{n + 1}"}}\n' for n in range(60)))
    stop = tmp_path / "stop"
    reward.write_text(
        "import pathlib\n"
        f"stop = pathlib.Path({str(stop)!r})\n"
        "calls = []\n\n\n"
        "def seldom(prompt, completion, example):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 20 and not stop.exists():\n"  # in the third step of eight
        "        raise RuntimeError('boom')\n"
        "    return len(completion) % 3\n"
    )
    argv = ["train", *SHORT, "--dataset", str(rows), "--reward", f"{reward}:seldom"]
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    assert "boom" in refused(*argv, "--out", str(cut))
    summary = summary_of(cut)
    assert (summary["state"], summary["steps"]) == ("failed", 2)
    assert summary["reason"].startswith("RewardError: ") and "boom" in summary["reason"]
    assert (cut / "model" / "model.safetensors").exists()
    assert [path.name for path in (cut / "checkpoints").iterdir()] == ["step-00000002"]
    stop.touch()
    assert main(["train", "--resume", str(cut)]) == 0
    assert main([*argv, "--out", str(whole)]) == 0
    assert lines_of(cut) == lines_of(whole)


def test_a_second_signal_loses_its_step_alone(tmp_path, monkeypatch):
    """It comes after the third step's rollout was played, and before it was trained on."""
    from textenv.algos.training.trainer import Trainer

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["train", *SHORT, "--out", str(whole)]) == 0
    train, updates = Trainer.train, []

    def told(self, *args):
        updates.append(1)
        if len(updates) == 3:
            tell(signal.SIGINT)(None)
            tell(signal.SIGINT)(None)
        return train(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train", told)
        assert main(["train", *SHORT, "--out", str(cut)]) == 130
    assert summary_of(cut)["reason"] == "SIGINT after 2 updates" and len(lines_of(cut)) == 2
    assert main(["train", "--resume", str(cut)]) == 0
    assert lines_of(cut) == lines_of(whole)


def test_a_reader_who_leaves_does_not_end_the_training(tmp_path, monkeypatch):
    """As in `textenv train | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["train", *SHORT, "--out", str(tmp_path / "run")]) == 0
    assert summary_of(tmp_path / "run")["state"] == "finished"
    assert len(lines_of(tmp_path / "run")) == 3


def test_a_folder_that_is_deleted_on_the_way_is_no_loss(tmp_path, monkeypatch, capsys, refused):
    out, spare = tmp_path / "run", tmp_path / "run-rescued"
    with monkeypatch.context() as patch:
        at_step(patch, 1, lambda folder: shutil.rmtree(out))
        assert f"the run's folder {out} is gone" in refused("train", *SHORT, "--out", str(out))
    assert not out.exists()
    assert summary_of(spare)["state"] == "failed" and len(lines_of(spare)) == 2
    assert (spare / "model" / "model.safetensors").exists()
    assert main(["train", "--resume", str(spare)]) == 0
    assert main(["train", *SHORT, "--out", str(out)]) == 0
    assert lines_of(spare) == lines_of(out)


def test_what_another_run_writes_to_is_refused_at_once(tmp_path, refused):
    out = tmp_path / "run"
    with RunFolder(out):
        said = refused("train", *SHORT, "--model", "no-such-folder", "--out", str(out))
    assert f"another run writes to {out}: choose another --out" in said  # before it loads a model


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--resume", "none"], "--resume none: it is not the folder of a run"),
        (["--resume", "RUN", "--out", "x"], "--out is for a new run"),
        (["--resume", "RUN", "--config", "x"], "--config is for a new run"),
        (["--allow-changed", "seed"], "--allow-changed goes with --resume"),
        (
            ["--resume", "RUN", "--learning-rate", "0.5", "--task", "sort"],
            "grpo.learning_rate was None and is 0.5",
        ),
        (["--resume", "RUN", "--allow-changed", "lerning-rate"], "did you mean 'learning_rate'"),
        (["--resume", "RUN"], "has no checkpoint"),
    ],
)
def test_runs_that_cannot_go_on(tmp_path, refused, argv, said):
    with RunFolder(tmp_path / "run") as folder:
        folder.create({"algo": "grpo", "grpo": {"num_prompts": 4, "max_steps": 2}})
    run = str(tmp_path / "run")
    error = refused("train", *(run if word == "RUN" else word for word in argv))
    assert said in error
    if "--task" in argv:
        assert "text.task was None and is 'sort'" in error
        assert "add --allow-changed task learning-rate" in error


def test_a_setting_may_be_changed_if_the_user_says_so(tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    assert main(["train", *SHORT, "--out", str(out)]) == 0
    argv = ["train", "--resume", str(out), "--max-steps", "4", "--allow-changed", "max-steps"]
    assert main([*argv, "--save-steps", "1"]) == 0
    assert [row["step"] for row in lines_of(out)] == [1, 2, 3, 4]
    assert "max_steps = 4" in (out / "config.toml").read_text()
