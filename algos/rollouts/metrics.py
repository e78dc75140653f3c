"""Makes all metrics of a training step, for GRPO and for PPO.

Metrics of text have TRL's names, and those of PPO have Stable-Baselines3's. A table in
``algos/training/README.md`` lists what differs.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from textenv.algos.episodes.parts import EpisodeParts
from textenv.algos.episodes.rollout import Rollout
from textenv.algos.episodes.scoring import count_failed
from textenv.algos.episodes.trajectory import Trajectory, policy_tokens, scored_rewards
from textenv.algos.storage.checkpoints.state import State
from textenv.algos.strategies.groups import TOLERANCE, by_group
from textenv.algos.strategies.strategy import Strategy

_EPISODES = 100  # the mean return is over so many, as in Stable-Baselines3


class PhaseClock:
    """Measures the phases of a step, which follow one another.

    Attributes:
        began: when the step began, by `time.perf_counter`.
        seconds: the seconds of each phase that has ended, by its name.
    """

    def __init__(self) -> None:
        self.began = self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def end(self, phase: str) -> None:
        """End a phase, which may be a further part of an earlier one, and begin the next one."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now

    @property
    def total(self) -> float:
        """Seconds from the start to the end of the last phase."""
        return self._last - self.began


class GRPOMetrics:
    """Makes the metrics of GRPO's steps.

    Args:
        strategy: the strategy of the rollouts; its parts have metrics of their own.
    """

    def __init__(self, strategy: Strategy):
        self._strategy = strategy
        self._tokens = 0

    def step(
        self, rollout: Rollout, update: Mapping[str, float], clock: PhaseClock, steps: int
    ) -> dict[str, float]:
        """The metrics of one step.

        Args:
            rollout: the rollout that was trained on.
            update: the metrics of the update.
            clock: has measured the phases ``generate``, ``export`` and ``update``.
            steps: optimizer steps so far.
        """
        metrics = {**update, **rollout_metrics(rollout.played)}
        if rollout.counts is not None:
            metrics |= rollout.counts.metrics()
        metrics |= self._strategy.metrics()
        self._tokens += int(metrics["num_tokens"])
        phases = {f"time/{name}": seconds for name, seconds in clock.seconds.items()}
        return metrics | {
            "step": float(steps),
            "num_tokens": float(self._tokens),
            "step_time": clock.total,
            "time/score": rollout.seconds["environment"],
            **phases,
        }

    def state(self) -> State:
        """What was counted so far."""
        return State(values={"tokens": self._tokens})

    def load_state(self, state: State) -> None:
        """Go on from what `state` gave."""
        self._tokens = state.value("tokens")


class PPOMetrics:
    """Makes the metrics of PPO's updates, on control and on text.

    Args:
        is_text: whether rollouts are of text.
    """

    def __init__(self, is_text: bool):
        self._is_text = is_text
        self._episodes = EpisodeStats()
        self._tokens = self._timesteps = 0
        self.iterations = 0
        """How many updates there have been."""
        self._began: float | None = None
        self._before = self._elapsed = 0.0  # seconds until `_began`, and until the last step

    def step(
        self, rollout: Rollout, update: Mapping[str, float], clock: PhaseClock, steps: int
    ) -> dict[str, float]:
        """The metrics of one update.

        Args:
            rollout: the rollout that was trained on.
            update: the metrics of the update.
            clock: has measured the phases ``rollout``, ``export`` and ``update``.
            steps: optimizer steps so far.
        """
        metrics: dict[str, float] = {}
        if self._is_text:
            metrics = rollout_metrics(rollout.played)
            self._tokens += int(metrics["num_tokens"])
            metrics["num_tokens"] = float(self._tokens)
        self._episodes.add(rollout)
        self.iterations += 1
        self._timesteps += rollout.num_transitions
        self._began = clock.began if self._began is None else self._began
        self._elapsed = self._before + clock.began + clock.total - self._began
        phases = {f"time/{name}": seconds for name, seconds in clock.seconds.items()}
        return {
            **metrics,
            **update,
            **self._episodes.metrics(),
            "step": float(steps),
            "time/iterations": float(self.iterations),
            "time/total_timesteps": float(self._timesteps),
            "time/fps": rollout.num_transitions / clock.total,
            "step_time": clock.total,
            "time/time_elapsed": self._elapsed,
            "time/environment": rollout.seconds["environment"],
            "time/policy": rollout.seconds["policy"],
            **phases,
        }

    def state(self) -> State:
        """What the next steps' metrics count on from."""
        counts = {"tokens": self._tokens, "timesteps": self._timesteps}
        own = State(
            values={**counts, "iterations": self.iterations, "seconds": self._elapsed},
        )
        return State.joined({"counts": own, "episodes": self._episodes.state()})

    def load_state(self, state: State) -> None:
        """Go on from what `state` gave."""
        counts = state.part("counts")
        self._tokens, self._timesteps = counts.value("tokens"), counts.value("timesteps")
        self.iterations = counts.value("iterations")
        self._before = self._elapsed = counts.value("seconds")
        self._began = None
        self._episodes.load_state(state.part("episodes"))


