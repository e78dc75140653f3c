"""Rows by the prompts that they continue, against each row alone."""

from __future__ import annotations

import numpy as np
import pytest

from tests.algos.lm.cache.shared import GROUPS, HEADS, SIZE, drawing, plain
from textenv.algos.lm.cache.by_prompt import attend_by_prompt, by_prompt, split_mask
from textenv.algos.lm.kernels.attention import KeyBlock
from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402

PROMPTS, PLACES, WIDTH, OWN = 3, 2, 5, 4
ROWS = PROMPTS * PLACES


def test_rows_stand_with_their_prompt():
    columns = drawing()(ROWS, GROUPS, OWN, SIZE)
    split = by_prompt(columns, PLACES)
    assert split.shape == (PROMPTS, GROUPS, PLACES, OWN, SIZE)
    for row in range(ROWS):
        np.testing.assert_array_equal(split[row // PLACES, :, row % PLACES], columns[row])


def test_a_mask_is_split_between_prompt_and_own_columns():
    mask = np.random.default_rng(0).random((ROWS, 1, 3, WIDTH + OWN)) < 0.5
    prompt, own = (np.array(part) for part in split_mask(mx.array(mask), PLACES, WIDTH))
    assert prompt.shape == (PROMPTS, 1, PLACES, 1, 3, WIDTH)
    assert own.shape == (PROMPTS, 1, PLACES, 1, 3, OWN)
    for row in range(ROWS):
        place = row // PLACES, 0, row % PLACES, 0
        np.testing.assert_array_equal(prompt[place] == 0, mask[row, 0, :, :WIDTH])
        np.testing.assert_array_equal(own[place] == 0, mask[row, 0, :, WIDTH:])
        assert np.isneginf(prompt[place][~mask[row, 0, :, :WIDTH]]).all()


@pytest.mark.parametrize("shares", [True, False])
def test_attention_is_that_of_each_row_alone(shares):
    normal = drawing()
    queries = normal(ROWS, HEADS, OWN, SIZE)
    own = [normal(ROWS, GROUPS, OWN, SIZE) for _ in "kv"]
    shared = [normal(PROMPTS, GROUPS, WIDTH, SIZE) for _ in "kv"] if shares else []
    causal = np.where(np.tril(np.ones((OWN, OWN), bool)), 0, -np.inf).astype(np.float32)
    block = KeyBlock(*(by_prompt(x, PLACES) for x in own), mx.array(causal))
    out = attend_by_prompt(queries, 0.5, block, shared, None)
    for row in range(ROWS):
        pairs = [x[row : row + 1] for x in own]
        if shares:
            prompt = row // PLACES
            pairs = [
                mx.concatenate([s[prompt : prompt + 1], x], axis=2) for s, x in zip(shared, pairs)
            ]
        expected = plain(queries[row : row + 1], *pairs, None)
        np.testing.assert_allclose(out[row : row + 1], expected, atol=1e-5)
