"""Generation by a model's own caches, against the batches that share prompts."""

from __future__ import annotations

import numpy as np
import pytest

from tests.algos.lm.architectures import config_of
from textenv.algos.lm.generation.generator import Generator
from textenv.algos.lm.generation.plain import PlainGenerator
from textenv.algos.lm.generation.sampling import SamplingParams
from textenv.algos.lm.models.head import split_head
from textenv.errors import DataError

EOS = [1, 3, 7, 12, 37]  # often enough that rows end
SETTINGS = {
    "plain": SamplingParams(),
    "nucleus": SamplingParams(temperature=0.8, top_p=0.9),
    "greedy": SamplingParams(temperature=0.0),
}


def make(model, batch_size=8, eos=EOS):
    return PlainGenerator(model, *split_head(model), eos, batch_size)


def random_prompts(rng, *lengths):
    return [rng.integers(3, 42, length).tolist() for length in lengths]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("batch_size", [8, 2])
def test_completions_are_those_of_shared_prompts(tiny, settings, batch_size):
    """Prompts of several lengths, some of them equal; rows that end at other times."""
    rng = np.random.default_rng(0)
    prompts = random_prompts(rng, 4, 7, 4, 1)
    prompts += [prompts[0], prompts[1], prompts[0]]
    uniforms = rng.random((len(prompts), 12), dtype=np.float32)
    limits = [12, 3, 7, 12, 1, 12, 9]
    arguments = prompts, 12, SETTINGS[settings], uniforms
    ours = make(tiny[0], batch_size).generate(*arguments, limits=limits)
    theirs = Generator(tiny[0], EOS, batch_size=8).generate(*arguments, limits=limits)
    for one, other, limit in zip(ours, theirs, limits, strict=True):
        assert one.token_ids == other.token_ids and one.truncated == other.truncated
        assert len(one.token_ids) <= limit and one.truncated == (one.token_ids[-1] not in EOS)
        np.testing.assert_allclose(one.token_logprobs, other.token_logprobs, atol=1e-4)
        np.testing.assert_allclose(one.token_entropies, other.token_entropies, atol=1e-4)
        if one.support is None:
            assert other.support is None
        else:
            assert [s.tolist() for s in one.support] == [sorted(s) for s in other.support]
    assert len({c.truncated for c in ours}) == 2 or settings == "greedy"


@pytest.mark.filterwarnings("ignore:models of type")
def test_any_architecture_goes(random_model, plain_logprobs):
    """Absolute positions, which no padding may move."""
    model = random_model(**config_of("gpt2"))
    rng = np.random.default_rng(1)
    prompts = random_prompts(rng, 3, 9, 3)
    uniforms = rng.random((3, 10), dtype=np.float32)
    for prompt, done in zip(prompts, make(model).generate(prompts, 10, SamplingParams(), uniforms)):
        expected = plain_logprobs(model, prompt, done.token_ids)
        np.testing.assert_allclose(done.token_logprobs, expected, atol=1e-4)


def test_each_row_is_told_of_once(tiny):
    rng = np.random.default_rng(2)
    prompts, told = random_prompts(rng, 5, 2, 5, 2), {}
    uniforms = rng.random((4, 8), dtype=np.float32)

    def on_completion(row, completion):
        assert row not in told
        told[row] = completion

    done = make(tiny[0], eos=[10**6]).generate(
        prompts, 8, SamplingParams(), uniforms, [3, 8, 1, 5], on_completion
    )
    assert [told[row] for row in range(4)] == done
    assert [len(c.token_ids) for c in done] == [3, 8, 1, 5]


def test_logits_that_are_no_numbers_are_refused(fresh):
    model = fresh[0]
    model.model.norm.weight = model.model.norm.weight * float("nan")
    uniforms = np.zeros((1, 4), np.float32)
    with pytest.raises(DataError, match="not finite"):
        make(model).generate([[3, 4]], 4, SamplingParams(), uniforms)
