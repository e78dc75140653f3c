"""textenv train --from-rollouts, from the folder of rollouts to the folder of a run."""

import json

import gymnasium as gym
import numpy as np
import pytest

from textenv.algos import load_model, load_policy
from textenv.algos.cli import main
from textenv.algos.config import read_toml
from textenv.algos.evaluation.measure import episode_returns


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    """Three rollouts of CartPole by an agent at random."""
    folder = tmp_path_factory.mktemp("control") / "rollouts"
    argv = ["--n-steps", "1024", "--rollouts", "3", "--seed", "4", "--out", str(folder)]
    assert main(["rollout", "--env", "CartPole-v1", *argv]) == 0
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A rollout of sums by tiny-lm."""
    folder = tmp_path_factory.mktemp("text") / "rollouts"
    assert main(["rollout", "--task", "arithmetic", "--n-steps", "512", "--out", str(folder)]) == 0
    return folder


def test_control_from_files_to_a_policy(control, tmp_path, capsys):
    out = tmp_path / "run"
    argv = ["--epochs", "10", "--critic-epochs", "10", "--learning-rate", "3e-3", "--seed", "1"]
    argv += ["--eval-episodes", "5"]
    assert main(["train", "--from-rollouts", str(control), *argv, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for line in ("3 rollouts of CartPole-v1, 3072 transitions; data: mean return", "before:"):
        assert line in printed
    assert "awr:" in printed and "pass 20/20" in printed and "after: return greedy" in printed

    summary = json.loads((out / "summary.json").read_text())
    assert summary["state"] == "finished" and summary["algo"] == "awr"
    data, after = summary["data"]["return"], summary["after"]["greedy"]["return"]
    assert 18 < data < 26 and after > 4 * data  # at random it is some 22
    policy = load_policy(out / "model")
    returns = episode_returns(policy, gym.make("CartPole-v1"), 5, 2**30)
    assert returns.mean() == pytest.approx(after)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [m["epoch"] for m in lines] == list(range(1, 21))
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")

    # Its own config makes the same run, and an option wins over it.
    again = tmp_path / "again"
    config = read_toml(out / "config.toml")
    assert config["offline"]["epochs"] == 10 and config["offline"]["seed"] == 1
    assert main(["train", "--config", str(out / "config.toml"), "--out", str(again)]) == 0
    assert load_policy(again / "model").fingerprint() == policy.fingerprint()


def test_the_onnx_file_acts_as_the_policy_does(control, tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "run"
    argv = ["--method", "bc", "--epochs", "2", "--eval-episodes", "0", "--rollouts", "1"]
    assert main(["train", "--from-rollouts", str(control), *argv, "--out", str(out)]) == 0
    assert json.loads((out / "summary.json").read_text())["transitions"] == 1024
    policy = load_policy(out / "model")
    rows = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(out / "policy.onnx")
    actions, logits = session.run(["action", "logits"], {"observation": rows})
    np.testing.assert_array_equal(actions, policy(rows, deterministic=True)[0])
    np.testing.assert_allclose(logits, policy.forward(rows)[0], atol=1e-5)


def test_text_from_files_to_a_model(text, tmp_path, capsys):
    out = tmp_path / "run"
    argv = ["--from-rollouts", str(text), "--eval-examples", "100", "--out", str(out)]
    assert main(["train", *argv]) == 0
    assert "rft:" in capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert summary["algo"] == "rft"
    assert summary["after"]["greedy"]["accuracy"] > summary["data"]["accuracy"] + 0.15
    assert summary["before"]["greedy"]["accuracy"] < 0.65
    _, tokenizer = load_model(out / "model")
    assert tokenizer.decode(tokenizer.encode("12+30=")) == "12+30="


def test_ppo_takes_its_own_rollouts_and_no_others(control, tmp_path, refused):
    from textenv.algos import MLPPolicy

    env = gym.make("CartPole-v1")
    own, other = (MLPPolicy(env.observation_space, env.action_space, seed=seed) for seed in (1, 2))
    own.save(tmp_path / "own")
    other.save(tmp_path / "other")
    fresh = tmp_path / "fresh"
    argv = ["--policy", str(tmp_path / "own"), "--n-steps", "512", "--out", str(fresh)]
    assert main(["rollout", "--env", "CartPole-v1", *argv]) == 0

    ppo = ["--algo", "ppo", "--eval-episodes", "0"]
    error = refused(
        "train", *ppo, "--from-rollouts", str(fresh), "--model", str(tmp_path / "other")
    )
    assert own.fingerprint()[:12] in error and other.fingerprint()[:12] in error
    assert "on-policy" in error and "--method awr" in error
    error = refused("train", *ppo, "--from-rollouts", str(control))
    assert "rollout 0 was collected by policy" in error

    out = tmp_path / "run"
    argv = ["--from-rollouts", str(fresh), "--model", str(tmp_path / "own"), "--out", str(out)]
    assert main(["train", *ppo, *argv]) == 0
    assert load_policy(out / "model").fingerprint() != own.fingerprint()
    # Now they are stale.
    error = refused("train", *ppo, "--from-rollouts", str(fresh), "--model", str(out / "model"))
    assert own.fingerprint()[:12] in error


def test_what_is_refused(control, text, tmp_path, refused):
    source = ["--from-rollouts", str(control)]
    error = refused("train", *source, "--rollouts", "4")
    assert "holds 3 rollouts, and 4 are asked for" in error
    assert "rollouts must be an integer >= 1" in refused("train", *source, "--rollouts", "0")
    error = refused("train", *source, "--env", "Acrobot-v1")
    assert "CartPole-v1" in error and "Acrobot-v1" in error
    assert "--method rft is for text" in refused("train", *source, "--method", "rft")
    error = refused("train", "--from-rollouts", str(text), "--method", "bc")
    assert "--method bc is for control" in error
    assert "--algo grpo collects its own" in refused("train", *source, "--algo", "grpo")
    assert "is not there" in refused("train", "--from-rollouts", str(tmp_path / "nothing"))
    broken = tmp_path / "broken"
    broken.mkdir()
    whole = next(control.iterdir()).read_bytes()
    (broken / "rollout_0_20250101_000000.json").write_bytes(whole[: len(whole) // 2])
    assert "rollout_0_20250101_000000.json" in refused("train", "--from-rollouts", str(broken))
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").touch()
    assert "choose another --out" in refused("train", *source, "--out", str(taken))


def test_an_interrupted_run_is_whole(control, tmp_path, monkeypatch, capsys):
    from textenv.algos.cli.shared.run_folder import RunFolder

    add = RunFolder.add_metrics

    def stop(self, metrics):
        add(self, metrics)
        if metrics["epoch"] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "add_metrics", stop)
    out = tmp_path / "run"
    argv = ["--from-rollouts", str(control), "--method", "bc", "--eval-episodes", "2"]
    assert main(["train", *argv, "--out", str(out)]) == 130
    assert json.loads((out / "summary.json").read_text())["state"] == "interrupted"
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3
    assert load_policy(out / "model").hidden == (64, 64)
    assert "interrupted after 3 passes" in capsys.readouterr().out


def test_rollouts_that_do_not_say_where_they_are_from(control, tmp_path, capsys):
    folder = tmp_path / "silent"
    folder.mkdir()
    for path in control.iterdir():
        table = json.loads(path.read_text())
        table["source"]["env_id"] = None
        (folder / path.name).write_text(json.dumps(table))
    argv = ["--from-rollouts", str(folder), "--method", "bc", "--epochs", "1"]
    assert main(["train", *argv, "--out", str(tmp_path / "a")]) == 0
    printed = capsys.readouterr().out
    assert "--env says it" in printed and "before: not evaluated" in printed
    argv += ["--env", "CartPole-v1", "--eval-episodes", "2"]
    assert main(["train", *argv, "--out", str(tmp_path / "b")]) == 0
    assert "before: return greedy" in capsys.readouterr().out


def test_code_that_a_file_names_is_not_imported(control, tmp_path, capsys, monkeypatch):
    folder, out = tmp_path / "rollouts", tmp_path / "run"
    folder.mkdir()
    file = next(control.iterdir())
    text = file.read_text().replace('"env_id": "CartPole-v1"', '"env_id": "evilmod:X-v0"')
    (folder / file.name).write_text(text)
    (tmp_path / "evilmod.py").write_text("open('ran', 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    argv = ["--method", "bc", "--epochs", "1", "--from-rollouts", str(folder), "--out", str(out)]
    assert main(["train", *argv]) == 0
    printed = capsys.readouterr().out
    assert "evilmod:X-v0 cannot be made" in printed and "before: not evaluated" in printed
    assert not (tmp_path / "ran").exists()


def test_rewards_that_cannot_be_trained_on_are_refused(control, tmp_path, refused):
    folder = tmp_path / "rollouts"
    folder.mkdir()
    file = min(control.iterdir())
    text = file.read_text().replace('"rewards": [1.0,', '"rewards": [1e308,', 1)
    (folder / file.name).write_text(text)
    error = refused("train", "--from-rollouts", str(folder), "--out", str(tmp_path / "run"))
    assert "rollout 0, trajectory 0 has a reward of 1e+308" in error


def test_an_environment_with_other_spaces_than_the_rollouts_is_not_played(tmp_path, capsys):
    """The rollouts are of a wrapped environment, and the id alone makes another one."""
    from textenv.algos import RolloutRunner
    from textenv.algos.control.random_policy import RandomPolicy
    from textenv.algos.storage.source import describe_source

    env = gym.wrappers.FlattenObservation(gym.make("FrozenLake-v1"))
    runner = RolloutRunner(env, RandomPolicy(env.action_space), max_steps=64)
    rollout = runner.collect()
    rollout.source = describe_source(runner)
    rollout.save(tmp_path / "rollouts")
    argv = ["--from-rollouts", str(tmp_path / "rollouts"), "--method", "bc", "--epochs", "1"]
    assert main(["train", *argv, "--out", str(tmp_path / "run")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "FrozenLake-v1 cannot be made as it was for the rollouts" in printed
    assert "FrozenLake-v1 has Discrete(16)" in printed
