"""Adapters: where they are, what they draw, and the model without them."""

from __future__ import annotations

import numpy as np

from textenv.algos.lm.models.lora import add_lora, has_lora, without_lora


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
    with without_lora(model):
        np.testing.assert_array_equal(model(ids), plain(ids))
    np.testing.assert_array_equal(model(ids), changed)
