"""Keeps beside a saved rollout what only its trainer knows, for people who look at it.

Shapes: N trajectories, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from textenv.algos.episodes.environments import innermost
from textenv.algos.episodes.trajectory import Buffer, Trajectory
from textenv.algos.lm.scoring.batch import TokenBatch
from textenv.algos.runtime import backend
from textenv.algos.storage.inspection import (
    Inspected,
    Inspection,
    inspection_path,
    save_inspection,
)
from textenv.algos.storage.source import Exporter
from textenv.tasks import Task

backend.prepare()

from textenv.algos.lm.scoring.scorer import Scorer, by_parts  # noqa: E402

_UNFINISHED = "\ufffd"  # what a tokenizer writes for a part of a character
_MOST_PARTS = 4  # tokens of a character: UTF-8 has up to so many bytes


class Trained(NamedTuple):
    """What an update was made of."""

    batch: TokenBatch
    advantages: np.ndarray
    """(N,), or (N, T) for single tokens."""
    updated: bool
    """Whether the weights have changed."""


class TextExporter(Exporter):
    """Writes rollouts of text, and beside each of them its inspection.

    Args:
        folder: as for `Exporter`.
        every: as for `Exporter`.
        out: the trainer's folder, in which the inspections have one; None keeps none.
        policy: the policy that is trained.
        env: the environment that it is trained in.
    """

    def __init__(self, folder: str | Path | None, every: int, out: Any, policy: Any, env: Any):
        super().__init__(folder, every)
        self._inspects = out is not None
        self._policy, self._task = policy, getattr(innermost(env), "task", None)
        self._scorer: Scorer | None = None

    def inspect(
        self, rollout: Buffer, trained: Trained | None, step: int, rows: int | None = None
    ) -> None:
        """Write the inspection of a rollout, if the rollout was written and trained on.

        Args:
            rollout: the rollout.
            trained: what the update was made of; None if there was none.
            step: optimizer steps after the update.
            rows: how many trajectories are scored at a time; None: all.

        Raises:
            StorageError: if it cannot be written.
        """
        if self.last is None or trained is None or not self._inspects:
            return
        batch, trajectories = trained.batch, rollout.trajectories
        found = [Inspected() for _ in trajectories]
        ratios = self._ratios(batch, rows) if trained.updated else None
        for row, place in enumerate(batch.order):
            _add(found[place], trajectories[place], trained, ratios, row)
        texts: dict[tuple[int, ...], list[str]] = {}  # completions recur
        expected: dict[Any, Any] = {}
        for inspected, trajectory in zip(found, trajectories):
            ids = tuple(trajectory.token_ids or ())
            if ids not in texts:
                texts[ids] = token_texts(self._policy.tokenizer.decode, ids)
            inspected.token_texts = texts[ids]
            start = tuple(trajectory.reset_info.get(name) for name in ("example_id", "level"))
            if start not in expected:
                expected[start] = _expected(self._task, *start)
            inspected.expected = expected[start]
        save_inspection(Inspection(step, found), inspection_path(self.last))

    def _ratios(self, batch: TokenBatch, rows: int | None) -> np.ndarray:
        """The probability (N, T) of each token under the present weights, by that in the batch."""
        if self._scorer is None:
            self._scorer = Scorer(self._policy.model)
        scorer = self._scorer
        present = by_parts(lambda part: scorer(part)[0], batch, rows)
        difference = np.where(batch.mask > 0, present - batch.old_logprobs, 0.0)
        with np.errstate(over="ignore"):
            return _with_shared(np.exp(difference, dtype=np.float64), batch)


def _add(
    found: Inspected,
    trajectory: Trajectory,
    trained: Trained,
    ratios: np.ndarray | None,
    row: int,
) -> None:
    """Add what an update knew of a trajectory, which is this row of its batch."""
    count = len(trajectory.token_ids or ())
    if trained.advantages.ndim == 1:
        found.advantage = float(trained.advantages[row])
    else:
        own = _with_shared(trained.advantages, trained.batch)[row, :count]
        chosen = own[np.array(trajectory.token_mask or [], bool)]
        if len(chosen) and (chosen == chosen[0]).all():
            found.advantage = float(chosen[0])
        else:
            found.token_advantages = own.tolist()
    if ratios is not None:
        found.token_ratios = ratios[row, :count].tolist()


def _with_shared(values: np.ndarray, batch: TokenBatch) -> np.ndarray:
    """Values (N, T) of a batch; in a tree, tokens that a row shares have those of its parent."""
    if batch.parent is None or batch.start is None:
        return values
    out, parent, start = values.copy(), batch.parent, batch.start
    done: set[int] = set()

    def fill(row: int) -> None:
        above = int(parent[row])
        if row in done or above < 0:
            return
        done.add(row)
        fill(above)
        out[row, : start[row]] = out[above, : start[row]]

    for row in range(len(out)):
        fill(row)
    return out


def _expected(task: Any, example_id: Any, level: Any) -> Any:
    """The answer that an example has; None if it has none, or nobody knows the example."""
    if not isinstance(task, Task) or example_id is None:
        return None
    return (task if level is None else task.at_level(level)).example(example_id).get("answer")


def token_texts(decode: Callable[[list[int]], str], ids: Sequence[int]) -> list[str]:
    """The text of each token, which together are the text of all.

    Args:
        decode: gives the text of token ids.
        ids: the token ids.

    Returns:
        A text for each token. One that ends within a character has "", and the token that
        completes the character has it.
    """
    pieces = [decode([token]) for token in ids]
    if "".join(pieces) == decode(list(ids)) and not any(_UNFINISHED in piece for piece in pieces):
        return pieces
    # What a token adds may depend on the one before it: a space is left out at a text's beginning.
    pieces, before, begin = [], 0, 0
    for end in range(1, len(ids) + 1):
        known, now = decode(list(ids[before:begin])), decode(list(ids[before:end]))
        if now.endswith(_UNFINISHED) and end < len(ids) and end - begin < _MOST_PARTS:
            pieces.append("")
            continue
        pieces.append(now[len(known) :])
        before, begin = begin, end
    return pieces
