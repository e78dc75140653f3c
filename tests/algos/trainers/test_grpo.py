"""GRPO from end to end on a random model: it learns what pays, and nothing from noise."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import numpy as np
import pytest

import textenv
from tests.algos.shared import (
    accuracy,
    length,
    make_env,
    same_weights,
    starts_with,
    vowels,
    weights_of,
)
from textenv.algos import (
    Buffer,
    GRPOConfig,
    GRPOTrainer,
    RolloutRunner,
    Trainer,
    create_policy,
    create_strategy,
    grpo,
    load_model,
)
from textenv.algos.lm.generation.generator import Generator
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.runtime import blas
from textenv.errors import ConfigError, RewardError

SMALL = {"num_prompts": 4, "num_generations": 8, "max_completion_length": 6, "warmup_steps": 0}


def half_or_skip():
    try:
        blas.check_half()
    except ConfigError:
        pytest.skip("this machine has no products in bfloat16")
    return "bfloat16"


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_kl_to_the_reference(fresh, lora_rank):
    model, tokenizer = fresh
    config = GRPOConfig(**SMALL, max_steps=4, beta=0.2, lora_rank=lora_rank, learning_rate=3e-3)
    trainer = GRPOTrainer(model, make_env(), config, tokenizer=tokenizer)
    batch = make_batch(trainer._runner.collect().trajectories)
    reference = trainer._trainer.reference
    before = np.array(reference(batch))
    np.testing.assert_allclose(
        before[batch.mask > 0], batch.old_logprobs[batch.mask > 0], atol=1e-4
    )
    history = trainer.train()
    assert history[0]["kl"] == pytest.approx(0, abs=1e-7)
    assert history[-1]["kl"] > 1e-4
    np.testing.assert_array_equal(np.array(reference(batch)), before)


def test_lora_trains_adapters_alone_and_saves_them_merged(tiny_folder, tmp_path):
    import mlx.core as mx
    import mlx_lm

    config = GRPOConfig(**SMALL, max_steps=3, lora_rank=4, learning_rate=1e-2)
    trainer = GRPOTrainer(tiny_folder, make_env(), config)
    before = weights_of(trainer.model)
    trainer.train()
    after = weights_of(trainer.model)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in before if "lora_" in name}
    original = weights_of(load_model(tiny_folder)[0])
    for name, value in original.items():
        ours = after.get(name, after.get(name.replace(".weight", ".linear.weight")))
        np.testing.assert_array_equal(ours, value, err_msg=name)

    trainer.save(tmp_path / "model")
    np.testing.assert_equal(weights_of(trainer.model), after)  # saving merges a copy
    model, tokenizer = mlx_lm.load(str(tmp_path / "model"))
    assert weights_of(model).keys() == original.keys()
    ids = mx.array([tokenizer.encode("12+30=")])
    np.testing.assert_allclose(model(ids), trainer.model(ids), atol=1e-4)
    assert np.abs(np.array(model(ids) - load_model(tiny_folder)[0](ids))).max() > 0.1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_full_training_saves_what_mlx_lm_loads(tiny_folder, tmp_path):
    import mlx_lm

    trainer = GRPOTrainer(tiny_folder, make_env(), GRPOConfig(**SMALL, max_steps=2))
    trainer.train()
    for _ in range(2):  # the second time in the place of the first
        trainer.save(tmp_path / "model")
    model, _ = mlx_lm.load(str(tmp_path / "model"))
    np.testing.assert_equal(weights_of(model), weights_of(trainer.model))
    assert load_model(tmp_path / "model")[1].eos_token_ids == {1}


@pytest.mark.parametrize("loss_type", ["dapo", "gspo", "cispo", "in bfloat16"])
def test_it_learns_what_pays(fresh, loss_type):
    model, tokenizer = fresh
    settings = {"loss_type": loss_type}
    if loss_type == "in bfloat16":
        settings = {"sampling_precision": half_or_skip()}
    config = GRPOConfig(
        **SMALL | {"num_generations": 32}, max_steps=40, learning_rate=3e-3, **settings
    )
    trainer = GRPOTrainer(model, make_env(starts_with("e")), config, tokenizer=tokenizer)
    before = accuracy(trainer, "e")
    history = trainer.train()
    assert before < 0.2
    assert accuracy(trainer, "e") > 0.9
    assert np.mean([m["reward"] for m in history[-5:]]) > 0.9
    most = 1e-4 if "loss_type" in settings else 0.5
    assert max(m.get("sampling/logprob_difference/max", 0) for m in history) < most


def test_it_learns_nothing_from_noise(tiny_folder):
    """Where the same steps learn to begin with "e", noise moves that about as often down as up."""
    drifts = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        config = GRPOConfig(**SMALL | {"num_generations": 32}, max_steps=40, seed=seed)
        env = make_env(lambda prompt, completion, example, rng=rng: float(rng.random() < 0.5))
        trainer = GRPOTrainer(tiny_folder, env, config)
        before = accuracy(trainer, "e")
        trainer.train()
        drifts.append(accuracy(trainer, "e") - before)
    assert max(map(abs, drifts)) > 0  # it did move
    assert abs(np.mean(drifts)) < 0.05


def gradient_scores(model, tokenizer, reward, batches=200):
    """How many standard errors the mean gradient is from zero, along fixed directions.

    The first direction is that along which the reward `vowels` rises.
    """
    import mlx.optimizers as optim
    from mlx.utils import tree_flatten

    seen = []

    class Record(optim.SGD):
        """Leaves the weights as they are."""

        def update(self, model, gradients):
            parts = [np.array(g).ravel() for _, g in tree_flatten(gradients)]
            seen.append(np.concatenate(parts))

    policy = create_policy(model, tokenizer, {"max_tokens": 4, "seed": 5})
    trainer = Trainer(
        model, grpo.compute_advantages, grpo.policy_loss, Record(0.0), max_grad_norm=1e9
    )

    def gradient(reward_fn, generations, seed):
        env = make_env(reward_fn)
        strategy = create_strategy("grpo", num_generations=generations)
        runner = RolloutRunner(env, policy, strategy, max_steps=2 * generations, seed=seed)
        while True:
            trainer.buffer = runner.collect()
            if not trainer.train()["updates"]:
                seen.append(np.zeros_like(seen[0]))
            yield seen[-1]

    uphill = next(gradient(vowels, 256, 1))
    directions = np.random.default_rng(2).normal(0, 1, (9, len(uphill)))
    directions = np.vstack([uphill, directions])
    steps = gradient(reward, 8, 3)
    projections = np.array([directions @ next(steps) for _ in range(batches)])
    return projections.mean(0) / (projections.std(0, ddof=1) / math.sqrt(batches))


def test_random_rewards_have_no_mean_gradient(fresh):
    model, tokenizer = fresh
    rng = np.random.default_rng(4)
    noise = gradient_scores(model, tokenizer, lambda *_: float(rng.random() < 0.5))
    assert np.abs(noise).max() < 3
    # The same statistic sees a reward that is none of chance.
    assert gradient_scores(model, tokenizer, vowels, batches=80)[0] > 5


def test_what_is_sampled_in_bfloat16_is_evaluated_in_float32():
    half_or_skip()
    found = []
    for precision in ("float32", "bfloat16"):
        config = GRPOConfig(**SMALL, sampling_precision=precision, eval_samples=4, max_steps=1)
        trainer = GRPOTrainer("tiny-lm", "TextGen-v0", config)
        found.append((trainer.evaluate(20).metrics(), trainer._runner.collect().trajectories))
    (exact, plain), (other, rounded) = found
    assert exact == other
    assert [t.token_logprobs for t in plain] != [t.token_logprobs for t in rounded]


def test_history_schedule_and_callback(fresh):
    model, tokenizer = fresh
    calls = []
    config = GRPOConfig(
        **SMALL | {"warmup_steps": 2},
        **{"max_steps": 7, "num_iterations": 2, "num_minibatches": 2, "learning_rate": 1e-3},
    )
    trainer = GRPOTrainer(
        *(model, make_env(), config),
        tokenizer=tokenizer,
        on_step=lambda metrics, rollout: calls.append((metrics["step"], len(rollout))),
    )
    assert trainer.train() is trainer.history
    assert calls == [(4, 32), (7, 32)]  # four updates for a rollout, and no more than 7
    assert int(trainer._trainer.optimizer.step.item()) == 7
    first, last = trainer.history
    # 5e-4, 1e-3 while it warms up, then from 1e-3 down to 0 over five steps
    assert first["learning_rate"] == pytest.approx(np.mean([5e-4, 7.5e-4, 1e-3, 8e-4]), rel=1e-3)
    assert last["learning_rate"] == pytest.approx(np.mean([6e-4, 4e-4, 2e-4]), rel=1e-3)
    assert {"reward", "reward_std", "entropy", "step_time", "rewards/vowels/mean"} <= first.keys()
    assert last["num_tokens"] > first["num_tokens"] > 32
    assert first["rewards/vowels/mean"] == pytest.approx(first["reward"])


def test_equal_seeds_give_equal_runs(tiny_folder):
    def run(seed):
        trainer = GRPOTrainer(tiny_folder, make_env(), GRPOConfig(**SMALL, max_steps=2, seed=seed))
        trainer.train()
        return weights_of(trainer.model), [m["reward"] for m in trainer.history]

    first = run(0)
    np.testing.assert_equal(run(0), first)
    assert run(1)[1] != first[1]


@pytest.mark.parametrize(
    "settings", [{}, {"lora_rank": 4, "beta": 0.1, "gradient_checkpointing": True}]
)
def test_another_thread_may_train_what_this_one_made(tiny_folder, settings):
    """MLX's streams are of one thread: what is not computed yet cannot be computed in another."""
    config = GRPOConfig(**SMALL, max_steps=2, **settings)
    weights = []
    for in_thread in (False, True):
        trainer = GRPOTrainer(tiny_folder, make_env(), config)
        if in_thread:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(trainer.train).result()
        else:
            trainer.train()
        weights.append(weights_of(trainer.model))
    for name, value in weights[0].items():
        np.testing.assert_array_equal(value, weights[1][name], err_msg=name)


