"""PPO on text: against numbers worked by hand, a dense loss of one row at a time, and what pays."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

from tests.algos.ppo_text_setup import make_learner, make_trainer, record
from tests.algos.shared import make_env, same_weights, weights_of
from textenv.algos import Buffer, PPOConfig, PPOTrainer, Trainer, grpo, load_model, ppo
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.trainers.ppo_text import VALUE_HEAD
from textenv.errors import ConfigError, ConfigTypeError, DataError

ROWS = ["12+30=", "a", "a", "the longest prompt = ", "12+30=", "b", "b"]


# --- one update, against a dense computation --------------------------------------------------


def rollout_of(sample, model, tokenizer, **settings):
    """Completions of one turn, and two in which the environment spoke in between."""
    trajectories = sample(model, tokenizer, ROWS, **settings)
    rng = np.random.default_rng(0)
    for i, t in enumerate(trajectories):
        # Ratios away from the kinks at the clip, some clipped and some not.
        shift = rng.choice([-0.4, -0.1, 0.1, 0.4], len(t.token_ids))
        t.token_logprobs = (np.array(t.token_logprobs) + shift).tolist()
        if len(t.token_ids) > 4 and i % 3 == 0:
            t.token_mask = [1, 1, 0, 0, *[1] * (len(t.token_ids) - 4)]
            t.rewards = [0.5, float(i)]
    assert sum(len(t.rewards) == 2 for t in trajectories) >= 2
    return trajectories


def dense_gradients(network, trajectories, config, kl=0.0):
    """Each row by a plain forward of its own; GAE as a sum of sums; no batch, cache or chunk."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    model, head = network.model, network.value_head

    def forward(t):
        count = len(t.prompt_ids)
        hidden = model.model(mx.array([t.prompt_ids + t.token_ids]))[0, count - 1 : -1]
        logits = model.model.embed_tokens.as_linear(hidden) / t.temperature
        if t.support is not None:
            kept = np.zeros(logits.shape, bool)
            for position, ids in enumerate(t.support):
                kept[position, ids] = True
            logits = mx.where(mx.array(kept), logits, -1e9)
        scores = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        chosen = mx.take_along_axis(scores, mx.array(t.token_ids)[:, None], axis=-1)[:, 0]
        entropies = -(mx.exp(scores) * scores).sum(axis=-1)
        own = mx.array(np.flatnonzero(t.token_mask))
        values = (hidden * head.weight).sum(axis=-1) + head.bias
        return chosen[own], entropies[own], values[own]

    advantages, returns = [], []
    for t in trajectories:
        values = np.array(forward(t)[2], np.float64)
        own = np.flatnonzero(t.token_mask)
        rewards = np.full(len(own), -config.beta * kl)
        ends = [i for i in range(len(own)) if i + 1 == len(own) or own[i + 1] > own[i] + 1]
        rewards[ends] += t.rewards
        deltas = rewards + config.gamma * np.append(values[1:], 0) - values
        decay = config.gamma * config.gae_lambda
        steps = range(len(own))
        mine = [sum(decay ** (k - i) * deltas[k] for k in steps if k >= i) for i in steps]
        advantages.append(np.array(mine))
        returns.append(np.array(mine) + values)
    flat = np.concatenate(advantages)
    if config.normalize_advantage:
        advantages = [(a - flat.mean()) / flat.std(ddof=1) for a in advantages]

    def loss():
        total = 0
        for t, a, g in zip(trajectories, advantages, returns):
            logprobs, entropies, values = forward(t)
            old = np.array(t.token_logprobs)[np.flatnonzero(t.token_mask)]
            ratio = mx.exp(logprobs - mx.array(old.astype(np.float32)))
            a, g = mx.array(a.astype(np.float32)), mx.array(g.astype(np.float32))
            clipped = mx.clip(ratio, 1 - config.clip_range, 1 + config.clip_range)
            total = total - mx.minimum(ratio * a, clipped * a).sum()
            total = total + config.vf_coef * ((values - g) ** 2).sum()
            total = total - config.ent_coef * entropies.sum()
        return total / len(flat)

    _, grads = nn.value_and_grad(network, loss)()
    return {name: np.array(g) for name, g in tree_flatten(grads)}


