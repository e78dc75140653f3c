"""What a policy records in chats, against plain forwards of a Llama with a byte-pair tokenizer.

A chat template, stop strings, several turns and truncated sampling come together here, as they do
with a real model.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.algos.lm.generation.shared import CORPUS, byte_pair_tokenizer, llama_config
from textenv.algos import Trajectory, create_policy
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.lm.scoring.scorer import Scorer

WORDS = CORPUS.split()
STOP = ["the", "o", "?"]
RESTRICTED = {
    "plain": {},
    "top_p": {"top_p": 0.9},
    "min_p": {"min_p": 0.1},
    "both": {"temperature": 0.8, "top_p": 0.95, "min_p": 0.02},
}


@pytest.fixture(scope="module")
def llama(random_model):
    tokenizer = byte_pair_tokenizer()
    return random_model(**llama_config(tokenizer)), tokenizer


def said(rng, most=12):
    """Some words, fewer or more."""
    return " ".join(rng.choice(WORDS, int(rng.integers(1, most))))


def check(model, plain_logprobs, prompt_ids, extras, row):
    """One answer against a forward of its own."""
    tokens, support = extras["token_ids"][row], extras["support"][row]
    expected = plain_logprobs(model, prompt_ids, tokens, extras["temperature"][row], support)
    np.testing.assert_allclose(extras["token_logprobs"][row], expected, atol=1e-4)
    assert support is None or all(token in ids for token, ids in zip(tokens, support))


def talk(policy, tokenizer, rows, turns, seed=0):
    """(messages, extras) of each turn of some conversations with prompts of mixed lengths."""
    rng = np.random.default_rng(seed)
    chats = [[{"role": "user", "content": said(rng)}] for _ in range(rows)]
    contexts, new = [None] * rows, [chat[0]["content"] for chat in chats]
    for turn in range(turns):
        infos = [{"turn": text, "messages": list(chat)} for text, chat in zip(new, chats)]
        texts, extras = policy(
            [chat[0]["content"] for chat in chats],
            infos=infos,
            context=contexts,
            continues=turn + 1 < turns,
        )
        yield [list(chat) for chat in chats], texts, extras
        contexts = [[*p, *t] for p, t in zip(extras["prompt_ids"], extras["token_ids"])]
        new = [said(rng, 5) for _ in range(rows)]
        for chat, answer, text in zip(chats, texts, new):
            chat += [{"role": "assistant", "content": answer}, {"role": "user", "content": text}]


def test_the_tokenizer_has_tokens_of_several_bytes():
    tokenizer = byte_pair_tokenizer()
    text = "they think that the thing is there"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) < len(text) / 2 and tokenizer.decode(ids) == text
    assert tokenizer.decode(tokenizer.encode("über", add_special_tokens=False)) == "über"


@pytest.mark.parametrize("rows", [1, 7, 33])
@pytest.mark.parametrize("settings", RESTRICTED.values(), ids=RESTRICTED)
def test_recorded_logprobs_are_those_of_plain_forwards(llama, plain_logprobs, settings, rows):
    model, tokenizer = llama
    params = {"max_tokens": 10, "seed": rows, "stop": STOP, **settings}
    policy = create_policy(model, tokenizer, params)
    for messages, texts, extras in talk(policy, tokenizer, rows, 1):
        for row in range(rows):
            prompt_ids = extras["prompt_ids"][row]
            whole = tokenizer.apply_chat_template(messages[row], add_generation_prompt=True)
            assert prompt_ids == list(whole)
            check(model, plain_logprobs, prompt_ids, extras, row)
            assert not any(stop in texts[row] for stop in STOP)
    assert len({len(ids) for ids in extras["prompt_ids"]}) > min(rows - 1, 3)
    if rows == 33:  # every way to end is there
        pairs = zip(extras["token_ids"], extras["truncated"])
        ways = {"cut" if cut else ids[-1] == tokenizer.eos_token_id for ids, cut in pairs}
        assert "cut" in ways and False in ways


@pytest.mark.parametrize("rows", [1, 7, 33])
@pytest.mark.parametrize("settings", RESTRICTED.values(), ids=RESTRICTED)
def test_over_turns_too_and_the_scorer_agrees(llama, plain_logprobs, settings, rows):
    """Turns go on from kept keys and values; the whole is scored once more as training does it."""
    model, tokenizer = llama
    params = {"max_tokens": 6, "seed": 3, "stop": STOP, **settings}
    policy = create_policy(model, tokenizer, params)
    whole = []
    for _, _, extras in talk(policy, tokenizer, rows, 3, seed=rows):
        for row in range(rows):
            check(model, plain_logprobs, extras["prompt_ids"][row], extras, row)
            if len(whole) <= row:
                whole.append(_begun(extras, row))
            else:
                _go_on(whole[row], extras, row)
    batch = make_batch(whole)
    logprobs = np.array(Scorer(model)(batch)[0])
    own = batch.mask > 0
    np.testing.assert_allclose(logprobs[own], batch.old_logprobs[own], atol=1e-4)
    assert own.sum() == sum(sum(t.token_mask) for t in whole)
    assert (batch.mask[:, :-1] < batch.mask[:, 1:]).any()  # something stands between the turns


def _begun(extras, row):
    count = len(extras["token_ids"][row])
    return Trajectory(
        rewards=[0.0],
        prompt_ids=extras["prompt_ids"][row],
        token_ids=list(extras["token_ids"][row]),
        token_mask=[1] * count,
        token_logprobs=list(extras["token_logprobs"][row]),
        support=None if extras["support"][row] is None else list(extras["support"][row]),
        temperature=extras["temperature"][row],
    )


def _go_on(trajectory, extras, row):
    """Add what the environment said, and the next answer."""
    so_far = [*trajectory.prompt_ids, *trajectory.token_ids]
    prompt_ids = extras["prompt_ids"][row]
    assert prompt_ids[: len(so_far)] == so_far
    between = prompt_ids[len(so_far) :]
    trajectory.token_ids += [*between, *extras["token_ids"][row]]
    trajectory.token_mask += [0] * len(between) + [1] * len(extras["token_ids"][row])
    trajectory.token_logprobs += [0.0] * len(between) + list(extras["token_logprobs"][row])
    if trajectory.support is not None:
        trajectory.support += [[token] for token in between] + list(extras["support"][row])


def test_stop_strings_that_tokens_cut_in_two(llama, plain_logprobs):
    """A stop string that no token ends with, and one in the middle of a token."""
    model, tokenizer = llama
    stops = ["he", "hi"]
    policy = create_policy(model, tokenizer, {"max_tokens": 12, "seed": 1, "stop": stops})
    texts, extras = policy([" ".join(WORDS[i : i + 1 + i % 9]) for i in range(33)])
    stopped = 0
    for row, text in enumerate(texts):
        check(model, plain_logprobs, extras["prompt_ids"][row], extras, row)
        written = tokenizer.decode(extras["token_ids"][row])
        before = tokenizer.decode(extras["token_ids"][row][:-1])
        assert not any(stop in text or stop in before for stop in stops)
        stopped += any(stop in written for stop in stops)
    assert stopped
