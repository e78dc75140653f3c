"""Logs a run to several trackers; one that fails is left out, and the training goes on."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from textenv.algos.storage.trackers.tracker import Row, Run, Tracker
from textenv.errors import ConfigError, MissingDependencyError, unknown

_LONGEST = 2_000  # characters of a text in a table
_WHY = 300  # characters of an error


class _Known(NamedTuple):
    """A tracker that can be named."""

    module: str
    """The module beside this one, and its class."""
    package: str | None = None
    """The package that it needs, which is also the name of the extra."""


TRACKERS = {
    "tensorboard": _Known("to_tensorboard:TensorBoard", "tensorboard"),
    "wandb": _Known("to_wandb:WandB", "wandb"),
    "trackio": _Known("to_trackio:Trackio", "trackio"),
    "mlflow": _Known("to_mlflow:MLflow", "mlflow"),
    "csv": _Known("to_csv:CSV"),
}
"""The trackers by name. A new one is a module in this folder, and a line here."""


def default_trackers() -> tuple[str, ...]:
    """The trackers of a run that names none: TensorBoard's event files, if it is installed."""
    return ("tensorboard",) if _is_installed("tensorboard") else ()


class Tracking:
    """Several trackers of one run.

    Args:
        names: names of `TRACKERS`, or classes (functions) that make a `Tracker` of a `Run`.
        say: called with a line about each tracker that fails.

    Raises:
        ConfigError: if there is no tracker of a name.
        MissingDependencyError: if its package is not installed; names the extra.
    """

    def __init__(self, names: Sequence[str | Callable[[Run], Tracker]], say: Callable[[str], None]):
        self._say = say
        self._makers: dict[str, str | Callable[[Run], Tracker]] = {}
        for name in names:
            self._makers[_called(name, self._makers)] = name
        self._open: dict[str, Tracker] = {}
        for name in names:
            _check(name)

    def __bool__(self) -> bool:
        return bool(self._makers)

    def open(self, run: Run) -> None:
        """Open the trackers of a run."""
        for name, maker in list(self._makers.items()):
            try:
                make = _load(maker) if isinstance(maker, str) else maker
                self._open[name] = make(run)
            except Exception as error:  # no network, no login, no disk: the training needs none
                self._leave_out(name, "nothing", error)

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Log the metrics of a step; what is not a number is left out."""
        numbers = {
            name: float(value)
            for name, value in metrics.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        self._each(f"nothing from step {step} on", lambda tracker: tracker.log(numbers, step))

    def table(self, name: str, rows: Sequence[Row], step: int) -> None:
        """Log a table of a step; long texts are cut."""
        rows = [{column: _fit(value) for column, value in row.items()} for row in rows]
        if rows:
            what = f"nothing from step {step} on"
            self._each(what, lambda tracker: tracker.table(name, rows, step))

    def close(self, failed: bool = False) -> None:
        """Close the trackers."""
        self._each("not all", lambda tracker: tracker.close(failed))
        self._open.clear()

    def _each(self, what: str, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                act(tracker)
            except Exception as error:  # as in `open`
                self._leave_out(name, what, error)

    def _leave_out(self, name: str, what: str, error: Exception) -> None:
        self._open.pop(name, None)
        self._makers.pop(name, None)
        why = " ".join(f"{type(error).__name__}: {error}".split())[:_WHY]
        self._say(f"{name}: {what} is logged there ({why}); the run's folder has all metrics")


def _called(name: str | Callable[[Run], Tracker], taken: Mapping[str, Any]) -> str:
    """What a tracker is called: two functions of one name, as two lambdas, are two trackers."""
    if isinstance(name, str):
        return name
    called = getattr(name, "__name__", type(name).__name__)
    same = sum(other == called or other.startswith(f"{called} (") for other in taken)
    return f"{called} ({same + 1})" if same else called


def _check(name: str | Callable[[Run], Tracker]) -> None:
    if not isinstance(name, str):
        return
    if name not in TRACKERS:
        raise ConfigError(unknown("tracker", name, TRACKERS))
    package = TRACKERS[name].package
    if package is not None and not _is_installed(package):
        raise MissingDependencyError(package, package, f"The tracker {name}")


def _is_installed(package: str) -> bool:
    """Whether a package is there, and not only a folder of its name, as wandb makes one."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None


def _load(name: str) -> Callable[[Run], Tracker]:
    module, _, kind = TRACKERS[name].module.partition(":")
    found = importlib.import_module(f"textenv.algos.storage.trackers.{module}")
    maker: Callable[[Run], Tracker] = getattr(found, kind)
    return maker


def _fit(value: Any) -> Any:
    """A text that every tracker can take: neither long, nor with half a character."""
    if not isinstance(value, str):
        return value
    if len(value) > _LONGEST:
        half = _LONGEST // 2
        value = f"{value[:half]} .. {len(value) - _LONGEST} characters .. {value[-half:]}"
    return value.encode("utf-8", "replace").decode()
