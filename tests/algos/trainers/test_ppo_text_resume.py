"""PPO on text that is stopped and goes on ends as a run that was not stopped, to the bit."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest

from tests.algos.ppo_text_setup import SMALL
from tests.algos.resuming import resumed, train_until, without_times
from tests.algos.shared import make_env, total, weights_of
from textenv.algos import PPOConfig, PPOTrainer
from textenv.errors import ConfigError

SIZES = SMALL | {"n_steps": 16, "batch_size": 8, "total_timesteps": 5 * 16, "learning_rate": 1e-3}
KINDS = {
    "all weights": {"anneal_learning_rate": True, "anneal_clip_range": True},
    "a penalty": {"beta": 0.1, "target_kl": 0.02, "micro_batch_size": 4, "max_steps": 17},
    "adapters": {"lora_rank": 2, "lora_dropout": 0.3, "ent_coef": 0.01},
    "a way back": {"stop_on_collapse": True},
    "evaluations": {"eval_steps": 5, "eval_examples": 3, "eval_samples": 2, "eval_share": 1.0},
}


@pytest.fixture
def make(tiny):
    def make(kind, **more):
        settings = SIZES | KINDS[kind] | {"save_steps": 1} | more.pop("settings", {})
        env = make_env(total)
        if "eval_steps" in settings:
            more["eval_env"] = make_env(total)
        return PPOTrainer(
            copy.deepcopy(tiny[0]), env, PPOConfig(**settings), tokenizer=tiny[1], **more
        )

    return make


def result(trainer):
    """All that a training leaves: weights, the critic's among them, Adam, metrics, evaluations."""
    state = trainer._updater.state()
    best = trainer.best and (trainer.best.step, trainer.best.value, trainer.best.evaluation.records)
    return (
        {name: value.tobytes() for name, value in state.arrays.items()},
        {name: value.tobytes() for name, value in weights_of(trainer._updater.network).items()},
        without_times(trainer.history),
        best,
        trainer.warnings,
        trainer.num_timesteps,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_resumed_ends_as_one_that_was_not_stopped(kind, make, tmp_path):
    whole = make(kind)
    whole.train()
    here = partial(make, kind)
    for steps in (1, 2):
        train_until(here, tmp_path, steps)
    trainer = resumed(here, tmp_path)
    assert result(trainer) == result(whole)
    assert len(trainer.history) >= 4
    before = weights_of(make(kind)._updater.network)
    assert any(
        not np.array_equal(before[name], value)
        for name, value in weights_of(trainer._updater.network).items()
    )


def test_the_checkpoint_of_the_best_evaluation_stays(make, tmp_path):
    trainer = make("evaluations", out=tmp_path)
    trainer.train()
    of_step = {metrics["step"]: i + 1 for i, metrics in enumerate(trainer.history)}
    best = f"step-{of_step[trainer.best.step]:08d}"
    assert best in {path.name for path in (tmp_path / "checkpoints").iterdir()}


def test_another_model_is_refused(make, tmp_path):
    make("all weights", out=tmp_path).train()
    other = make("all weights", settings={"lora_rank": 2})
    with pytest.raises(ConfigError, match="lora_rank was 0 and is 2"):
        other.resume(tmp_path)
    with pytest.raises(ConfigError, match="weights are those of another model"):
        other.resume(tmp_path, allow_changed=["lora_rank"])
