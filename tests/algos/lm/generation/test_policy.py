"""The sampler against plain forwards through mlx-lm: no batch, no cache, no padding."""

from __future__ import annotations

import numpy as np
import pytest

from tests.algos.lm.architectures import ARCHITECTURES, BASE, config_of
from tests.algos.shared import make_policy
from textenv import TextGenerationEnv
from textenv.algos import RolloutRunner, create_policy, create_strategy, load_model
from textenv.algos.lm.generation import policy as policy_module
from textenv.algos.lm.generation.policy import PRECISIONS
from textenv.algos.lm.models.properties import count_parameters
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.runtime import blas
from textenv.errors import ConfigError

PROMPTS = ["12+30=", "a", "the longest of these prompts = ", "12+30=", "ab", "a"] * 2


def recorded(extras):
    """Rows of (prompt ids, token ids, log-probabilities, entropies, support, temperature)."""
    tokens = (extras[f"token_{name}"] for name in ("ids", "logprobs", "entropies"))
    return list(zip(extras["prompt_ids"], *tokens, extras["support"], extras["temperature"]))


@pytest.mark.parametrize("deterministic", [False, True])
def test_logprobs_are_those_of_the_distribution_drawn_from(
    tiny, plain_logprobs, slow_restrict, sampling, deterministic
):
    import mlx.core as mx

    model, tokenizer = tiny
    policy = create_policy(model, tokenizer, {"max_tokens": 12, "seed": 5, **sampling})
    _, extras = policy(PROMPTS, deterministic=deterministic)
    settings = {"temperature": 0.0} if deterministic else sampling
    compared = 0
    for prompt_ids, tokens, logprobs, entropies, support, temperature in recorded(extras):
        expected = plain_logprobs(model, prompt_ids, tokens, temperature, support)
        np.testing.assert_allclose(logprobs, expected, atol=1e-4)
        logits = np.array(model(mx.array([prompt_ids + tokens]))[0], np.float64)
        for t, token in enumerate(tokens):
            row = logits[len(prompt_ids) - 1 + t]
            ids, probs, margin = slow_restrict(row, **settings)
            if margin < 1e-4:
                continue
            compared += 1
            kept = np.arange(len(row)) if support is None else support[t]
            assert sorted(kept) == sorted(ids)
            assert token in ids
            # The normalizer that was recorded makes the support's probabilities sum to 1.
            scaled = row[kept] / temperature
            normalizer = row[token] / temperature - logprobs[t]
            assert np.exp(scaled - normalizer).sum() == pytest.approx(1, abs=1e-4)
            assert entropies[t] == pytest.approx(-(probs * np.log(probs)).sum(), abs=1e-4)
    assert compared > 80


def test_a_ragged_batch_is_like_one_at_a_time(tiny, sampling):
    settings = {"max_tokens": 16, "seed": 2, **sampling}
    texts, extras = create_policy(*tiny, settings)(PROMPTS)
    alone = create_policy(*tiny, settings)  # the noise goes on from call to call
    for i, prompt in enumerate(PROMPTS):
        text, own = alone(prompt)
        assert (text, own["token_ids"]) == (texts[i], extras["token_ids"][i])
        assert own["prompt_ids"] == extras["prompt_ids"][i]
        np.testing.assert_allclose(own["token_logprobs"], extras["token_logprobs"][i], atol=1e-4)
    pieces = create_policy(*tiny, {**settings, "batch_size": 5})(PROMPTS)
    assert pieces[1]["token_ids"] == extras["token_ids"]


def test_eos_and_truncation(tiny):
    _, tokenizer = tiny
    policy = create_policy(*tiny, {"max_tokens": 20, "seed": 1})
    texts, extras = policy(["12+30="] * 96)
    eos = tokenizer.eos_token_id
    for text, ids, logprobs, truncated in zip(
        texts, extras["token_ids"], extras["token_logprobs"], extras["truncated"]
    ):
        assert eos not in ids[:-1]
        assert truncated == (ids[-1] != eos)
        assert len(ids) == len(logprobs) <= 20
        assert len(ids) == 20 or not truncated
        assert text == tokenizer.decode(ids if truncated else ids[:-1])
    assert 10 < sum(extras["truncated"]) < 86
    np.testing.assert_allclose(
        extras["logprob"], [sum(row) for row in extras["token_logprobs"]], rtol=1e-6
    )