@pytest.mark.parametrize("reward", [math.nan, math.inf, 1e308])
def test_rewards_of_an_environment_that_are_no_numbers_to_train_on(fresh, reward):
    model, tokenizer = fresh
    env = gym.wrappers.TransformReward(make_env(), lambda _: reward)
    trainer = GRPOTrainer(model, env, GRPOConfig(**SMALL, max_steps=1), tokenizer=tokenizer)
    before = weights_of(model)
    with pytest.raises(RewardError, match="step 1 of the environment has a reward of"):
        trainer.train()
    assert all(np.array_equal(value, before[name]) for name, value in weights_of(model).items())


def test_what_cannot_be_trained(fresh):
    model, tokenizer = fresh
    with pytest.raises(ValueError, match="temperature must be above 0"):
        GRPOTrainer(model, make_env(), GRPOConfig(temperature=0), tokenizer=tokenizer)
    with pytest.raises(TypeError, match="tokenizer="):
        GRPOTrainer(model, make_env())
    with pytest.raises(ValueError, match="CartPole"):
        GRPOTrainer(model, "CartPole-v1", tokenizer=tokenizer)
    with pytest.raises(ValueError, match="NoSuchEnv-v0"):
        GRPOTrainer(model, "NoSuchEnv-v0", tokenizer=tokenizer)
    with pytest.raises(ValueError, match="env_kwargs go with an environment's id"):
        GRPOTrainer(model, make_env(), tokenizer=tokenizer, env_kwargs={"task": "sort"})


