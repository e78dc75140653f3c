"""The folder of a training run: settings, metrics, rollouts, model, summary and picture."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import tomli_w

from textenv.algos.compare.plot import try_to_draw
from textenv.algos.evaluation.results import Evaluation
from textenv.algos.storage.inspection import FOLDER as INSPECTIONS
from textenv.algos.storage.replacing import write_whole
from textenv.algos.storage.run_files import json_object
from textenv.errors import ConfigError, DataError, StorageError

CONFIG = "config.toml"
"""The file of a run's settings."""

_METRICS, _SUMMARY = "metrics.jsonl", "summary.json"
_FIRST, _LAST = "before.json", "after.json"
_MOST_NAMES = 100  # of runs that begin in the same second
_TRIAL = 4096  # bytes
# Some file systems of networks have no locks; there, only a new folder is taken by one run alone.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_LABELS = {
    "step": "optimizer step",
    "reward": "reward",
    "time/iterations": "update",
    "time/total_timesteps": "transitions",
    "rollout/ep_rew_mean": "return, mean of the last 100 episodes",
}


class Picture(NamedTuple):
    """A picture to draw of a training's metrics."""

    file: str
    """Its name in the run's folder."""
    across: str
    """The metric of the horizontal axis."""
    up: str
    """The metric of the vertical axis."""
    title: str


