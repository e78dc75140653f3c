"""Rollouts and facts that are made up."""

from textenv.algos import Trajectory
from textenv.algos.episodes.rollout import Rollout
from textenv.algos.rollouts.health.facts import facts_of


def played(groups, *, judged=True, cut=False, length=3, texts=None, level=None, **info):
    """A trajectory for each outcome of each group; None stands for a reward that abstained.

    ``cut`` is one flag for all, or one for each; ``texts`` are the completions in order.
    """
    count = sum(map(len, groups))
    cuts = cut if isinstance(cut, list) else [cut] * count
    texts = texts or ["text"] * count
    found = []
    for group_id, outcomes in enumerate(groups):
        for value in outcomes:
            i = len(found)
            said = {"scored": False} if value is None else {}
            if judged and value is not None:
                said["is_correct"] = bool(value)
            reset_info = {"example_id": group_id}
            if level is not None:
                reset_info["level"] = level
            found.append(
                Trajectory(
                    actions=[texts[i]],
                    observations=["prompt"],
                    rewards=[float(value or 0)],
                    infos=[said | info],
                    reset_info=reset_info,
                    group_id=group_id,
                    token_ids=[1] * length,
                    token_mask=[1] * length,
                    completion_truncated=cuts[i],
                )
            )
    return found


def facts(groups, step=1, metrics=None, **more):
    """The facts of such a step."""
    comparable = more.pop("comparable", True)
    metrics = {"completions/mean_length": 3.0} | (metrics or {})
    return facts_of(step, metrics, played(groups, **more), comparable)


def rollout(groups, **more):
    """A rollout of such trajectories."""
    return Rollout(played(groups, **more))
