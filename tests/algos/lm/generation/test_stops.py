"""Stop strings: where they end a completion, what the answer is, and what is trained on."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from textenv.algos import create_policy
from textenv.algos.lm.generation.stops import StopStrings

STOP = ["ab", "7", "="]


def ends_at(tokenizer, ids, stop):
    """The number of tokens up to the first that completes a string or is EOS, by brute force."""
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:count])
        if ids[count - 1] == tokenizer.eos_token_id or any(s in text for s in stop):
            return count
    return None


@pytest.mark.parametrize("plainly", [False, True], ids=["batched", "plain"])
def test_a_completion_ends_with_the_first_stop_string(fresh, plain_logprobs, plainly):
    model, tokenizer = fresh
    settings = {"max_tokens": 20, "seed": 3, "top_p": 0.95}
    prompts = ["12+30=", "a", "bcd"] * 20
    free = create_policy(model, tokenizer, settings)(prompts)[1]
    policy = create_policy(model, tokenizer, {**settings, "stop": STOP})
    model.runs_plainly = plainly
    texts, extras = policy(prompts)
    kinds = set()
    for i, text in enumerate(texts):
        ids, before = extras["token_ids"][i], free["token_ids"][i]
        count = ends_at(tokenizer, before, STOP)
        assert ids == before[:count]  # the same noise, up to the string, whose tokens are there
        assert extras["truncated"][i] == (count is None)
        by_eos = ids[-1] == tokenizer.eos_token_id
        whole = tokenizer.decode(ids[:-1] if by_eos else ids)
        assert text == whole[: min([whole.find(s) for s in STOP if s in whole], default=None)]
        kinds.add("cut" if count is None else "eos" if by_eos else "stop")
        expected = plain_logprobs(model, extras["prompt_ids"][i], ids, support=extras["support"][i])
        np.testing.assert_allclose(extras["token_logprobs"][i], expected, atol=1e-4)
    assert kinds == {"cut", "eos", "stop"}


def test_the_tokens_of_a_stop_string_count_in_the_loss(tiny, sample):
    from textenv.algos.lm.scoring.batch import make_batch

    trajectories = sample(*tiny, ["12+30="] * 16, stop=["7", "ab"])
    stopped = [t for t in trajectories if not t.completion_truncated and t.token_ids[-1] != 1]
    assert stopped
    batch = make_batch(stopped, mask_truncated_completions=True)
    assert batch.mask.sum() == sum(len(t.token_ids) for t in stopped)


def test_a_string_that_begins_in_what_was_begun_ends_a_completion(tiny):
    from textenv.algos.lm.generation.completions import Completion

    model, tokenizer = tiny
    policy = create_policy(model, tokenizer, {"max_tokens": 9, "seed": 1, "stop": ["ab"]})
    a, b = tokenizer.encode("ab")
    head = Completion([a], [0.0], [0.0])
    _, extras = policy(["12+30="] * 300, begun=[head] * 300)
    second = [ids[1] for ids in extras["token_ids"]]
    lengths = {len(ids) for ids in extras["token_ids"] if ids[1] == b}
    assert b in second
    assert lengths == {2}


def test_strings_are_found_though_tokens_are_parts_of_characters():
    """A byte-pair tokenizer: strings lie across tokens, and tokens hold half a character."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["the end\n\nUser: the END é ✓✓ \n\n\n Ωmega"] * 3, trainer)
    rng, strings = np.random.default_rng(0), ("\n\n", "✓✓", "END", "é ")
    stops = StopStrings(tokenizer.decode, strings)
    found = 0
    for _ in range(300):
        pieces = rng.choice(
            ["the", " end", "\n", "\n\n", "✓", "é", " ", "EN", "D", "Ω", "x" * 30], 12
        )
        ids = tokenizer.encode("".join(pieces)).ids
        text = tokenizer.decode(ids)
        first = next((n for n in range(1, len(ids) + 1)
                      if any(s in tokenizer.decode(ids[:n]) for s in strings)), None)  # fmt: skip
        ours = next((n for n in range(1, len(ids) + 1) if stops.end(ids[:n])), None)
        assert ours == first
        places = [text.find(s) for s in strings if s in text]
        assert stops.cut(text) == text[: min(places, default=len(text))]
        found += bool(places)
    assert 100 < found < 300


@pytest.mark.parametrize(
    ("stop", "error", "words"),
    [
        ("\n", TypeError, "list of strings"),
        ([3], TypeError, "list of strings"),
        (["a", ""], ValueError, "empty string"),
    ],
)
def test_bad_strings_are_refused(tiny, stop, error, words):
    with pytest.raises(error, match=words):
        create_policy(*tiny, {"stop": stop})


def test_a_conversation_goes_on_after_a_stop_string(random_model):
    """The template closes the turn that a string has ended, as any that was cut off."""
    from tests.algos.lm.generation.shared import config_for, family

    tokenizer = family("chatml")
    model = copy.deepcopy(random_model(**config_for(tokenizer)))
    policy = create_policy(model, tokenizer, {"max_tokens": 30, "stop": ["a", "e"], "seed": 2})
    _, extras = policy(["Hi"] * 8)
    ids = extras["token_ids"]
    row = next(i for i in range(8) if ids[i][-1] in tokenizer.encode("ae"))
    context = [*extras["prompt_ids"][row], *ids[row]]
    after = policy(["Hi"], infos=[{"turn": "Ho"}], context=[context])[1]["prompt_ids"][0]
    between = "<|im_end|>\n<|im_start|>user\nHo<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(after) == tokenizer.decode(context) + between
