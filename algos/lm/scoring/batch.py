"""Turns trajectories of text into arrays, for scoring and training.

Shapes: N trajectories, P distinct prompts, L longest prompt, T longest completion, K largest
support of a token.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from textenv.algos.episodes.trajectory import Trajectory
from textenv.errors import DataError


class BatchSize(NamedTuple):
    """What a loss divides its sums by: the size of the whole batch, even for a part of it."""

    sequences: float
    """Number of completions."""
    tokens: float
    """Number of trained tokens, or the sum of their weights if they have any."""


@dataclass
class TokenBatch:
    """N trajectories as the NumPy arrays that a policy-gradient loss needs."""

    prompts: list[list[int]]
    """The token ids of P distinct prompts."""
    prompt_index: np.ndarray
    """(N,) int32, the number of the prompt that each trajectory continues; ascending."""
    token_ids: np.ndarray
    """(N, T) int32, padded on the right with 0."""
    mask: np.ndarray
    """(N, T) float32, 1 for the tokens that the policy chose and that are trained on."""
    old_logprobs: np.ndarray
    """(N, T) float32, the log-probability of each token when it was sampled; 0 without a token."""
    support: np.ndarray | None
    """(N, T, K) int32, ids of the tokens that could be drawn, padded with -1; None if all could."""
    temperature: np.ndarray
    """(N,) float32, what the logits were divided by when sampling."""
    rewards: np.ndarray
    """(N,) float64, the total reward of each trajectory, with a strategy's shaping."""
    group_ids: np.ndarray
    """(N,) int64, the group of each trajectory."""
    order: np.ndarray
    """(N,) int64, the place of each row among the trajectories that the batch was made of."""
    weights: np.ndarray | None = None
    """(N, T) float32, each token's weight in the loss, 0 if its mask is 0; None: all are 1."""
    token_advantages: np.ndarray | None = None
    """(N, T) float32, NaN in rows without advantages of their own; None: no row has them."""
    parent: np.ndarray | None = None
    """(N,) int64, the row whose first tokens each row shares, -1 for none; None: no tree.

    A row shares more tokens with its parent than the parent does with its own. The mask of shared
    tokens is 0.
    """
    start: np.ndarray | None = None
    """(N,) int64, how many tokens each row shares with its parent."""

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def loss_weights(self) -> np.ndarray:
        """(N, T), what each token counts in the loss: its weight, or the mask."""
        return self.mask if self.weights is None else self.weights

    @property
    def needed(self) -> np.ndarray:
        """(N,) how many tokens of each row are needed: those up to the last whose mask is not 0."""
        return np.max((self.mask != 0) * np.arange(1, self.mask.shape[1] + 1), axis=1)

    def take(self, rows: np.ndarray) -> TokenBatch:
        """A batch of some of the trajectories, cut to their own longest completion."""
        used, prompt_index = np.unique(self.prompt_index[rows], return_inverse=True)
        filled = self.mask[rows].any(axis=0).nonzero()[0]
        width = int(filled[-1]) + 1 if len(filled) else 1
        parent, start = self._tree(rows)
        return TokenBatch(
            prompts=[self.prompts[i] for i in used],
            prompt_index=prompt_index.astype(np.int32),
            token_ids=self.token_ids[rows, :width],
            mask=self.mask[rows, :width],
            old_logprobs=self.old_logprobs[rows, :width],
            support=None if self.support is None else self.support[rows, :width],
            temperature=self.temperature[rows],
            rewards=self.rewards[rows],
            group_ids=self.group_ids[rows],
            order=self.order[rows],
            weights=None if self.weights is None else self.weights[rows, :width],
            token_advantages=None
            if self.token_advantages is None
            else self.token_advantages[rows, :width],
            parent=parent,
            start=start,
        )

    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows that no earlier row is equal to, and for each row its place among these.

        Rows are equal if a model gives them equal log-probabilities where their masks are 1.
        """
        places: dict[tuple[bytes, ...], int] = {}
        parts = [self.prompt_index, self.token_ids, self.mask, self.temperature]
        if self.support is not None:
            parts.append(self.support)
        found = [
            places.setdefault(tuple(part[row].tobytes() for part in parts), len(places))
            for row in range(len(self))
        ]
        return np.unique(found, return_index=True)[1], np.array(found)

    def _tree(self, rows: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """`parent` and `start` among some rows; a missing parent is replaced by its own parent."""
        if self.parent is None or self.start is None:
            return None, None
        places = {int(row): place for place, row in enumerate(rows)}
        pairs = [nearest(self.parent, self.start, int(row), places) for row in rows]
        parent = np.array([places.get(row, -1) for row, _ in pairs], np.int64)
        if (parent < 0).all():
            return None, None
        return parent, np.array([start for _, start in pairs], np.int64)


def nearest(
    parent: np.ndarray, start: np.ndarray, row: int, known: Container[int]
) -> tuple[int, int]:
    """A row's nearest ancestor among known rows, -1 for none, and how many tokens they share."""
    above, shared = int(parent[row]), int(start[row])
    while above >= 0 and (above not in known or start[above] >= shared):
        shared = min(shared, int(start[above]))
        above = int(parent[above])
    return (above, shared) if above >= 0 else (-1, 0)


