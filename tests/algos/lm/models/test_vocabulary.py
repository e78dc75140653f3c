"""Rows without a token are never sampled nor scored; tokens without a row are refused."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest

from tests.algos.conftest import CHARACTERS, CONFIG, make_tokenizer
from textenv.algos import create_policy, load_model
from textenv.algos.lm.models.vocabulary import embedding_rows, fit_vocabulary
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.lm.scoring.scorer import Scorer, frozen_scores

KNOWN = len(CHARACTERS)


def wrapped(tokenizer):
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    return TokenizerWrapper(tokenizer)


@pytest.fixture
def wide(random_model):
    """A model with 64 rows for the 42 tokens of its tokenizer."""
    return random_model(**CONFIG | {"vocab_size": 64}), wrapped(make_tokenizer())


@pytest.mark.parametrize("plainly", [False, True], ids=["batched", "plain"])
@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}, {"top_k": 50}], ids=str)
def test_ids_without_a_token_are_masked_in_sampling_and_scoring(
    wide, plain_logprobs, sample, settings, plainly
):
    model, tokenizer = wide
    create_policy(model, tokenizer)
    model.runs_plainly = plainly
    trajectories = sample(model, tokenizer, ["12+30=", "a"] * 16, **settings)
    assert max(max(t.token_ids) for t in trajectories) < KNOWN
    batch = make_batch(trajectories)
    logprobs, entropies = map(np.array, Scorer(model)(batch))
    for row, number in enumerate(batch.order):
        t = trajectories[number]
        support = t.support or [np.arange(KNOWN)] * len(t.token_ids)
        assert max(map(max, support)) < KNOWN
        expected = plain_logprobs(model, t.prompt_ids, t.token_ids, support=support)
        np.testing.assert_allclose(t.token_logprobs, expected, atol=1e-4)
        np.testing.assert_allclose(logprobs[row, : len(expected)], expected, atol=1e-4)
        np.testing.assert_allclose(entropies[row, : len(expected)], t.token_entropies, atol=1e-3)


def test_unmasked_they_would_be_sampled(wide):
    """The test above is one: a third of the rows are no tokens."""
    model, tokenizer = wide
    policy = create_policy(model, tokenizer, {"max_tokens": 9})
    policy._generator._head = policy._generator._step._head = lambda hidden: (
        model.model.embed_tokens.as_linear(hidden)
    )
    assert max(map(max, policy(["a"] * 16)[1]["token_ids"])) >= KNOWN


def test_gradients_are_those_of_the_masked_distribution(wide, sample, monkeypatch):
    """With logits in one piece and in chunks, against softmax over the tokens alone."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    import textenv.algos.lm.scoring.scorer as scoring

    model, tokenizer = wide
    batch = make_batch(sample(model, tokenizer, ["12+30=", "a"] * 3))
    mask = mx.array(batch.mask)

    def ours(model):
        return (Scorer(model)(batch)[0] * mask).sum()

    def by_hand(model):
        total = mx.array(0.0)
        for row in range(len(batch)):
            count, prompt = int(batch.mask[row].sum()), batch.prompts[batch.prompt_index[row]]
            ids = batch.token_ids[row, :count].tolist()
            logits = model(mx.array([[*prompt, *ids]]))[0, len(prompt) - 1 : -1, :KNOWN]
            logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            total = total + mx.take_along_axis(logprobs, mx.array(ids)[:, None], axis=-1).sum()
        return total

    expected = dict(tree_flatten(nn.value_and_grad(model, by_hand)(model)[1]))
    for chunk in (2**20, 4 * 64):
        monkeypatch.setattr(scoring, "_CHUNK", chunk)
        monkeypatch.setattr(scoring, "_OF_HEAD", 10**9)
        grads = dict(tree_flatten(nn.value_and_grad(model, ours)(model)[1]))
        for name, grad in expected.items():
            np.testing.assert_allclose(grads[name], grad, atol=1e-4, err_msg=name)


