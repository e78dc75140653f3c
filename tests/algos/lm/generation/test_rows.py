"""Rows that join and leave a running batch, against a plain loop for each row alone."""

from __future__ import annotations

import warnings

import mlx.core as mx
import numpy as np
import pytest

from tests.algos.lm.architectures import config_of
from textenv.algos.lm.cache.prefill import UnpaddedCache
from textenv.algos.lm.generation.sampling import SamplingParams

EOS = (1, 7, 20, 31)  # so that rows end at very different times
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers():
    """Every test draws the same, whichever others run."""
    global rng
    rng = np.random.default_rng(0)


@pytest.fixture(params=[False, True], ids=["apart", "together"])
def together(request, monkeypatch):
    """Equal completions are decoded in a row each, or in one, as with large models."""
    if request.param:
        monkeypatch.setattr("textenv.algos.lm.generation.generator._LARGE", 0)
    return request.param


SETTINGS = {
    "plain": SamplingParams(),
    "hot": SamplingParams(temperature=1.5),
    "restricted": SamplingParams(temperature=0.8, top_p=0.9, top_k=8),
}


def random_prompts(counts):
    """Prompts of 1 to 20 tokens, each so many times, in some order."""
    prompts = [rng.integers(2, 42, rng.integers(1, 21)).tolist() for _ in counts]
    rows = [prompt for prompt, count in zip(prompts, counts) for _ in range(count)]
    return [rows[i] for i in rng.permutation(len(rows))]


def plain_loop(model, slow_restrict, prompt, uniforms, settings):
    """One row: whole forwards, the inverse of the cumulative distribution in float64.

    It ends where a draw is so near to the border of two tokens that rounding decides.
    """
    import mlx.core as mx

    tokens, logprobs = [], []
    for uniform in uniforms:
        logits = np.array(model(mx.array([[*prompt, *tokens]]))[0, -1], np.float64)
        ids, probs, margin = slow_restrict(logits, **settings)
        order = np.argsort(ids)
        ids, probs = ids[order], probs[order]
        borders = np.cumsum(probs)
        if margin < 1e-4 or np.abs(borders - uniform).min() < 1e-4:
            break
        index = np.searchsorted(borders, uniform)
        tokens.append(int(ids[index]))
        logprobs.append(np.log(probs[index]))
        if tokens[-1] in EOS:
            break
    return tokens, logprobs


def check_rows(model, slow_restrict, prompts, uniforms, params, completions):
    """Every row against the plain loop; returns how many tokens were compared."""
    names = "temperature", "top_p", "top_k"
    settings = {name: getattr(params, name) for name in names}
    compared = 0
    for prompt, noise, completion in zip(prompts, uniforms, completions):
        tokens, logprobs = plain_loop(model, slow_restrict, prompt, noise, settings)
        assert completion.token_ids[: len(tokens)] == tokens
        np.testing.assert_allclose(completion.token_logprobs[: len(tokens)], logprobs, atol=1e-4)
        if tokens and tokens[-1] in EOS:
            assert len(completion.token_ids) == len(tokens) and not completion.truncated
        else:
            assert len(completion.token_ids) <= len(noise)
            ended = completion.token_ids[-1] in EOS
            assert completion.truncated == (not ended)
            assert ended or len(completion.token_ids) == len(noise)
        compared += len(tokens)
    return compared


def make(model, batch_size, sync_every=None):
    from textenv.algos.lm.generation.generator import Generator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the slower ways
        return Generator(model, EOS, batch_size, sync_every)


def spied(generator):
    """The shapes of what went through a generator's model so far; unpadded prompts as one row."""
    shapes, body = [], generator._body

    def spy(ids, cache=None):
        unpadded = isinstance(cache[0], UnpaddedCache)
        shapes.append(ids.shape[::-1] if unpadded else ids.shape)
        return body(ids, cache)

    generator._body = generator._step._body = spy
    return shapes


@pytest.mark.parametrize("sync_every", [1, 3, 8])
@pytest.mark.parametrize("batch_size", [4, 7, 16])
@pytest.mark.parametrize(
    "counts", [[1] * 24, [4] * 6, [1, 9, 2, 3, 1, 1, 5, 2]], ids=["alone", "groups", "uneven"]
)
def test_rows_are_what_they_are_alone(
    tiny, slow_restrict, counts, batch_size, sync_every, together
):
    model, params = tiny[0], SETTINGS["hot"]
    prompts = random_prompts(counts)
    uniforms = rng.random((len(prompts), 14), dtype=np.float32)
    generator = make(model, batch_size, sync_every)
    shapes = spied(generator)
    completions = generator.generate(prompts, 14, params, uniforms)
    compared = check_rows(model, slow_restrict, prompts, uniforms, params, completions)
    assert compared > 0.8 * sum(len(c.token_ids) for c in completions) > 60
    # Some are prefilled later than others, in the midst of decoding.
    prefills = [i for i, (_, n) in enumerate(shapes) if n > 1]
    decodes = [rows for rows, n in shapes if n == 1]
    assert len(prefills) > 1 and max(decodes) <= 1.5 * batch_size
    assert generator.tokens_decoded == sum(len(c.token_ids) for c in completions)
    if max(counts) <= batch_size:  # else a prompt's rows are in two batches
        distinct = {tuple(prompt) for prompt in prompts}
        assert generator.tokens_prefilled == sum(map(len, distinct))