def make_batch(
    trajectories: Sequence[Trajectory], mask_truncated_completions: bool = False
) -> TokenBatch:
    """A batch of trajectories of text, ordered so that equal prompts stand together.

    Tokens that trajectories of a tree share count once, in the row of the parent.

    Args:
        trajectories: trajectories with token ids and log-probabilities, as a language model's
            policy records them.
        mask_truncated_completions: leave out the tokens of completions that reached their limit.

    Raises:
        DataError: if there are no trajectories, or one has no tokens, or its parent is missing.
    """
    if not trajectories:
        raise DataError("there is nothing to train on: the buffer holds no trajectories")
    distinct: dict[tuple[int, ...], int] = {}
    index = []
    for number, trajectory in enumerate(trajectories):
        if trajectory.token_ids is None or trajectory.prompt_ids is None:
            raise DataError(
                f"trajectory {number} has no token ids: a language model is trained on what a "
                "language-model policy recorded (see create_policy)"
            )
        index.append(distinct.setdefault(tuple(trajectory.prompt_ids), len(distinct)))
    order = np.argsort(index, kind="stable")
    rows = [trajectories[i] for i in order]
    group_ids = _group_ids(rows)
    if any(t.parent is not None for t in rows):  # then a group's rows must stand together
        again = np.lexsort((group_ids, np.array(index)[order]))
        order, group_ids = order[again], group_ids[again]
        rows = [trajectories[i] for i in order]
    parent, start = _trees(rows, group_ids)
    n, width = len(rows), max(1, max(len(t.token_ids or ()) for t in rows))
    token_ids = np.zeros((n, width), np.int32)
    mask = np.zeros((n, width), np.float32)
    old_logprobs = np.zeros((n, width), np.float32)
    for i, t in enumerate(rows):
        length = len(t.token_ids or ())
        token_ids[i, :length] = t.token_ids
        old_logprobs[i, :length] = t.token_logprobs
        if not (mask_truncated_completions and t.completion_truncated):
            mask[i, :length] = t.token_mask
    if parent is not None and start is not None:
        _mask_shared(mask, rows, parent, start)
    return TokenBatch(
        prompts=[list(p) for p in distinct],
        prompt_index=np.array(index, np.int32)[order],
        token_ids=token_ids,
        mask=mask,
        old_logprobs=old_logprobs,
        support=_pad_support(rows, width),
        temperature=np.array([t.temperature or 1.0 for t in rows], np.float32),
        rewards=np.array([t.total_reward + (t.shaping or 0.0) for t in rows]),
        group_ids=group_ids,
        order=order,
        weights=_weights(rows, mask),
        token_advantages=_token_advantages(rows, width),
        parent=parent,
        start=start,
    )


