"""The sampling distribution and the draw, against NumPy."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from textenv.algos import create_policy
from textenv.algos.lm.generation.decode_step import draw_tokens
from textenv.algos.lm.generation.sampling import SamplingParams, draw, restrict


@given(
    seed=st.integers(0, 10**6),
    size=st.integers(2, 40),
    spread=st.sampled_from([0.1, 1.0, 4.0]),
    temperature=st.sampled_from([0.0, 0.3, 0.7, 1.0, 2.0]),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 50]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
@settings(max_examples=400, deadline=None)
def test_restrict_against_numpy(
    slow_restrict, seed, size, spread, temperature, top_p, top_k, min_p
):
    import mlx.core as mx

    rows = np.random.default_rng(seed).normal(0, spread, (3, size)).astype(np.float32)
    params = SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    logits = restrict(mx.array(rows), params)
    probs = np.array(mx.softmax(logits, axis=-1))
    for row, logit, prob in zip(rows, np.array(logits), probs):
        ids, expected, margin = slow_restrict(row, temperature, top_p, top_k, min_p)
        if margin < 1e-5:  # float32 may decide otherwise
            continue
        assert np.flatnonzero(logit > -np.inf).tolist() == sorted(ids)
        np.testing.assert_allclose(prob[ids], expected, rtol=1e-4, atol=1e-6)


def test_restrict_by_hand():
    import mlx.core as mx

    logits = mx.log(mx.array([[0.1, 0.4, 0.2, 0.3]]))

    def kept(**settings):
        return np.flatnonzero(np.array(restrict(logits, SamplingParams(**settings))) > -np.inf)

    assert kept().tolist() == [0, 1, 2, 3]
    assert kept(top_k=2).tolist() == [1, 3]
    assert kept(top_p=0.65).tolist() == [1, 3]
    assert kept(top_p=0.75).tolist() == [1, 2, 3]
    assert kept(min_p=0.45).tolist() == [1, 2, 3]
    assert kept(temperature=0).tolist() == [1]
    # top-p after top-k sees .4 / .7 and .3 / .7; temperature .5 squares: .16, .09, .04, .01 of .3
    assert kept(top_k=2, top_p=0.55).tolist() == [1]
    assert kept(temperature=0.5, top_p=0.85).tolist() == [1, 2, 3]
    assert kept(temperature=0.5, top_p=0.8).tolist() == [1, 3]


def test_draw_frequencies_are_the_probabilities():
    import mlx.core as mx

    probs = np.array([0.0, 0.125, 0.5, 0.0, 0.25, 0.125, 0.0])
    count = 4096
    uniforms = (np.arange(count) + 0.5) / count
    logits = mx.broadcast_to(mx.log(mx.array(probs)), (count, 7))
    tokens, logprobs, entropies = draw(logits, mx.array(uniforms.astype(np.float32)))
    tokens = np.array(tokens)
    frequencies = np.bincount(tokens, minlength=7) / count
    np.testing.assert_allclose(frequencies, probs, atol=1 / count)
    np.testing.assert_allclose(np.array(logprobs), np.log(probs[tokens]), rtol=1e-5)
    entropy = -sum(p * math.log(p) for p in probs if p)
    np.testing.assert_allclose(np.array(entropies), entropy, rtol=1e-5)


@given(seed=st.integers(0, 10**6), size=st.integers(2, 300), kept=st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_draw_stays_in_the_support(seed, size, kept):
    import mlx.core as mx

    rng = np.random.default_rng(seed)
    uniforms = np.array([0, 2**-24, 0.5, 1 - 2**-23, 1 - 2**-24], np.float32)
    logits = np.full((len(uniforms), size), -np.inf, np.float32)
    support = rng.choice(size, min(kept, size), replace=False)
    logits[:, support] = rng.normal(0, 5, len(support))
    tokens, logprobs, entropies = draw(mx.array(logits), mx.array(uniforms))
    assert set(np.array(tokens).tolist()) <= set(support.tolist())
    assert np.isfinite(np.array(logprobs)).all() and np.isfinite(np.array(entropies)).all()
    first, last = np.array(tokens)[[0, -1]]
    probable = support[np.exp(logits[0, support] - logits[0, support].max()) > 1e-4]
    assert first <= probable.min() and last >= probable.max()  # by the ids' order


def test_a_row_depends_on_its_own_number_only():
    import mlx.core as mx

    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (64, 20)).astype(np.float32)
    uniforms = rng.random(64).astype(np.float32)
    together = np.array(draw(mx.array(logits), mx.array(uniforms))[0])
    alone = [
        draw(mx.array(logits[i : i + 1]), mx.array(uniforms[i : i + 1]))[0].item()
        for i in range(64)
    ]
    assert together.tolist() == alone
    assert len(set(alone)) > 5


@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([2, 7, 256, 257, 1024, 3000]),
    top_k=st.sampled_from([0, 3]),
)
@settings(max_examples=60, deadline=None)
def test_draws_from_one_place_are_those_from_copies_of_it(seed, size, top_k):
    import mlx.core as mx

    rng = np.random.default_rng(seed)
    params = SamplingParams(top_k=top_k)
    logits = mx.array(rng.normal(0, 3, (4, size)).astype(np.float32))
    places = mx.array(rng.integers(0, 4, 37).astype(np.int32))
    noise = mx.array(rng.random(37).astype(np.float32))
    found = draw_tokens(logits, noise, params, places)
    expected = draw_tokens(logits[places], noise, params)
    for name, one, other in zip(found._fields, found, expected):
        assert (one is None) == (other is None), name
        if one is not None:
            np.testing.assert_array_equal(np.array(one), np.array(other), name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf)),
        *(("temperature", "hot"), ("temperature", None), ("temperature", True)),
        *((name, value) for name in ("temperature", "top_p") for value in (1e39, 10**400)),
        *(("top_p", 0), ("top_p", 1.01), ("top_p", -1), ("top_p", math.nan), ("top_p", [0.9])),
        *(("top_k", -1), ("top_k", 2.5), ("top_k", True), ("min_p", -0.1), ("min_p", 1.1)),
        *(("max_tokens", 0), ("max_tokens", 2.0), ("seed", -1), ("batch_size", 0)),
    ],
)
def test_bad_settings_are_named(tiny, name, value):
    with pytest.raises((ValueError, TypeError), match=rf"^{name} must be"):
        create_policy(*tiny, {name: value})


def test_an_unknown_setting_is_named(tiny):
    with pytest.raises(ValueError, match=r"unknown policy setting .temprature.*.temperature"):
        create_policy(*tiny, {"temprature": 1.0})


def test_large_vocabularies_against_float64(large_vocabulary):
    """Log-probabilities, entropies, and which token a number draws."""
    import mlx.core as mx

    rows, exact = large_vocabulary
    entropies = -(np.exp(exact) * exact).sum(axis=1)
    for share in (0.0, 0.1, 0.5, 0.9, 0.9999, 1 - 2**-24):
        uniforms = np.full(len(rows), share, np.float32)
        tokens, logprobs, entropy = map(np.array, draw(mx.array(rows), mx.array(uniforms)))
        np.testing.assert_allclose(logprobs, exact[np.arange(len(rows)), tokens], atol=5e-5)
        np.testing.assert_allclose(entropy, entropies, atol=1e-4)
        for token, row in zip(tokens, np.exp(exact)):
            before = row[:token].sum()
            assert before - 2e-5 <= share <= before + row[token] + 2e-5


def test_top_p_of_large_vocabularies_reaches_its_mass(large_vocabulary):
    import mlx.core as mx

    rows, exact = large_vocabulary
    kept = np.array(restrict(mx.array(rows), SamplingParams(top_p=0.9))) > -np.inf
    for row, inside in zip(np.exp(exact), kept):
        mass, ties = row[inside].sum(), (row == row[inside].min()).sum()
        assert mass >= 0.9 - 2e-6
        assert mass - ties * row[inside].min() < 0.9 + 2e-6  # and no more than it needs


@given(seed=st.integers(0, 10**6), size=st.sampled_from([257, 511, 512, 1000, 5000]))
@settings(max_examples=60, deadline=None)
def test_draws_from_several_blocks_stay_in_the_support(seed, size):
    import mlx.core as mx

    rng = np.random.default_rng(seed)
    uniforms = np.array([0, 2**-24, 0.25, 0.5, 0.75, 1 - 2**-23, 1 - 2**-24], np.float32)
    row = np.full(size, -np.inf)
    support = np.sort(rng.choice(size, rng.integers(1, 9), replace=False))
    row[support] = rng.normal(0, 3, len(support))
    logits = mx.broadcast_to(mx.array(row.astype(np.float32)), (len(uniforms), size))
    tokens = np.array(draw(logits, mx.array(uniforms))[0])
    ends = np.exp(row - row.max()).cumsum()
    for share, token in zip(uniforms, tokens):
        assert token in support
        expected = np.searchsorted(ends, share * ends[-1], side="right")
        near = np.abs(ends[support] / ends[-1] - share).min()
        assert token == expected or near < 3e-6  # beside an end rounding decides
