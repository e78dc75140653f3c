"""GRPO in one file: its parts equal those of the trainer, and it learns."""

import re

import numpy as np
import pytest

SUMS = ["12+30=", "58+67=", "99+99="]


@pytest.fixture(scope="module")
def grpo_file(example):
    return example("grpo_single_file")


@pytest.fixture(scope="module")
def tiny_lm(grpo_file):
    return grpo_file.mlx_lm.load(str(grpo_file.ASSETS / "tiny-lm"))


@pytest.fixture(scope="module")
def sampled(grpo_file, tiny_lm):
    """Completions of prompts of two lengths, some of them cut."""
    grpo_file.mx.random.seed(1)
    prompts = [p for p in [*SUMS, "reverse ihbjg="] for _ in range(4)]
    completions = grpo_file.sample(*tiny_lm, prompts, max_tokens=4)
    assert {len(c.prompt) for c in completions} == {6, 14}
    return completions


def test_advantages_are_the_trainers(grpo_file):
    from textenv.algos.grpo import compute_advantages

    rewards = np.array([[1, 0, 0, 0], [1, 1, 1, 1], [0.1 + 0.2, 0.3, 0.3, 0.3], [-1, 0.5, 2, 7]])
    found = grpo_file.advantage(rewards)
    expected = compute_advantages(rewards.ravel(), np.repeat(np.arange(4), 4)).reshape(4, 4)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found[0], [1.4997, -0.4999, -0.4999, -0.4999], atol=1e-4)
    assert not found[1:3].any()


def test_the_loss_and_its_gradient_are_the_trainers(grpo_file):
    from textenv.algos.grpo import policy_loss

    mx, rng = grpo_file.mx, np.random.default_rng(0)
    logprobs, old = (mx.array(-rng.exponential(1, (6, 5)), mx.float32) for _ in range(2))
    advantages = mx.array(rng.normal(size=6), mx.float32)
    mask = mx.array(rng.random((6, 5)) < 0.6, mx.float32)

    def ours(x):
        return grpo_file.loss(x, old, advantages, mask, 0.2)

    def trainers(x):
        return policy_loss(x, old, advantages, mask, loss_type="dapo", epsilon=0.2)[0]

    ratio = np.exp(np.array(logprobs - old))
    assert (ratio < 0.8).any() and (ratio > 1.2).any()  # some are clipped
    for found, expected in zip(
        mx.value_and_grad(ours)(logprobs), mx.value_and_grad(trainers)(logprobs)
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_padding_may_hold_anything(grpo_file):
    mx = grpo_file.mx
    logprobs, mask = mx.array([[-1.0, 500.0]]), mx.array([[1.0, 0.0]])
    found = grpo_file.loss(logprobs, mx.array([[-1.0, -500.0]]), mx.array([2.0]), mask, 0.2)
    assert found.item() == -2


def test_recorded_logprobs_are_those_of_a_plain_forward(grpo_file, tiny_lm, sampled):
    model, mx = tiny_lm[0], grpo_file.mx
    for completion in sampled:
        logits = model(mx.array([completion.prompt + completion.tokens]))[0]
        logits = np.array(logits, np.float64)[len(completion.prompt) - 1 : -1]
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        expected = logprobs[np.arange(len(completion.tokens)), completion.tokens]
        np.testing.assert_allclose(completion.logprobs, expected, atol=1e-4)


def test_completions_end_with_eos_or_are_cut(tiny_lm, sampled):
    eos = tiny_lm[1].eos_token_ids
    for completion in sampled:
        assert not eos & set(completion.tokens[:-1])
        assert completion.tokens[-1] in eos or len(completion.tokens) == 4
    assert {c.tokens[-1] in eos for c in sampled} == {True, False}


def test_packed_rows_hold_each_completion_in_its_place(grpo_file, tiny_lm, sampled):
    ids, old, mask = map(np.array, grpo_file.pack(sampled))
    logprobs = np.array(
        grpo_file.logprobs_of(
            tiny_lm[0](grpo_file.mx.array(ids[:, :-1])), grpo_file.mx.array(ids[:, 1:])
        )
    )
    np.testing.assert_allclose(np.where(mask, logprobs, 0), old, atol=1e-4)
    for row, completion in enumerate(sampled):
        assert ids[row, 1:][mask[row] == 1].tolist() == completion.tokens
        np.testing.assert_array_equal(old[row][mask[row] == 1], np.float32(completion.logprobs))


def test_rewards_are_of_the_completions_own_examples(grpo_file, tiny_lm):
    tokenizer = tiny_lm[1]
    env = grpo_file.gym.make("textenv:TextGen-v0")
    ids, completions = [], []
    for example_id in range(3):
        prompt, _ = env.reset(options={"example_id": example_id})
        answer = env.unwrapped.task.oracle(env.unwrapped.example)
        for text, end in ((answer, [tokenizer.eos_token_id]), (answer, []), ("0", [])):
            ids.append(example_id)
            tokens = tokenizer.encode(text) + end
            completions.append(grpo_file.Completion(tokenizer.encode(prompt), tokens))
    assert grpo_file.reward(env, tokenizer, ids, completions).tolist() == [1, 1, 0] * 3


def test_it_learns(grpo_file, capsys):
    grpo_file.train(grpo_file.Args(steps=8, eval_every=8, eval_examples=200))
    before, after = map(float, re.findall(r"accuracy ([\d.]+)", capsys.readouterr().out))
    assert before < 0.6 and after > 0.75
