"""The scorer against plain forwards: values and gradients."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from tests.algos.shared import random_batch
from textenv.algos import Trajectory
from textenv.algos.lm.cache.positions import bucket
from textenv.algos.lm.scoring import scorer as scoring
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.lm.scoring.scorer import Scorer

UNEVEN = ["12+30=", "a", "a", "the longest prompt = ", "12+30=", "12+30=", "b", "b"]
EVEN = ["12+30=", "12+30=", "a", "a", "hello there", "hello there"]
ALIKE = ["the sum of 12+30=", "the sum of 4+5=", "the sum of 4+5=", "the sum of 7", "the sum of "]
PROMPTS = {"uneven": UNEVEN, "even": EVEN, "alike": ALIKE}


def by_prompt(trajectories):
    """In the order of the batch: equal prompts stand together."""
    first = [t.prompt_ids for t in trajectories]
    return sorted(trajectories, key=lambda t: first.index(t.prompt_ids))


def plain_scores(model, batch):
    """(N, T) log-probabilities, each row by a forward of its own, differentiable."""
    import mlx.core as mx

    rows = []
    for i in range(len(batch)):
        prompt, ids = batch.prompts[batch.prompt_index[i]], batch.token_ids[i]
        logits = model(mx.array([[*prompt, *ids.tolist()]]))[0, len(prompt) - 1 : -1]
        logits = logits / batch.temperature[i].item()
        if batch.support is not None:
            kept = np.zeros(logits.shape, bool)
            for t, support in enumerate(batch.support[i]):
                kept[t, support[support >= 0]] = True
                kept[t, ids[t]] = True
            logits = mx.where(mx.array(kept), logits, -mx.inf)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        rows.append(mx.take_along_axis(logprobs, mx.array(ids)[:, None], axis=-1)[:, 0])
    return mx.stack(rows)


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
def test_scores_are_those_of_plain_forwards(tiny, sample, plain_logprobs, sampling, prompts):
    model, tokenizer = tiny
    trajectories = sample(model, tokenizer, prompts, **sampling)
    batch = make_batch(trajectories)
    logprobs, _ = Scorer(model)(batch)
    assert len(batch.prompts) == len(set(prompts))
    assert (np.diff(batch.prompt_index) >= 0).all()  # equal prompts stand together
    for i, t in enumerate(by_prompt(trajectories)):
        count = len(t.token_ids)
        expected = plain_logprobs(model, t.prompt_ids, t.token_ids, t.temperature, t.support)
        np.testing.assert_allclose(logprobs[i, :count], expected, rtol=1e-5, atol=1e-5)
        assert batch.mask[i].tolist() == [1] * count + [0] * (batch.mask.shape[1] - count)
    assert np.isfinite(np.array(logprobs)).all()  # in the padding too
    sampled = [e for t in by_prompt(trajectories) for e in t.token_logprobs]
    np.testing.assert_allclose(np.array(logprobs)[batch.mask > 0], sampled, atol=1e-4)


def test_entropies_are_those_of_the_sampler(tiny, sample, sampling):
    model, tokenizer = tiny
    trajectories = sample(model, tokenizer, UNEVEN, **sampling)
    batch = make_batch(trajectories)
    _, entropies = Scorer(model)(batch)
    expected = [e for t in by_prompt(trajectories) for e in t.token_entropies]
    np.testing.assert_allclose(np.array(entropies)[batch.mask > 0], expected, atol=1e-4)


def gradients(model, scores, batch):
    """Gradients of a weighted sum of log-probabilities, by parameter."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    weights = np.random.default_rng(0).normal(0, 1, batch.mask.shape).astype(np.float32)
    weights = mx.array(weights * batch.mask)

    def loss(*_):
        return (weights * scores(batch)).sum()

    value, grads = nn.value_and_grad(model, loss)()
    return value.item(), {name: np.array(g) for name, g in tree_flatten(grads)}


def assert_close(ours, expected, rtol=1e-5):
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = np.abs(gradient).max()
        assert scale > 0, name
        np.testing.assert_allclose(ours[name], gradient, atol=rtol * scale, err_msg=name)


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.7, "top_p": 0.9}], ids=["full", "top_p"]
)
def test_gradients_are_those_of_plain_forwards(fresh, sample, prompts, settings):
    model, tokenizer = fresh
    batch = make_batch(sample(model, tokenizer, prompts, **settings))
    scorer = Scorer(model)
    value, ours = gradients(model, lambda b: scorer(b)[0], batch)
    expected_value, expected = gradients(model, partial(plain_scores, model), batch)
    assert value == pytest.approx(expected_value, rel=1e-5)
    assert_close(ours, expected)


