"""The metrics of a step, against numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from textenv.algos import Buffer, Trajectory, create_strategy
from textenv.algos.episodes.rollout import Counts, Rollout
from textenv.algos.rollouts.metrics import (
    EpisodeStats,
    GRPOMetrics,
    PhaseClock,
    PPOMetrics,
    rollout_metrics,
)


def trajectory(group_id, rewards, mask, *, entropy=0.0, truncated=False, infos=None, **more):
    """One with as many tokens as the mask is long; each of the policy's has this entropy."""
    return Trajectory(
        group_id=group_id,
        rewards=rewards,
        infos=infos or [{} for _ in rewards],
        token_ids=list(range(len(mask))),
        token_mask=mask,
        token_entropies=[entropy * chosen for chosen in mask],
        completion_truncated=truncated,
        **more,
    )


def test_every_metric_by_hand():
    rollout = [
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
    lengths = [3, 1, 2, 3, 6]
    assert rollout_metrics(rollout) == pytest.approx(
        {
            "reward": (1 + 0 + 0.5 + 0.5 + 3) / 5,
            # Of all rewards, as in TRL: 1, 0, 0.5, 0.5 and 3 around their mean of 1.
            "reward_std": ((0 + 1 + 0.25 + 0.25 + 4) / 4) ** 0.5,
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
            "accuracy": 2 / 3,  # by the last verdict of each that was judged
            "entropy": (3 * 0.5 + 2 * 0.25 + 3 * 1.0 + 6 * 0.25) / sum(lengths),
        }
    )


def test_what_was_not_recorded_has_no_metric():
    metrics = rollout_metrics(
        [Trajectory(rewards=[1.0], infos=[{}], token_mask=[1], token_ids=[5])]
    )
    assert not {"accuracy", "entropy"} & metrics.keys()
    assert not any(name.startswith("rewards/") for name in metrics)
    assert metrics["reward_std"] == 0


@pytest.mark.parametrize(("gap", "share"), [(0.0, 1.0), (1e-9, 1.0), (1e-7, 0.0)])
def test_groups_without_information_are_told_by_a_tolerance(gap, share):
    rollout = [trajectory(0, [0.3], [1]), trajectory(0, [0.3 + gap], [1])]
    assert rollout_metrics(rollout)["frac_reward_zero_std"] == share
    assert rollout_metrics(rollout, tolerance=1.0)["frac_reward_zero_std"] == 1


def phases(clock, **seconds):
    """A clock of phases that took so long."""
    measured = PhaseClock()
    for name, length in seconds.items():
        clock(length)
        measured.end(name)
    clock(1)  # what comes after the last phase belongs to no step
    return measured


def test_a_step_of_grpo(clock):
    """Tokens are summed over the steps; seconds are those of the step."""
    made = GRPOMetrics(create_strategy("grpo", num_generations=1))
    for step, tokens in ((1, 3.0), (2, 6.0)):
        counts = Counts(groups=4, groups_uniform=1, tokens_generated=7)
        rollout = Rollout(
            [trajectory(0, [1.0], [1, 0, 1, 1])],
            counts=counts,
            seconds={"environment": 2.0, "policy": 3.0},
        )
        measured = phases(clock, generate=5, export=70, update=900)
        metrics = made.step(rollout, {"loss": 0.5}, measured, step)
        assert metrics["step"] == step and metrics["num_tokens"] == tokens
        assert metrics["loss"] == 0.5 and metrics["reward"] == 1
        assert metrics["strategy/tokens_generated"] == 7
        assert metrics["strategy/frac_groups_uniform"] == 0.25
        names = ("score", "generate", "export", "update")
        assert [metrics[f"time/{name}"] for name in names] == [2, 5, 70, 900]
        assert metrics["step_time"] == 975


def test_steps_of_ppo_on_control(clock):
    """Episodes that rollouts cut are put together, by environment; time runs on between steps."""
    made = PPOMetrics(is_text=False)

    def part(env, rewards, ended, first_step=0):
        blank = [None] * len(rewards)
        return Trajectory(
            env_index=env,
            rewards=rewards,
            actions=blank,
            observations=blank,
            terminated=ended,
            first_step=first_step,
        )

    rollouts = [
        [part(0, [1.0, 2.0], True), part(0, [4.0], False), part(1, [8.0, 8.0], False)],
        [part(1, [16.0], True, 2), part(0, [32.0], False, 1)],
        [part(0, [64.0], True, 2)],
    ]
    expected = [(3, 2), ((3 + 32) / 2, (2 + 3) / 2), ((3 + 32 + 100) / 3, (2 + 3 + 3) / 3)]
    elapsed, transitions = [10, 21, 32], [5, 7, 8]
    for i, rollout in enumerate(rollouts):
        measured = phases(clock, rollout=3, export=1, update=6)
        rollout = Rollout(rollout, seconds={"environment": 0.5, "policy": 0.25})
        metrics = made.step(rollout, {"train/loss": 7.0}, measured, 10 * i)
        found = metrics["rollout/ep_rew_mean"], metrics["rollout/ep_len_mean"]
        assert found == pytest.approx(expected[i])
        assert metrics["step"] == 10 * i and metrics["time/iterations"] == i + 1
        assert metrics["time/total_timesteps"] == transitions[i]
        assert metrics["time/fps"] == rollout.num_transitions / 10
        assert metrics["step_time"] == 10 and metrics["time/time_elapsed"] == elapsed[i]
        names = ("rollout", "export", "update", "environment", "policy")
        assert [metrics[f"time/{name}"] for name in names] == [3, 1, 6, 0.5, 0.25]
        assert metrics["train/loss"] == 7 and "reward" not in metrics


def test_ppo_on_text_has_the_metrics_of_both():
    made = PPOMetrics(is_text=True)
    for step in (1, 2):
        rollout = Rollout([trajectory(0, [0.5], [1, 1], terminated=True)])
        clock = PhaseClock()
        clock.end("rollout")
        metrics = made.step(rollout, {}, clock, step)
        assert metrics["reward"] == metrics["rollout/ep_rew_mean"] == 0.5
        assert metrics["num_tokens"] == 2 * step


def test_the_mean_return_is_that_of_the_last_hundred_episodes():
    stats = EpisodeStats()
    assert stats.metrics() == {}
    stats.add(Trajectory(rewards=[float(i)], terminated=True) for i in range(150))
    assert stats.metrics()["rollout/ep_rew_mean"] == np.mean(range(50, 150))


def test_episodes_are_put_together_over_rollouts():
    def part(env, rewards, ended, first_step=0):
        return Trajectory(
            actions=[0] * len(rewards),
            rewards=rewards,
            terminated=ended,
            env_index=env,
            first_step=first_step,
        )

    stats = EpisodeStats()
    stats.add(Buffer([part(0, [1.0, 1.0], False), part(1, [5.0], True), part(1, [7.0], False)]))
    assert stats.metrics() == {"rollout/ep_rew_mean": 5, "rollout/ep_len_mean": 1}
    stats.add(Buffer([part(0, [1.0], True, 2), part(1, [1.0], False, 1)]))
    assert stats.metrics() == {"rollout/ep_rew_mean": 4, "rollout/ep_len_mean": 2}
    stats.add(Buffer([part(1, [1.0], True, 2)]))
    assert stats.metrics()["rollout/ep_rew_mean"] == pytest.approx((5 + 3 + 9) / 3)


def test_an_episode_whose_beginning_is_not_known_does_not_count():
    def part(first_step, ended, episode):
        return Trajectory(
            actions=[0], rewards=[1.0], terminated=ended, first_step=first_step, episode=episode
        )

    stats = EpisodeStats()
    stats.add([part(3, True, 0)])
    stats.add([part(0, False, 1), part(1, True, 2)])  # of another episode
    stats.add([part(0, False, 3), part(2, True, 3)])  # the step between is missing
    assert stats.metrics() == {}
    stats.add([part(0, False, 4), part(1, True, 4)])
    assert stats.metrics() == {"rollout/ep_rew_mean": 2, "rollout/ep_len_mean": 2}


def test_what_was_not_scored_counts_in_no_mean_of_rewards():
    none = [{"rewards": {}, "scored": False}]
    rollout = [
        trajectory(1, [1.0], [1], infos=[{"rewards": {"judge": 1.0}}]),
        trajectory(1, [0.0], [1], infos=none),
        trajectory(1, [3.0], [1], infos=[{"rewards": {"judge": 3.0}}]),
        trajectory(2, [2.0], [1], infos=[{"rewards": {"judge": 2.0}}]),
        trajectory(2, [0.0], [1], infos=none),
        trajectory(3, [0.0], [1], infos=none),
        trajectory(3, [0.0], [1], infos=none),
        # One turn was not scored, and the other was.
        trajectory(4, [0.0, 2.0], [1, 0, 1], infos=[*none, {"rewards": {"judge": 2.0}}]),
    ]
    metrics = rollout_metrics(rollout)
    assert metrics["completions/unscored_ratio"] == pytest.approx(4 / 8)
    assert metrics["reward"] == metrics["rewards/judge/mean"] == pytest.approx(8 / 4)
    assert metrics["frac_reward_zero_std"] == 3 / 4  # of the groups, the first one alone differs
    assert rollout_metrics(rollout[5:7])["reward"] == 0.0
    assert "completions/unscored_ratio" not in rollout_metrics(rollout[:1])


def test_an_episode_that_was_not_scored_has_no_return():
    stats = EpisodeStats()
    ended = {"terminated": True}
    none = [{"scored": False}]
    stats.add([trajectory(1, [3.0], [1], **ended), trajectory(1, [0.0], [1], infos=none, **ended)])
    assert stats.metrics()["rollout/ep_rew_mean"] == 3.0