def test_any_eos_of_the_model_ends_a_completion(tiny):
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    model, tokenizer = tiny
    stops = {1, 20, 21, 22}
    policy = create_policy(
        model, TokenizerWrapper(tokenizer._tokenizer, eos_token_ids=stops), {"max_tokens": 20}
    )
    ids = policy(["12+30="] * 256)[1]["token_ids"]
    assert {row[-1] for row in ids if len(row) < 20} == stops
    assert not any(stops & set(row[:-1]) for row in ids)


def test_equal_prompts_are_prefilled_once(tiny):
    policy = create_policy(*tiny, {"max_tokens": 3, "seed": 0})
    shapes, body = [], policy._generator._body

    def spy(ids, cache=None):
        shapes.append(ids.shape)
        return body(ids, cache)

    policy._generator._body = policy._generator._step._body = spy
    policy(["12+30="] * 8 + ["a"] * 8)
    assert shapes[0] == (2, 8)  # the two prompts, padded to a width that comes again
    assert shapes[1] == (16, 1)


def test_bfloat16_rounds_what_is_sampled_and_nothing_else(random_model, tiny, plain_logprobs):
    """The log-probabilities are those of the distribution drawn from, but for the rounding."""
    try:
        blas.check_half()
    except ConfigError:
        pytest.skip("this machine has no products in bfloat16")
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
    model = random_model(**(BASE | {"model_type": "llama"} | sizes))
    settings = {"max_tokens": 12, "seed": 5, "temperature": 2.0}
    policies = [create_policy(model, tiny[1], settings | {"precision": p}) for p in PRECISIONS]
    exact, rounded = (recorded(policy(PROMPTS)[1]) for policy in policies)
    differences = []
    for prompt_ids, tokens, logprobs, *_, temperature in rounded:
        expected = plain_logprobs(model, prompt_ids, tokens, temperature, None)
        differences.extend(np.abs(np.array(logprobs) - expected))
    assert 1e-4 < np.mean(differences) < 0.1
    equal = [a[1][0] == b[1][0] for a, b in zip(exact, rounded)]
    assert np.mean(equal) > 0.6  # the noise is the same
    greedy = [recorded(policy(PROMPTS, deterministic=True)[1]) for policy in policies]
    assert greedy[0] == greedy[1]
    assert recorded(create_policy(model, tiny[1], settings)(PROMPTS)[1]) == exact


def test_auto_is_bfloat16_for_a_large_model_where_there_is_such_a_product(tiny, monkeypatch):
    model, tokenizer = tiny
    weights = count_parameters(model)

    def chosen(there, least):
        monkeypatch.setattr(blas, "has_half", lambda: there)
        monkeypatch.setattr(policy_module, "HALF_FROM", least)
        return create_policy(model, tokenizer, {"precision": "auto"}).params.precision

    assert chosen(True, weights) == "bfloat16"
    assert chosen(True, weights + 1) == chosen(False, weights) == "float32"


def test_an_unknown_precision_is_refused(tiny):
    with pytest.raises(ConfigError, match="unknown precision 'bfloat'; did you mean 'bfloat16'"):
        create_policy(*tiny, {"precision": "bfloat"})


def test_greedy_is_what_mlx_lm_generates(tiny):
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    model, tokenizer = tiny
    policy = create_policy(model, tokenizer, {"max_tokens": 20, "top_p": 0.5})
    prompts = ["12+30=", "a", "some longer prompt", "z"]
    _, extras = policy(prompts, deterministic=True)
    for prompt, ids in zip(prompts, extras["token_ids"]):
        expected = []
        for token, _ in generate_step(mx.array(tokenizer.encode(prompt)), model, max_tokens=20):
            expected.append(int(token))
            if expected[-1] in tokenizer.eos_token_ids:
                break
        assert ids == expected


