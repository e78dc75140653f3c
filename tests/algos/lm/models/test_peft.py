"""Adapters in PEFT's form: PEFT and transformers read ours, and theirs are read here."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from textenv.algos import load_model  # noqa: E402
from textenv.algos.lm.models.adapters import save_adapters  # noqa: E402
from textenv.algos.lm.models.lora import add_lora, lora_layers  # noqa: E402
from textenv.errors import ConfigError, DataError  # noqa: E402

IDS = [[3, 4, 12, 30, 7]]
FAMILIES = {
    "qwen3": {},
    "llama": {"model_type": "llama", "tie_word_embeddings": False},
    "qwen2": {"model_type": "qwen2"},
}
ARCHITECTURES = {
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
KINDS = {
    "all": {},
    "last layer": {"layers": 1},
    "two modules": {"targets": ("q_proj", "down_proj")},
    "DoRA": {"dora": True},
    "DoRA, last layer": {"dora": True, "layers": 1, "targets": ("v_proj",)},
}


@pytest.fixture
def theirs():
    """``theirs(folder)``: a model of transformers, in float32."""

    def load(folder):
        path = folder / "config.json"
        config = json.loads(path.read_text())
        kind = ARCHITECTURES[config["model_type"]]
        path.write_text(json.dumps(config | {"architectures": [kind]}))
        return getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32)

    return load


def logits_of(model):
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits.numpy()


def ours(model):
    import mlx.core as mx

    return np.array(model(mx.array(IDS)))


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_reads_what_is_written(saved, learn, theirs, tmp_path, family, settings):
    folder = saved(**FAMILIES[family])
    model, _ = load_model(folder)
    start = ours(model)
    add_lora(model, 4, 2.5, 0, **settings)
    learn(model)
    save_adapters(model, tmp_path / "adapters", peft=True)
    base = theirs(folder)
    np.testing.assert_allclose(logits_of(base), start, atol=1e-4)
    assert np.abs(ours(model) - start).max() > 0.05
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapters")
    np.testing.assert_allclose(logits_of(adapted), ours(model), atol=1e-4)
    modules = {n.partition(".lora_A")[0] for n, _ in adapted.named_modules() if ".lora_A." in n}
    assert len(modules) == len(lora_layers(model))
    read, _ = load_model(folder, adapters=tmp_path / "adapters")
    np.testing.assert_allclose(ours(read), ours(model), atol=1e-5)


def test_different_ranks_and_scales_are_kept(saved, learn, theirs, tmp_path):
    from textenv.algos.lm.models.lora import insert_adapters

    folder = saved()
    model, _ = load_model(folder)
    model.freeze()
    insert_adapters(model, ["model.layers.0.mlp.up_proj"], 2, 3.0, False)
    insert_adapters(
        model, ["model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"], 4, 0.5, False
    )
    for _, layer in lora_layers(model):
        layer.unfreeze(recurse=False)
    learn(model)
    with pytest.raises(ConfigError, match=r"rank 2 and 4: save them with peft=True"):
        save_adapters(model, tmp_path / "adapters")
    save_adapters(model, tmp_path / "adapters", peft=True)
    adapted = peft.PeftModel.from_pretrained(theirs(folder), tmp_path / "adapters")
    np.testing.assert_allclose(logits_of(adapted), ours(model), atol=1e-4)
    read, _ = load_model(folder, adapters=tmp_path / "adapters")
    np.testing.assert_allclose(ours(read), ours(model), atol=1e-5)
    assert sorted(layer.scale for _, layer in lora_layers(read)) == [0.5, 0.5, 3.0]


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "down_proj"]},
        {"target_modules": "all-linear", "use_dora": True, "lora_alpha": 3},
        {"target_modules": ["v_proj"], "use_rslora": True},
        {"target_modules": ["v_proj", "o_proj"], "alpha_pattern": {"o_proj": 2}},
        {"target_modules": ["v_proj"], "layers_to_transform": [0], "rank_pattern": {"v_proj": 2}},
    ],
    ids=["two modules", "DoRA", "root of the rank", "two alphas", "one layer, another rank"],
)
def test_what_peft_wrote_is_read(saved, theirs, tmp_path, settings):
    folder = saved()
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, task_type="CAUSAL_LM", **{"lora_alpha": 10} | settings)
    adapted = peft.get_peft_model(theirs(folder), config)
    for name, value in adapted.named_parameters():
        if "lora_" in name:
            value.data += 0.05 * torch.randn_like(value)
    adapted.save_pretrained(tmp_path / "theirs")
    read, _ = load_model(folder, adapters=tmp_path / "theirs")
    np.testing.assert_allclose(ours(read), logits_of(adapted.eval()), atol=1e-4)
    assert np.abs(ours(read) - ours(load_model(folder)[0])).max() > 1e-2


def test_an_architecture_of_other_names(saved, theirs, tmp_path):
    """gpt2's layers have another first name in transformers, and weights that are transposed."""
    changes = {"model_type": "gpt2", "n_ctx": 64, "n_embd": 32, "n_head": 4, "n_layer": 2}
    changes |= {"n_positions": 64, "layer_norm_epsilon": 1e-5}
    sizes = {"vocab_size": 42, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    torch.manual_seed(0)
    folder = saved(**changes)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").unlink()
    base = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, eos_token_id=1))
    base.transformer.save_pretrained(folder)  # the names that the hub's gpt2 has
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_ctx": 64}))
    model, _ = load_model(folder)
    np.testing.assert_allclose(ours(model), logits_of(base.eval()), atol=1e-4)
    add_lora(model, 4, 2.0, 0)
    with pytest.raises(ConfigError, match=r"model\.h\.\S+ may have another name in transformers'"):
        save_adapters(model, tmp_path / "ours", peft=True)
    config = peft.LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    adapted = peft.get_peft_model(base, config)
    for name, value in adapted.named_parameters():
        if "lora_" in name:
            value.data += 0.05 * torch.randn_like(value)
    adapted.save_pretrained(tmp_path / "theirs")
    read, _ = load_model(folder, adapters=tmp_path / "theirs")
    np.testing.assert_allclose(ours(read), logits_of(adapted.eval()), atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modules_to_save": ["lm_head"]}, r"lm_head\S* is no low-rank adapter of a linear layer"),
        ({"target_modules": ["embed_tokens"]}, r"embed_tokens\S* is no low-rank adapter"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' altered the weights"),
    ],
)
def test_adapters_that_are_more_than_low_rank_are_refused(
    saved, theirs, tmp_path, settings, message
):
    folder = saved(tie_word_embeddings=False)
    settings = {"target_modules": ["q_proj"]} | settings
    adapted = peft.get_peft_model(theirs(folder), peft.LoraConfig(r=4, **settings))
    adapted.save_pretrained(tmp_path / "theirs")
    with pytest.raises(DataError, match=f"adapters {tmp_path / 'theirs'}: .*{message}") as caught:
        load_model(folder, adapters=tmp_path / "theirs")
    assert "\n" not in str(caught.value)


def test_an_alpha_that_is_no_number(saved, learn, tmp_path):
    folder = saved()
    model, _ = load_model(folder)
    add_lora(model, 4, 2.5, 0)
    learn(model)
    save_adapters(model, tmp_path / "adapters", peft=True)
    path = tmp_path / "adapters" / "adapter_config.json"
    config = json.loads(path.read_text())
    for change, message in (
        ({"lora_alpha": "x"}, "lora_alpha must be a number"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "alpha_pattern must have names of layers"),
    ):
        path.write_text(json.dumps(config | change))
        with pytest.raises(DataError, match=message):
            load_model(folder, adapters=tmp_path / "adapters")
