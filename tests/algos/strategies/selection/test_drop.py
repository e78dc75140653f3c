"""Drops by hand: truncation, repetition, length, and groups with nobody left to compare with."""

from __future__ import annotations

import pytest

from textenv.algos import Trajectory
from textenv.algos.strategies import make_part
from textenv.algos.strategies.selection.drop import Drop, repeated
from textenv.errors import ConfigError


def group(*rows):
    return [
        Trajectory(
            token_ids=list(tokens),
            token_mask=[1] * len(tokens),
            completion_truncated=truncated,
            seed=i,
        )
        for i, (tokens, truncated) in enumerate(rows)
    ]


def seeds(groups):
    return [[t.seed for t in g] for g in groups]


@pytest.mark.parametrize(
    ("tokens", "size", "share"),
    [
        ([1, 2, 1, 2, 1, 2], 2, 3 / 5),  # 12 21 12 21 12
        ([1, 2, 3, 4, 5], 2, 0),
        ([7, 7, 7, 7], 1, 3 / 4),
        ([7, 7, 7, 7], 4, 0),
        ([7, 7], 3, 0),
    ],
)
def test_share_of_repeated_ngrams(tokens, size, share):
    assert repeated(tokens, size) == pytest.approx(share, abs=1e-15)


def test_truncated_ones_are_dropped_and_groups_of_one_with_them():
    half = group(([1], False), ([2], True), ([3], False))
    lonely = group(([1], False), ([2], True))
    whole = group(([1], False), ([2], False))
    kept = Drop().select([half, lonely, whole])
    assert seeds(kept) == [[0, 2], [0, 1]]
    assert kept[1] is whole
    assert seeds(Drop(truncated=False).select([half, lonely])) == [[0, 1, 2], [0, 1]]
    single = group(([1], False))  # an algorithm without groups
    assert seeds(Drop().select([single, group(([1], True))])) == [[0]]


def test_length_and_repetition_count_the_policys_tokens_alone():
    g = group(([1, 2, 3, 4], False), ([1, 2, 1, 2, 1, 2], False), ([5] * 9, False), ([1], False))
    g[2].token_mask = [1, 1, 1] + [0] * 6  # the environment's words are not the policy's
    assert seeds(Drop(longest=4).select([g])) == [[0, 2, 3]]
    assert seeds(Drop(repetition=0.6, ngram=2).select([g])) == [[0, 1, 2, 3]]  # more than .6 only
    assert seeds(Drop(repetition=0.59, ngram=2).select([g])) == [[0, 2, 3]]
    assert seeds(Drop(repetition=0.5, ngram=1).select([g])) == [[0, 3]]


def test_settings_come_from_text_and_are_checked():
    part = make_part("drop:truncated=false,repetition=0.25,ngram=3,longest=12")
    assert part == Drop(truncated=False, repetition=0.25, ngram=3, longest=12)
    assert make_part("drop:repetition=none") == Drop()
    for text, words in [
        ("drop:repetition=1.5", "repetition must be at least 0 and at most 1, got 1.5"),
        ("drop:ngram=0", "ngram must be at least 1"),
        ("drop:truncated=perhaps", "truncated must be bool, got 'perhaps'"),
    ]:
        with pytest.raises(ConfigError, match=words):
            make_part(text)
