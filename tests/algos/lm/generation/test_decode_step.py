"""The compiled step of decoding against the same step as it is written."""

from __future__ import annotations

import numpy as np
import pytest

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402

from textenv.algos.lm.generation import decode_step  # noqa: E402
from textenv.algos.lm.generation.generator import Generator  # noqa: E402
from textenv.algos.lm.generation.sampling import SamplingParams  # noqa: E402
from textenv.algos.lm.models.loading import load_model  # noqa: E402

NO_EOS = [10**6]


@pytest.fixture
def model():
    return load_model("tiny-lm")[0]


def work(counts, seed=0, length=24):
    """Prompts of several lengths, each so many times, and noise."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(3, 40, rng.integers(3, 20)).tolist() for _ in counts]
    prompts = [prompt for prompt, count in zip(prompts, counts) for _ in range(count)]
    return prompts, rng.random((len(prompts), length), dtype=np.float32)


def generator(model, often, eos=NO_EOS):
    made = Generator(model, eos)
    made._step._often = often
    return made


@pytest.mark.parametrize("counts", [[1] * 6, [4] * 3, [5, 2, 1]], ids=["alone", "even", "uneven"])
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7, "top_p": 0.9, "top_k": 8}])
def test_compiled_or_not_every_bit_is_the_same(model, counts, settings):
    prompts, noise = work(counts)
    params = SamplingParams(**settings)
    plain, fast = generator(model, 10**9), generator(model, 0)
    expected = plain.generate(prompts, 24, params, noise)
    got = fast.generate(prompts, 24, params, noise)
    assert not plain._step._compiled and fast._step._compiled
    for one, other in zip(expected, got, strict=True):
        assert one.token_ids == other.token_ids
        if mx.default_device() == mx.cpu:
            assert one.token_logprobs == other.token_logprobs
            assert one.token_entropies == other.token_entropies
        np.testing.assert_allclose(one.token_logprobs, other.token_logprobs, atol=1e-4)


def test_a_compiled_step_takes_new_weights(model):
    """Weights that are replaced, or written into, count from the next step on."""
    prompts, noise = work([4, 4])
    fast = generator(model, 0)
    before = fast.generate(prompts, 24, SamplingParams(), noise)
    compiled = len(fast._step._compiled)
    layer = model.model.layers[0].mlp.down_proj
    layer.weight = layer.weight * 1.5
    model.model.norm.weight[:] = 0.5 * model.model.norm.weight
    after = fast.generate(prompts, 24, SamplingParams(), noise)
    anew = generator(model, 10**9).generate(prompts, 24, SamplingParams(), noise)
    assert [c.token_ids for c in after] == [c.token_ids for c in anew]
    assert [c.token_ids for c in after] != [c.token_ids for c in before]
    assert len(fast._step._compiled) == compiled


def test_shapes_are_compiled_once_they_have_come_often(model):
    prompts, noise = work([4, 4])
    fast = generator(model, decode_step._OFTEN)
    fast.generate(prompts, 10, SamplingParams(), noise)
    assert not fast._step._compiled  # 9 steps
    fast.generate(prompts, 10, SamplingParams(), noise)
    assert len(fast._step._compiled) == 1
    for seed in range(3):  # other prompts of like lengths have the same shapes
        fast.generate(work([4, 4], seed)[0], 10, SamplingParams(), noise)
    assert len(fast._step._compiled) <= 2


def test_what_is_compiled_and_counted_has_a_bound(model, monkeypatch):
    monkeypatch.setattr(decode_step, "_MOST", 2)
    monkeypatch.setattr(decode_step, "_MOST_SEEN", 5)
    fast = generator(model, 0)
    for groups in range(1, 12):
        prompts, noise = work([2] * groups, length=4)
        fast.generate(prompts, 4, SamplingParams(), noise)
        assert len(fast._step._compiled) <= 2 and len(fast._step._seen) <= 6
    assert len(fast._step._compiled) == 2


def test_compiling_leaves_the_weights_the_objects_they_were(model):
    """Rows that are kept know their weights by identity."""
    names = [id(model.model.norm.weight), id(model.model.embed_tokens.weight)]
    prompts, noise = work([2, 2], length=4)
    generator(model, 0).generate(prompts, 4, SamplingParams(), noise)
    assert names == [id(model.model.norm.weight), id(model.model.embed_tokens.weight)]
