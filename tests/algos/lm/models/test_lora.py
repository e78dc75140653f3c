"""Adapters: where they are, what they draw, and the model without them."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from textenv.algos import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer, load_model
from textenv.algos.lm.models.lora import add_lora, has_lora, lora_layers
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
