"""Completions that go on from beginnings of earlier ones, against prefilling these anew."""

from __future__ import annotations

import numpy as np
import pytest

from tests.algos.lm.architectures import config_of
from textenv.algos import create_policy
from textenv.algos.lm.generation.completions import Completion
from textenv.algos.lm.generation.generator import Generator
from textenv.algos.lm.generation.sampling import SamplingParams
from textenv.errors import ConfigError

EOS = (1, 7, 20, 31)  # so that rows end at very different times
PARAMS = SamplingParams(temperature=1.5)
LONGEST = 12


def grow(generator, anew, prompts, rounds, rng, width=2, limits=False):
    """Branch `width` times a prompt and round from anywhere in what was said so far.

    Returns the tokens of the branches' prompts, those fed for them, and the places they branch at.
    """
    said = []  # (prompt, tokens)
    todo = [(prompt, []) for prompt in prompts]
    total = fed = places = 0
    for turn in range(rounds + 1):
        inputs = [prompt + head for prompt, head in todo]
        noise = rng.random((len(todo), LONGEST), dtype=np.float32)
        most = [LONGEST - len(head) for _, head in todo]
        if limits:
            most = [int(rng.integers(1, m + 1)) for m in most]
        before = generator.tokens_prefilled
        ours = generator.generate(inputs, LONGEST, PARAMS, noise, limits=most, branches=True)
        if turn:
            total += sum(map(len, inputs))
            places += len(set(map(tuple, inputs)))
            fed += generator.tokens_prefilled - before
        for row, (prompt, head) in enumerate(todo):
            (plain,) = anew.generate([prompt + head], most[row], PARAMS, noise[row : row + 1])
            assert ours[row].token_ids == plain.token_ids
            np.testing.assert_allclose(ours[row].token_logprobs, plain.token_logprobs, atol=1e-4)
            said.append((prompt, head + ours[row].token_ids))
        parents = rng.integers(0, len(said), width * len(prompts))
        todo = []
        for prompt, tokens in (said[i] for i in parents):
            end = min(len(tokens), LONGEST - 1)
            todo.append((prompt, tokens[: rng.integers(1, end + 1)]))
    return total, fed, places


@pytest.mark.parametrize("sync_every", [1, 3])
@pytest.mark.parametrize("counts", [[1] * 6, [4, 4], [1, 5, 2]], ids=["alone", "even", "uneven"])
def test_branches_are_as_prefilled_anew(tiny, counts, sync_every):
    """Nested ones, many from one place, of rows that ended at all times: a token each is fed."""
    rng = np.random.default_rng(0)
    prompts = [p for n in counts for p in [rng.integers(2, 42, rng.integers(1, 20)).tolist()] * n]
    generator = Generator(tiny[0], EOS, sync_every=sync_every)
    total, fed, places = grow(generator, Generator(tiny[0], EOS), prompts, 3, rng)
    # The last token of each; and, of a row that was not cut, the last that it had drawn.
    assert places <= fed <= 2 * places < total / 3
    generator.forget()
    assert len(generator._kept) == 0


def test_branches_beyond_the_batch(tiny):
    """More branches than are decoded at once are taken in turn; rows beyond are prefilled."""
    rng = np.random.default_rng(1)
    prompts = [p for _ in range(3) for p in [rng.integers(2, 42, 9).tolist()] * 4]
    generator = Generator(tiny[0], EOS, batch_size=10)
    total, fed, places = grow(generator, Generator(tiny[0], EOS), prompts, 2, rng)
    assert places <= fed < total


def test_segments(tiny):
    """Each row with a limit of its own."""
    rng = np.random.default_rng(2)
    prompts = [rng.integers(2, 42, 9).tolist()] * 5
    generator = Generator(tiny[0], EOS)
    grow(generator, Generator(tiny[0], EOS), prompts, 3, rng, limits=True)


@pytest.mark.filterwarnings("ignore:models of type")
@pytest.mark.parametrize("name", ["gemma3_text", "gemma2"])  # the latter copies prompts
def test_other_architectures(random_model, name):
    rng = np.random.default_rng(3)
    model = random_model(**config_of(name))
    prompts = [p for n in (1, 3) for p in [rng.integers(2, 42, 7).tolist()] * n]
    _, fed, places = grow(Generator(model, EOS), Generator(model, EOS), prompts, 2, rng)
    assert (fed <= 2 * places) == (name == "gemma3_text")


def test_other_weights(fresh):
    """No key outlives the weights: all is prefilled again."""
    model, rng = fresh[0], np.random.default_rng(4)
    prompt = rng.integers(2, 42, 9).tolist()
    generator = Generator(model, EOS)
    noise = rng.random((2, LONGEST), dtype=np.float32)
    first = generator.generate([prompt] * 2, LONGEST, PARAMS, noise, branches=True)
    model.model.norm.weight = model.model.norm.weight * 1.5
    head = prompt + first[0].token_ids[:1]
    before = generator.tokens_prefilled
    ours = generator.generate([head], LONGEST, PARAMS, noise[:1], branches=True)
    assert generator.tokens_prefilled - before == len(head)
    plain = Generator(model, EOS).generate([head], LONGEST, PARAMS, noise[:1])
    assert ours[0].token_ids == plain[0].token_ids


def test_policy_goes_on_from_a_beginning(tiny):
    """By the noise of each token's position: from its own beginning, an answer is the same."""
    policy = create_policy(*tiny, {"max_tokens": LONGEST, "temperature": 1.5, "top_p": 0.9})
    texts, extras = policy(["12+3"] * 4, seeds=[1, 2, 3, 4], branches=True)
    heads = [
        Completion(
            *(extras[k][i] for k in ("token_ids", "token_logprobs", "token_entropies")),
            extras["support"][i],
        ).head(3 * (i > 0))
        for i in range(4)
    ]
    again, more = policy(["12+3"] * 4, seeds=[1, 2, 3, 4], begun=heads, branches=True)
    assert again == texts
    assert more["token_ids"] == extras["token_ids"] and more["prompt_ids"] == extras["prompt_ids"]
    for name in ("token_logprobs", "token_entropies", "logprob"):
        for ours, plain in zip(more[name], extras[name]):
            np.testing.assert_allclose(ours, plain, atol=1e-5)
    for ours, plain in zip(more["support"], extras["support"]):
        assert all(map(np.array_equal, ours, plain)) and len(ours) == len(plain)
    short, cut = policy("12+3", seeds=1, limits=3)
    assert cut["token_ids"] == extras["token_ids"][0][:3] and texts[0].startswith(short)
    with pytest.raises(ConfigError, match="at most"):
        policy("12+3", seeds=1, begun=heads[1], limits=3)
