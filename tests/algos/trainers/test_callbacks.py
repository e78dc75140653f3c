"""What trainers call, and what is logged of a training."""

import csv
import json
import math
from types import SimpleNamespace

import gymnasium as gym
import pytest

from textenv.algos import (
    Buffer,
    Callback,
    GRPOConfig,
    GRPOTrainer,
    LogTo,
    OfflineConfig,
    OfflineTrainer,
    PPOConfig,
    PPOTrainer,
    RolloutRunner,
    SFTConfig,
    SFTTrainer,
    Trajectory,
    load_policy,
)
from textenv.algos.trainers.callbacks import step_of
from textenv.errors import ConfigTypeError, MissingDependencyError

SMALL = {"num_prompts": 2, "num_generations": 4, "learning_rate": 1e-4}
PPO = PPOConfig(total_timesteps=192, n_steps=64, n_epochs=1, batch_size=64, num_envs=2)


class Diary(Callback):
    """Writes down what it is told."""

    def __init__(self):
        self.events, self.trainers = [], set()

    def on_step(self, trainer, metrics, rollout):
        self.trainers.add(trainer)
        self.events.append(("step", int(metrics.get("step", metrics.get("epoch", 0)))))
        self.metrics, self.rollout = metrics, rollout

    def on_evaluate(self, trainer, evaluation):
        assert evaluation is trainer.evaluations.last
        self.events.append(("evaluate", len(evaluation.records)))

    def on_save(self, trainer, folder):
        assert folder.is_dir() and any(folder.iterdir())
        self.events.append(("save", folder.name))

    def on_end(self, trainer):
        self.events.append(("end", len(trainer.history)))


def test_grpo_tells_of_steps_evaluations_models_checkpoints_and_the_end(tmp_path):
    config = GRPOConfig(max_steps=4, eval_steps=2, eval_examples=4, save_steps=2, **SMALL)
    diary = Diary()
    trainer = GRPOTrainer("tiny-lm", config=config, callbacks=[diary], out=tmp_path)
    trainer.train()
    told = [event for event in diary.events if event[0] != "save"]
    assert told == [
        *(("step", 1), ("evaluate", 4), ("step", 2), ("step", 3), ("evaluate", 4), ("step", 4)),
        ("end", 4),
    ]
    saved = [name for kind, name in diary.events if kind == "save"]
    assert saved[0] == "best"  # the first evaluation is the best so far, before its step is told
    assert diary.events.index(("save", "best")) < diary.events.index(("evaluate", 4))
    steps = [name for name in saved if name != "best"]
    assert steps == ["step-00000002", "step-00000004"]
    assert diary.events.index(("save", "step-00000004")) < diary.events.index(("end", 4))
    assert diary.trainers == {trainer} and len(diary.rollout) == 8
    trainer.save(tmp_path / "mine")
    assert diary.events[-1] == ("save", "mine")


def test_a_training_that_goes_on_tells_of_new_checkpoints_alone(tmp_path):
    first = PPOTrainer(config=PPO, out=tmp_path, callbacks=Stopping(at=1))
    first.train()
    assert len(first.history) == 1
    diary = Diary()
    second = PPOTrainer(config=PPO, out=tmp_path, callbacks=[diary])
    second.resume(tmp_path)
    second.train()
    assert [name for kind, name in diary.events if kind == "save"] == ["step-00000003"]
    assert diary.events[-1] == ("end", 3)


class Stopping(Callback):
    def __init__(self, at):
        self.at = at

    def on_step(self, trainer, metrics, rollout):
        if len(trainer.history) == self.at:
            trainer.stop()


def test_a_callback_can_stop_a_training_and_on_step_is_called_before_it():
    seen = []
    diary = Diary()
    trainer = PPOTrainer(
        config=PPO,
        on_step=lambda metrics, rollout: seen.append((metrics, rollout)),
        callbacks=[Stopping(2), diary],
    )
    trainer.train()
    assert len(trainer.history) == 2 == len(seen)
    assert diary.metrics is seen[-1][0] and diary.rollout is seen[-1][1]
    assert diary.events[-1] == ("end", 2)


def test_trainers_on_given_data_call_back_without_a_rollout(tmp_path):
    trained = PPOTrainer(config=PPO)
    env = gym.make("CartPole-v1")
    rollout = RolloutRunner(env, trained.policy, max_steps=64).collect()
    diary = Diary()
    config = OfflineConfig("bc", epochs=2)
    trainer = OfflineTrainer([rollout], config, env, callbacks=diary)
    trainer.train()
    trainer.save(tmp_path / "model")
    load_policy(tmp_path / "model")
    assert diary.events == [("step", 1), ("step", 2), ("end", 2), ("save", "model")]
    assert diary.rollout is None

    diary = Diary()
    rows = [{"prompt": f"{a}+1=", "answer": str(a + 1)} for a in range(10, 14)]
    SFTTrainer("tiny-lm", rows, SFTConfig(max_steps=2), callbacks=[diary]).train()
    assert diary.events == [("step", 1), ("step", 2), ("end", 2)]


