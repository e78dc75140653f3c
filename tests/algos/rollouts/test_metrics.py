"""The metrics of a rollout of text, against numbers worked by hand."""

from __future__ import annotations

import pytest

from textenv.algos import Buffer, Trajectory
from textenv.algos.rollouts.metrics import rollout_metrics


def trajectory(group_id, rewards, mask, *, entropy=0.0, truncated=False, infos=None, **tree):
    """One with as many tokens as the mask is long; each of the policy's has this entropy."""
    return Trajectory(
        group_id=group_id,
        rewards=rewards,
        infos=infos or [{} for _ in rewards],
        token_ids=list(range(len(mask))),
        token_mask=mask,
        token_entropies=[entropy * chosen for chosen in mask],
        completion_truncated=truncated,
        **tree,
    )


def test_every_metric_by_hand():
    rollout = Buffer(
        [
            trajectory(
                *(7, [1.0], [1, 1, 1]),
                truncated=True,
                entropy=0.5,
                infos=[{"is_correct": True, "rewards": {"exact": 1.0, "short": 0.25}}],
            ),
            trajectory(
                *(7, [0.0], [1]),
                infos=[{"is_correct": False, "rewards": {"exact": 0.0}}],
            ),
            # A chain, and a branch that shares its first token.
            trajectory(4, [0.5], [1, 1], entropy=0.25),
            trajectory(4, [0.5], [1, 1, 1], truncated=True, entropy=1.0, parent=0, branch_at=1),
            # Two turns, between which the environment said two tokens.
            trajectory(
                *(9, [1.0, 2.0], [1, 1, 0, 0, 1, 1, 1, 1]),
                entropy=0.25,
                infos=[{"is_correct": False}, {"is_correct": True, "rewards": {"exact": 0.5}}],
            ),
        ]
    )
    lengths = [3, 1, 2, 3, 6]
    assert rollout_metrics(rollout) == pytest.approx(
        {
            "reward": (1 + 0 + 0.5 + 0.5 + 3) / 5,
            # Of 1 and 0 it is the root of 1/2, of equal rewards 0; one reward alone has none.
            "reward_std": 0.5**0.5 / 2,
            "frac_reward_zero_std": 2 / 3,
            "groups": 3,
            "completions/count": 5,
            "completions/mean_length": sum(lengths) / 5,
            "completions/min_length": 1,
            "completions/max_length": 6,
            "completions/clipped_ratio": 2 / 5,
            "num_tokens": sum(lengths) - 1,  # what the branch shares counts once
            "rewards/exact/mean": 0.5,
            "rewards/exact/std": 0.5,  # of 1, 0 and 0.5
            "rewards/short/mean": 0.25,
            "rewards/short/std": 0,
            "accuracy": 2 / 4,  # of all turns that were judged
            "entropy": (3 * 0.5 + 2 * 0.25 + 3 * 1.0 + 6 * 0.25) / sum(lengths),
        }
    )


def test_what_was_not_recorded_has_no_metric():
    rollout = Buffer([Trajectory(rewards=[1.0], infos=[{}], token_mask=[1], token_ids=[5])])
    names = rollout_metrics(rollout).keys()
    assert not {"accuracy", "entropy"} & names
    assert not any(name.startswith("rewards/") for name in names)
    assert rollout_metrics(rollout)["reward_std"] == 0


@pytest.mark.parametrize(("gap", "share"), [(0.0, 1.0), (1e-9, 1.0), (1e-7, 0.0)])
def test_groups_without_information_are_told_by_a_tolerance(gap, share):
    rollout = Buffer([trajectory(0, [0.3], [1]), trajectory(0, [0.3 + gap], [1])])
    assert rollout_metrics(rollout)["frac_reward_zero_std"] == share
    assert rollout_metrics(rollout, tolerance=1.0)["frac_reward_zero_std"] == 1
