"""textenv rollout: files without training."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("tyro")

from textenv.algos.cli import main
from textenv.algos.cli import rollout as command
from textenv.algos.control.mlp_policy import MLPPolicy, load_policy
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.algos.storage.files import load_rollouts, save_rollout


def rollout(out, *argv):
    return main(["rollout", "--out", str(out), *map(str, argv)])


LINE = r"exported (\d+) transitions to (rollout_\d+_\d{8}_\d{6}\.[a-z.]+) \((\d+) in all\)"


def test_control_at_random(tmp_path, capsys):
    assert rollout(tmp_path, "--n-steps", 120, "--num-envs", 4, "--rollouts", 3, "--seed", 5) == 0
    lines = re.findall(LINE, capsys.readouterr().out)
    assert [(count, total) for count, _, total in lines] == [
        ("120", "120"),
        ("120", "240"),
        ("120", "360"),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(name for _, name, _ in lines)
    rollouts = load_rollouts(tmp_path, 3)
    for one in rollouts:
        assert one.num_transitions == 120
        assert {t.env_index for t in one} == {0, 1, 2, 3}
        for index in range(4):
            assert sum(len(t) for t in one if t.env_index == index) == 30
    source = rollouts[0].source
    assert (source.env_id, source.num_envs, source.seed) == ("CartPole-v1", 4, 5)
    assert len(source.policy_hash) == 64
    # Episodes go on from one rollout to the next.
    for index in range(4):
        last = [t for t in rollouts[0] if t.env_index == index][-1]
        first = next(t for t in rollouts[1] if t.env_index == index)
        if not (last.terminated or last.truncated):
            assert np.array_equal(last.final_observation, first.observations[0])


def test_a_file_in_the_place_of_the_folder_is_named_at_once(tmp_path, refused, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(RolloutRunner, "collect", lambda self: pytest.fail("collected"))
    for out in ("file", "file/below"):
        error = refused("rollout", "--out", str(tmp_path / out))
        assert f"{tmp_path / 'file'} is a file" in error
    assert "environment ''" in refused("rollout", "--env", "", "--out", str(tmp_path / "new"))
    assert "seed must be at least 0" in refused("rollout", "--seed", "-5")


def test_seeds(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert rollout(tmp_path / name, "--n-steps", 40, "--seed", seed) == 0
    a, b, c = (load_rollouts(tmp_path / name) for name in "abc")
    assert a == b
    assert a[0].trajectories != c[0].trajectories


def test_one_environment_and_other_formats(tmp_path, capsys):
    for ending, package in (("jsonl.gz", "numpy"), ("parquet", "pyarrow"), ("minari", "minari")):
        pytest.importorskip(package)
        argv = ("--env", "Pendulum-v1", "--num-envs", 1, "--n-steps", 20, "--format", ending)
        assert rollout(tmp_path, *argv) == 0
        assert f".{ending} (20 in all)" in capsys.readouterr().out
    a, b, c = load_rollouts(tmp_path)
    assert a == b == c and a.source.num_envs == 1


def test_a_saved_policy(tmp_path, capsys):
    env = gym.make("CartPole-v1")
    policy = MLPPolicy(env.observation_space, env.action_space, hidden=(8,), seed=3)
    policy.save(tmp_path / "model")
    assert rollout(tmp_path / "out", "--policy", tmp_path / "model", "--n-steps", 80) == 0
    [read] = load_rollouts(tmp_path / "out")
    assert read.source.policy_hash == policy.fingerprint()
    again = load_policy(tmp_path / "model")
    for trajectory in read:
        assert trajectory.values == pytest.approx(again.values(trajectory.observations), abs=1e-5)
        assert len(trajectory.logprobs) == len(trajectory)
    capsys.readouterr()
    assert rollout(tmp_path, "--policy", tmp_path / "model", "--env", "Acrobot-v1") == 2
    error = capsys.readouterr().err
    assert "model is of observations Box" in error and "(6,)" in error


def test_text_in_whole_groups(tmp_path, capsys):
    argv = ("--env", "TextGen-v0", "--n-steps", 30, "--num-generations", 4)
    assert rollout(tmp_path, *argv) == 0
    assert "exported 28 transitions" in capsys.readouterr().out
    [read] = load_rollouts(tmp_path)
    groups = [t.group_id for t in read]
    assert sorted(groups) == sorted([*range(7)] * 4)
    assert all(t.token_logprobs for t in read) and read.source.env_id == "TextGen-v0"


def test_stop_strings_end_the_answers(tmp_path):
    argv = ("--env", "TextGen-v0", "--n-steps", 32, "--stop", *"0123456789")
    assert rollout(tmp_path, *argv) == 0
    [read] = load_rollouts(tmp_path)
    assert {t.actions[0] for t in read} == {""} and not any(t.completion_truncated for t in read)


def test_a_task_at_random(tmp_path):
    argv = ("--task", "reverse", "--policy", "random", "--n-steps", 4, "--num-generations", 2)
    assert rollout(tmp_path, *argv) == 0
    [read] = load_rollouts(tmp_path)
    assert len(read) == 4 and read.source.env_kwargs == {"task": "reverse"}
    assert all(t.token_ids is None for t in read)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--n-steps", 100], "n_steps=100 must be divisible by num_envs=8"),
        (["--rollouts", 0], "rollouts must be an integer >= 1, got 0"),
        (["--num-envs", 0], "num_envs must be an integer >= 1, got 0"),
        (["--env", "Nowhere-v0"], "'Nowhere-v0' is not registered"),
        (["--task", "nonsense"], "unknown task 'nonsense'"),
        (["--env", "CartPole-v1", "--task", "sort"], "unexpected keyword argument 'task'"),
        (["--policy", "/nowhere"], "/nowhere holds no control policy"),
        (["--env", "TextGen-v0", "--n-steps", 4], "fewer than one group: num_generations=8"),
        (["--task", "sort", "--chat-template-kwargs", "think", "True"], "no chat template"),
    ],
)
def test_one_line_for_what_is_wrong(tmp_path, capsys, argv, words):
    assert rollout(tmp_path / "out", *argv) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_ctrl_c_waits_for_a_file_that_is_written(tmp_path, monkeypatch, capsys):
    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGINT)
        return save_rollout(*args)

    monkeypatch.setattr(command, "save_rollout", interrupted)
    assert rollout(tmp_path, "--rollouts", 5, "--n-steps", 8) == 130
    [name] = os.listdir(tmp_path)
    output = capsys.readouterr()
    assert f"exported 8 transitions to {name}" in output.out
    assert output.err == "textenv rollout: interrupted\n"


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is another thing there")
def test_ctrl_c_leaves_whole_files(tmp_path):
    code = "import sys; from textenv.algos.cli import main; sys.exit(main(sys.argv[1:]))"
    argv = ["rollout", "--rollouts", "100000", "--n-steps", "64", "--out", str(tmp_path / "out")]
    child = subprocess.Popen([sys.executable, "-c", code, *argv], stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("out/rollout_*"))) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    assert child.wait(60) == 130
    rollouts = load_rollouts(tmp_path / "out", 3)
    assert all(one.num_transitions == 64 for one in rollouts)
    assert not list(tmp_path.glob("out/.*"))
