"""The two halves of a forward pass."""

from __future__ import annotations

import numpy as np
import pytest

from tests.algos.lm.architectures import BASE, config_of


@pytest.mark.parametrize(
    ("name", "splits"),
    [("llama", True), ("gemma3_text", True), ("cohere2", False), ("gemma2", False)],
)
def test_split_head(random_model, name, splits):
    """The halves make the whole; only where nothing comes between are they halves."""
    import mlx.core as mx

    from textenv.algos.lm.models.head import split_head

    model = random_model(**config_of(name))
    body, head = split_head(model)
    ids = mx.array([[5, 3, 8], [2, 2, 9]])
    np.testing.assert_allclose(head(body(ids)), model(ids), rtol=1e-6)
    assert (body(ids).shape[-1] == BASE["hidden_size"]) == splits