@pytest.mark.parametrize("name", SETTINGS)
def test_every_distribution(tiny, slow_restrict, name, together):
    prompts = random_prompts([3] * 8)
    uniforms = rng.random((24, 12), dtype=np.float32)
    params = SETTINGS[name]
    completions = make(tiny[0], 9, 3).generate(prompts, 12, params, uniforms)
    assert check_rows(tiny[0], slow_restrict, prompts, uniforms, params, completions) > 100
    for completion in completions:
        if params.full_support:
            assert completion.support is None
        else:
            assert len(completion.support) == len(completion.token_ids)
            assert all(t in s for t, s in zip(completion.token_ids, completion.support))


@pytest.mark.parametrize("counts", [[1] * 12, [3] * 4], ids=["alone", "groups"])
@pytest.mark.parametrize("name", ["gemma3_text", "gpt_oss", "gpt2"])
def test_windows_copied_prompts_and_absolute_positions(
    random_model, slow_restrict, name, counts, together
):
    model = random_model(**config_of(name))
    prompts, params = random_prompts(counts), SETTINGS["hot"]
    uniforms = rng.random((len(prompts), 12), dtype=np.float32)
    completions = make(model, 6).generate(prompts, 12, params, uniforms)
    assert check_rows(model, slow_restrict, prompts, uniforms, params, completions) > 30


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_a_row_is_computed_for_each_beginning(tiny, monkeypatch, temperature):
    """Completions of a prompt that drew the same so far are one row, until most have parted."""
    monkeypatch.setattr("textenv.algos.lm.generation.generator._LARGE", 0)
    prompts = sorted(random_prompts([6, 3, 1, 8]))
    uniforms = rng.random((len(prompts), 10), dtype=np.float32)
    generator = make(tiny[0], 64, 1)
    shapes = spied(generator)
    params = SamplingParams(temperature=temperature)
    done = generator.generate(prompts, 10, params, uniforms)
    rows = [count for count, n in shapes if n == 1]
    before = len(prompts)
    for length, computed in enumerate(rows, 1):
        going = [
            (*prompt, -1, *completion.token_ids[:length])
            for prompt, completion in zip(prompts, done)
            if len(completion.token_ids) > length
        ]
        beginnings = len(set(going))
        assert beginnings <= computed
        if beginnings > 0.9 * len(going):
            break
        assert computed <= max(1.5 * beginnings, before), length
        before = computed
    assert rows[0] < len(prompts)


def test_what_prompts_begin_with_is_computed_once(tiny, slow_restrict, monkeypatch):
    monkeypatch.setattr("textenv.algos.lm.generation.generator._LARGE", 0)
    stem = rng.integers(2, 42, 12).tolist()
    prompts = [stem + prompt for prompt in random_prompts([3, 1, 4])]
    uniforms = rng.random((len(prompts), 8), dtype=np.float32)
    generator = make(tiny[0], 64)
    completions = generator.generate(prompts, 8, SETTINGS["hot"], uniforms)
    compared = check_rows(tiny[0], slow_restrict, prompts, uniforms, SETTINGS["hot"], completions)
    assert compared > 20
    own = sum(len(prompt) - 12 for prompt in map(list, set(map(tuple, prompts))))
    assert generator.tokens_prefilled == 12 + own


def test_free_places_are_taken_at_once(tiny):
    """One row goes on to the end; the others come and go beside it, and the batch stays full."""
    model, max_tokens = tiny[0], 40
    prompts = random_prompts([1] * 80)
    uniforms = rng.random((80, max_tokens), dtype=np.float32)
    generator = make(model, 8)
    lengths = [
        len(c.token_ids) for c in generator.generate(prompts, max_tokens, SETTINGS["hot"], uniforms)
    ]
    shapes = spied(generator)
    generator.generate(prompts, max_tokens, SETTINGS["hot"], uniforms)
    steps = sum(n == 1 for _, n in shapes)
    # As slices of 8, each would last as long as its longest row.
    slices = sum(max(lengths[i : i + 8]) for i in range(0, 80, 8))
    assert steps < 0.8 * slices


def test_broken_weights_are_noticed_in_the_midst(fresh, together):
    model = fresh[0]
    generator = make(model, 4, 3)
    prompts, uniforms = random_prompts([2] * 4), np.zeros((8, 6), np.float32)
    generator.generate(prompts, 6, SETTINGS["plain"], uniforms)
    model.model.norm.weight = model.model.norm.weight * float("nan")
    with pytest.raises(ValueError, match="not finite"):
        generator.generate(prompts, 6, SETTINGS["plain"], uniforms)


@pytest.mark.parametrize("device", [mx.cpu, "other"], ids=["cpu", "other"])
def test_looks_are_rarer_the_longer_rows_are(tiny, monkeypatch, device):
    """On a CPU few steps are in vain: none before 8 tokens, an eighth of them after."""
    monkeypatch.setattr("textenv.algos.lm.generation.generator.mx.default_device", lambda: device)
    generator = make(tiny[0], 64)
    monkeypatch.undo()
    steps, run = [], generator._run

    def spy(batch, samples, params):
        drawn = run(batch, samples, params)
        steps.append(len(drawn))
        return drawn

    generator._run = spy
    generator._eos = [-1]  # nothing ends before its limit
    prompts = random_prompts([4] * 2)
    generator.generate(prompts, 40, SETTINGS["hot"], rng.random((8, 40), dtype=np.float32))
    expected = [1] * 8 + [2] * 4 + [3] * 3 + [4] * 3 + [3] if device == mx.cpu else [8] * 5
    assert steps == expected and sum(steps) == 40