def test_what_all_prompts_begin_with_goes_through_the_model_once(tiny, sample, monkeypatch):
    model, tokenizer = tiny
    batch = make_batch(sample(model, tokenizer, ALIKE))
    scorer, shapes = Scorer(model), []
    body = scorer._body
    monkeypatch.setattr(scorer, "_body", lambda ids, *args: shapes.append(ids) or body(ids, *args))
    scorer.hidden(batch)
    stem = len("the sum of")  # the shortest prompt keeps its last token
    own = max(len(prompt) for prompt in batch.prompts) - stem
    columns = batch.token_ids.shape[1] - 1
    assert [ids.size for ids in shapes] == [stem + len(batch.prompts) * own + len(batch) * columns]


def test_padding_goes_through_neither_the_body_nor_the_head(tiny, monkeypatch):
    """Nor does what the environment wrote after the last answer."""
    model, _ = tiny
    batch = random_batch([1, 9, 20, 3], [0, 0, 1, 1], [2, 12])
    batch.mask[2, 5:8] = 0  # another turn of the environment's
    batch.mask[1, 6:] = 0  # and one that no answer follows
    scorer, sizes = Scorer(model), []
    for name in ("_body", "_head"):
        function = getattr(scorer, name)
        monkeypatch.setattr(
            scorer,
            name,
            lambda x, *rest, f=function: sizes.append(len(x)) or f(x, *rest),
        )
    logprobs, _ = scorer(batch)
    inputs = 2 + 12 + (1 - 1) + (6 - 1) + (20 - 1) + (3 - 1)  # of 2 x 12 + 4 x 19
    # One row tells the size of the vocabulary.
    assert sizes == [bucket(inputs), 1, bucket(1 + 6 + 17 + 3)] == [48, 1, 32]
    monkeypatch.undo()
    plain = np.array(plain_scores(model, batch))
    counted = batch.mask > 0
    np.testing.assert_allclose(np.array(logprobs)[counted], plain[counted], atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"top_k": 5}], ids=["full", "top_k"])
def test_equal_completions_go_through_the_model_once(fresh, sample, monkeypatch, settings):
    model, tokenizer = fresh
    first = sample(model, tokenizer, ["12+30=", "a", "the longest prompt = "], **settings)
    again = [first[i] for i in (0, 1, 0, 2, 1, 0)]
    batch = make_batch(by_prompt(again))
    scorer, sizes = Scorer(model), []
    hidden = scorer.hidden
    monkeypatch.setattr(scorer, "hidden", lambda b: sizes.append(len(b)) or hidden(b))
    value, ours = gradients(model, lambda b: scorer(b)[0], batch)
    assert sizes == [3]
    expected_value, expected = gradients(model, partial(plain_scores, model), batch)
    assert value == pytest.approx(expected_value, rel=1e-5)
    assert_close(ours, expected)


def test_completions_that_differ_in_anything_are_not_equal(tiny, sample):
    model, tokenizer = tiny
    (one,) = sample(model, tokenizer, ["12+30="])
    others = [
        replace(one, prompt_ids=[*one.prompt_ids, 3]),
        replace(one, token_ids=[*one.token_ids[:-1], (one.token_ids[-1] + 1) % 10]),
        replace(one, token_mask=[0, *one.token_mask[1:]]),
        replace(one, temperature=0.5),
        replace(one, rewards=[7.0], token_logprobs=[-1.0] * len(one.token_ids)),  # but this one
    ]
    batch = make_batch([one, *others])
    rows, places = batch.distinct()
    equal = {
        int(batch.order[row])
        for row in np.flatnonzero(places == places[list(batch.order).index(0)])
    }
    assert equal == {0, 5} and len(rows) == 5
    assert (batch.token_ids[rows][places] == batch.token_ids).all()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("settings", [{}, {"top_k": 5}], ids=["full", "top_k"])
def test_chunks_change_neither_values_nor_gradients(
    random_model, tiny_config, tiny, sample, monkeypatch, tied, settings
):
    model = random_model(**tiny_config | {"tie_word_embeddings": tied})
    batch = make_batch(sample(model, tiny[1], UNEVEN, **settings))
    scorer = Scorer(model)
    value, expected = gradients(model, lambda b: scorer(b)[0], batch)
    monkeypatch.setattr(scoring, "_CHUNK", 4 * tiny_config["vocab_size"])  # four tokens at a time
    chunked_value, chunked = gradients(model, lambda b: scorer(b)[0], batch)
    assert chunked_value == pytest.approx(value, rel=1e-5)
    assert_close(chunked, expected)
    assert ("lm_head.weight" in expected) == (not tied)


