"""What a rollout of text took."""

from textenv.algos import Buffer, Trajectory
from textenv.algos.episodes.rollout import Counts, Rollout


def test_counts_by_their_names_in_the_metrics():
    counts = Counts(rounds=2, groups=8, groups_uniform=3, tokens_generated=50, tokens_trained=20)
    metrics = counts.metrics()
    assert metrics["strategy/rounds"] == 2 and metrics["strategy/tokens_generated"] == 50
    assert metrics["strategy/frac_groups_uniform"] == 3 / 8
    assert "strategy/groups_uniform" not in metrics
    assert Counts().metrics()["strategy/frac_groups_uniform"] == 0
    assert all(isinstance(value, float) for value in metrics.values())


def test_a_rollout_is_the_buffer_of_what_it_keeps():
    kept, other = Trajectory(rewards=[1.0], actions=[0]), Trajectory(rewards=[0.0])
    rollout = Rollout([kept], played=[other, kept], counts=Counts(groups=1))
    assert rollout == Buffer([kept]) and rollout.num_transitions == 1
    assert rollout.played == [other, kept] and rollout.counts.groups == 1
    rollout.clear()
    assert len(rollout) == 0 and rollout.played == [other, kept]


def test_where_nothing_was_left_out_what_was_played_is_what_is_kept():
    rollout = Rollout([Trajectory(), Trajectory()])
    assert rollout.played == rollout.trajectories and rollout.counts is None
    assert rollout.seconds == {"environment": 0.0, "policy": 0.0}
    rollout.seconds["policy"] += 1
    assert Rollout().seconds["policy"] == 0  # each has seconds of its own
