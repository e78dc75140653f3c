"""Adapters: where they are, what they draw, and the model without them."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from textenv.algos import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer, load_model
from textenv.algos.lm.models.lora import (
    adapter_places,
    add_lora,
    has_dropout,
    has_lora,
    lora_layers,
    seed_dropout,
)
from textenv.algos.offline.text import OfflineTextConfig, OfflineTextTrainer


def test_adapters(random_model, tiny_config):
    import mlx.core as mx
    from mlx.utils import tree_flatten

    def adapters(seed):
        model = random_model(**tiny_config)
        add_lora(model, rank=2, scale=3.0, seed=seed)
        return model, dict(tree_flatten(model.trainable_parameters()))

    model, first = adapters(0)
    assert has_lora(model) and len(first) == 2 * 2 * 7  # a and b, two layers, seven products each
    downs = [name for name in first if name.endswith("lora_a")]
    assert len({np.array(first[name]).tobytes() for name in downs}) == 14
    assert all(mx.array_equal(first[name], adapters(0)[1][name]) for name in downs)
    assert not any(mx.array_equal(first[name], adapters(1)[1][name]) for name in downs)

    ids, plain = mx.array([[3, 4, 12]]), random_model(**tiny_config)
    np.testing.assert_array_equal(model(ids), plain(ids))  # the second factor starts at 0
    for name in first:
        if name.endswith("lora_b"):
            first[name] = first[name] + 0.1
    model.load_weights(list(first.items()), strict=False)
    changed = np.array(model(ids))
    assert np.abs(changed - np.array(plain(ids))).max() > 0.1
    for _, layer in lora_layers(model):
        assert layer.scale == 3.0
        layer.scale = 0.0
    np.testing.assert_array_equal(model(ids), plain(ids))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"layers": 1, "targets": ("q_proj",)}, ["model.layers.1.self_attn.q_proj"]),
        (
            {"targets": ("self_attn.v_proj", "down_proj")},
            [
                f"model.layers.{i}.{m}"
                for i in (0, 1)
                for m in ("self_attn.v_proj", "mlp.down_proj")
            ],
        ),
        (
            {"layers": 1},
            [f"model.layers.1.self_attn.{x}_proj" for x in "qkvo"]
            + [f"model.layers.1.mlp.{x}_proj" for x in ("gate", "down", "up")],
        ),
    ],
    ids=["last layer, one module", "two modules", "last layer"],
)
def test_places(random_model, tiny_config, settings, expected):
    model = random_model(**tiny_config)
    assert adapter_places(model, **settings) == expected
    add_lora(model, rank=2, scale=3.0, seed=0, **settings)
    assert {name for name, _ in lora_layers(model)} == set(expected)
    trained = arrays(model.trainable_parameters())
    assert set(trained) == {f"{name}.{part}" for name in expected for part in ("lora_a", "lora_b")}
    assert adapter_places(model, **settings) == expected  # as before they had adapters


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 3}, "lora_layers=3, and the model has 2 layers"),
        (
            {"targets": ("q_proj", "qproj")},
            r"unknown module in lora_targets 'qproj'; did you mean 'q_proj'\? Known: q_proj, "
            "k_proj, v_proj, o_proj, gate_proj, down_proj, up_proj",
        ),
        ({"targets": ("proj",)}, "unknown module in lora_targets 'proj'"),
    ],
)
def test_places_that_are_not_there(random_model, tiny_config, settings, message):
    model = random_model(**tiny_config)
    with pytest.raises(ValueError, match=message):
        add_lora(model, rank=2, scale=3.0, seed=0, **settings)
    assert not has_lora(model)


def test_dora_begins_as_the_model_and_trains_lengths(random_model, tiny_config, learn):
    import mlx.core as mx

    model, plain = random_model(**tiny_config), random_model(**tiny_config)
    add_lora(model, rank=2, scale=3.0, seed=0, dora=True)
    ids = mx.array([[3, 4, 12]])
    np.testing.assert_allclose(model(ids), plain(ids), atol=1e-4)
    name, layer = lora_layers(model)[0]
    weight = np.array(dict(plain.named_modules())[name].weight, np.float64)
    np.testing.assert_allclose(layer.m, np.linalg.norm(weight, axis=1), rtol=1e-5)
    learn(model)
    x = np.random.default_rng(0).normal(size=(5, weight.shape[1]))
    a, b, m = (np.array(part, np.float64) for part in (layer.lora_a, layer.lora_b, layer.m))
    moved = weight + 3.0 * (a @ b).T
    moved *= (m / np.linalg.norm(moved, axis=1))[:, None]  # Liu et al., equation 5
    np.testing.assert_allclose(layer(mx.array(x, mx.float32)), x @ moved.T, atol=1e-4)
    np.testing.assert_allclose(layer.fuse().weight, moved, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*is quantized")
@pytest.mark.parametrize("bits", [4, 6])
def test_dora_of_rounded_weights(quantized, learn, bits):
    """mlx-lm takes the wrong width of 6 bits."""
    import mlx.core as mx

    rounded, _ = load_model(quantized(bits), dequantize=False)
    plain, _ = load_model(quantized(bits), dequantize=True)
    for model in (rounded, plain):
        add_lora(model, rank=2, scale=3.0, seed=0, dora=True)
        learn(model)
    ids = mx.array([[3, 4, 12]])
    np.testing.assert_allclose(rounded(ids), plain(ids), atol=1e-3)


def test_dora_has_no_form_for_experts(random_model, tiny_config):
    from tests.algos.lm.models.test_quantized import MIXTURE

    model = random_model(**tiny_config | MIXTURE)
    with pytest.raises(ValueError, match=r"DoRA has no adapters for .*switch_mlp.*lora_targets"):
        add_lora(model, rank=2, scale=3.0, seed=0, dora=True)
    add_lora(model, rank=2, scale=3.0, seed=0, dora=True, targets=("q_proj", "v_proj"))


@pytest.mark.parametrize("dora", [False, True])
def test_dropout_is_off_until_it_has_a_seed(random_model, tiny_config, learn, dora):
    import mlx.core as mx

    model = random_model(**tiny_config)
    add_lora(model, rank=2, scale=3.0, seed=0, dropout=0.25, dora=dora)
    learn(model)
    assert has_dropout(model)
    layers = dict(lora_layers(model))
    layer = layers["model.layers.0.self_attn.q_proj"]
    x = mx.random.normal((64, 200, 32), key=mx.random.key(1))
    whole = layer(x)
    layer.dropout.share = 0.0
    np.testing.assert_array_equal(layer(x), whole)
    layer.dropout.share = 0.25
    seed_dropout(model, 7)
    ones = np.array(layer.dropout(mx.ones(x.shape)))
    assert set(np.unique(ones)) == {np.float32(0), np.float32(4 / 3)}
    assert abs((ones == 0).mean() - 0.25) < 5 * (0.25 * 0.75 / ones.size) ** 0.5
    np.testing.assert_array_equal(ones, layer.dropout(mx.ones(x.shape)))  # as if computed again
    other = layers["model.layers.0.self_attn.k_proj"].dropout(mx.ones(x.shape))
    assert abs((ones == np.array(other)).mean() - (0.75**2 + 0.25**2)) < 0.01
    if not dora:
        added = (np.array(x) * ones) @ np.array(layer.lora_a) @ np.array(layer.lora_b) * 3.0
        np.testing.assert_allclose(layer(x), np.array(layer.linear(x)) + added, atol=1e-4)
    seed_dropout(model, 8)
    assert (np.array(layer.dropout(mx.ones(x.shape))) != ones).any()
    seed_dropout(model, None)
    np.testing.assert_array_equal(layer(x), whole)


def arrays(tree):
    from mlx.utils import tree_flatten

    return {name: np.array(value) for name, value in tree_flatten(tree)}


@pytest.fixture
def adapted(random_model, tiny, tiny_config, tmp_path):
    """``adapted(rank=4, layers=2, kind="lora")``: a model and adapters as mlx-lm loads them."""
    import json

    import mlx.core as mx
    import mlx_lm
    import mlx_lm.tuner.utils
    from mlx.utils import tree_flatten, tree_map

    from textenv.algos.lm.models.saving import save_model

    def make(rank=4, layers=2, kind="lora"):
        base, adapters = tmp_path / "base", tmp_path / "adapters"
        model = random_model(**tiny_config)
        save_model(model, tiny[1], base)
        settings = {"rank": rank, "scale": 20.0, "dropout": 0.0}
        model.freeze()
        mx.random.seed(0)
        mlx_lm.tuner.utils.linear_to_lora_layers(model, layers, settings, kind == "dora")
        keys = iter(mx.random.split(mx.random.key(1), 1000))
        learnt = tree_map(
            lambda w: w + 0.05 * mx.random.normal(w.shape, key=next(keys)),
            model.trainable_parameters(),
        )
        adapters.mkdir()
        mx.save_safetensors(str(adapters / "adapters.safetensors"), dict(tree_flatten(learnt)))
        config = {"fine_tune_type": kind, "num_layers": layers, "lora_parameters": settings}
        (adapters / "adapter_config.json").write_text(json.dumps(config))
        return mlx_lm.load(str(base), adapter_path=str(adapters))

    return make


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_that_are_there_are_kept_and_trained_alone(adapted, kind):
    import mlx.core as mx

    model, _ = adapted(layers=1, kind=kind)
    ids = mx.array([[3, 4, 12]])
    before, learnt, logits = arrays(model.parameters()), arrays(model.parameters()), model(ids)
    add_lora(model, rank=4, scale=10.0, seed=0)
    np.testing.assert_array_equal(model(ids), logits)
    assert all(np.array_equal(before[name], value) for name, value in learnt.items())
    own = ("lora_a", "lora_b", "m") if kind == "dora" else ("lora_a", "lora_b")
    trained = arrays(model.trainable_parameters())
    assert {name.split(".")[-1] for name in trained} == set(own)
    assert len(trained) == 7 * len(own)  # of the one layer that has them
    assert {layer.scale for _, layer in lora_layers(model)} == {20.0}


def test_adapters_of_another_rank_are_refused_and_nothing_is_changed(adapted):
    model, _ = adapted(rank=4)
    trainable = list(arrays(model.trainable_parameters()))
    with pytest.raises(ValueError, match=r"lora_rank=8, and the model has adapters of rank 4"):
        add_lora(model, rank=8, scale=10.0, seed=0)
    assert list(arrays(model.trainable_parameters())) == trainable


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 1}, r"model\.layers\.0\.\S+ is one of their places: leave lora_layers unset"),
        ({"targets": ("q_proj",)}, r"is one of their places: leave lora_targets unset"),
        ({"dora": True}, "dora=True, and the model has adapters of LoRA already"),
    ],
)
def test_settings_of_other_adapters_are_refused(adapted, settings, message):
    model, _ = adapted(rank=4)
    with pytest.raises(ValueError, match=message):
        add_lora(model, rank=4, scale=10.0, seed=0, **settings)
    add_lora(model, rank=4, scale=10.0, seed=0, layers=2)  # those that are there


def make_trainer(algo, model, tokenizer, rollouts=None, **settings):
    settings = {"lora_rank": 4, "max_completion_length": 4, "learning_rate": 1e-3} | settings
    if algo == "grpo":
        config = GRPOConfig(num_prompts=4, num_generations=4, max_steps=2, **settings)
        return GRPOTrainer(model, env=make_env(), config=config, tokenizer=tokenizer)
    if algo == "ppo":
        config = PPOConfig(
            **{"n_steps": 16, "batch_size": 8, "n_epochs": 1, "total_timesteps": 16, **settings}
        )
        return PPOTrainer(model, env=make_env(), config=config, tokenizer=tokenizer)
    config = OfflineTextConfig(method="grpo", epochs=1, **settings)
    return OfflineTextTrainer(rollouts, model, config, tokenizer=tokenizer)


def make_env():
    def total(prompt, completion, example):
        return float(sum(map(ord, completion)))

    return gym.make("textenv:TextGen-v0", prompts=["12+30=", "ab"], reward_fn=total, max_tokens=4)


@pytest.mark.parametrize("algo", ["grpo", "ppo"])
def test_training_goes_on_from_adapters_and_the_penalty_from_where_it_began(
    adapted, tmp_path, algo
):
    """The KL penalty's reference is the model with its adapters, and not the one below them."""
    import mlx.core as mx

    model, tokenizer = adapted()
    ids = mx.array([[3, 4, 12]])
    logits = np.array(model(ids))
    trainer = make_trainer(algo, model, tokenizer, beta=0.1)
    np.testing.assert_allclose(model(ids), logits, atol=1e-5)
    first = trainer.train()[0]
    assert abs(first["kl"]) < 1e-6
    if algo == "grpo":
        assert trainer.history[1]["kl"] > 1e-6
    assert float(np.abs(np.array(model(ids)) - logits).max()) > 1e-3
    trainer.save(tmp_path / "saved")
    read, _ = load_model(tmp_path / "saved")
    np.testing.assert_allclose(read(ids), model(ids), atol=1e-4)

    again = make_trainer(algo, model, tokenizer, beta=0.1)  # on adapters that were trained here
    now = np.array(model(ids))
    assert abs(again.train()[0]["kl"]) < 1e-6
    assert float(np.abs(np.array(model(ids)) - now).max()) > 1e-3
    again.save(tmp_path / "again")
    read, _ = load_model(tmp_path / "again")
    np.testing.assert_allclose(read(ids), model(ids), atol=1e-4)