@pytest.mark.parametrize(
    ("sampling", "settings"),
    [
        ({}, {}),
        ({"temperature": 0.7, "top_p": 0.9}, {"ent_coef": 0.3}),
        ({"top_k": 5}, {"beta": 0.3, "normalize_advantage": False, "gamma": 0.9}),
    ],
    ids=["plain", "top_p and entropy", "top_k and KL"],
)
def test_gradients_are_those_of_a_dense_computation(fresh, sample, sampling, settings):
    import mlx.core as mx

    model, tokenizer = fresh
    trajectories = rollout_of(sample, model, tokenizer, **sampling)
    settings |= {"batch_size": len(ROWS), "n_epochs": 1, "vf_coef": 0.4, "max_grad_norm": 0.0}
    gradients = []
    for micro_batch_size in (None, 1, 3):
        learner = make_learner(model, tokenizer, **settings, micro_batch_size=micro_batch_size)
        rng = np.random.default_rng(5)
        head = learner.network.value_head
        head.weight = mx.array(rng.normal(0, 0.1, head.weight.shape).astype(np.float32))
        head.bias = mx.array([0.3])
        if learner.reference is not None:
            learner.reference = lambda batch: mx.array(batch.old_logprobs) - 0.2
        seen: list = []
        record(learner, seen)
        metrics = learner.update(Buffer(trajectories), 1.0, None)
        assert metrics["train/n_updates"] == len(seen) == 1
        if learner.reference is not None:
            assert metrics["kl"] == pytest.approx(math.exp(-0.2) + 0.2 - 1, rel=1e-4)
        gradients += seen
    expected = dense_gradients(learner.network, trajectories, learner.config, kl=0.2)
    for ours in gradients:
        assert ours.keys() == expected.keys()
        for name, gradient in expected.items():
            scale = np.abs(gradient).max()
            assert scale > 0, name
            np.testing.assert_allclose(ours[name], gradient, atol=1e-5 * scale, err_msg=name)