def test_agents_of_stable_baselines3_are_logged_in_its_own_formats(tmp_path):
    """Our trainers and theirs write the same files, with the same names and steps."""
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.logger import configure

    from textenv.algos import SB3Trainer
    from textenv.algos.storage.trackers.to_sb3 import SB3Logger

    rows = {}
    for kind in ("ours", "theirs"):
        formats = configure(str(tmp_path / kind), ["json", "csv"])
        diary, log = Diary(), LogTo([SB3Logger(formats)], tmp_path / kind)
        if kind == "ours":
            trainer = PPOTrainer(config=PPO, callbacks=[log, diary])
        else:
            model = sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, n_epochs=1)
            trainer = SB3Trainer(model, 192, callbacks=[Stopping(at=2), log, diary])
        trainer.train()
        trainer.save(tmp_path / kind / "model")
        formats.close()
        assert diary.events[-2:] == [("end", len(trainer.history)), ("save", "model")]
        lines = (tmp_path / kind / "progress.json").read_text().splitlines()
        rows[kind] = [json.loads(line) for line in lines]
        assert rows[kind] == trainer.history
        assert len(rows_of(tmp_path / kind / "progress.csv")) == len(trainer.history)
    assert [row["time/total_timesteps"] for row in rows["ours"]] == [64, 128, 192]
    assert [row["time/total_timesteps"] for row in rows["theirs"]] == [64, 128]
    shared = rows["ours"][-1].keys() & rows["theirs"][-1].keys()
    assert {"rollout/ep_rew_mean", "train/approx_kl", "train/value_loss"} <= shared


def test_a_function_is_no_callback():
    with pytest.raises(ConfigTypeError, match=r"derive from textenv.algos.Callback.*on_step"):
        PPOTrainer(config=PPO, callbacks=[print])


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_logged_are_the_metrics_the_evaluations_and_some_completions(tmp_path):
    config = GRPOConfig(max_steps=3, eval_steps=2, eval_examples=4, **SMALL)
    log = LogTo(["csv"], tmp_path, samples_every=2)
    trainer = GRPOTrainer("tiny-lm", config=config, callbacks=log)
    trainer.train()
    rows = rows_of(tmp_path / "progress.csv")
    assert len(rows) == 3
    for row, metrics in zip(rows, trainer.history, strict=True):
        assert {name: float(text) for name, text in row.items() if text} == metrics
    completions = rows_of(tmp_path / "completions.csv")
    assert [row["step"] for row in completions] == ["1"] * 8 + ["3"] * 8
    assert all(float(row["reward"]) == float(row["rewards/correct"]) for row in completions)
    asked = rows_of(tmp_path / "eval_examples.csv")
    assert [row["step"] for row in asked] == ["2"] * 4 + ["3"] * 4
    last = trainer.evaluations.last.records
    assert [row["completion"] for row in asked[4:]] == [record.completions[0] for record in last]
    assert [row["expected"] for row in asked[4:]] == [record.expected for record in last]


def test_a_further_training_is_logged_behind_the_first(tmp_path):
    trainer = PPOTrainer(config=PPO, callbacks=[LogTo(["csv"], tmp_path)])
    trainer.train()
    trainer.train()
    steps = [float(row["time/total_timesteps"]) for row in rows_of(tmp_path / "progress.csv")]
    assert steps == [64, 128, 192, 256, 320, 384]


def test_a_tracker_that_fails_does_not_end_the_training(tmp_path):
    class Broken:
        def __init__(self, run):
            assert run.config["n_steps"] == 64 and run.folder == tmp_path
            raise ConnectionError("no network")

    trainer = PPOTrainer(config=PPO, callbacks=[LogTo([Broken, "csv"], tmp_path)])
    with pytest.warns(UserWarning, match=r"Broken: nothing is logged there \(ConnectionError: no"):
        trainer.train()
    assert len(trainer.history) == 3 == len(rows_of(tmp_path / "progress.csv"))


def test_a_missing_package_is_an_error_before_the_training(tmp_path, monkeypatch):
    from textenv.algos.storage.trackers import tracking

    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"textenv\[tensorboard\]"):
        LogTo(["tensorboard"], tmp_path)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
def test_samples_are_spread_over_the_rollout(tmp_path, count):
    log = LogTo(["csv"], tmp_path)
    rollout = Buffer(
        [Trajectory(prompt=f"{i}", actions=["a", "b"], rewards=[0.25, 0.5]) for i in range(count)]
    )
    log.open({})
    log.on_step(SimpleNamespace(config=PPO), {"step": 1.0}, rollout)
    rows = rows_of(tmp_path / "completions.csv")
    stride = math.ceil(count / 8)
    assert [int(row["prompt"]) for row in rows] == list(range(0, count, stride))
    assert {row["completion"] for row in rows} == {"a\nb"} and len(rows) <= 8
    assert {row["reward"] for row in rows} == {"0.75"}


def test_steps_are_counted_in_transitions_where_there_are_such():
    assert step_of({"step": 3.0, "time/total_timesteps": 2048.0}) == 2048
    assert step_of({"step": 3.0, "epoch": 0.5}) == 3
    assert step_of({"epoch": 2.0}) == 2
