"""Models that are written, and read again."""

from __future__ import annotations

import numpy as np

from textenv.algos import load_model
from textenv.algos.lm.models.saving import save_model


def test_a_model_made_in_memory_is_saved_too(random_model, tiny, tiny_config, tmp_path):
    import mlx.core as mx

    model = random_model(**tiny_config)
    assert not hasattr(model, "source")
    save_model(model, tiny[1], tmp_path / "a" / "model")
    read, tokenizer = load_model(tmp_path / "a" / "model")
    ids = mx.array([[3, 4, 12]])
    np.testing.assert_array_equal(read(ids), model(ids))
    assert tokenizer.decode([3, 4, 12]) == "12+"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["model"]
