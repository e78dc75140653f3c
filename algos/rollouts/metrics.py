"""What a rollout of text was like, under TRL's names."""

from __future__ import annotations

import numpy as np

from textenv.algos.episodes.trajectory import Buffer
from textenv.algos.strategies.groups import policy_tokens


def rollout_metrics(rollout: Buffer, tolerance: float = 1e-8) -> dict[str, float]:
    """What a rollout of text was like: rewards, lengths, groups without information."""
    trajectories = rollout.trajectories
    rewards = np.array([t.total_reward for t in trajectories])
    lengths = np.array([sum(t.token_mask or ()) for t in trajectories])
    groups: dict[int | None, list[float]] = {}
    for trajectory, reward in zip(trajectories, rewards):
        groups.setdefault(trajectory.group_id, []).append(reward)
    spans = np.array([max(g) - min(g) for g in groups.values()])
    stds = [np.std(g, ddof=1) for g in groups.values() if len(g) > 1]
    metrics = {
        "reward": float(rewards.mean()),
        "reward_std": float(np.mean(stds)) if stds else 0.0,
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
    components: dict[str, list[float]] = {}
    correct = []
    for trajectory in trajectories:
        for info in trajectory.infos:
            for name, value in info.get("rewards", {}).items():
                components.setdefault(name, []).append(value)
            if "is_correct" in info:
                correct.append(info["is_correct"])
    for name, values in components.items():
        metrics[f"rewards/{name}/mean"] = float(np.mean(values))
        metrics[f"rewards/{name}/std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    if correct:
        metrics["accuracy"] = float(np.mean(correct))
    entropies = [e for t in trajectories for e in t.token_entropies or ()]
    if entropies:
        metrics["entropy"] = float(np.sum(entropies) / max(1, lengths.sum()))
    return metrics
