"""Makes strategy parts from strings: ``name`` or ``name:key=value,key=value``.

A part of a user's own file is ``FILE.py:NAME``, with settings behind a further colon. A new part is
one file in ``prompts/``, ``trees/`` or ``selection/``, and one line in `_BUILT_IN`.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from textenv.algos.config import check_types
from textenv.algos.strategies.protocols import SLOTS, StrategyPart, settings_of
from textenv.errors import ConfigError, ConfigTypeError, unknown
from textenv.from_files import load, split_name

_BUILT_IN = {  # name -> module below this folder, class
    "uniform": ("prompts.uniform", "Uniform"),
    "curriculum": ("prompts.curriculum", "Curriculum"),
    "greso": ("prompts.greso", "Greso"),
    "pools": ("prompts.pools", "Pools"),
    "dapo": ("selection.dapo", "DynamicSampling"),
    "pods": ("selection.pods", "MaximumVariance"),
    "drop": ("selection.drop", "Drop"),
    "overlong": ("selection.overlong", "OverlongPunishment"),
    "tree": ("trees.tree", "Tree"),
    "segment_tree": ("trees.segment_tree", "SegmentTree"),
    "turn_tree": ("trees.turn_tree", "TurnTree"),
    "replay": ("selection.replay", "Replay"),
    "top_entropy": ("selection.top_entropy", "TopEntropy"),
}
_registered: dict[str, type[StrategyPart]] = {}

T = TypeVar("T", bound=type)


def names() -> list[str]:
    """The names of all parts: those of the package, and those that were registered."""
    return [*_BUILT_IN, *_registered]


def register(name: str) -> Callable[[T], T]:
    """A decorator that makes a class a part that configurations can name.

    Args:
        name: the name; letters, digits, ``_`` and ``-``.

    Raises:
        ConfigError: if the name is taken or has other characters.
        ConfigTypeError: for a class that has no slot.
    """
    if not name.replace("_", "").replace("-", "").isalnum():
        raise ConfigError(f"a part's name has letters, digits, _ and - only, got {name!r}")
    if name in names():
        raise ConfigError(f"strategy part {name!r} is registered already")

    def add(kind: T) -> T:
        if not (issubclass(kind, StrategyPart) and kind.slot):
            raise ConfigTypeError(_no_slot(kind.__name__))
        kind.name = name
        _registered[name] = kind
        return kind

    return add


def make_part(text: Any) -> StrategyPart:
    """Make a part from its string; a part that is made already is returned as it is.

    Raises:
        ConfigError: for an unknown part or setting, or a value that the part refuses; names it.
        ConfigTypeError: for an object of another kind.
        MissingFileError: if there is no such file.
    """
    if isinstance(text, StrategyPart) and text.slot:
        return text
    if not isinstance(text, str):
        raise ConfigTypeError(_no_slot(repr(text)))
    own = split_name(text)
    name, _, rest = (own[1] if own else text).partition(":")
    kind = _load(own[0], name) if own else _find(name)
    if isinstance(kind, StrategyPart):
        if rest:
            raise ConfigError(f"strategy part {text!r} is an object, which takes no settings")
        return copy.deepcopy(kind)  # what it remembers is of one run
    given: dict[str, str] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals or key in given:
            raise ConfigError(
                f"strategy part {text!r}: expected name:key=value,key=value, got {pair!r}"
            )
        given[key] = value
    hints = typing.get_type_hints(kind)
    known = settings_of(kind)
    values = {}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"strategy part {text!r}: {unknown('setting', key, known)}")
        try:
            values[key] = _typed(value, hints[key])
        except ValueError:
            expected = getattr(hints[key], "__name__", None) or str(hints[key])
            raise ConfigError(
                f"strategy part {text!r}: {key} must be {expected}, got {value!r}"
            ) from None
    try:
        part = kind(**values)
        if dataclasses.is_dataclass(part):
            check_types(part)
    except (ConfigError, ConfigTypeError, TypeError) as error:
        raise ConfigError(f"strategy part {text!r}: {error}") from error
    return part


def _find(name: str) -> type[StrategyPart]:
    if name in _registered:
        return _registered[name]
    if name not in _BUILT_IN:
        raise ConfigError(unknown("strategy part", name, names()))
    module, attribute = _BUILT_IN[name]
    found: type[StrategyPart] = getattr(
        importlib.import_module(f"textenv.algos.strategies.{module}"), attribute
    )
    return found


def _load(path: str, name: str) -> type[StrategyPart] | StrategyPart:
    """The class or the object that a file calls by this name."""
    found = load(path, name, "strategy part")
    kind = found if isinstance(found, type) else type(found)
    if not (issubclass(kind, StrategyPart) and kind.slot):
        raise ConfigTypeError(_no_slot(f"{path}:{name}, of type {type(found).__name__}"))
    return found  # type: ignore[no-any-return]


def _typed(text: str, hint: Any) -> Any:
    """Read a text as a value of a field's type.

    Raises:
        ValueError: if the text is no such value.
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            try:
                return _typed(text, option)
            except ValueError:
                continue
        raise ValueError(text)
    if origin is typing.Literal:
        if text not in typing.get_args(hint):
            raise ValueError(text)
        return text
    if hint is type(None) and text.lower() == "none":
        return None
    if hint is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if hint in (int, float, str):
        return hint(text)
    raise ValueError(text)


def _no_slot(what: str) -> str:
    kinds = ", ".join(kind.__name__ for kind in SLOTS.values())
    return f"a strategy's part must derive from one of {kinds}; got {what}"