class RunFolder:
    """Writes the files of a run.

    As a context it takes the folder for this process alone: it makes the folder, locks it until the
    block or the process ends, and finds out whether it can be written to. A new folder that
    `create` was not called for is gone after the block.

    Args:
        path: the folder, which must be new or empty.
        resumed: whether the folder is that of a run that goes on.

    Attributes:
        on_metrics: called with each row that was written to ``metrics.jsonl``; None calls nothing.

    Raises:
        ConfigError: if the folder is not empty; if it is, and a run is to go on in it. In a context
            also if another run writes to it, or nobody can.
    """

    def __init__(self, path: Path, resumed: bool = False):
        self.path, self._resumed = path, resumed
        self._others: Sequence[Path] = ()  # to be taken if this one is there already
        self._made: list[Path] = []
        self._lock: int | None = None
        self._created = False
        self.on_metrics: Callable[[Mapping[str, Any]], None] | None = None
        if resumed:
            if not (path / CONFIG).is_file():
                raise ConfigError(f"{path} is not the folder of a run: it has no {CONFIG}")
            return
        for place in path.parents:
            if place.exists() and not place.is_dir():
                raise ConfigError(f"{path} cannot be a folder, since {place} is a file")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise _not_empty(path)

    @staticmethod
    def default_path(name: str) -> Path:
        """The default folder of a run, ``runs/<name>-<time>``."""
        return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"

    @classmethod
    def named(cls, out: Path | None, name: str) -> RunFolder:
        """The folder that the user named, or else a new one that is called after a name.

        Two runs that begin in the same second are given two folders.
        """
        return cls.first_free(cls.default_path(name.replace("/", "-"))) if out is None else cls(out)

    @classmethod
    def first_free(cls, path: Path) -> RunFolder:
        """A new folder of this name, or of this name and a number."""
        others = [path.with_name(f"{path.name}-{number}") for number in range(2, _MOST_NAMES)]
        free = [place for place in (path, *others) if not place.exists()]
        folder = cls(free[0])
        folder._others = free[1:]
        return folder

    def __enter__(self) -> RunFolder:
        try:
            self._make()
            self._take()
        except OSError as error:
            self._leave()
            advice = "" if self._resumed else ": choose another --out"
            raise ConfigError(
                f"{self.path} cannot be written to ({error.strerror}){advice}"
            ) from error
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()

    def _make(self) -> None:
        """Make the folder and those that it is in."""
        if self._resumed:
            return
        for parent in reversed(self.path.parents):
            if not parent.exists():
                parent.mkdir(exist_ok=True)
                self._made.append(parent)
        for place in (self.path, *self._others):
            with suppress(FileExistsError):
                place.mkdir()
                self._made.append(place)
                self.path = place
                return

    def _take(self) -> None:
        """Lock the folder, and look whether it can be used."""
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            advice = "wait for its end" if self._resumed else "choose another --out"
            raise ConfigError(f"another run writes to {self.path}: {advice}") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        if not self._resumed and any(self.path.iterdir()):
            raise _not_empty(self.path)
        trial = self.path / ".trial"
        try:
            trial.unlink(missing_ok=True)  # it may be a link to somewhere else
            with trial.open("xb") as file:
                file.write(bytes(_TRIAL))
                file.flush()
                os.fsync(file.fileno())
        finally:
            trial.unlink(missing_ok=True)

    def _leave(self) -> None:
        """Unlock the folder, and remove what was made for a run that did not begin."""
        if not self._created:
            for place in reversed(self._made):
                with suppress(OSError):  # somebody has put something there
                    place.rmdir()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def check_room(self, size: int) -> None:
        """Refuse a disk that has no room for a run.

        Args:
            size: how many bytes it will write at least.

        Raises:
            ConfigError: if there are fewer; says how many there are.
        """
        place = next(
            place for place in (self.path, *self.path.absolute().parents) if place.is_dir()
        )
        free = shutil.disk_usage(place).free
        if free < size:
            raise ConfigError(
                f"the model and one checkpoint take {size / 1e9:.2f} GB, and the disk of "
                f"{self.path} has {free / 1e9:.2f} GB left: make room, or choose another --out"
            )

    def check(self) -> None:
        """Check that the folder that this process took is still there.

        Raises:
            StorageError: if it was removed, moved or replaced.
        """
        if self._lock is not None:
            own = os.fstat(self._lock)
            try:
                there = os.stat(self.path)
            except OSError as error:
                raise StorageError(
                    f"the run's folder {self.path} is gone ({error.strerror})"
                ) from error
            if (own.st_dev, own.st_ino) != (there.st_dev, there.st_ino):
                raise StorageError(f"the run's folder {self.path} was replaced by another one")

    def create(self, config: Mapping[str, Any]) -> None:
        """Make the folder, if it is not there, and write ``config.toml`` in it."""
        self.check()
        self.path.mkdir(parents=True, exist_ok=True)
        self._created = True
        write_whole(self.path / CONFIG, tomli_w.dumps(dict(config)))

    def add_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``, whole or not at all.

        Raises:
            StorageError: if it cannot be written.
        """
        self.check()
        line = f"{json.dumps(dict(metrics))}\n".encode()
        path = self.path / _METRICS
        try:
            with path.open("ab", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                if file.write(line) != len(line):  # a disk that becomes full takes a part
                    file.truncate(end)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise StorageError(f"{path} cannot be written to: {error.strerror}") from error
        if self.on_metrics is not None:
            self.on_metrics(metrics)

    def keep_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Let ``metrics.jsonl`` have a line for each step of a history, and no other.

        The lines that are there stay as they are. Those that a crash has lost are written again.

        Args:
            history: the metrics of the steps from the first on.

        Raises:
            DataError: if a line is of another step than the history.
        """
        path = self.path / _METRICS
        lines = path.read_bytes().splitlines() if path.exists() else []
        kept = []
        for number, metrics in enumerate(history):
            line = lines[number] if number < len(lines) else b""
            row = json_object(line)
            if row is None:
                row, line = dict(metrics), json.dumps(dict(metrics)).encode()
            for name in ("step", "epoch"):
                if row.get(name) != metrics.get(name):
                    raise DataError(
                        f"{path}, line {number + 1}: expected {name} {metrics.get(name)}, as the "
                        f"checkpoint has it, got {row.get(name)}"
                    )
            kept.append(line.decode() + "\n")
        write_whole(path, "".join(kept))

    @property
    def rollouts(self) -> Path:
        """The folder for rollouts."""
        return self.path / "rollouts"

    @property
    def model(self) -> Path:
        """The folder for the trained model."""
        return self.path / "model"

    def keep_rollouts(self, count: int) -> None:
        """Remove all rollouts but the first ones: those of steps that a run makes again."""
        inspections = (self.path / INSPECTIONS).glob("rollout_*")
        for path in (*self.rollouts.glob("rollout_*"), *inspections):
            number = path.name.split("_")[1]
            if number.isdecimal() and int(number) >= count:
                path.unlink()

    def write_first(self, first: Evaluation) -> None:
        """Write what was answered before the training, for a run that goes on."""
        write_whole(self.path / _FIRST, json.dumps(first.to_json()) + "\n")

    def write_last(self, last: Evaluation) -> None:
        """Write what was answered last, to be read beside what `write_first` wrote."""
        write_whole(self.path / _LAST, json.dumps(last.to_json()) + "\n")

    def read_first(self) -> Evaluation | None:
        """What was answered before the training; None if nothing was."""
        return self._read_answers(_FIRST)

    def read_last(self) -> Evaluation | None:
        """What was answered last, after the training or while it goes on; None if nothing was."""
        return self._read_answers(_LAST)

    def _read_answers(self, name: str) -> Evaluation | None:
        path = self.path / name
        if not path.exists():
            return None
        try:
            return Evaluation.from_json(json.loads(path.read_bytes()))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise DataError(f"{path} is broken: {error}") from error

    def read_summary(self) -> dict[str, Any]:
        """The content of ``summary.json``; empty if it is not there, or not whole."""
        path = self.path / _SUMMARY
        return (json_object(path.read_bytes()) if path.exists() else None) or {}

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``."""
        self.check()
        write_whole(self.path / _SUMMARY, json.dumps(dict(summary), indent=2) + "\n")

    def draw(self, picture: Picture, history: list[dict[str, float]]) -> None:
        """Draw one metric over another, and its running mean if there are ten rows, as a PNG.

        If it cannot be drawn, a warning says why.
        """
        try_to_draw(picture.file, lambda: self._draw(picture, history))

    def _draw(self, picture: Picture, history: list[dict[str, float]]) -> None:
        import matplotlib.pyplot as plt
        from matplotlib.ticker import MaxNLocator

        across, up = picture.across, picture.up
        rows = [metrics for metrics in history if up in metrics]
        steps = [metrics[across] for metrics in rows]
        values = [metrics[up] for metrics in rows]
        means = [sum(values[i - 9 : i + 1]) / 10 for i in range(9, len(values))]
        figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
        faint = 0.3 if means else 1.0
        axes.plot(steps, values, color="tab:blue", alpha=faint, linewidth=1, label="each update")
        if means:
            axes.plot(steps[9:], means, color="tab:blue", linewidth=2, label="mean of ten")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        labels = {"xlabel": _LABELS.get(across, across), "ylabel": _LABELS.get(up, up)}
        axes.set(**labels, title=picture.title)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
        figure.savefig(self.path / picture.file, dpi=120)
        plt.close(figure)


def spare_folders(path: Path) -> Iterator[RunFolder]:
    """New folders for a run whose own folder cannot be written to, the nearest first."""
    for place in (path.parent, Path.home(), Path(tempfile.gettempdir())):
        yield RunFolder.first_free(place / f"{path.name}-rescued")


def _not_empty(path: Path) -> ConfigError:
    return ConfigError(f"{path} is there already and not an empty folder: choose another --out")
