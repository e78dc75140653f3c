"""Prepares rollouts of text for offline training: groups them, and chooses what is imitated."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from textenv.algos.episodes.trajectory import Buffer, Trajectory, scored_rewards
from textenv.algos.offline.data import hash_of
from textenv.algos.runtime import backend
from textenv.errors import DataError

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

from textenv.algos.lm.generation.policy import LanguageModelPolicy  # noqa: E402

_TOLERANCE = 1e-8  # rewards that differ by no more than this count as equal

_PLAIN: dict[str, Any] = dict.fromkeys(
    ("token_weights", "token_advantages", "shaping", "parent", "branch_at")
)


def grouped(rollouts: Sequence[Buffer]) -> list[Trajectory]:
    """The trajectories of all rollouts, with new group numbers: one group for each example.

    What the strategy of their run added to them (weights and advantages of tokens, shaping, a
    tree) is dropped.

    Raises:
        DataError: if a trajectory has no token ids.
    """
    numbers: dict[Hashable, int] = {}
    out = []
    for number, rollout in enumerate(rollouts):
        for position, t in enumerate(rollout):
            if t.token_ids is None or t.prompt_ids is None or t.token_logprobs is None:
                raise DataError(
                    f"trajectory {position} of rollout {number} has no token ids: a language "
                    "model is trained on what a language-model policy recorded"
                )
            key: Hashable = (number, "own", position)
            if "example_id" in t.reset_info:
                key = (t.reset_info.get("task"), t.reset_info["example_id"], t.prompt)
            elif t.group_id is not None:
                key = (number, t.group_id)
            out.append(replace(t, group_id=numbers.setdefault(key, len(numbers)), **_PLAIN))
    return out


def right_ones(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """The completions to imitate: those that are right and not truncated, each of them once.

    A completion is right if a verifier said so. Without a verifier it is right if it has the best
    reward of a group whose rewards differ.

    Args:
        trajectories: trajectories with groups, from `grouped`.

    Raises:
        DataError: if there are none to imitate.
    """
    groups: dict[int | None, list[Trajectory]] = {}
    for t in trajectories:
        groups.setdefault(t.group_id, []).append(t)
    right: dict[tuple[tuple[int, ...], tuple[int, ...]], Trajectory] = {}
    for group in groups.values():
        rewards = scored_rewards(group) or [0.0]
        differ = max(rewards) - min(rewards) > _TOLERANCE
        for t in group:
            verdict = t.is_correct
            if verdict is None:
                verdict = differ and t.total_reward >= max(rewards) - _TOLERANCE
            if verdict and not t.completion_truncated:
                right.setdefault((tuple(t.prompt_ids or ()), tuple(t.token_ids or ())), t)
    if not right:
        raise DataError(
            f"none of the {len(trajectories)} completions is right (is_correct, or the best "
            "reward of a group whose rewards differ) and ended: there is nothing to imitate"
        )
    return list(right.values())


def hash_of_text(trajectories: Sequence[Trajectory]) -> str:
    """SHA-256 of what trajectories of text are trained on by: tokens, rewards and groups."""
    return hash_of(
        column
        for t in trajectories
        for column in (
            np.array(t.prompt_ids or (), np.int64),
            np.array(t.token_ids or (), np.int64),
            np.array(t.token_logprobs or (), np.float64),
            np.array([*t.rewards, -1 if t.group_id is None else t.group_id], np.float64),
        )
    )


def check_tokens(trajectories: Sequence[Trajectory], policy: LanguageModelPolicy) -> None:
    """Refuse token ids that were recorded with another tokenizer or chat template.

    Args:
        trajectories: trajectories with token ids.
        policy: the policy of the model to train on them.

    Raises:
        DataError: if the ids do not fit the model; names what does not fit.
    """
    size = _vocabulary(policy.model)
    encoded: dict[tuple[str, str], list[int]] = {}
    is_known = set(np.flatnonzero(policy.model.known_ids).tolist()).issuperset
    for number, t in enumerate(trajectories):
        token_ids, prompt_ids = list(t.token_ids or ()), list(t.prompt_ids or ())
        largest = max(max(token_ids, default=0), max(prompt_ids, default=0))
        why = None
        if largest >= size:
            why = f"token id {largest}, and the model's vocabulary has {size}"
        elif not is_known([*prompt_ids, *token_ids]):
            why = "a token id that is no token of the model"
        elif t.completion_truncated is False and not policy.ends(token_ids):
            why = f"an end of id {token_ids[-1]}, and the model ends with {policy.end_ids}"
        elif t.prompt is not None:
            said = t.reset_info.get("messages"), t.reset_info.get("tools")
            key = t.prompt, repr(said)
            if key not in encoded:
                encoded[key] = policy.encode(t.prompt, *said)
            if encoded[key] != prompt_ids:
                why = (
                    f"prompt {t.prompt!r:.40} as {_brief(prompt_ids)}, and the model encodes it "
                    f"as {_brief(encoded[key])}"
                )
        if why:
            raise DataError(
                f"trajectory {number} has {why}: the rollouts were recorded with another "
                "tokenizer or chat template, and cannot train this model"
            )


def _brief(ids: list[int]) -> str:
    return f"{ids[:8]}{' ...' if len(ids) > 8 else ''}"


def _vocabulary(model: nn.Module) -> int:
    return int(model(mx.array([[0]])).shape[-1])  # lazy: nothing is computed
