"""Padding that is left out and put back, against indexing and scattering."""

import mlx.core as mx
import numpy as np
import pytest

from textenv.algos.lm.cache.padding import find_padding

FILLED = np.arange(40) % 5 > 2  # 16 places


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_tokens_and_places_and_their_gradients(shape):
    rng = np.random.default_rng(0)
    padding, count = find_padding(FILLED), FILLED.sum()
    places, tokens = (
        mx.array(rng.normal(size=(n, *shape)).astype(np.float32)) for n in (len(FILLED), count)
    )
    spread = np.zeros((len(FILLED), *shape), np.float32)
    spread[FILLED] = tokens
    [removed], [slope] = mx.vjp(padding.remove, [places], [tokens])
    assert np.array_equal(removed, np.array(places)[FILLED])
    assert np.array_equal(slope, spread)  # nothing comes back from the padding
    [inserted], [slope] = mx.vjp(padding.insert, [tokens], [places])
    assert np.array_equal(inserted, spread)
    assert np.array_equal(slope, np.array(places)[FILLED])


@pytest.mark.parametrize("dtype", [mx.int32, mx.bool_, mx.bfloat16])
def test_other_types_stay_what_they_are(dtype):
    padding = find_padding(FILLED)
    places = (mx.arange(40) % 7).astype(dtype)
    inserted = padding.insert(padding.remove(places))
    assert inserted.dtype == dtype
    assert inserted.tolist() == mx.where(mx.array(FILLED), places, mx.zeros_like(places)).tolist()


@pytest.mark.parametrize(
    ("missing", "kept"), [(0, None), (16, None), (31, None), (32, 224), (65, 192), (255, 16)]
)
def test_an_eighth_is_worth_it(missing, kept):
    """A number of places that comes again is kept: the tokens, and some of the first others."""
    filled = np.random.default_rng(0).permutation(256) >= missing
    padding = find_padding(filled)
    assert (padding is None) == (kept is None)
    if padding is not None:
        assert padding.kept.sum() == kept and padding.kept[filled].all()