@pytest.mark.parametrize("settings", [{}, {"top_k": 5}], ids=["full", "top_k"])
def test_entropies_have_a_gradient_where_that_is_wanted(fresh, sample, monkeypatch, settings):
    import mlx.core as mx

    model, tokenizer = fresh
    batch = make_batch(sample(model, tokenizer, UNEVEN, **settings))
    scorer = Scorer(model)

    def plain_entropies(batch):
        rows = []
        for i, ids in enumerate(batch.token_ids):
            prompt = batch.prompts[batch.prompt_index[i]]
            logits = model(mx.array([[*prompt, *ids.tolist()]]))[0, len(prompt) - 1 : -1]
            if batch.support is not None:
                logits = mx.take_along_axis(logits, mx.array(batch.support[i]), axis=-1)
            probs = mx.softmax(logits, axis=-1)
            rows.append(-(probs * mx.log(probs)).sum(axis=-1))
        return mx.stack(rows)

    def ours(batch):
        return scorer.score(batch, scorer.hidden(batch), train_entropies=True)[1]

    value, expected = gradients(model, plain_entropies, batch)
    for chunk in (scoring._CHUNK, 4 * 42):
        monkeypatch.setattr(scoring, "_CHUNK", chunk)
        own_value, own = gradients(model, ours, batch)
        assert own_value == pytest.approx(value, rel=1e-5)
        assert_close(own, expected)
    _, none = gradients(model, lambda b: scorer(b)[1], batch)
    assert all((gradient == 0).all() for gradient in none.values())


def test_hits_are_the_tokens_of_the_largest_logit(tiny, sample, monkeypatch):
    """Whole or in chunks, and without a gradient."""
    import mlx.core as mx

    model, tokenizer = tiny
    batch = make_batch(sample(model, tokenizer, UNEVEN))
    logprobs, entropies = Scorer(model)(batch)
    for chunk in (scoring._CHUNK, 4 * 42):
        monkeypatch.setattr(scoring, "_CHUNK", chunk)
        found, found_entropies, hits = Scorer(model).with_hits(batch)
        np.testing.assert_allclose(found, logprobs, atol=1e-5)
        np.testing.assert_allclose(found_entropies, entropies, atol=1e-5)
        expected = np.zeros(batch.mask.shape)
        for i, ids in enumerate(batch.token_ids):
            prompt = batch.prompts[batch.prompt_index[i]]
            logits = np.array(model(mx.array([[*prompt, *ids.tolist()]]))[0])
            expected[i] = logits[len(prompt) - 1 : -1].argmax(axis=-1) == ids
        own = batch.mask > 0
        assert (np.array(hits)[own] == expected[own]).all() and 0 < expected[own].mean() < 1
        _, none = gradients(model, lambda b: Scorer(model).with_hits(b)[2], batch)
        assert all((gradient == 0).all() for gradient in none.values())


def test_the_chunks_bound_the_logits_that_exist(tiny, sample, monkeypatch):
    model, tokenizer = tiny
    batch = make_batch(sample(model, tokenizer, UNEVEN))
    scorer, shapes = Scorer(model), []
    head = scorer._head
    monkeypatch.setattr(scorer, "_head", lambda hidden: shapes.append(hidden.shape) or head(hidden))
    monkeypatch.setattr(scoring, "_CHUNK", 4 * 42)
    scorer(batch)
    assert max(shape[0] for shape in shapes) == 4
    assert sum(shape[0] for shape in shapes) >= batch.mask.size


def test_turns_of_the_environment_are_read_and_not_scored(tiny, plain_logprobs):
    model, tokenizer = tiny
    start = tokenizer.encode("12+30=")
    ids, mask = [12, 13, 20, 21, 14], [1, 1, 0, 0, 1]
    trajectory = Trajectory(
        rewards=[1.0], prompt_ids=start, token_ids=ids, token_mask=mask, token_logprobs=[0.0] * 5
    )
    batch = make_batch([trajectory])
    assert batch.mask.tolist() == [mask]
    expected = plain_logprobs(model, start, ids)
    scored = np.array(mask) > 0
    logprobs = np.array(Scorer(model)(batch)[0][0])
    np.testing.assert_allclose(logprobs[scored], np.array(expected)[scored], atol=1e-5)


@pytest.mark.parametrize("train_entropies", [False, True])
def test_large_vocabularies_against_float64(large_vocabulary, train_entropies):
    """Values, and the gradients of log-probabilities and of entropies."""
    import mlx.core as mx

    rows, exact = large_vocabulary
    targets = np.array([0, 1, 7, int(rows[3].argmax())])
    probs = np.exp(exact)
    entropies = -(probs * exact).sum(axis=1)

    def score(logits):
        return scoring.token_logprobs(logits, mx.array(targets), None, train_entropies)

    logprobs, entropy = score(mx.array(rows))
    np.testing.assert_allclose(logprobs, exact[np.arange(4), targets], atol=5e-5)
    np.testing.assert_allclose(entropy, entropies, atol=1e-4)
    gradient = np.array(mx.grad(lambda x: score(x)[0].sum())(mx.array(rows)))
    expected = -probs
    expected[np.arange(4), targets] += 1
    assert np.abs(gradient - expected).max() < 5e-5
    if train_entropies:
        gradient = np.array(mx.grad(lambda x: score(x)[1].sum())(mx.array(rows)))
        expected = -probs * (exact + entropies[:, None])
        assert np.abs(gradient - expected).max() < 5e-5 * np.abs(expected).max()
