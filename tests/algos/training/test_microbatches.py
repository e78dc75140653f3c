"""How an update is cut into parts, and that the parts' gradients are that of the whole."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tests.algos.shared import random_batch
from textenv.algos import grpo
from textenv.algos.lm.scoring.batch import BatchSize
from textenv.algos.training.gradient import LocalGradient
from textenv.algos.training.microbatches import MicroBatch, split


def tokens(batch, parts):
    """What is computed, counted one by one."""
    total = 0
    for part in parts:
        small = batch.take(part)
        total += sum(map(len, small.prompts)) + small.token_ids.size
    return total


def check_partition(batch, parts):
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(batch)))
    assert all((np.diff(part) > 0).all() for part in parts)


def test_equal_lengths_stay_together():
    batch = random_batch([50] * 64, np.repeat(np.arange(8), 8), [30] * 8)
    assert [part.tolist() for part in split(batch, np.arange(64), 1, None)] == [list(range(64))]


def test_short_and_long_completions_are_parted_where_that_saves_tokens():
    lengths = [10, 400] * 16
    batch = random_batch(lengths, np.repeat(np.arange(4), 8), [20] * 4)
    parts = split(batch, np.arange(32), 1, None)
    check_partition(batch, parts)
    assert [set(np.array(lengths)[part]) for part in parts] == [{10}, {400}]
    # 4 prompts of 20 and 32 rows of 400 as one; the prompts twice, 16 rows of 10 and of 400.
    assert tokens(batch, [np.arange(32)]) == 80 + 32 * 400
    assert tokens(batch, parts) == 160 + 16 * 410


def test_prompts_that_would_be_computed_twice_weigh_against_it():
    lengths = [10, 400] * 16
    batch = random_batch(lengths, np.repeat(np.arange(4), 8), [2000] * 4)
    # The prompts are 8,000 tokens, and parting the rows would save 6,240.
    assert len(split(batch, np.arange(32), 1, None)) == 1


@pytest.mark.parametrize("seed", range(5))
def test_parting_never_computes_more(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.geometric(1 / 150, 48).clip(1, 900)
    batch = random_batch(lengths, np.sort(rng.integers(0, 6, 48)), rng.integers(1, 300, 6))
    parts = split(batch, np.arange(48), 1, None)
    check_partition(batch, parts)
    assert tokens(batch, parts) <= tokens(batch, [np.arange(48)])


def test_shares_are_even_and_cut_between_prompts():
    batch = random_batch([20] * 30, [0] * 7 + [1] * 7 + [2] * 8 + [3] * 8, [40] * 4)
    parts = split(batch, np.arange(30), 2, None)
    assert [len(part) for part in parts] == [14, 16]  # 15 would cut prompt 2 in two
    single = random_batch([20] * 30, [0] * 30, [40])
    assert [len(part) for part in split(single, np.arange(30), 2, None)] == [15, 15]


def test_a_part_has_no_more_rows_than_asked():
    batch = random_batch([20] * 30, np.repeat(np.arange(6), 5), [40] * 6)
    parts = split(batch, np.arange(30), 1, 4)
    check_partition(batch, parts)
    assert max(map(len, parts)) <= 4


def test_rows_without_signal_are_not_there():
    batch = random_batch([20] * 6, np.repeat(np.arange(2), 3), [4] * 2)
    parts = split(batch, np.array([0, 4]), 2, None)
    assert [part.tolist() for part in parts] == [[0], [4]]


def test_the_gradient_of_parts_is_that_of_the_whole(fresh):
    model, _ = fresh
    rng = np.random.default_rng(1)
    batch = random_batch([3, 9, 5, 2, 8, 8, 1], [0, 0, 0, 1, 1, 2, 2], [4, 6, 2])
    advantages = rng.normal(size=7).astype(np.float32)
    whole = BatchSize(7, float(batch.mask.sum()))
    learner = LocalGradient(model, grpo.policy_loss)

    def gradient(parts):
        pieces = [MicroBatch(batch.take(rows), advantages[rows], whole, None) for rows in parts]
        results, tree = learner.gradient(pieces)
        return sum(r.loss for r in results), dict(tree_flatten(tree))

    loss, expected = gradient([np.arange(7)])
    cut_loss, cut = gradient([np.array([0, 3, 6]), np.array([1, 2]), np.array([4, 5])])
    assert cut_loss == pytest.approx(loss, rel=1e-5)
    for name, value in expected.items():
        scale = mx.abs(value).max().item()
        assert mx.abs(cut[name] - value).max().item() <= 1e-5 * scale, name
