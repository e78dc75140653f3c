"""Saved models that transformers reads: the same logits, however the model was trained."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from textenv.algos import load_model  # noqa: E402
from textenv.algos.lm.models.lora import add_lora  # noqa: E402
from textenv.algos.lm.models.saving import save_model  # noqa: E402

IDS = [[3, 4, 12, 30, 7]]


def logits(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model.eval()(torch.tensor(IDS)).logits.numpy()


@pytest.mark.filterwarnings("ignore:.*is quantized")
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("how", ["all weights", "LoRA", "DoRA", "quantized", "quantized, LoRA"])
def test_a_saved_model_is_the_same_in_transformers(saved, quantized, learn, tmp_path, tied, how):
    import mlx.core as mx

    changes = {"model_type": "llama", "tie_word_embeddings": tied}
    if "quantized" in how:
        if mx.default_device() != mx.cpu:
            pytest.skip("on a GPU a quantized model stays so, in mlx-lm's own form")
        folder = quantized(4, **changes)
    else:
        folder = saved(**changes)
    model, tokenizer = load_model(folder)
    if "RA" in how:
        add_lora(model, 4, 2.0, 0, dora=how == "DoRA")
        learn(model)
    save_model(model, tokenizer, tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["tie_word_embeddings"] is tied
    np.testing.assert_allclose(
        logits(tmp_path / "saved"), np.array(model(mx.array(IDS))), atol=1e-4
    )
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert read.encode("12+30=") == tokenizer.encode("12+30=")
