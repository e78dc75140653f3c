"""The tokens of highest entropy: chosen by hand, over the whole batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from textenv.algos import Trajectory
from textenv.algos.strategies import make_part
from textenv.algos.strategies.selection.top_entropy import TopEntropy
from textenv.errors import ConfigError, DataError


def trajectory(entropies, mask=None, **fields):
    mask = mask or [1] * len(entropies)
    return Trajectory(
        token_ids=[5] * len(mask), token_mask=mask, token_entropies=entropies, **fields
    )


def weights(groups):
    return [[t.token_weights for t in group] for group in groups]


def test_the_top_fifth_of_ten_tokens_by_hand():
    groups = [
        [trajectory([0.1, 0.9, 0.3]), trajectory([0.2, 0.4])],
        [trajectory([0.5, 0.6, 0.0, 0.8, 0.7])],
    ]
    part = TopEntropy(share=0.2)
    assert weights(part.extend(groups, 0)) == [[[0, 1, 0], [0, 0]], [[0, 0, 0, 1, 0]]]
    assert part.metrics() == {"threshold": 0.8}
    assert weights(groups) == [[None, None], [None]]  # the originals stay


def test_what_the_environment_wrote_does_not_count():
    groups = [[trajectory([0.1, 9.0, 0.3, 9.0, 0.2], [1, 0, 1, 0, 1])]]
    assert weights(TopEntropy(share=0.5).extend(groups, 0)) == [[[0, 0, 1, 0, 1]]]


def test_equal_entropies_stand_together():
    groups = [[trajectory([0.5, 0.5, 0.1, 0.5])]]
    assert weights(TopEntropy(share=0.25).extend(groups, 0)) == [[[1, 1, 0, 1]]]


def test_all_of_them_is_a_weight_of_one():
    groups = [[trajectory([0.5, 0.0, 0.1])]]
    assert weights(TopEntropy(share=1.0).extend(groups, 0)) == [[[1, 1, 1]]]


def test_the_share_is_of_tokens_that_have_an_advantage():
    uniform = [trajectory([5.0, 6.0], rewards=[1.0]), trajectory([7.0, 8.0], rewards=[1.0])]
    mixed = [trajectory([0.1, 0.2], rewards=[1.0]), trajectory([0.3, 0.4], rewards=[0.0])]
    shaped = [trajectory([0.5], rewards=[1.0]), trajectory([0.6], rewards=[1.0], shaping=-0.5)]
    tree = [trajectory([0.7, 0.05], rewards=[1.0], token_advantages=[0.0, 0.5])]
    part = TopEntropy(share=0.5)
    kept = weights(part.extend([uniform, mixed, shaped, tree], 0))
    assert part.metrics() == {"threshold": 0.4}  # of .05 .1 .2 .3 .4 .5 .6 .7
    assert kept[1:] == [[[0, 0], [0, 1]], [[1], [1]], [[1, 0]]]
    part.extend([uniform], 1)
    assert part.metrics() == {"threshold": 7.0}  # none has: nothing is trained on


def test_weights_that_are_there_are_kept():
    groups = [[trajectory([0.1, 0.9, 0.3, 0.8], token_weights=[2.0, 0.5, 2.0, 1.5])]]
    assert weights(TopEntropy(share=0.5).extend(groups, 0)) == [[[0, 0.5, 0, 1.5]]]


def test_a_shared_beginning_counts_once():
    first = trajectory([0.9, 0.8, 0.1, 0.2])
    branch = trajectory([0.9, 0.8, 0.3, 0.4], parent=0, branch_at=2)
    # of .9 .8 .1 .2 .3 .4 the top half; counting the beginning twice it would be the top 4 of 8
    assert weights(TopEntropy(share=0.5).extend([[first, branch]], 0)) == [
        [[1, 1, 0, 0], [1, 1, 0, 1]]
    ]


def test_the_share_of_many_tokens():
    rng = np.random.default_rng(0)
    groups = [
        [trajectory(rng.random(rng.integers(1, 30)).tolist()) for _ in range(4)] for _ in range(20)
    ]
    tokens = sum(len(t.token_ids) for group in groups for t in group)
    kept = TopEntropy(share=0.2).extend(groups, 0)
    assert sum(sum(t.token_weights) for group in kept for t in group) == np.ceil(0.2 * tokens)
    pairs = [p for g in kept for t in g for p in zip(t.token_entropies, t.token_weights)]
    assert min(e for e, w in pairs if w) > max(e for e, w in pairs if not w)


def test_nothing_to_choose_from():
    assert TopEntropy().extend([], 0) == []


def test_a_policy_that_records_no_entropies_is_named():
    bare = dataclasses.replace(trajectory([0.1]), token_entropies=None)
    with pytest.raises(DataError, match="top_entropy needs the entropies"):
        TopEntropy().extend([[bare]], 0)


@pytest.mark.parametrize("share", ["0", "1.5", "-1"])
def test_settings_that_cannot_be_are_named(share):
    with pytest.raises(ConfigError, match="share must be above 0 and at most 1"):
        make_part(f"top_entropy:share={share}")
