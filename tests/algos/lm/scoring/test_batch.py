"""Trajectories as arrays, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.algos.lm.scoring.shared import GROUPS, flattened, make_trees
from textenv.algos import Trajectory
from textenv.algos.lm.scoring.batch import make_batch, nearest
from textenv.errors import DataError


def test_shared_tokens_count_once():
    batch = make_batch(make_trees())
    # All nodes of the first group by hand: 9 + (7 - 4) + (9 - 8) + (12 - 6) + (8 - 7) + 3.
    first = [i for i, row in enumerate(batch.order) if row < 6]
    assert batch.mask[first].sum() == 23
    assert batch.parent[first].tolist() == [-1, first[0], first[0], first[1], first[3], -1]
    assert batch.start[first].tolist() == [0, 4, 8, 6, 7, 0]
    # What branches where its parent does shares nothing with it, but with what that shares with.
    third = [i for i, row in enumerate(batch.order) if 9 <= row < 13]
    assert batch.parent[third].tolist() == [-1, third[0], third[0], third[0]]
    assert batch.start[third].tolist() == [0, 2, 2, 1]
    assert make_batch(flattened(make_trees())).parent is None


def test_truncated_leaves_are_masked_alone():
    """A node is trained on where any leaf below it is."""
    trajectories = make_trees(GROUPS[:1])
    trajectories[0].completion_truncated = trajectories[3].completion_truncated = True
    mask = make_batch(trajectories, mask_truncated_completions=True).mask
    # Of leaf 0, what leaf 2 goes on from; of leaf 3, what leaf 4 does.
    assert mask.sum(axis=1).tolist() == [8, 3, 1, 1, 1, 3]
    assert mask[3].nonzero()[0].tolist() == [6]


@pytest.mark.parametrize("parent, at", [(7, 4), (0, 5)])
def test_a_parent_that_is_another(parent, at):
    trajectories = make_trees(GROUPS[:1])
    trajectories[1] = replace(trajectories[1], parent=parent, branch_at=at)
    with pytest.raises(DataError, match="thin"):
        make_batch(trajectories)


def written(prompt, tokens, **more):
    """A trajectory whose token n had the log-probability -n."""
    return Trajectory(
        prompt_ids=prompt,
        token_ids=tokens,
        token_mask=[1] * len(tokens),
        token_logprobs=[-float(t) for t in tokens],
        rewards=[float(len(tokens))],
        **more,
    )


def test_rows_of_equal_prompts_stand_together_and_are_padded():
    trajectories = [
        written([1, 2], [5, 6], group_id=7, temperature=0.5),
        written([3], [7, 8, 9], group_id=8),
        written([1, 2], [4], group_id=7, shaping=-0.25),
    ]
    trajectories[1].token_mask = [1, 0, 1]
    batch = make_batch(trajectories)
    assert batch.prompts == [[1, 2], [3]] and batch.prompt_index.tolist() == [0, 0, 1]
    assert batch.order.tolist() == [0, 2, 1] and batch.group_ids.tolist() == [0, 0, 1]
    assert batch.token_ids.tolist() == [[5, 6, 0], [4, 0, 0], [7, 8, 9]]
    assert batch.mask.tolist() == [[1, 1, 0], [1, 0, 0], [1, 0, 1]]
    assert batch.old_logprobs.tolist() == [[-5, -6, 0], [-4, 0, 0], [-7, -8, -9]]
    assert batch.rewards.tolist() == [2, 1 - 0.25, 3] and batch.temperature.tolist() == [0.5, 1, 1]
    assert batch.support is batch.weights is batch.token_advantages is batch.parent is None
    np.testing.assert_array_equal(batch.loss_weights, batch.mask)


def test_some_rows_are_cut_to_their_longest():
    rows = [written([1], [5, 6]), written([2], [7, 8, 9, 9]), written([2], [4, 4, 4])]
    rows[0].support = [[5, 6], [6]]
    rows[1].support = rows[2].support = [[7, 8, 9]] * 4
    rows[2].support = rows[2].support[:3]
    whole = make_batch(rows)
    assert whole.support[0].tolist() == [[5, 6, -1], [6, -1, -1], [-1] * 3, [-1] * 3]
    small = whole.take(np.array([0, 2]))
    assert len(small) == 2 and small.prompts == [[1], [2]]
    assert small.prompt_index.tolist() == [0, 1] and small.order.tolist() == [0, 2]
    assert small.token_ids.tolist() == [[5, 6, 0], [4, 4, 4]] and small.support.shape == (2, 3, 3)
    alone = whole.take(np.array([1]))
    assert alone.prompts == [[2]] and alone.prompt_index.tolist() == [0]


def test_rows_that_train_on_nothing_keep_a_column():
    row = written([1], [5, 6], completion_truncated=True)
    batch = make_batch([row], mask_truncated_completions=True)
    assert batch.mask.sum() == 0 and batch.take(np.array([0])).token_ids.shape == (1, 1)
    assert make_batch([row]).mask.sum() == 2


def test_groups_are_numbered_anew():
    """One id for two prompts is two groups, and a trajectory without an id one of its own."""
    rows = [
        written([1], [5], group_id=3),
        written([2], [5], group_id=3),
        written([1], [5]),
        written([1], [5]),
        written([1], [6], group_id=3),
    ]
    batch = make_batch(rows)
    by_row = dict(zip(batch.order.tolist(), batch.group_ids.tolist()))
    assert by_row[0] == by_row[4] and len({by_row[i] for i in range(4)}) == 4


def test_weights_and_advantages_of_tokens():
    rows = [written([1], [5, 6, 7]), written([1], [5])]
    rows[0].token_mask = [1, 0, 1]
    rows[0].token_weights = [0.5, 2.0, 0.25]
    rows[1].token_advantages = [-1.5]
    batch = make_batch(rows)
    assert batch.weights.tolist() == [[0.5, 0, 0.25], [1, 0, 0]]  # 0 where the mask is
    assert batch.loss_weights is batch.weights
    np.testing.assert_array_equal(batch.token_advantages, [[np.nan] * 3, [-1.5, 0, 0]])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "holds no trajectories"),
        ([Trajectory(rewards=[1.0])], "trajectory 0 has no token ids"),
        ([written([1], [5], support=[[5]]), written([1], [5])], "recorded the support"),
        ([written([1], [5], token_weights=[1.0, 1.0])], "token_weights has 2 items for 1"),
        ([written([1], [5], token_weights=[-1.0])], "finite and at least 0"),
        ([written([1], [5], token_advantages=[])], "token_advantages has 0 items for 1"),
    ],
)
def test_what_is_no_batch(rows, said):
    with pytest.raises(DataError, match=said):
        make_batch(rows)


def test_the_nearest_ancestor_among_some_rows():
    """A chain 0 <- 1 <- 2 <- 3, each of which shares less than the one before it."""
    parent, start = np.array([-1, 0, 1, 2]), np.array([0, 6, 4, 5])
    assert nearest(parent, start, 3, {0, 1, 2, 3}) == (2, 5)
    assert nearest(parent, start, 3, {0, 1}) == (0, 4)  # of 1 it shares no more than 1 does of 0
    assert nearest(parent, start, 2, {0, 1}) == (0, 4)
    assert nearest(parent, start, 1, {0}) == (0, 6)
    assert nearest(parent, start, 3, set()) == (-1, 0)
