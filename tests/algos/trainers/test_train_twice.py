"""Calls of ``train()`` after the first: all trainers go on counting, with a new schedule."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from tests.algos.shared import make_env, weights_of
from textenv.algos import (
    GRPOConfig,
    GRPOTrainer,
    MLPPolicy,
    OfflineConfig,
    OfflineTextConfig,
    OfflineTextTrainer,
    OfflineTrainer,
    PPOConfig,
    PPOTrainer,
    RolloutRunner,
)


def codes(prompt, completion, example):
    """A reward that nearly all completions of a group differ in."""
    return sum(map(ord, completion)) / 1000


def make(kind, model, tokenizer, on_step=None):
    """A trainer of four steps (of passes, for those on files)."""
    text = {"max_completion_length": 4, "learning_rate": 1e-3}
    if kind == "grpo":
        config = GRPOConfig(num_prompts=2, num_generations=4, max_steps=4, warmup_steps=1, **text)
        return GRPOTrainer(model, make_env(codes), config, tokenizer=tokenizer, on_step=on_step)
    if kind == "ppo text":
        sizes = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "total_timesteps": 32}
        config = PPOConfig(**sizes, anneal_learning_rate=True, **text)
        return PPOTrainer(model, make_env(codes), config, tokenizer=tokenizer, on_step=on_step)
    if kind in ("ppo", "ppo by steps"):
        sizes = {"n_steps": 64, "batch_size": 32, "n_epochs": 2, "total_timesteps": 256}
        if kind == "ppo by steps":
            sizes |= {"max_steps": 16, "total_timesteps": 100_000}
        config = PPOConfig(**sizes, num_envs=1, anneal_learning_rate=True)
        return PPOTrainer("mlp", "CartPole-v1", config, on_step=on_step)
    seen = None if on_step is None else lambda metrics: on_step(metrics, None)
    if kind == "offline text":
        first = make("grpo", model, tokenizer)
        config = OfflineTextConfig("grpo", epochs=4, **text)
        rollout = first._runner.collect()
        return OfflineTextTrainer([rollout], model, config, tokenizer=tokenizer, on_step=seen)
    env = gym.make("CartPole-v1")
    policy = MLPPolicy(env.observation_space, env.action_space, (4,))
    rollout = RolloutRunner(env, policy, max_steps=128).collect()
    return OfflineTrainer([rollout], OfflineConfig(epochs=3, critic_epochs=1), env, on_step=seen)


KINDS = ["grpo", "ppo text", "ppo", "ppo by steps", "offline text", "offline"]
COUNT = {"grpo": "step", "offline text": "epoch", "offline": "epoch"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_call_trains_as_long_again(fresh, kind):
    trainer = make(kind, *fresh)
    first = [dict(row) for row in trainer.train()]
    again = trainer.train()[len(first) :]
    # Offline control does not fit its critic alone again.
    assert len(first) == 4 and len(again) == (3 if kind == "offline" else 4)
    count = COUNT.get(kind, "time/iterations")
    assert [row[count] for row in (*first, *again)] == list(range(1, len(first + again) + 1))
    rate = "train/learning_rate" if kind.startswith("ppo") else "learning_rate"
    if kind != "offline":  # its rate is constant
        rates = [row[rate] for row in first]
        assert rates == [row[rate] for row in again]
        assert rates[0] > rates[-1] >= 0
    if kind.startswith("ppo"):
        assert (
            trainer.num_timesteps
            == again[-1]["time/total_timesteps"]
            == 2 * first[-1]["time/total_timesteps"]
        )
    assert all(row.get("grad_norm", 1) > 0 for row in again)


def weights(trainer):
    policy = trainer.policy
    return policy.weights if isinstance(policy, MLPPolicy) else weights_of(policy.model)


@pytest.mark.parametrize("kind", KINDS)
def test_after_an_interruption_the_rest_is_trained(fresh, kind):
    """The weights and the metrics are those of a training that was not interrupted."""
    import copy

    def stop(metrics, rollout):
        if len(interrupted.history) == 2:
            raise KeyboardInterrupt

    model, tokenizer = fresh
    whole = make(kind, copy.deepcopy(model), tokenizer)
    whole.train()
    interrupted = make(kind, copy.deepcopy(model), tokenizer, stop)
    with pytest.raises(KeyboardInterrupt):
        interrupted.train()
    assert len(interrupted.train()) == 4
    same = [name for name in whole.history[-1] if not name.endswith(("time", "elapsed", "fps"))]
    same = [name for name in same if not name.startswith(("time/", "memory"))]
    for ours, theirs in zip(interrupted.history, whole.history):
        assert {n: ours[n] for n in same if n in ours} == pytest.approx(
            {n: theirs[n] for n in same if n in theirs}, nan_ok=True
        )
    for name, value in weights(whole).items():
        np.testing.assert_array_equal(weights(interrupted)[name], value, err_msg=name)


def test_the_optimizer_keeps_its_moments(fresh):
    trainer = make("grpo", *fresh)
    trainer.train()
    assert trainer._trainer.optimizer.step.item() == 4
    trainer.train()
    assert trainer._trainer.optimizer.step.item() == 8
    assert trainer._runner.policy_version == 8


def test_steps_without_signal_count_and_the_next_call_begins_anew(fresh):
    model, tokenizer = fresh
    config = GRPOConfig(num_prompts=2, num_generations=2, max_steps=3, max_completion_length=4)
    env = make_env(lambda prompt, completion, example: 1.0)
    trainer = GRPOTrainer(model, env, config, tokenizer=tokenizer)
    before = weights_of(model)
    trainer.train()
    assert [row["step"] for row in trainer.train()] == [1, 2, 3, 4, 5, 6]
    for name, value in weights_of(model).items():
        np.testing.assert_array_equal(value, before[name])
