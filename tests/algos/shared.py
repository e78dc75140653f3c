"""Rewards, environments, policies and checks that tests of several folders use.

Worker processes import this module by its name, so what is defined here can be sent to them.
"""

from __future__ import annotations

import gc

import numpy as np

from textenv import TextGenerationEnv

PROMPTS = ["12+30=", "a", "hello there", "9-1="]
SUMS = [f"{i}+{i}=" for i in range(10)]


def lowest_peak(compute, times=5):
    """The fewest bytes that MLX took at once beyond those it held, of some runs of a function.

    The function evaluates what it computes. On a busy machine arrays are freed late, and a peak is
    too high.
    """
    import mlx.core as mx

    gc.collect()  # or what is freed meanwhile would be taken off
    peaks = []
    for _ in range(times):
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        compute()
        peaks.append(mx.get_peak_memory() - before)
    return min(peaks)


def vowels(prompt, completion, example):
    """A sixth for each vowel of the completion."""
    return sum(c in "aeiou" for c in completion) / 6


def length(prompt, completion, example):
    """The number of characters of the completion."""
    return float(len(completion))


def total(prompt, completion, example):
    """The sum of the codes of the completion's characters, which seldom are equal."""
    return float(sum(map(ord, completion)))


def starts_with(letter):
    """A reward of 1 for completions that begin with this letter, and of 0 for others."""

    def starts_with(prompt, completion, example):
        return float(completion.startswith(letter))

    return starts_with


def make_env(reward_fn=vowels, prompts=PROMPTS):
    """An environment of one turn for each of these prompts."""
    return TextGenerationEnv(prompts, reward_fn)


def make_policy(folder, **settings):
    """A policy of the model in this folder, which answers with six tokens at most."""
    from textenv.algos import create_policy, load_model

    return create_policy(*load_model(folder), {"max_tokens": 6, **settings})


def accuracy(trainer, letter):
    """The share of the policy's answers to `PROMPTS` that begin with this letter."""
    policy = trainer.policy.with_params(seed=99)
    return np.mean([text.startswith(letter) for text in policy(PROMPTS * 64)[0]])


def weights_of(model):
    """Copies of a model's weights, by name."""
    from mlx.utils import tree_flatten

    return {name: np.array(value) for name, value in tree_flatten(model.parameters())}


def same_weights(before, after):
    """Whether two models' weights have the same names and are equal to the bit."""
    return before.keys() == after.keys() and all(np.array_equal(before[k], after[k]) for k in after)


def groups_of(rollout, size):
    """The trajectories of a rollout, in lists of this length."""
    rows = rollout.trajectories
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def random_batch(lengths, prompt_index, prompt_lengths, width=None):
    """Tokens at random; trajectory i continues prompt ``prompt_index[i]``."""
    rng = np.random.default_rng(0)
    n, width = len(lengths), width or max(lengths)
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.float32)
    from textenv.algos.lm.scoring.batch import TokenBatch

    return TokenBatch(
        prompts=[rng.integers(3, 12, size).tolist() for size in prompt_lengths],
        prompt_index=np.array(prompt_index, np.int32),
        token_ids=rng.integers(3, 12, (n, width)).astype(np.int32),
        mask=mask,
        old_logprobs=-2 * mask,
        support=None,
        temperature=np.ones(n, np.float32),
        rewards=np.zeros(n),
        group_ids=np.array(prompt_index),
        order=np.arange(n),
    )