def rollout_metrics(
    trajectories: Sequence[Trajectory], tolerance: float = TOLERANCE
) -> dict[str, float]:
    """Rewards, lengths and groups of a rollout of text, under TRL's names.

    Completions that no reward function scored count in no mean of rewards, and ``reward`` is 0 if
    none was scored. Their share is ``completions/unscored_ratio``, if there are any.

    Args:
        trajectories: all trajectories that were played.
        tolerance: a group whose rewards differ by no more than this has no information.
    """
    rewards = np.array(scored_rewards(trajectories))
    lengths = np.array([sum(t.token_mask or ()) for t in trajectories])
    groups = [scored_rewards(group) for group in by_group(trajectories)]
    spans = np.array([max(g) - min(g) if g else 0.0 for g in groups])
    metrics = {
        "reward": float(rewards.mean()) if len(rewards) else 0.0,
        "reward_std": float(np.std(rewards, ddof=1)) if len(rewards) > 1 else 0.0,
        "frac_reward_zero_std": float((spans <= tolerance).mean()),
        "groups": float(len(groups)),
        "completions/count": float(len(trajectories)),
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": float(lengths.min()),
        "completions/max_length": float(lengths.max()),
        "completions/clipped_ratio": float(
            np.mean([bool(t.completion_truncated) for t in trajectories])
        ),
        "num_tokens": float(policy_tokens(trajectories)),
    }
    if len(rewards) < len(trajectories):
        metrics["completions/unscored_ratio"] = 1 - len(rewards) / len(trajectories)
    failed = count_failed(trajectories)
    if failed:
        metrics["reward_errors"] = float(failed)
    components: dict[str, list[float]] = {}
    for trajectory in trajectories:
        for info in trajectory.infos:
            for name, value in info.get("rewards", {}).items():
                components.setdefault(name, []).append(value)
    metrics |= _tool_metrics(trajectories)
    correct = [t.is_correct for t in trajectories if t.is_correct is not None]
    for name, values in components.items():
        metrics[f"rewards/{name}/mean"] = float(np.mean(values))
        metrics[f"rewards/{name}/std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    if correct:
        metrics["accuracy"] = float(np.mean(correct))
    entropies = [e for t in trajectories for e in t.token_entropies or ()]
    if entropies:
        metrics["entropy"] = float(np.sum(entropies) / max(1, lengths.sum()))
    return metrics


def _tool_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Calls of tools an episode, and the share of them that failed and that could not be read."""
    infos = [info for t in trajectories for info in t.infos if "tool_calls" in info]
    if not infos:
        return {}
    keys = "tool_calls", "tool_failures", "malformed_calls"
    calls, failed, malformed = (sum(info[key] for info in infos) for key in keys)
    return {
        "tools/call_frequency": calls / len(trajectories),
        "tools/failure_frequency": failed / max(1, calls),
        "tools/malformed_frequency": malformed / max(1, calls),
    }


class EpisodeStats:
    """Mean return and length of the last 100 episodes, which rollouts may have cut into parts."""

    def __init__(self) -> None:
        self._totals: EpisodeParts[float] = EpisodeParts()
        self._finished: deque[tuple[float, int]] = deque(maxlen=_EPISODES)

    def add(self, rollout: Iterable[Trajectory]) -> None:
        """Add the trajectories of a rollout, in the order in which they ended.

        An episode whose beginning was not added does not count.
        """
        for trajectory in rollout:
            before = self._totals.take(trajectory)
            if before is None and trajectory.first_step:
                continue
            total = (before or 0.0) + trajectory.total_reward
            if not (trajectory.terminated or trajectory.truncated):
                self._totals.keep(trajectory, total)
            elif not np.isnan(total):  # a reward abstained
                self._finished.append((total, trajectory.first_step + len(trajectory)))

    def metrics(self) -> dict[str, float]:
        """Mean return and length; nothing if no episode has ended yet."""
        if not self._finished:
            return {}
        returns, lengths = zip(*self._finished)
        return {
            "rollout/ep_rew_mean": float(np.mean(returns)),
            "rollout/ep_len_mean": float(np.mean(lengths)),
        }

    def state(self) -> State:
        """The last episodes, and the beginnings of those that are not over."""
        finished = [list(episode) for episode in self._finished]
        return State(values={"unfinished": self._totals.state(), "finished": finished})

    def load_state(self, state: State) -> None:
        """Go on from what `state` gave."""
        self._totals.load_state(state.value("unfinished"))
        self._finished.clear()
        self._finished.extend((total, length) for total, length in state.value("finished"))
