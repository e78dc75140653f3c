"""Where the rows of a batch stand: positions, padding and holes.

Columns are shared by all rows of a batch. Where a row has nothing in a column, as it began later
than others or was given fewer tokens, that is a *hole*: hidden, and not counted in positions.

Shapes: as in `textenv.algos.lm.cache.kv_cache`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402


class RowPositions:
    """What the caches of all layers of a batch have in common.

    Args:
        start: (B,) position of column 0: less than the length of the prompt by the holes so far.
        padding: (P,) of the prompts; None where none of them is padded.
        holes: (B, T or fewer) True where a row has nothing; None where there are none.
    """

    def __init__(
        self, start: mx.array, padding: mx.array | None = None, holes: np.ndarray | None = None
    ):
        self.start, self.padding = start, padding
        self.holes = holes if holes is not None and holes.any() else None
        # Made once for all layers:
        self._offset: tuple[int, mx.array] = (0, start)
        self._over_prompt: mx.array | None = None
        self._over_own: mx.array | None = None

    def offset(self, columns: int) -> mx.array:
        """Position of the token in column ``columns`` of each row, (B,)."""
        if self._offset[0] != columns:
            self._offset = columns, self.start + columns
        return self._offset[1]

    def over_prompt(self, width: int) -> mx.array | None:
        """What is added to scores of the prompts' columns, (P, 1, 1, 1, 1, S)."""
        if self.padding is not None and self._over_prompt is None:
            bias = mx.where(mx.arange(width) >= self.padding[:, None], 0.0, -mx.inf)
            self._over_prompt = bias[:, None, None, None, None]
        return self._over_prompt

    def over_own(self, columns: int, per_prompt: int) -> mx.array | None:
        """What is added to scores of the columns since, (P, 1, G, 1, 1, T)."""
        if self.holes is None:
            return None
        if self._over_own is None or self._over_own.shape[-1] < columns:
            width = columns + columns // 2
            bias = np.zeros((len(self.holes), width), np.float32)
            bias[:, : self.holes.shape[1]][self.holes] = -np.inf
            self._over_own = mx.array(bias).reshape(-1, 1, per_prompt, 1, 1, width)
        return self._over_own[..., :columns]

    def visible(self, width: int, columns: int, n: int, window_size: int) -> mx.array:
        """What the next ``n`` queries see in a sliding window, (B, 1, N, S + T + N).

        Args:
            width: S.
            columns: T.
            n: N.
            window_size: positions, not columns.
        """
        count, new = self.start.shape[0], columns + n
        own = np.ones((count, new), bool)
        if self.holes is not None:
            own[:, : self.holes.shape[1]] = ~self.holes
        prompt = mx.ones((count, width), dtype=mx.bool_)
        if self.padding is not None:
            filled = mx.arange(width) >= self.padding[:, None]
            prompt = mx.repeat(filled, count // len(self.padding), axis=0)
        return window(mx.concatenate([prompt, mx.array(own)], axis=1), n, window_size)

    def leave_out(self, begins: np.ndarray, ends: np.ndarray, columns: int) -> RowPositions:
        """The positions in which a stretch of each row's columns is holes.

        Args:
            begins: (B,) the first of them.
            ends: (B,) the first after them.
            columns: how many there are, with these.
        """
        holes = self._holes(columns)
        index = np.arange(columns)
        new = (index >= begins[:, None]) & (index < ends[:, None]) & ~holes
        if not new.any():
            return self
        return RowPositions(self.start - mx.array(new.sum(axis=1)), self.padding, holes | new)

    def prompt_tokens(self, columns: int) -> np.ndarray:
        """How many tokens there are in each row's prompt, (B,)."""
        return np.array(self.start) + self._holes(columns).sum(axis=1)

    def cut(self, lengths: np.ndarray, columns: int) -> RowPositions:
        """The positions in which rows have no more than their first tokens: the others are holes.

        Args:
            lengths: (B,) how many tokens, of which the prompt's stay in any case.
            columns: how many there are.
        """
        holes = self._holes(columns)
        own = lengths - self.prompt_tokens(columns)
        new = (np.cumsum(~holes, axis=1) > own[:, None]) & ~holes
        if not new.any():
            return self
        return RowPositions(self.start - mx.array(new.sum(axis=1)), self.padding, holes | new)

    def stretch(self, columns: int) -> tuple[int, int]:
        """The first column that holds something in any row, and the end of the last."""
        if self.holes is None:
            return 0, columns
        used = np.flatnonzero(~self._holes(columns).all(axis=0))
        return (int(used[0]), int(used[-1]) + 1) if len(used) else (columns, columns)

    def take(
        self, slots: np.ndarray, stretch: tuple[int, int], columns: int, padding: mx.array | None
    ) -> RowPositions:
        """The positions of some rows.

        Args:
            slots: (B',) which.
            stretch: the first column to keep and the first that is not, from `stretch`.
            columns: how many there were.
            padding: of these rows' prompts.
        """
        first, end = stretch
        holes = None if self.holes is None else self.holes[slots, first:end]
        return RowPositions(self.start[mx.array(slots)] + (columns - end + first), padding, holes)

    def join(
        self, other: RowPositions, columns: tuple[int, int], padding: mx.array | None
    ) -> RowPositions:
        """Both rows, whichever has fewer columns moved to the right.

        Args:
            other: the positions whose rows come last.
            columns: T of each.
            padding: of all prompts.
        """
        most = max(columns)
        holes = [np.ones((positions.start.shape[0], most), bool) for positions in (self, other)]
        for hole, positions, count in zip(holes, (self, other), columns):
            hole[:, most - count :] = positions._holes(count)
        starts = [self.start - (most - columns[0]), other.start - (most - columns[1])]
        return RowPositions(mx.concatenate(starts), padding, np.concatenate(holes))

    def _holes(self, columns: int) -> np.ndarray:
        """(B, T), all False where there are none."""
        holes = np.zeros((self.start.shape[0], columns), bool)
        if self.holes is not None:
            known = self.holes[:, :columns]
            holes[:, : known.shape[1]] = known
        return holes


def pad_left(sequences: Sequence[Sequence[int]], width: int = 0) -> tuple[mx.array, mx.array, bool]:
    """Token ids (P, L) padded on the left with 0, pads in each row (P,), and whether any are.

    Args:
        sequences: token ids.
        width: L, where it is more than the longest of them.
    """
    longest = max(width, *map(len, sequences))
    ids = np.zeros((len(sequences), longest), np.int32)
    for row, sequence in zip(ids, sequences):
        row[longest - len(sequence) :] = sequence
    pads = [longest - len(s) for s in sequences]
    return mx.array(ids), mx.array(pads), any(pads)


def bucket(columns: int, least: int = 16) -> int:
    """So many columns or a few more, fewer than ``least`` or an eighth: widths that come again."""
    step = max(least, 2 ** (columns.bit_length() - 4))
    return -(-columns // step) * step


def window(filled: mx.array, n: int, window_size: int | None) -> mx.array:
    """Which columns the last ``n`` queries see, (B, 1, N, columns).

    Args:
        filled: (B, columns) which hold something: they alone are counted in positions.
        n: N.
        window_size: how many positions a query sees, its own too; None: all.
    """
    columns = filled.shape[1]
    keys = mx.arange(columns)
    queries = mx.arange(columns - n, columns)[:, None]
    seen = (queries >= keys) & filled[:, None]  # (B, N, columns)
    if window_size is not None:
        positions = mx.cumsum(filled.astype(mx.int32), axis=1)
        seen = seen & (positions[:, columns - n :, None] < positions[:, None] + window_size)
    # A query in the padding sees itself: an empty row of a softmax would be NaN.
    return (seen | (queries == keys))[:, None]
