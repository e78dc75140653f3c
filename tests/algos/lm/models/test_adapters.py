"""Adapters in folders of their own: written, and read by mlx-lm and here."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.algos.shared import total
from textenv.algos import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer, load_model
from textenv.algos.lm.models.adapters import save_adapters
from textenv.algos.lm.models.lora import add_lora, has_lora, lora_layers
from textenv.algos.lm.models.saving import save_model
from textenv.errors import DataError

KINDS = {
    "all": {},
    "last layer": {"layers": 1},
    "two modules": {"targets": ("q_proj", "down_proj")},
    "DoRA": {"dora": True, "layers": 1},
    "dropout": {"dropout": 0.1},
}
MIXTURE = {
    **{"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2},
    **{"mlp_only_layers": [], "moe_intermediate_size": 32, "decoder_sparse_step": 1},
    **{"norm_topk_prob": True, "hidden_size": 64},
}


def arrays(tree):
    from mlx.utils import tree_flatten

    return {name: np.array(value) for name, value in tree_flatten(tree)}


@pytest.fixture
def ids():
    import mlx.core as mx

    return mx.array([[3, 4, 12, 30, 7]])


@pytest.fixture
def trained(saved, learn):
    """``trained(**settings)``: the folder of a model, and that model with adapters."""

    def make(changes=None, rank=4, scale=3.0, **settings):
        folder = saved(**changes or {})
        model, _ = load_model(folder)
        add_lora(model, rank, scale, 0, **settings)
        learn(model)
        return folder, model

    return make


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_mlx_lm_reads_what_is_written(trained, tmp_path, ids, settings):
    import mlx_lm

    folder, model = trained(**settings)
    save_adapters(model, tmp_path / "adapters")
    assert sorted(p.name for p in (tmp_path / "adapters").iterdir()) == [
        "adapter_config.json",
        "adapters.safetensors",
    ]
    read, _ = mlx_lm.load(str(folder), adapter_path=str(tmp_path / "adapters"))
    assert float(np.abs(np.array(read(ids)) - np.array(load_model(folder)[0](ids))).max()) > 0.05
    np.testing.assert_allclose(read(ids), model(ids), atol=1e-5)
    config = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert config["model"] == str(folder)
    assert config["lora_parameters"]["dropout"] == settings.get("dropout", 0)


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_they_are_read_again_and_alone_are_trained(trained, tmp_path, ids, settings):
    folder, model = trained(**settings)
    save_adapters(model, tmp_path / "adapters")
    read, _ = load_model(folder, adapters=tmp_path / "adapters")
    expected = arrays(model.trainable_parameters())
    found = arrays(read.trainable_parameters())
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], value) for name, value in expected.items())
    assert {layer.scale for _, layer in lora_layers(read)} == {3.0}
    np.testing.assert_array_equal(read(ids), model(ids))


def test_what_mlx_lm_wrote_is_read(saved, tmp_path, ids):
    """As mlx-lm's own training does it: `linear_to_lora_layers`, and the trained weights."""
    import mlx.core as mx
    import mlx_lm
    import mlx_lm.tuner.utils
    from mlx.utils import tree_flatten

    folder, adapters = saved(), tmp_path / "theirs"
    model, _ = mlx_lm.load(str(folder))
    model.freeze()
    settings = {
        "rank": 3,
        "scale": 7.0,
        "dropout": 0.0,
        "keys": ["self_attn.q_proj", "mlp.up_proj"],
    }
    mlx_lm.tuner.utils.linear_to_lora_layers(model, 1, settings)
    weights = {
        name: value + 0.1 * mx.random.normal(value.shape, key=mx.random.key(len(name)))
        for name, value in tree_flatten(model.trainable_parameters())
    }
    adapters.mkdir()
    mx.save_safetensors(str(adapters / "adapters.safetensors"), weights)
    config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": settings}
    (adapters / "adapter_config.json").write_text(json.dumps(config))
    theirs, _ = mlx_lm.load(str(folder), adapter_path=str(adapters))
    ours, _ = load_model(folder, adapters=adapters)
    assert len(lora_layers(ours)) == 2
    np.testing.assert_allclose(ours(ids), theirs(ids), atol=1e-5)


def test_adapters_of_experts(trained, tmp_path, ids):
    import mlx_lm

    folder, model = trained(MIXTURE)
    save_adapters(model, tmp_path / "adapters")
    for read in (
        load_model(folder, adapters=tmp_path / "adapters")[0],
        mlx_lm.load(str(folder), adapter_path=str(tmp_path / "adapters"))[0],
    ):
        np.testing.assert_allclose(read(ids), model(ids), atol=1e-4)
    with pytest.raises(ValueError, match=r"PEFT has no form for the adapter of \S+switch_mlp"):
        save_adapters(model, tmp_path / "peft", peft=True)
    assert not (tmp_path / "peft").exists()