def test_offline_training_goes_on_from_adapters(adapted, tmp_path):
    import mlx.core as mx

    model, tokenizer = adapted()
    ids = mx.array([[3, 4, 12]])
    collect = make_trainer("grpo", model, tokenizer)
    rollout = collect._runner.collect()
    logits = np.array(model(ids))
    trainer = make_trainer("offline", model, tokenizer, [rollout])
    np.testing.assert_allclose(model(ids), logits, atol=1e-5)
    trainer.train()
    trainer.save(tmp_path / "saved")
    read, _ = load_model(tmp_path / "saved")
    np.testing.assert_allclose(read(ids), model(ids), atol=1e-4)
    assert float(np.abs(np.array(model(ids)) - logits).max()) > 1e-3


@pytest.mark.parametrize("algo", ["grpo", "ppo"])
def test_dropout_is_of_the_update_alone_and_bit_reproducible(fresh, algo):
    """What is sampled has the log-probabilities of the policy without dropout."""
    import copy

    import mlx.core as mx

    def train(**settings):
        model, tokenizer = copy.deepcopy(fresh[0]), fresh[1]
        trainer = make_trainer(algo, model, tokenizer, lora_dropout=0.5, beta=0.1, **settings)
        first = [t.token_logprobs for t in trainer._runner.collect()]
        trainer.train()
        return first, trainer.history, arrays(model.trainable_parameters()), trainer

    first, history, weights, trainer = train()
    _, again, same, _ = train()
    assert all(np.array_equal(weights[name], same[name]) for name in weights)
    assert [h["reward"] for h in history] == [h["reward"] for h in again]
    other = train(seed=1)[2]
    assert not all(np.array_equal(weights[name], other[name]) for name in weights)
    # Adapters start at zero, so that the first update's ratio is 1 whatever it drops.
    assert history[0]["sampling/logprob_difference/max"] < 1e-4
    plain = make_trainer(algo, copy.deepcopy(fresh[0]), fresh[1], beta=0.1)
    assert [t.token_logprobs for t in plain._runner.collect()] == first
    plain.train()
    assert not all(
        np.array_equal(weights[name], value)
        for name, value in arrays(plain.policy.model.trainable_parameters()).items()
    )
    ids = mx.array([[3, 4, 12]])
    np.testing.assert_array_equal(trainer.policy.model(ids), trainer.policy.model(ids))