def test_the_ratio_of_the_first_minibatch_is_one(fresh, sample, sampling):
    model, tokenizer = fresh
    learner = make_learner(model, tokenizer, n_epochs=1)
    metrics = learner.update(Buffer(sample(model, tokenizer, ROWS, **sampling)), 1.0, None)
    assert metrics["sampling/logprob_difference/max"] < 1e-4
    assert metrics["train/approx_kl"] == pytest.approx(0, abs=1e-7)
    assert metrics["train/clip_fraction"] == 0
    # The critic knows nothing yet: its error is the mean square of the rewards to come, a token.
    batch = make_batch(sample(model, tokenizer, ROWS, **sampling))
    lengths = batch.mask.sum(axis=1)
    expected = (lengths * batch.rewards**2).sum() / lengths.sum()
    learner = make_learner(copy.deepcopy(model), tokenizer, n_epochs=1, gae_lambda=1.0)
    metrics = learner.update(Buffer(sample(model, tokenizer, ROWS, **sampling)), 1.0, None)
    assert metrics["train/value_loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["train/explained_variance"] == pytest.approx(0)


@pytest.mark.parametrize("why", ["no reward at all", "not scored"])
def test_without_signal_nothing_moves(fresh, sample, why):
    model, tokenizer = fresh
    learner = make_learner(model, tokenizer, ent_coef=0.1)
    trajectories = sample(model, tokenizer, ROWS)
    for t in trajectories:
        t.rewards = [0.0 if why == "no reward at all" else math.nan]
    before = weights_of(learner.network)
    metrics = learner.update(Buffer(trajectories), 1.0, None)
    assert metrics["train/n_updates"] == 0
    np.testing.assert_equal(weights_of(learner.network), before)
    assert int(learner._optimizer.step.item()) == 0


def test_what_no_reward_function_scored_counts_for_nothing(fresh, sample):
    model, tokenizer = fresh
    trajectories = sample(model, tokenizer, ROWS)
    trajectories[2].rewards = [math.nan]
    gradients = []
    for rows in (trajectories, trajectories[:2] + trajectories[3:]):
        learner = make_learner(model, tokenizer, n_epochs=1)
        seen: list = []
        record(learner, seen)
        learner.update(Buffer(rows), 1.0, None)
        gradients += seen
    for name, gradient in gradients[1].items():
        np.testing.assert_allclose(gradients[0][name], gradient, atol=1e-5 * abs(gradient).max())


def test_epochs_end_where_the_policy_has_gone_too_far(fresh, sample):
    model, tokenizer = fresh
    trajectories = sample(model, tokenizer, ROWS)
    run = {"batch_size": 4, "n_epochs": 3, "learning_rate": 3e-3}

    def updates(max_updates=None, **settings):
        learner = make_learner(copy.deepcopy(model), tokenizer, **run | settings)
        return learner.update(Buffer(trajectories), 0.5, max_updates)

    assert updates()["train/n_updates"] == 6
    assert updates(max_updates=4)["train/n_updates"] == 4
    assert updates(target_kl=1e-8)["train/n_updates"] == 1  # the first is of the policy itself
    annealed = updates(anneal_learning_rate=True, anneal_clip_range=True)
    assert annealed["train/learning_rate"] == pytest.approx(1.5e-3)
    assert annealed["train/clip_range"] == pytest.approx(0.1)


@pytest.mark.parametrize(("target_kl", "seen"), [(None, 6), (1e-8, 2)])
def test_the_kl_that_is_shown_is_that_of_the_last_epoch(
    fresh, sample, target_kl, seen, monkeypatch
):
    """As Stable-Baselines3 shows it; the minibatch that was stopped counts too."""
    model, tokenizer = fresh
    trajectories = sample(model, tokenizer, ROWS)
    learner = make_learner(
        *(model, tokenizer), batch_size=4, n_epochs=3, learning_rate=3e-3, target_kl=target_kl
    )
    steps = []
    original = learner._step

    def step(*args):
        steps.append(original(*args))
        return steps[-1]

    monkeypatch.setattr(learner, "_step", step)
    metrics = learner.update(Buffer(trajectories), 1.0, None)
    kls = [figures["train/approx_kl"] for figures in steps]
    assert len(kls) == seen and kls[-1] > 1e-5
    assert metrics["train/approx_kl"] == pytest.approx(np.mean(kls[-2:]))
    losses = [figures["train/value_loss"] for figures in steps]
    assert metrics["train/value_loss"] == pytest.approx(np.mean(losses))


def test_a_gradient_that_is_no_number_changes_nothing(fresh, sample):
    import mlx.core as mx

    model, tokenizer = fresh
    learner = make_learner(model, tokenizer)
    learner.network.value_head.bias = mx.array([math.nan])
    before = weights_of(model)
    with pytest.raises(FloatingPointError, match="norm"):
        learner.update(Buffer(sample(model, tokenizer, ROWS)), 1.0, None)
    np.testing.assert_equal(weights_of(model), before)


def test_with_a_guard_such_minibatches_are_skipped_and_counted(fresh, sample, monkeypatch):
    from textenv.algos.training.guard import StepGuard

    model, tokenizer = fresh
    learner = make_learner(model, tokenizer, batch_size=2, n_epochs=1)
    learner.guard = StepGuard()
    rollout = Buffer(sample(model, tokenizer, ROWS))
    apply, calls = learner._apply, []

    def sometimes(gradient, loss):
        calls.append(loss)
        return apply(gradient, math.nan if len(calls) == 1 else loss)

    monkeypatch.setattr(learner, "_apply", sometimes)
    metrics = learner.update(rollout, 1.0, None)
    assert metrics["skipped_steps"] == 1
    assert metrics["train/n_updates"] == len(calls) - 1 > 0
    assert math.isfinite(metrics["train/value_loss"])


@pytest.mark.parametrize("given", ["tree", "token_weights", "token_advantages"])
def test_tokens_that_count_differently_are_refused(sample, fresh, given):
    model, tokenizer = fresh
    trajectories = sample(model, tokenizer, ["a", "a", "b"])
    for number, t in enumerate(trajectories):
        t.group_id = 0
        if given != "tree":
            setattr(t, given, [0.5] * len(t.token_ids))
        elif number == 1:
            first = trajectories[0]
            t.token_ids[0] = first.token_ids[0]
            t.parent, t.branch_at = 0, 1
    learner = make_learner(model, tokenizer)
    before = weights_of(model)
    with pytest.raises(DataError, match="train on them by GRPO"):
        learner.update(Buffer(trajectories), 1.0, None)
    assert same_weights(before, weights_of(model))


# --- models in and out --------------------------------------------------------------------------


def test_lora_trains_adapters_and_the_critic_and_saves_them(tiny_folder, tmp_path):
    import mlx.core as mx
    import mlx_lm

    trainer = make_trainer(tiny_folder, None, total_timesteps=128, lora_rank=4, learning_rate=1e-2)
    network = trainer._updater.network
    before = weights_of(network)
    trainer.train()
    after = weights_of(network)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in before if "lora_" in name or "value_head" in name}
    trainer.save(tmp_path / "model")
    model, tokenizer = mlx_lm.load(str(tmp_path / "model"))
    ids = mx.array([tokenizer.encode("12+30=")])
    np.testing.assert_allclose(model(ids), network.model(ids), atol=1e-4)


