"""PPO on text learns what pays, and nothing from noise."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

from tests.algos.ppo_text_setup import make_learner, make_trainer, record
from tests.algos.shared import PROMPTS, accuracy, make_env, starts_with, vowels
from textenv.algos import RolloutRunner
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.lm.scoring.scorer import Scorer

LEARN = {"n_steps": 128, "batch_size": 64, "learning_rate": 3e-3, "max_grad_norm": 1.0}


def test_it_learns_what_pays(fresh):
    trainer = make_trainer(*fresh, starts_with("e"), **LEARN, total_timesteps=128 * 15)
    before = accuracy(trainer, "e")
    history = trainer.train()
    assert before < 0.2
    assert accuracy(trainer, "e") > 0.9
    assert np.mean([m["reward"] for m in history[-3:]]) > 0.8
    assert history[-1]["rollout/ep_rew_mean"] > 0.8
    assert history[-1]["num_tokens"] > history[0]["num_tokens"] > 128  # of all rollouts so far
    assert {"step_time", "rewards/starts_with/mean", "entropy"} <= history[0].keys()
    assert max(m["sampling/logprob_difference/max"] for m in history) < 1e-4


def test_the_critic_learns_what_a_prompt_is_worth(fresh):
    """A reward of the prompt alone, which no token can change."""
    reward = lambda prompt, completion, example: float(prompt in PROMPTS[:2])  # noqa: E731
    trainer = make_trainer(*fresh, reward, **LEARN, total_timesteps=128 * 15, vf_coef=1.0)
    history = trainer.train()
    assert history[0]["train/explained_variance"] == pytest.approx(0)
    assert history[-1]["train/explained_variance"] > 0.9


def gradient_scores(model, tokenizer, reward, batches, critic=0.0, **settings):
    """How many standard errors the mean gradient is from zero, along fixed directions.

    The first direction is that along which the reward `vowels` rises.
    """
    import mlx.core as mx

    seen: list = []
    fixed = {"n_epochs": 1, "vf_coef": 0.0, "max_grad_norm": 0.0, "gae_lambda": 1.0}

    def gradients(reward_fn, size, seed):
        learner = make_learner(model, tokenizer, batch_size=size, **fixed, **settings)
        record(learner, seen)
        head = learner.network.value_head
        head.weight = critic * mx.random.normal(head.weight.shape, key=mx.random.key(1))
        runner = RolloutRunner(make_env(reward_fn), learner.policy, None, size, seed)
        while True:
            learner.update(runner.collect(), 1.0, None)
            flat = [g.ravel() for name, g in seen.pop().items() if name.startswith("model.")]
            yield np.concatenate(flat)

    uphill = next(gradients(vowels, 512, 1))
    directions = np.random.default_rng(2).normal(0, 1, (9, len(uphill)))
    directions = np.vstack([uphill, directions])
    steps = gradients(reward, 16, 3)
    projections = np.array([directions @ next(steps) for _ in range(batches)])
    return projections.mean(0) / (projections.std(0, ddof=1) / math.sqrt(batches))


@pytest.mark.parametrize(
    "settings",
    [{}, {"critic": 0.02, "normalize_advantage": False}],
    ids=["whitened", "whatever the critic says"],
)
def test_random_rewards_have_no_mean_gradient(fresh, settings):
    rng = np.random.default_rng(4)
    coin = lambda *_: float(rng.random() < 0.5)  # noqa: E731
    assert np.abs(gradient_scores(*fresh, coin, batches=80, **settings)).max() < 3
    # The same statistic sees a reward that is none of chance.
    assert gradient_scores(*fresh, vowels, batches=40, **settings)[0] > 4


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_the_kl_penalty_keeps_near_the_first_policy(fresh, lora_rank):
    first, tokenizer = fresh
    score = Scorer(first)

    def distance(beta):
        settings = {"beta": beta, "lora_rank": lora_rank, "total_timesteps": 128 * 10}
        model = copy.deepcopy(first)
        trainer = make_trainer(model, tokenizer, starts_with("e"), **LEARN, **settings)
        history = trainer.train()
        runner = RolloutRunner(make_env(), trainer.policy.with_params(seed=9), None, 128)
        batch = make_batch(runner.collect().trajectories)
        own = batch.mask > 0
        return (batch.old_logprobs - np.array(score(batch)[0]))[own].mean(), history

    free, _ = distance(0.0)
    kept, history = distance(1.0)
    assert kept < 0.5 * free
    assert history[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert history[-1]["kl"] > 1e-5