@pytest.mark.filterwarnings("ignore:.*is quantized")
@pytest.mark.parametrize("dora", [False, True])
def test_adapters_of_a_quantized_model(quantized, learn, tmp_path, ids, dora):
    """Those that were trained on its plain weights fit the rounded ones, which are the same."""
    import mlx_lm

    folder = quantized(4)
    model, tokenizer = load_model(folder)
    add_lora(model, 4, 3.0, 0, dora=dora)
    learn(model)
    save_adapters(model, tmp_path / "adapters")
    theirs, _ = mlx_lm.load(str(folder), adapter_path=str(tmp_path / "adapters"))
    np.testing.assert_allclose(theirs(ids), model(ids), atol=1e-3)
    rounded, _ = load_model(folder, adapters=tmp_path / "adapters", dequantize=False)
    np.testing.assert_allclose(rounded(ids), model(ids), atol=1e-3)
    for number, each in enumerate((model, rounded)):
        save_model(each, tokenizer, tmp_path / f"merged{number}")
        merged, _ = load_model(tmp_path / f"merged{number}", dequantize=False)
        np.testing.assert_allclose(merged(ids), model(ids), atol=1e-3)


def test_scales_that_differ_become_one(trained, tmp_path, ids):
    import mlx_lm

    folder, model = trained(targets=("q_proj", "v_proj"))
    lora_layers(model)[0][1].scale = 9.0
    save_adapters(model, tmp_path / "adapters")
    read, _ = mlx_lm.load(str(folder), adapter_path=str(tmp_path / "adapters"))
    np.testing.assert_allclose(read(ids), model(ids), atol=1e-5)


@pytest.mark.parametrize("algo", ["grpo", "ppo"])
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_training_goes_on_from_them(trained, tmp_path, ids, algo, lora_rank):
    """From where they were: the divergence is 0 at the first step, and only they move."""
    folder, model = trained()
    save_adapters(model, tmp_path / "first")
    start, settings = np.array(model(ids)), {"lora_rank": lora_rank, "beta": 0.1}
    settings |= {"learning_rate": 1e-2, "max_completion_length": 4}

    more = {"env": "TextGen-v0", "env_kwargs": {"prompts": ["1", "2"], "reward_fn": total}}
    more["adapters"] = tmp_path / "first"
    if algo == "grpo":
        config = GRPOConfig(num_prompts=2, num_generations=4, max_steps=2, **settings)
        trainer = GRPOTrainer(str(folder), config=config, **more)
    else:
        config = PPOConfig(n_steps=8, batch_size=8, n_epochs=1, total_timesteps=8, **settings)
        trainer = PPOTrainer(str(folder), config=config, **more)
    now = trainer.policy.model
    base = {n: w for n, w in arrays(now.parameters()).items() if "lora_" not in n}
    np.testing.assert_allclose(now(ids), start, atol=1e-5)
    assert "LoRA rank 4 on 2 layers (q_proj" in trainer.describe()
    assert "all weights" not in trainer.describe()
    assert abs(trainer.train()[0]["kl"]) < 1e-6
    assert float(np.abs(np.array(now(ids)) - start).max()) > 1e-3
    after = arrays(now.parameters())
    assert all(np.array_equal(after[name], value) for name, value in base.items())
    trainer.save_adapters(tmp_path / "second")
    read, _ = load_model(folder, adapters=tmp_path / "second")
    np.testing.assert_allclose(read(ids), now(ids), atol=1e-5)
    trainer.save_adapters(tmp_path / "second", peft=True)  # replaces the others
    assert not (tmp_path / "second" / "adapters.safetensors").exists()
    read, _ = load_model(folder, adapters=tmp_path / "second")
    np.testing.assert_allclose(read(ids), now(ids), atol=1e-5)


def test_workers_train_from_them_too(trained, tmp_path):
    """They drop the same inputs as a training without workers."""
    folder, model = trained(targets=("q_proj",))
    save_adapters(model, tmp_path / "adapters")
    size = {"num_prompts": 2, "num_generations": 4, "max_completion_length": 4, "max_steps": 1}

    def train(**settings):
        trainer = GRPOTrainer(
            str(folder),
            env_kwargs={"prompts": ["1", "2"], "reward_fn": total},
            config=GRPOConfig(**size, lora_rank=4, learning_rate=1e-2, **settings),
            adapters=tmp_path / "adapters",
        )
        try:
            trainer.train()
        finally:
            trainer.close()
        return arrays(trainer.model.trainable_parameters())

    alone, by_one = train(lora_dropout=0.3), train(lora_dropout=0.3, num_workers=1)
    assert {name.split(".")[-2] for name in alone} == {"q_proj"}
    whole = train()
    for name, value in alone.items():
        np.testing.assert_allclose(by_one[name], value, atol=1e-5)
        assert np.abs(whole[name] - value).max() > 1e-4


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"hidden_size": 64}, "has shape"),
        ({"num_hidden_layers": 1}, r"model\.layers\.1\.\S+ is no layer of this one"),
        (
            {"model_type": "mamba", "state_size": 4, "conv_kernel": 2, "time_step_rank": 2},
            "no layer",
        ),
    ],
    ids=["narrower", "deeper", "another architecture"],
)
def test_those_of_another_model_are_refused(trained, saved, tmp_path, changes, what):
    _, model = trained()
    save_adapters(model, tmp_path / "adapters")
    save_adapters(model, tmp_path / "peft", peft=True)
    if changes.get("model_type") == "mamba":
        changes = changes | {"num_hidden_layers": 2, "use_bias": False, "use_conv_bias": True}
    other = saved("other", **changes)
    for adapters in (tmp_path / "adapters", tmp_path / "peft"):
        with (
            pytest.warns(UserWarning, match="say that they were trained on"),
            pytest.raises(
                DataError, match=f"{adapters}: they are those of another model: .*{what}"
            ),
        ):
            load_model(other, adapters=adapters)