def test_seeds_reproduce(tiny):
    def sample(seed):
        policy = create_policy(*tiny, {"max_tokens": 8, "seed": seed})
        return policy(["a"] * 4)[0] + policy(["a"] * 4)[0]

    first = sample(3)
    assert first == sample(3)
    assert first != sample(4)
    assert first[:4] != first[4:]  # the second call draws anew
    policy = create_policy(*tiny, {"max_tokens": 8, "seed": 3})
    policy(["b"] * 3, deterministic=True)  # uses no noise
    assert policy(["a"] * 4)[0] == first[:4]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_architectures(random_model, tiny, plain_logprobs, name):
    """Sliding windows shorter than the prompts; scaled and capped logits."""
    model = random_model(**config_of(name))
    policy = create_policy(model, tiny[1], {"max_tokens": 14, "top_p": 0.95, "seed": 1})
    _, extras = policy(PROMPTS)
    for prompt_ids, tokens, logprobs, _, support, temperature in recorded(extras):
        expected = plain_logprobs(model, prompt_ids, tokens, temperature, support)
        np.testing.assert_allclose(logprobs, expected, atol=1e-4)
    assert max(map(len, extras["token_ids"])) == 14


def test_logits_that_are_no_numbers_are_refused(fresh):
    model, tokenizer = fresh
    model.model.norm.weight = model.model.norm.weight * float("nan")
    with pytest.raises(ValueError, match="not finite"):
        create_policy(model, tokenizer, {"max_tokens": 4})("12+30=")


TEMPLATE = (
    "{% for message in messages %}={{ message['content'] }}={% endfor %}"
    "{% if add_generation_prompt %}a-{% endif %}"
)


def test_the_chat_template_is_applied_once(tiny_folder, tmp_path):
    import shutil

    folder = shutil.copytree(tiny_folder, tmp_path / "instruct")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    model, tokenizer = load_model(folder)
    expected = tokenizer.apply_chat_template(
        [{"role": "user", "content": "12+30"}], add_generation_prompt=True
    )
    assert tokenizer.decode(expected) == "=12+30=a-"
    policy = create_policy(model, tokenizer, {"max_tokens": 4})
    assert policy("12+30")[1]["prompt_ids"] == expected
    plain = create_policy(model, tokenizer, {"max_tokens": 4, "chat_template": False})
    assert plain("12+30")[1]["prompt_ids"] == tokenizer.encode("12+30")

    env = TextGenerationEnv(["12+30"], lambda prompt, completion, example: 0.0)
    buffer = RolloutRunner(env, policy, create_strategy("grpo"), max_steps=8).collect()
    assert make_batch(buffer.trajectories).prompts == [expected]
    assert buffer.trajectories[0].prompt == "12+30"


def test_a_missing_chat_template_is_refused(tiny):
    with pytest.raises(ValueError, match="no chat template"):
        create_policy(*tiny, {"chat_template": True})


def test_bad_prompts(tiny):
    policy = create_policy(*tiny, {"max_tokens": 100})
    assert len(policy("1" * 28)[1]["prompt_ids"]) == 28  # 28 + 100 = 128 just fits
    with pytest.raises(ValueError, match=r"29 tokens.*max_tokens=100.*context of 128"):
        policy(["1", "1" * 29])
    with pytest.raises(ValueError, match="empty"):
        policy("")
    with pytest.raises(TypeError, match="int"):
        policy([3])
    with pytest.warns(UserWarning, match="does not know some of prompt 'caf"):
        policy("café", deterministic=True)


def test_noise_follows_from_the_seed_of_each_row(tiny_folder):
    policy = make_policy(tiny_folder, top_p=0.9, seed=5)
    prompts = ["1+1=", "2+2=", "1+1="]
    answers, _ = policy(prompts, seeds=[1, 2, 3])
    assert [policy(p, seeds=s)[0] for p, s in zip(prompts[::-1], [3, 2, 1])] == answers[::-1]
    assert make_policy(tiny_folder, top_p=0.9, seed=6)(prompts, seeds=[1, 2, 3])[0] != answers
    # Without seeds one stream runs on, which the calls above did not touch.
    fresh = make_policy(tiny_folder, top_p=0.9, seed=5)
    stream = [fresh("1+1=")[0] for _ in range(6)]
    assert [policy("1+1=")[0] for _ in range(6)] == stream
    assert len(set(stream)) > 1
