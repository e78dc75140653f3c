"""Trainings on given data that are stopped and go on end as those that were not, to the bit."""

from __future__ import annotations

import copy
from functools import partial

import gymnasium as gym
import pytest

from tests.algos.resuming import resumed, train_until, without_times
from tests.algos.shared import PROMPTS
from textenv.algos import (
    Buffer,
    MLPPolicy,
    OfflineConfig,
    OfflineTextConfig,
    OfflineTextTrainer,
    OfflineTrainer,
    RolloutRunner,
    SFTConfig,
    SFTTrainer,
)
from textenv.algos.storage.checkpoints.store import checkpoints, newest
from textenv.errors import ConfigError

ROWS = [{"prompt": prompt, "answer": f"{i}{prompt}"} for i, prompt in enumerate(PROMPTS * 2)]
TEXT = {"max_completion_length": 6, "learning_rate": 1e-3}
LORA = {"lora_rank": 2, "lora_dropout": 0.3}
KINDS = {
    "awr": {"method": "awr", "epochs": 4, "critic_epochs": 2},
    "bc": {"method": "bc", "epochs": 5, "holdout": 0.0},
    "rft": {"method": "rft", "epochs": 4, "batch_size": 3},
    "grpo": {"method": "grpo", "epochs": 4, "batch_size": 5, **LORA},
    "sft": {"max_steps": 7, "batch_size": 3},
    "sft, adapters": {"epochs": 2, "batch_size": 3, "lr_scheduler_type": "cosine", **LORA},
}


@pytest.fixture(scope="module")
def rollout():
    """A rollout of control."""
    env = gym.make("CartPole-v1")
    policy = MLPPolicy(env.observation_space, env.action_space, (8,))
    return RolloutRunner(env, policy, max_steps=256).collect()


def answered(trajectories):
    """A rollout of text of these."""
    for trajectory in trajectories:
        trajectory.actions = [""]
        trajectory.completion_truncated = None
    return Buffer(trajectories)


@pytest.fixture
def make(tiny, sample, rollout):
    model, tokenizer = tiny
    answers = answered(sample(model, tokenizer, PROMPTS * 3))

    def make(kind, data=None, **more):
        settings = KINDS[kind] | {"save_steps": 1} | more.pop("settings", {})
        if kind in ("awr", "bc"):
            return OfflineTrainer(
                [data or rollout],
                OfflineConfig(hidden=(8,), batch_size=64, **settings),
                gym.make("CartPole-v1"),
                **more,
            )
        own = copy.deepcopy(model)
        if kind.startswith("sft"):
            config = SFTConfig(**TEXT, **settings)
            return SFTTrainer(own, data or ROWS, config, tokenizer=tokenizer, **more)
        config = OfflineTextConfig(**TEXT, **settings)
        return OfflineTextTrainer([data or answers], own, config, tokenizer=tokenizer, **more)

    return make


def result(trainer):
    """All that a training leaves: weights, the optimizer, and metrics."""
    state = trainer.state()
    arrays = {n: a.tobytes() for n, a in state.arrays.items() if not n.startswith("random/")}
    return arrays, without_times(trainer.history), state.value("trainer/left")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_resumed_ends_as_one_that_was_not_stopped(kind, make, tmp_path):
    whole = make(kind)
    whole.train()
    here = partial(make, kind)
    for steps in (1, 2):
        train_until(here, tmp_path, steps)
    assert newest(tmp_path).name == "step-00000003"
    trainer = resumed(here, tmp_path)
    assert result(trainer) == result(whole)
    assert len(trainer.history) > 3 and trainer.has_ended
    # A further training goes on alike, too.
    whole.train()
    trainer.train()
    assert result(trainer) == result(whole)


@pytest.mark.parametrize("kind", ["awr", "sft"])
def test_stop_and_how_often_checkpoints_are_written(kind, make, tmp_path):
    trainer = make(kind, out=tmp_path, settings={"save_steps": 3}, on_step=lambda _: trainer.stop())
    trainer.train()
    assert len(trainer.history) == 1 and not trainer.has_ended
    trainer._on_step = None
    trainer.train()
    steps = [int(path.name[5:]) for path in checkpoints(tmp_path / "checkpoints")]
    assert steps == {"awr": [3, 6], "sft": [6, 7]}[kind]


@pytest.mark.parametrize(
    ("kind", "what"), [("awr", "rollouts"), ("rft", "rollouts"), ("sft", "rows")]
)
def test_other_data_are_refused(kind, what, make, tmp_path, tiny, sample):
    train_until(partial(make, kind), tmp_path, 1)
    if kind == "awr":
        env = gym.make("CartPole-v1")
        policy = MLPPolicy(env.observation_space, env.action_space, (8,), seed=5)
        data = RolloutRunner(env, policy, max_steps=256).collect()
    elif kind == "rft":
        data = answered(sample(*tiny, PROMPTS * 3, seed=9))
    else:
        data = ROWS[::-1]
    with pytest.raises(ConfigError, match=f"the {what} are others than those of the checkpoint"):
        make(kind, data).resume(tmp_path)


def test_more_passes_if_that_is_allowed(make, tmp_path):
    make("bc", out=tmp_path).train()
    longer = make("bc", settings={"epochs": 8})
    longer.resume(tmp_path, allow_changed=["epochs"])
    assert len(longer.train()) == 8