def test_reference_scores_and_copies_of_the_model_have_the_mask_too(wide, sample):
    model, tokenizer = wide
    fit_vocabulary(model, tokenizer)
    batch = make_batch(sample(model, tokenizer, ["12+30="] * 4))
    before = np.array(frozen_scores(model)(batch))
    assert (copy.deepcopy(model).known_ids == model.known_ids).all()
    own = batch.mask > 0
    np.testing.assert_allclose(before[own], batch.old_logprobs[own], atol=1e-4)


def test_holes_among_the_ids_are_masked_too(wide):
    model, _ = wide
    tokenizer = make_tokenizer()
    state = json.loads(tokenizer._tokenizer.to_str())
    state["model"]["vocab"]["q"] = 60  # 60 is the last id, and the old one of q is none
    tokenizer._tokenizer = type(tokenizer._tokenizer).from_str(json.dumps(state))
    hole = CHARACTERS.index("q")
    policy = create_policy(model, wrapped(tokenizer), {"max_tokens": 16})
    assert (np.flatnonzero(model.known_ids) == sorted({*range(KNOWN), 60} - {hole})).all()
    drawn = {i for ids in policy(["a"] * 64)[1]["token_ids"] for i in ids}
    assert 60 in drawn
    assert drawn <= set(np.flatnonzero(model.known_ids).tolist())


def test_a_model_as_wide_as_its_tokenizer_has_no_mask(tiny):
    assert tiny[0].known_ids.all()
    assert embedding_rows(tiny[0]) == KNOWN


# -- token ids beyond the embedding


def with_id(folder, path, word, number, added):
    """A copy of a model's folder whose tokenizer has one more token."""
    shutil.copytree(folder, path)
    state = json.loads((path / "tokenizer.json").read_text())
    if added is None:
        state["model"]["vocab"][word] = number
    else:
        token = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        state["added_tokens"].append(token | {"id": number, "content": word, "special": added})
        state["model"]["vocab"][word] = number
    (path / "tokenizer.json").write_text(json.dumps(state))
    return path


@pytest.mark.parametrize("added", [None, False], ids=["word", "added"])
def test_ids_beyond_the_embedding_are_refused_when_loading(tiny_folder, tmp_path, added):
    folder = with_id(tiny_folder, tmp_path / "far", "Z", 999_999, added)
    with pytest.raises(ValueError, match=rf"{folder}.*999999.*{KNOWN} rows"):
        load_model(folder)


def test_a_model_with_another_models_tokenizer_is_refused(tiny, random_model):
    small = random_model(**CONFIG | {"vocab_size": 20})
    with pytest.raises(ValueError, match=rf"up to {KNOWN - 1}.* 20 rows"):
        create_policy(small, tiny[1])


def test_a_special_token_beyond_the_embedding_is_refused_in_a_text(tiny_folder, tmp_path):
    """Gemma 3's text models are sold with one, for images."""
    folder = with_id(tiny_folder, tmp_path / "image", "<image>", KNOWN, True)
    policy = create_policy(*load_model(folder), {"max_tokens": 4})
    assert policy("12+30=")[0] is not None
    with pytest.raises(ValueError, match=rf"token id {KNOWN}.*{KNOWN} rows"):
        policy("<image>=")


def test_rollouts_of_another_models_tokens_are_refused_when_they_are_scored(tiny, sample):
    batch = make_batch(sample(*tiny, ["12+30=", "a"]))
    scorer = Scorer(tiny[0])
    for ids in (batch.token_ids[0], batch.prompts[0]):
        kept, ids[0] = ids[0], KNOWN
        for score in (scorer, scorer.hidden):
            with pytest.raises(ValueError, match=rf"token id {KNOWN}, .*{KNOWN} rows"):
                score(batch)
        ids[0] = kept
    scorer(batch)
