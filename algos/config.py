"""Checks settings in dataclasses, and reads and writes them as TOML."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from pathlib import Path
from typing import Any

from textenv.errors import ConfigError, ConfigTypeError, DataError, MissingFileError, unknown

LARGEST = 2**31 - 1
"""The largest whole number of a setting: MLX counts in 32 bits."""

LARGEST_RANK = 4096
"""The largest rank of LoRA's adapters."""

LARGEST_WIDTH = 65_536
"""The most units of a hidden layer of control, and the most environments side by side."""

LARGEST_SEED = 2**63 - 1
"""The largest seed."""

LARGEST_REAL = (2 - 2**-23) * 2.0**127
"""The largest fraction of a setting: MLX computes in float32."""


def check_types(config: Any) -> None:
    """Check each field of a dataclass against its annotation; every number must be finite.

    The fields of dataclasses in it are checked too.
    Whole numbers lie within `LARGEST`, fractions within `LARGEST_REAL`, and fields called ``seed``
    from 0 to `LARGEST_SEED`.

    Raises:
        ConfigTypeError: for the first field that does not match; names it, its type and the value.
        ConfigError: for a number that is NaN, infinite or too large to compute with; names the
            field.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        _check_field(field.name, value, hints[field.name])
        if dataclasses.is_dataclass(value):
            check_types(value)


def check_bounds(config: Any, **bounds: tuple[float | None, float | None]) -> None:
    """Check that fields lie in closed ranges. A field that is None passes.

    Raises:
        ConfigError: for the first field out of its range; names it, the range and the value.
    """
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if value is None:
            continue
        too_low = low is not None and not value >= low
        too_high = high is not None and not value <= high
        if too_low or too_high:
            least = f" at least {low:g}" if low is not None else ""
            most = f" at most {high:g}" if high is not None else ""
            raise ConfigError(
                f"{name} must be{' and'.join(filter(None, (least, most)))}, got {shown(value)}"
            )


def check_lora(config: Any) -> None:
    """Check a trainer's settings of LoRA.

    Raises:
        ConfigError: for one out of its range, or one that does nothing without ``lora_rank``.
    """
    check_bounds(
        config,
        lora_rank=(0, LARGEST_RANK),
        lora_scale=(0, None),
        lora_layers=(-1, None),
        lora_dropout=(0, 0.99),
    )
    if config.lora_layers == 0:
        raise ConfigError("lora_layers must be -1 for all layers, or at least 1, got 0")
    if not config.lora_rank:
        unset = {"lora_layers": -1, "lora_targets": (), "lora_dropout": 0, "dora": False}
        for name, value in unset.items():
            if getattr(config, name) != value:
                raise ConfigError(
                    f"{name}={getattr(config, name)!r} needs lora_rank above 0, got lora_rank=0"
                )


def check_integer(name: str, value: Any, least: int) -> None:
    """Check that a value is a whole number that is not too small.

    Args:
        name: what the value is called in the message.
        value: the value; a bool does not count as a number.
        least: the smallest value allowed.

    Raises:
        ConfigError: if it is not, or is above `LARGEST_SEED`; names the value, the bound and what
            came.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} must be an integer >= {least}, got {shown(value)}")
    if value > LARGEST_SEED:
        raise ConfigError(f"{name} must be at most {LARGEST_SEED}, got {shown(value)}")


def check_widths(name: str, widths: typing.Iterable[int]) -> None:
    """Check that hidden layers have from 1 to `LARGEST_WIDTH` units.

    Raises:
        ConfigError: for the first that has not; names the field and the number.
    """
    for width in widths:
        if not 1 <= width <= LARGEST_WIDTH:
            raise ConfigError(f"{name} must be from 1 to {LARGEST_WIDTH} each, got {width}")


def check_counts(config: Any, names: typing.Iterable[str], least: int) -> None:
    """Check that those of the fields that a dataclass has are whole numbers, none too small.

    Raises:
        ConfigError: for the first that is not; see `check_integer`.
    """
    for name in names:
        if hasattr(config, name):
            check_integer(name, getattr(config, name), least)


def check_choice(config: Any, **choices: typing.Iterable[str]) -> None:
    """Check that each field is one of the names known for it.

    Raises:
        ConfigError: for the first that is not; names the field and the known names.
    """
    for name, known in choices.items():
        value = getattr(config, name)
        if value not in known:
            raise ConfigError(unknown(name, value, known))


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file as a table; a byte-order mark before it is read over.

    Raises:
        MissingFileError: if the file does not exist.
        DataError: if the file is not TOML.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"config {path} is not a file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # also for too many digits or levels
        raise DataError(f"{path}: not TOML: {error}") from error


def from_table(cls: Any, table: dict[str, Any], place: str) -> Any:
    """Make a dataclass, nested ones included, from a table of its fields.

    Args:
        cls: the dataclass.
        table: its fields, as `read_toml` gives them.
        place: where the table comes from, for messages.

    Raises:
        ConfigError: for a key that is not a field; names the place and the key.
        ConfigTypeError: for a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]
    values = {}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"{place}: {unknown('key', key, known)}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise ConfigTypeError(f"{place}: {key!r} must be a table, got {value!r}")
            value = from_table(hints[key], value, f"{place}, [{key}]")
        elif isinstance(value, list) and tuple in _origins(hints[key]):
            value = tuple(value)  # TOML has lists only
        values[key] = value
    try:
        for key, value in values.items():
            _check_field(key, value, hints[key])
        return cls(**values)
    except (ConfigError, ConfigTypeError) as error:
        raise type(error)(f"{place}: {error}") from error


def _origins(hint: Any) -> set[Any]:
    """What a type, or each type of a union, is made from: tuple for ``tuple[int, ...] | None``."""
    return {typing.get_origin(each) for each in (hint, *typing.get_args(hint))}


def to_table(config: Any) -> dict[str, Any]:
    """The fields as a table that `from_table` reads.

    Fields that are None are left out, because TOML has no null.
    """
    table: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            table[field.name] = to_table(value)
        elif value is not None:
            table[field.name] = str(value) if isinstance(value, Path) else value
    return table


def _check_field(name: str, value: Any, hint: Any) -> None:
    """Check a value against a type, and the numbers in it against their range."""
    if not _matches(value, hint):
        expected = hint.__name__ if isinstance(hint, type) else str(hint)
        raise ConfigTypeError(
            f"{name} must be {expected}, got {shown(value)} ({type(value).__name__})"
        )
    _check_numbers(name, value)


def _check_numbers(name: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_numbers(str(key), item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            _check_numbers(name, item)
    elif isinstance(value, float):
        if not abs(value) <= LARGEST_REAL:
            raise ConfigError(f"{name} must be a finite number of float32, got {value!r}")
    elif isinstance(value, int):
        least, most = (0, LARGEST_SEED) if name == "seed" else (-LARGEST, LARGEST)
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, got {shown(value)}")
        if value > most:
            raise ConfigError(f"{name} must be at most {most}, got {shown(value)}")


def shown(value: Any) -> str:
    """A value for a message; Python refuses to write whole numbers of thousands of digits."""
    if isinstance(value, int) and abs(value) > 10**30:
        return f"a whole number of {value.bit_length()} bits"
    return f"{value!r:.200}"


def _matches(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, option) for option in inner)
    if hint is Any:
        return True
    if origin is typing.Literal:
        return value in inner
    if origin is tuple and inner[-1:] == (Ellipsis,):
        return isinstance(value, tuple) and all(_matches(item, inner[0]) for item in value)
    if origin is not None:
        return isinstance(value, origin)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)