def test_buffer_of_the_trainer_is_its_own(fresh):
    """The rollout that `on_step` is given is not emptied by the update."""
    model, tokenizer = fresh
    kept: list[Buffer] = []
    config = GRPOConfig(**SMALL, max_steps=2)
    trainer = GRPOTrainer(
        *(model, make_env(), config),
        tokenizer=tokenizer,
        on_step=lambda metrics, rollout: kept.append(rollout),
    )
    trainer.train()
    assert [len(rollout) for rollout in kept] == [32, 32]
    assert [{t.policy_version for t in rollout} for rollout in kept] == [{0}, {1}]


def test_the_seconds_of_a_step_are_told_apart(fresh, tmp_path, monkeypatch, clock):
    """On a clock that each phase moves by an amount of its own."""

    def takes(seconds, function):
        def timed(*args, **kwargs):
            clock(seconds)
            return function(*args, **kwargs)

        return timed

    config = GRPOConfig(max_steps=2, num_prompts=2, num_generations=4, max_completion_length=3)
    trainer = GRPOTrainer(
        fresh[0],
        config=config,
        tokenizer=fresh[1],
        export_to=tmp_path,
        env_kwargs={"prompts": ["a", "b"], "reward_fn": takes(3, length)},
    )
    monkeypatch.setattr(Generator, "generate", takes(5, Generator.generate))
    monkeypatch.setattr(Buffer, "save", takes(70, Buffer.save))
    monkeypatch.setattr(Trainer, "train", takes(900, Trainer.train))
    for metrics in trainer.train():
        assert metrics["time/score"] == 8 * 3  # a completion each
        assert metrics["time/generate"] == 8 * 3 + 5
        assert metrics["time/export"] == 70
        assert metrics["time/update"] == 900
        assert metrics["step_time"] == 8 * 3 + 5 + 70 + 900


