"""Makes the JSON schema of a tool from its function's type hints and docstring."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from textenv.errors import ConfigError

_KINDS: dict[Any, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
    list: "array",
    dict: "object",
}
_SECTION = re.compile(r"^(\w[\w ]*):[ \t]*$", re.MULTILINE)
_ARGUMENT = re.compile(r"^(\w+)(?: *\([^)]*\))?:[ \t]*", re.MULTILINE)


def schema_of(function: Callable[..., Any]) -> dict[str, Any]:
    """What a model is told of a tool, in the form that chat templates take.

    The docstring is in Google style: its first part describes the tool, and its section ``Args:``
    the arguments.

    Args:
        function: the tool.

    Raises:
        ConfigError: for a function without a name, an argument without a type hint or with one
            that JSON has no type for, or arguments that cannot be given by name.
    """
    name = getattr(function, "__name__", None)
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(f"a tool must be a function with a name, got {function!r:.80}")
    try:
        hints = typing.get_type_hints(_where_hints_are(function))
        parameters = inspect.signature(function).parameters.values()
    except (NameError, TypeError, ValueError) as error:
        raise ConfigError(f"tool {name!r}: its type hints cannot be read: {error}") from error
    about, of_arguments = _described(inspect.getdoc(function) or "")
    properties: dict[str, Any] = {}
    for parameter in parameters:
        argument = f"argument {parameter.name!r} of tool {name!r}"
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(f"{argument} cannot be given by its name; write it out")
        if parameter.name not in hints:
            raise ConfigError(f"{argument} has no type hint, such as {parameter.name}: str")
        properties[parameter.name] = _type(hints[parameter.name], argument)
        if parameter.name in of_arguments:
            properties[parameter.name]["description"] = of_arguments[parameter.name]
    required = [each.name for each in parameters if each.default is each.empty]
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return {
        "type": "function",
        "function": {"name": name, "description": about, "parameters": schema},
    }


def why_wrong(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> str:
    """What is wrong with the arguments of a call; empty if nothing is.

    Args:
        schema: of the tool, from `schema_of`.
        arguments: by name.
    """
    parameters = schema["function"]["parameters"]
    properties = parameters["properties"]
    known = ", ".join(properties) or "none"
    for name in arguments:
        if name not in properties:
            return f"it has no argument {name!r}; its arguments: {known}"
    for name in parameters.get("required", ()):
        if name not in arguments:
            return f"the argument {name!r} is missing; its arguments: {known}"
    for name, value in arguments.items():
        if not _fits(properties[name], value):
            wanted = properties[name].get("enum") or properties[name].get("type")
            return f"the argument {name!r} must be of type {wanted}, got {value!r:.80}"
    return ""


def _where_hints_are(function: Callable[..., Any]) -> Any:
    """The function whose hints are those of a callable."""
    plain = inspect.isfunction(function) or inspect.ismethod(function)
    return function if plain or inspect.isbuiltin(function) else type(function).__call__


def _type(hint: Any, argument: str) -> dict[str, Any]:
    """The JSON schema of a type hint."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return {}
    if hint in _KINDS:
        return {"type": _KINDS[hint]}
    if origin is list and inside:
        return {"type": "array", "items": _type(inside[0], argument)}
    if origin is dict and inside:
        more = _type(inside[1], argument)
        return {"type": "object", **({"additionalProperties": more} if more else {})}
    if origin is typing.Literal:
        kinds = sorted({_KINDS.get(type(value), "") for value in inside})
        if all(kinds):
            return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": list(inside)}
    if origin in (typing.Union, types.UnionType):
        some = [_type(each, argument) for each in inside if each is not type(None)]
        plain = all(list(each) == ["type"] for each in some)
        if len(some) == 1:
            schema = some[0]
        else:
            names = sorted(each["type"] for each in some) if plain else []
            schema = {"type": names} if plain else {"anyOf": some}
        return {**schema, "nullable": True} if type(None) in inside else schema
    raise ConfigError(
        f"{argument} has the type {getattr(hint, '__name__', hint)}, which JSON does not have; "
        "use str, int, float, bool, list, dict, Literal, or a union of these"
    )


def _fits(schema: Mapping[str, Any], value: Any) -> bool:
    """Whether a value of JSON is of a schema's type; what is inside it is left to the function."""
    if value is None and schema.get("nullable"):
        return True
    if "anyOf" in schema:
        return any(_fits(each, value) for each in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    kinds = schema.get("type")
    if kinds is None:
        return True
    kind = _KINDS.get(type(value))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return kind in kinds or (kind == "integer" and "number" in kinds)


def _described(docstring: str) -> tuple[str, dict[str, str]]:
    """What a docstring says of a function, and of each of its arguments, on one line each."""
    sections = list(_SECTION.finditer(docstring))
    about = docstring[: sections[0].start()] if sections else docstring
    arguments: dict[str, str] = {}
    for i, section in enumerate(sections):
        if section.group(1) not in ("Args", "Arguments"):
            continue
        end = sections[i + 1].start() if i + 1 < len(sections) else len(docstring)
        text = inspect.cleandoc("\n" + docstring[section.end() : end])
        found = list(_ARGUMENT.finditer(text))
        stops = [match.start() for match in found[1:]] + [len(text)]
        for match, stop in zip(found, stops):
            arguments[match.group(1)] = _one_line(text[match.end() : stop])
    return _one_line(about), arguments


def _one_line(text: str) -> str:
    return " ".join(text.split())