def test_one_of_the_same_form_is_taken_with_a_warning(trained, saved, tmp_path):
    folder, model = trained()
    save_adapters(model, tmp_path / "adapters")
    other = saved("other")
    with pytest.warns(UserWarning, match=f"trained on {folder}, and this model is {other}"):
        load_model(other, adapters=tmp_path / "adapters")


def edit(path, **changes):
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | changes))


CONFIG = "adapter_config.json"
BROKEN = {
    "config is cut off": (lambda f: (f / CONFIG).write_text('{"a": '), "is not JSON"),
    "config is a list": (lambda f: (f / CONFIG).write_text("[]"), "is not a JSON object"),
    "no config": (lambda f: (f / CONFIG).unlink(), "adapter_config.json is missing"),
    "no weights": (
        lambda f: (f / "adapters.safetensors").unlink(),
        "adapters.safetensors is missing",
    ),
    "weights are cut off": (
        lambda f: (f / "adapters.safetensors").write_bytes(b"\x10" * 99),
        "adapters.safetensors is broken",
    ),
    "whole weights": (lambda f: edit(f / CONFIG, fine_tune_type="full"), "must be lora or dora"),
    "no scale": (lambda f: edit(f / CONFIG, lora_parameters={"rank": 4}), "must have a scale"),
    "scale of text": (lambda f: edit(f / CONFIG, lora_parameters={"scale": "x"}), "have a scale"),
    "scale of nothing": (
        lambda f: (f / CONFIG).write_text('{"lora_parameters": {"scale": NaN}}'),
        "have a scale",
    ),
    "another kind of PEFT": (lambda f: edit(f / CONFIG, peft_type="IA3"), "adapter_model"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_folders_are_named(trained, tmp_path, what):
    folder, model = trained()
    adapters = tmp_path / "adapters"
    save_adapters(model, adapters)
    change, message = BROKEN[what]
    change(adapters)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        load_model(folder, adapters=adapters)
    assert str(adapters) in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_are_no_adapter_or_half_of_one(trained, tmp_path):
    import mlx.core as mx

    folder, model = trained(targets=("q_proj",))
    adapters = tmp_path / "adapters"
    save_adapters(model, adapters)
    file = str(adapters / "adapters.safetensors")
    weights = dict(mx.load(file))
    mx.save_safetensors(file, weights | {"model.norm.weight": mx.ones(32)})
    with pytest.raises(DataError, match=r"model\.norm\.weight is no part of a low-rank adapter"):
        load_model(folder, adapters=adapters)
    name = "model.layers.0.self_attn.q_proj.lora_b"
    mx.save_safetensors(file, {n: w for n, w in weights.items() if n != name})
    with pytest.raises(DataError, match=f"{name} has shape none"):
        load_model(folder, adapters=adapters)


def test_a_folder_that_is_not_there(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder"):
        load_model(saved(), adapters=tmp_path / "nowhere")


def test_a_model_itself_brings_its_adapters(trained, tiny, tmp_path):
    _, model = trained()
    with pytest.raises(TypeError, match=r"adapters= is for a model that is named"):
        GRPOTrainer(model, tokenizer=tiny[1], adapters=tmp_path)


def test_without_adapters_there_is_nothing_to_save(fresh, tmp_path):
    trainer = GRPOTrainer(fresh[0], tokenizer=fresh[1])
    with pytest.raises(ValueError, match="no adapters to save: train with lora_rank above 0"):
        trainer.save_adapters(tmp_path / "adapters")
    assert not (tmp_path / "adapters").exists() and not has_lora(fresh[0])
    with pytest.raises(ValueError, match="a policy of control has no adapters"):
        PPOTrainer("mlp", env="CartPole-v1").save_adapters(tmp_path / "adapters")


def test_saving_adapters_keeps_what_others_wrote(trained, tmp_path):
    _, model = trained()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        save_adapters(model, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
