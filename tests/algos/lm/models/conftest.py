"""Folders with models on disk, and adapters that have learnt something."""

from __future__ import annotations

import pytest


@pytest.fixture
def saved(random_model, tiny, tiny_config, tmp_path):
    """``saved(**changes)``: a folder with a random model, as it is trained and loaded."""
    from textenv.algos.lm.models.saving import save_model

    def make(name="base", **changes):
        save_model(random_model(**tiny_config | changes), tiny[1], tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def quantized(random_model, tiny, tiny_config, tmp_path):
    """``quantized(bits)``: a folder with a random model, quantized as mlx-lm does."""
    import mlx.core as mx
    import mlx_lm.utils
    from mlx.utils import tree_map

    def make(bits=4, dtype=mx.float32, mixed=False, **changes):
        model = random_model(**tiny_config | changes)
        model.update(tree_map(lambda w: w.astype(dtype), model.parameters()))

        def others(path, module):
            eight = {"bits": 8, "group_size": 32, "mode": "affine"}
            return eight if "v_proj" in path else True

        model, config = mlx_lm.utils.quantize_model(
            *(model, tiny_config | changes, 32, bits), quant_predicate=others if mixed else None
        )
        folder = tmp_path / "quantized"
        mlx_lm.utils.save_model(folder, model)
        mlx_lm.utils.save_config(config, folder / "config.json")
        tiny[1].save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def learn():
    """``learn(model)``: changes all weights of a model's adapters at random, as training would."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    def change(model, seed=0):
        names = sorted(dict(tree_flatten(model.trainable_parameters())))
        assert names and all(name.split(".")[-1] in ("lora_a", "lora_b", "m") for name in names)
        keys = mx.random.split(mx.random.key(seed), len(names))
        weights = dict(tree_flatten(model.trainable_parameters()))
        noise = [(n, 0.05 * mx.random.normal(weights[n].shape, key=k)) for n, k in zip(names, keys)]
        model.load_weights([(n, weights[n] + by) for n, by in noise], strict=False)

    return change
