"""Opens the checkpoint that a training is to go on from, if it is one of the same training."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from textenv.algos.runtime import blas
from textenv.algos.runtime.versions import versions
from textenv.algos.storage.checkpoints.store import Checkpoint, Manifest
from textenv.algos.storage.codec import FAULTS
from textenv.errors import ConfigError, DataError, TextEnvError

FREE = ("save_steps", "save_minutes", "worker_timeout", "backend", "ray_address", "log_to")
"""Settings that do not change what a training computes."""


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, by name, as they were and as they are; None where one is unset.

    Tables are compared setting by setting, and these are named ``table.setting``.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for name in [*before, *(name for name in now if name not in before)]:
        old, new = _plain(before.get(name)), _plain(now.get(name))
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found |= {f"{name}.{inner}": pair for inner, pair in changes(old, new).items()}
        elif old != new:
            found[name] = old, new
    return found


def check_unchanged(
    checkpoint: Checkpoint, config: Mapping[str, Any], allowed: Collection[str] = ()
) -> None:
    """Refuse to go on from the checkpoint of a training with other settings.

    Args:
        checkpoint: the checkpoint.
        config: the settings of the training that is to go on.
        allowed: names of settings that may differ, beside those in `FREE`.

    Raises:
        ConfigError: if others differ; names each, as it was and as it is.
    """
    found = changes(checkpoint.manifest.config, config)
    refused = {n: pair for n, pair in found.items() if n not in allowed and n not in FREE}
    if refused:
        shown = "; ".join(
            f"{name} was {_shown(old)} and is {_shown(new)}" for name, (old, new) in refused.items()
        )
        raise ConfigError(
            f"the settings are not those of {checkpoint.path}: {shown}. Set them as they were, or "
            f"allow the change of {', '.join(refused)}"
        )


def warn_of_other_machine(checkpoint: Checkpoint) -> None:
    """Warn if the libraries or the BLAS are others, so that last bits of results may differ."""
    manifest: Manifest = checkpoint.manifest
    here = {**versions(), "BLAS": f"{blas.status().name}, {blas.status().detail}"}
    there = {**manifest.versions, "BLAS": f"{manifest.blas['name']}, {manifest.blas['detail']}"}
    found = changes(there, here)
    if found:
        shown = "; ".join(f"{name} {_shown(a)}, now {_shown(b)}" for name, (a, b) in found.items())
        warnings.warn(
            f"{checkpoint.path} was written with {shown}: the training goes on, but its results "
            "may differ in their last bits from those of a run that never stopped",
            stacklevel=3,
        )


@contextmanager
def loading(checkpoint: Checkpoint) -> Iterator[None]:
    """A block in which objects load their states; an error in it names the checkpoint.

    Raises:
        DataError: if a state is not of the form that it should have.
    """
    try:
        yield
    except TextEnvError as error:
        raise type(error)(f"{checkpoint.path}: {error}") from error
    except (*FAULTS, LookupError, ArithmeticError) as error:
        raise DataError(
            f"{checkpoint.path} is not the state of such a training: {error!r}"
        ) from error


def _plain(value: Any) -> Any:
    """A setting as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    return "unset" if value is None else f"{value!r:.80}"