def test_a_reward_that_abstains_trains_as_if_those_completions_were_not_there():
    """The gradient pushes towards the longer of the scored ones, and the rest has no advantage."""

    def judge(prompt, completion, example):
        return None if len(completion) % 2 else float(len(completion))

    seen = []

    def on_step(metrics, rollout):
        seen.append((metrics, list(rollout)))

    config = GRPOConfig(max_steps=2, num_prompts=2, num_generations=8, max_completion_length=4)
    trainer = GRPOTrainer(
        "tiny-lm",
        env=textenv.TextGenerationEnv(["12+30=", "4+5="], judge),
        config=config,
        on_step=on_step,
    )
    trainer.train()
    shares = []
    for metrics, played in seen:
        scored = [t for t in played if len(t.actions[0]) % 2 == 0]
        share = 1 - len(scored) / len(played)
        shares.append(share)
        assert metrics.get("completions/unscored_ratio", 0.0) == pytest.approx(share)
        if scored:
            assert metrics["reward"] == pytest.approx(np.mean([len(t.actions[0]) for t in scored]))
        for t in played:
            assert t.is_scored == (t in scored) == np.isfinite(t.total_reward)
    assert max(shares) > 0


def test_a_collapse_ends_the_training_and_the_best_weights_come_back(fresh):
    """Half of all completions are paid, in the third rollout three in four, and after four none."""
    model, tokenizer = fresh
    calls = iter(range(10_000))

    def paid(prompt, completion, example):
        call = next(calls)
        rollout = call // 32
        return float(rollout < 4 and call % 4 < (3 if rollout == 2 else 2))

    seen = {}

    def on_step(metrics, rollout):
        seen[metrics["step"]] = weights_of(model)

    config = GRPOConfig(**SMALL, max_steps=40, learning_rate=1e-3, stop_on_collapse=True)
    trainer = GRPOTrainer(model, make_env(paid), config, tokenizer=tokenizer, on_step=on_step)
    trainer.train()
    assert [m["reward"] for m in trainer.history] == [0.5, 0.5, 0.75, 0.5, 0, 0, 0, 0]
    collapse = trainer.warnings[-1]
    assert (collapse.name, collapse.step) == ("collapse", 8)
    assert trainer.stopped == (
        "stopped at a collapse after 8 steps; the model is that of step 2, which played best"
    )
    assert same_weights(seen[2], weights_of(model)) and not same_weights(seen[8], seen[2])


def test_what_keeps_it_from_learning_is_told_once(fresh):
    trainer = GRPOTrainer(
        fresh[0],
        make_env(lambda prompt, completion, example: 0.0),
        GRPOConfig(**SMALL, max_steps=5),
        tokenizer=fresh[1],
    )
    assert trainer.warnings == []
    trainer.train()
    assert [(w.name, w.step) for w in trainer.warnings if w.name == "no_reward"] == [
        ("no_reward", 2)
    ]


def nan_for_one_prompt(prompt, completion, example):
    return float("nan") if prompt == "a" else float(len(completion))


def test_reward_functions_that_fail(fresh, tmp_path):
    model, tokenizer = fresh

    def train(on_reward_error, folder):
        config = GRPOConfig(**SMALL, max_steps=2, on_reward_error=on_reward_error)
        env = make_env(nan_for_one_prompt)  # four prompts, all of which are in each rollout
        trainer = GRPOTrainer(model, env, config, tokenizer=tokenizer, out=folder)
        return trainer.train()

    history = train("skip", tmp_path / "skip")
    assert [metrics["reward_errors"] for metrics in history] == [8, 8]
    assert [metrics["strategy/groups_missing"] for metrics in history] == [1, 1]
    assert [metrics["completions/unscored_ratio"] for metrics in history] == [0.25, 0.25]
    assert all(np.isfinite(metrics["reward"]) for metrics in history)
    history = train(-1.0, tmp_path / "given")
    assert [metrics["reward_errors"] for metrics in history] == [8, 8]
    assert "strategy/groups_missing" in history[0] and not history[0]["strategy/groups_missing"]
    assert not list(tmp_path.rglob("reward_error.json"))
    with pytest.raises(RewardError, match=r"returned nan .*reward_error\.json$"):
        train("fail", tmp_path / "fail")
    kept = json.loads((tmp_path / "fail" / "reward_error.json").read_text())
    assert kept["prompt"] == "a" and isinstance(kept["completion"], str)
