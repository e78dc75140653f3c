"""The processes of one training on several machines or CPUs: its ranks, and what they exchange.

A process is a rank if ``textenv launch`` or ``mlx.launch`` started it, which say so in the
environment. All ranks make the same exchanges in the same order.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from textenv.algos.runtime import backend
from textenv.algos.runtime.launched import HOSTS, LOST, RANK, watch_launcher
from textenv.errors import TextEnvError

backend.prepare()

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402
from mlx.utils import tree_flatten, tree_unflatten  # noqa: E402

_CHUNK = 2**26  # bytes of an exchange
_WAITING = 60.0  # seconds of an exchange after which a line says that it waits, again and again


class RankError(TextEnvError, RuntimeError):
    """Another rank has ended, or the ranks are not of the same training.

    Attributes:
        exit_code: of a process that it ends.
    """

    exit_code = LOST


class Ranks:
    """The ranks of a training, as one of them sees them.

    After the first exchange that fails, every other one fails at once: MLX's own may wait for ever.

    Args:
        group: MLX's group; None: this process is the only rank.

    Attributes:
        rank: the number of this rank, from 0.
        size: how many there are.
    """

    def __init__(self, group: Any = None):
        self._group = group
        self.rank: int = 0 if group is None else group.rank()
        self.size: int = 1 if group is None else group.size()
        self._lost = ""
        self._since: float | None = None  # when the exchange began that is under way
        if self.size > 1:
            threading.Thread(target=self._report, name="ranks", daemon=True).start()

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files, evaluates and reports."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """The part of a sequence that is this rank's; those of all ranks are about as long."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, tree: Any) -> Any:
        """The sum of the ranks' trees of arrays, which is the same on all ranks to the last bit."""
        if self.size == 1:
            return tree
        flat: list[tuple[str, mx.array]] = tree_flatten(tree)  # type: ignore[assignment]
        return tree_unflatten([(name, self._sum(array)) for name, array in flat])

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order; each is one of JSON's types."""
        if self.size == 1:
            return [value]
        data = json.dumps(value).encode()
        with self._exchange():
            sizes = mx.distributed.all_gather(mx.array([len(data)]), group=self._group)
            lengths: Any = sizes.tolist()
        longest = max(lengths)
        own = np.zeros(longest, np.uint8)
        own[: len(data)] = np.frombuffer(data, np.uint8)
        with self._exchange():
            rows = mx.distributed.all_gather(mx.array(own)[None], group=self._group)
            mx.eval(rows)
        return [json.loads(bytes(np.array(row)[:n])) for row, n in zip(rows, lengths)]

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set on any rank."""
        return [any(each) for each in zip(*self.gather(list(flags)))]

    def from_first(self, value: Any = None) -> Any:
        """The value of the first rank, of JSON's types; what the others give is not looked at."""
        return self.gather(value if self.is_first else None)[0]

    def arrays_from_first(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays of the first rank; what the others give is not looked at."""
        if self.size == 1:
            return dict(arrays)
        about = [(name, str(a.dtype), a.shape) for name, a in arrays.items()]
        found = {}
        for name, kind, shape in self.from_first(about):
            whole = np.zeros(shape, kind)
            if self.is_first:
                whole[...] = arrays[name]
            flat = whole.reshape(-1).view(np.uint8)
            for i in range(0, len(flat), _CHUNK):
                flat[i : i + _CHUNK] = np.array(self._sum(mx.array(flat[i : i + _CHUNK])))
            found[name] = whole
        return found

    def check_equal(self, what: Mapping[str, Any]) -> None:
        """Refuse ranks that are not of the same training.

        Args:
            what: values of JSON's types by name, which all ranks must have alike.

        Raises:
            RankError: naming the first that differs, with both values. It is raised on all ranks.
        """
        first, *others = self.gather(dict(what))
        for rank, other in enumerate(others, 1):
            for name in [*first, *(name for name in other if name not in first)]:
                if first.get(name) != other.get(name):
                    raise RankError(
                        f"all ranks must have the same {name}: rank 0 has "
                        f"{first.get(name)!r:.80}, rank {rank} {other.get(name)!r:.80}"
                    )

    def _sum(self, array: mx.array) -> mx.array:
        with self._exchange():
            total = mx.distributed.all_sum(array, group=self._group)
            mx.eval(total)
        return total

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        if self._lost:
            raise RankError(self._lost)
        self._since = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            self._lost = (
                f"another rank has ended, so rank {self.rank} of {self.size} ends too ({error}): "
                "see what the other one says; the training goes on from its last checkpoint"
            )
            raise RankError(self._lost) from error
        finally:
            self._since = None

    def _report(self) -> None:
        """Say that an exchange takes long; the other ranks may evaluate, or be stopped."""
        said = 0
        while True:
            time.sleep(_WAITING / 10)
            since = self._since
            times = 0 if since is None else int((time.monotonic() - since) / _WAITING)
            if times > said:
                waited = f"{times * _WAITING:g} s"
                sys.stderr.write(f"rank {self.rank} has waited {waited} for the other ranks\n")
            said = times


@cache
def join() -> Ranks:
    """Find the other ranks, and wait for them; alone, if this process was not started as a rank.

    Raises:
        RankError: if they cannot be reached.
    """
    watch_launcher()
    if RANK not in os.environ:
        return Ranks()
    kind = "ring" if HOSTS in os.environ else "any"
    try:
        return Ranks(mx.distributed.init(strict=True, backend=kind))
    except (RuntimeError, ValueError) as error:
        raise RankError(
            f"rank {os.environ[RANK]} cannot reach the others ({error}): start all of them within "
            "a minute, and look whether a firewall is between them"
        ) from error
