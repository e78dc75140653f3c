"""Says which columns of a batch belong to each row, and at which positions.

All rows of a batch share their columns. If a row has nothing in a column, because it began later
than others or was given fewer tokens, the column is a *hole* of the row: attention does not see it,
and positions do not count it.

Shapes: as in `textenv.algos.lm.cache.kv_cache`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402


class RowPositions:
    """The positions in a batch's rows; the caches of all layers share them.

    Args:
        start: (B,) the position of column 0: the prompt's length less the number of holes so far.
        padding: (P,) the padding of the prompts; None if no prompt is padded.
        holes: (B, T or fewer) True for a hole; None if there are no holes.
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
        """The position of the token in column ``columns`` of each row, (B,)."""
        if self._offset[0] != columns:
            self._offset = columns, self.start + columns
        return self._offset[1]

    def over_prompt(self, width: int) -> mx.array | None:
        """What is added to the scores of the prompts' columns, (P, 1, 1, 1, 1, S)."""
        if self.padding is not None and self._over_prompt is None:
            bias = mx.where(mx.arange(width) >= self.padding[:, None], 0.0, -mx.inf)
            self._over_prompt = bias[:, None, None, None, None]
        return self._over_prompt

    def over_own(self, columns: int, per_prompt: int) -> mx.array | None:
        """What is added to the scores of the rows' own columns, (P, 1, G, 1, 1, T)."""
        if self.holes is None:
            return None
        if self._over_own is None or self._over_own.shape[-1] < columns:
            width = columns + columns // 2
            bias = np.zeros((len(self.holes), width), np.float32)
            bias[:, : self.holes.shape[1]][self.holes] = -np.inf
            self._over_own = mx.array(bias).reshape(-1, 1, per_prompt, 1, 1, width)
        return self._over_own[..., :columns]

    def visible(self, width: int, columns: int, n: int, window_size: int) -> mx.array:
        """Which columns the next ``n`` queries see in a sliding window, (B, 1, N, S + T + N).

        Args:
            width: S.
            columns: T.
            n: N.
            window_size: the window's length in positions, not in columns.
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
        """The positions if a stretch of each row's columns becomes holes.

        Args:
            begins: (B,) the first column of the stretch.
            ends: (B,) the first column after it.
            columns: how many columns there are, with these.
        """
        holes = self._holes(columns)
        index = np.arange(columns)
        new = (index >= begins[:, None]) & (index < ends[:, None]) & ~holes
        if not new.any():
            return self
        return RowPositions(self.start - mx.array(new.sum(axis=1)), self.padding, holes | new)

    def prompt_tokens(self, columns: int) -> np.ndarray:
        """The number of tokens in each row's prompt, (B,)."""
        return np.array(self.start) + self._holes(columns).sum(axis=1)

    def cut(self, lengths: np.ndarray, columns: int) -> RowPositions:
        """The positions if each row keeps only its first tokens, and the others become holes.

        Args:
            lengths: (B,) how many tokens to keep; those of the prompt stay in any case.
            columns: how many columns there are.
        """
        holes = self._holes(columns)
        own = lengths - self.prompt_tokens(columns)
        new = (np.cumsum(~holes, axis=1) > own[:, None]) & ~holes
        if not new.any():
            return self
        return RowPositions(self.start - mx.array(new.sum(axis=1)), self.padding, holes | new)

    def stretch(self, columns: int) -> tuple[int, int]:
        """The first column that is not a hole in every row, and the first after the last such."""
        if self.holes is None:
            return 0, columns
        used = np.flatnonzero(~self._holes(columns).all(axis=0))
        return (int(used[0]), int(used[-1]) + 1) if len(used) else (columns, columns)

    def take(
        self, slots: np.ndarray, stretch: tuple[int, int], columns: int, padding: mx.array | None
    ) -> RowPositions:
        """The positions of some rows.

        Args:
            slots: (B',) which rows.
            stretch: the first column to keep, and the first after them, from `stretch`.
            columns: how many columns there were.
            padding: the padding of these rows' prompts.
        """
        first, end = stretch
        holes = None if self.holes is None else self.holes[slots, first:end]
        return RowPositions(self.start[mx.array(slots)] + (columns - end + first), padding, holes)

    def join(
        self, other: RowPositions, columns: tuple[int, int], padding: mx.array | None
    ) -> RowPositions:
        """The positions of both batches' rows; those with fewer columns are moved to the right.

        Args:
            other: the positions of the rows that come last.
            columns: T of each batch.
            padding: the padding of all prompts.
        """
        most = max(columns)
        holes = [np.ones((positions.start.shape[0], most), bool) for positions in (self, other)]
        for hole, positions, count in zip(holes, (self, other), columns):
            hole[:, most - count :] = positions._holes(count)
        starts = [self.start - (most - columns[0]), other.start - (most - columns[1])]
        return RowPositions(mx.concatenate(starts), padding, np.concatenate(holes))

    def _holes(self, columns: int) -> np.ndarray:
        """The holes, (B, T)."""
        holes = np.zeros((self.start.shape[0], columns), bool)
        if self.holes is not None:
            known = self.holes[:, :columns]
            holes[:, : known.shape[1]] = known
        return holes


def pad_left(sequences: Sequence[Sequence[int]], width: int = 0) -> tuple[mx.array, mx.array, bool]:
    """Token ids (P, L) padded on the left with 0, the padding (P,), and whether there is any.

    Args:
        sequences: token ids.
        width: the least L; it is more if a sequence is longer.
    """
    longest = max(width, *map(len, sequences))
    ids = np.zeros((len(sequences), longest), np.int32)
    for row, sequence in zip(ids, sequences):
        row[longest - len(sequence) :] = sequence
    pads = [longest - len(s) for s in sequences]
    return mx.array(ids), mx.array(pads), any(pads)


def bucket(columns: int, least: int = 16) -> int:
    """A number of columns rounded up, so that few different widths occur.

    The result is higher by less than ``least``, or by less than an eighth.
    """
    step = max(least, 2 ** (columns.bit_length() - 4))
    return -(-columns // step) * step


def window(filled: mx.array, n: int, window_size: int | None) -> mx.array:
    """Which columns the last ``n`` queries see, (B, 1, N, columns).

    Args:
        filled: (B, columns) whether a column holds a token; positions count only these.
        n: N.
        window_size: how many positions a query sees, with its own; None: all.
    """
    columns = filled.shape[1]
    keys = mx.arange(columns)
    queries = mx.arange(columns - n, columns)[:, None]
    seen = (queries >= keys) & filled[:, None]  # (B, N, columns)
    if window_size is not None:
        positions = mx.cumsum(filled.astype(mx.int32), axis=1)
        seen = seen & (positions[:, columns - n :, None] < positions[:, None] + window_size)
    # A query in the padding sees itself, because a softmax over nothing would be NaN.
    return (seen | (queries == keys))[:, None]