def _trees(
    rows: list[Trajectory], group_ids: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """`TokenBatch.parent` and ``start``; None if no tokens are shared."""
    parent = np.full(len(rows), -1)
    start = np.zeros(len(rows), np.int64)
    for group in np.unique(group_ids):
        members = np.flatnonzero(group_ids == group)
        for row in members:
            t = rows[row]
            if t.parent is None or not t.branch_at:
                continue
            inside = 0 <= t.parent < len(members)
            theirs = (rows[members[t.parent]].token_ids or []) if inside else []
            if theirs[: t.branch_at] != (t.token_ids or [])[: t.branch_at]:
                raise DataError(
                    f"a trajectory of group {t.group_id} shares its first {t.branch_at} tokens "
                    f"with trajectory {t.parent} of the group, which has others or is missing: "
                    "use textenv.algos.strategies.thin to leave trajectories out of a tree"
                )
            parent[row], start[row] = members[t.parent], t.branch_at
    every = range(len(rows))
    pairs = [nearest(parent, start, row, every) for row in every]
    if all(above < 0 for above, _ in pairs):
        return None, None
    return np.array([above for above, _ in pairs]), np.array([shared for _, shared in pairs])


def _mask_shared(
    mask: np.ndarray, rows: list[Trajectory], parent: np.ndarray, start: np.ndarray
) -> None:
    """Mask shared tokens except in one row, which trains on them if any row below it does."""
    for row in np.flatnonzero(parent >= 0):
        trains, above = mask[row].any(), int(row)
        mask[row, : start[row]] = 0
        while trains and parent[above] >= 0:
            shared, above = int(start[above]), int(parent[above])
            first = int(start[above])
            mask[above, first:shared] = (rows[above].token_mask or ())[first:shared]


def _weights(rows: list[Trajectory], mask: np.ndarray) -> np.ndarray | None:
    if all(t.token_weights is None for t in rows):
        return None
    weights = mask.copy()
    for i, t in enumerate(rows):
        if t.token_weights is not None:
            weights[i, : len(t.token_weights)] *= _by_token(t, "token_weights")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise DataError("token_weights must be finite and at least 0")
    return weights


def _token_advantages(rows: list[Trajectory], width: int) -> np.ndarray | None:
    if all(t.token_advantages is None for t in rows):
        return None
    advantages = np.zeros((len(rows), width), np.float32)
    for i, t in enumerate(rows):
        if t.token_advantages is None:
            advantages[i] = np.nan
        else:
            advantages[i, : len(t.token_advantages)] = _by_token(t, "token_advantages")
    return advantages


def _by_token(trajectory: Trajectory, name: str) -> np.ndarray:
    values, count = getattr(trajectory, name), len(trajectory.token_ids or ())
    if len(values) != count:
        raise DataError(f"{name} has {len(values)} items for {count} token_ids")
    return np.array(values, np.float32)


def _group_ids(rows: list[Trajectory]) -> np.ndarray:
    """New numbers for groups, because two runners may use one id for two prompts.

    A trajectory without a group becomes a group of its own.
    """
    numbers: dict[Any, int] = {}
    keys = [
        ("own", i) if t.group_id is None else (t.group_id, tuple(t.prompt_ids or ()))
        for i, t in enumerate(rows)
    ]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def _pad_support(rows: list[Trajectory], width: int) -> np.ndarray | None:
    if all(t.support is None for t in rows):
        return None
    if any(t.support is None for t in rows):
        raise DataError("some trajectories recorded the support of their tokens and others did not")
    largest = max((len(ids) for t in rows for ids in t.support or ()), default=1)
    support = np.full((len(rows), width, largest), -1, np.int32)
    for i, t in enumerate(rows):
        for j, ids in enumerate(t.support or ()):
            support[i, j, : len(ids)] = ids
    return support