def test_a_saved_folder_brings_its_critic_along(tiny_folder, tmp_path):
    import mlx.core as mx

    trainer = make_trainer(tiny_folder, None, total_timesteps=64)
    trainer.train()
    for _ in range(2):  # the second time in the place of the first
        trainer.save(tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
    again = make_trainer(tmp_path / "model", None)
    ours, theirs = weights_of(trainer._updater.network), weights_of(again._updater.network)
    np.testing.assert_equal(theirs, ours)
    assert np.abs(ours["value_head.weight"]).max() > 0
    assert len(weights_of(load_model(tmp_path / "model")[0])) == len(ours) - 2
    mx.save_safetensors(str(tmp_path / "model" / VALUE_HEAD), {"weight": mx.zeros((1, 3))})
    with pytest.raises(DataError, match=r"value_head.safetensors holds .*\(1, 3\).*expected"):
        make_trainer(tmp_path / "model", None)


def test_equal_seeds_give_equal_runs(tiny_folder):
    def run(seed):
        trainer = make_trainer(tiny_folder, None, total_timesteps=128, seed=seed)
        trainer.train()
        return weights_of(trainer._updater.network), [m["reward"] for m in trainer.history]

    first = run(0)
    np.testing.assert_equal(run(0), first)
    assert run(1)[1] != first[1]


def test_the_objective_in_a_trainer_of_ones_own(fresh, sample):
    """On-policy and at one update the clip does nothing: the step is that of GRPO's dapo."""
    import mlx.optimizers as optim

    model, tokenizer = fresh
    trajectories = sample(model, tokenizer, ROWS)
    trained = []
    for loss_fn in (ppo.policy_loss, grpo.policy_loss):
        copied, buffer = copy.deepcopy(model), Buffer(trajectories)
        metrics = Trainer(
            model=copied,
            advantage_fn=grpo.compute_advantages,
            loss_fn=loss_fn,
            optimizer=optim.SGD(0.1),
            buffer=buffer,
        ).train()
        assert metrics["updates"] == 1
        assert len(buffer) == 0
        trained.append(weights_of(copied))
    before = weights_of(model)
    assert max(np.abs(trained[0][k] - v).max() for k, v in before.items()) > 1e-4
    for name, value in trained[1].items():
        np.testing.assert_allclose(trained[0][name], value, atol=1e-6, err_msg=name)
    buffer = Buffer(trajectories)
    metrics = Trainer(
        model=model,
        advantage_fn=grpo.compute_advantages,
        loss_fn=ppo.policy_loss,
        optimizer=None,
        buffer=buffer,
    ).train()
    assert metrics["approx_kl"] == pytest.approx(0, abs=1e-7)


def test_what_cannot_be_trained(fresh):
    model, tokenizer = fresh
    with pytest.raises(ConfigError, match="'mlp' is for environments of control"):
        PPOTrainer("mlp", make_env())
    with pytest.raises(ConfigTypeError, match="tokenizer="):
        PPOTrainer(model, make_env())
    with pytest.raises(ConfigError, match="temperature must be above 0"):
        make_trainer(model, tokenizer, temperature=0)
    with pytest.raises(ConfigError, match="must be 'mlp'"):
        PPOTrainer(model, "CartPole-v1", PPOConfig(), tokenizer=tokenizer)
    with pytest.raises(DataError, match="no trajectories"):
        make_learner(model, tokenizer).update(Buffer(), 1.0, None)
    with pytest.warns(UserWarning, match="learning_rate=0.1 is high for a model of"):
        make_trainer(model, tokenizer, learning_rate=0.1)
    model.freeze()
    with pytest.raises(ConfigError, match="no trainable weights"):
        make_trainer(model, tokenizer)


def test_what_keeps_it_from_learning_is_told_once(fresh):
    config = PPOConfig(total_timesteps=96, n_steps=32, batch_size=32, n_epochs=1)
    env = make_env(lambda prompt, completion, example: 0.0)
    trainer = PPOTrainer(fresh[0], env, config, tokenizer=fresh[1])
    trainer.train()
    assert [w.name for w in trainer.warnings if w.name == "no_reward"] == ["no_reward"]


def test_a_collapse_ends_the_training_and_the_best_weights_come_back(fresh):
    """Half of the answers are paid, in the third rollout three in four, and after four none."""
    model, tokenizer = fresh
    calls = iter(range(10_000))

    def paid(prompt, completion, example):
        call = next(calls)
        rollout = call // 32
        return float(rollout < 4 and call % 4 < (3 if rollout == 2 else 2))

    seen = []
    config = PPOConfig(
        **{"total_timesteps": 32 * 40, "n_steps": 32, "batch_size": 32, "n_epochs": 1},
        **{"max_completion_length": 6, "stop_on_collapse": True},
    )
    trainer = PPOTrainer(
        *(model, make_env(paid), config),
        tokenizer=tokenizer,
        on_step=lambda metrics, rollout: seen.append(weights_of(model)),
    )
    history = trainer.train()
    assert [m["reward"] for m in history] == [0.5, 0.5, 0.75, 0.5, 0, 0, 0, 0]
    assert trainer.stopped.startswith("stopped at a collapse after 8 steps; the model is that of")
    assert same_weights(seen[1], weights_of(model)) and not same_weights(seen[1], seen[-1])
