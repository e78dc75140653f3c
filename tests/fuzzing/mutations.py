"""Changes valid files into others, by a seed: bytes, JSON, and what JSON lies in."""

from __future__ import annotations

import copy
import gzip
import json
import random
import struct
import tomllib
from collections.abc import Callable
from typing import Any

import tomli_w

_DEEP, _LONG = "@deep@", "@long@"  # stand for what json.dumps would refuse to write
_TEXT_OF = {
    f'"{_DEEP}"': "[" * 5000 + "]" * 5000,
    f'"{_LONG}"': "9" * 5000,
}

ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 255, 2**31, -(2**31), 2**63, 2**64, 10**400),
    *(0.5, -0.0, 1e308, -1e308, 5e-324, 1e39, float("nan"), float("inf"), -float("inf")),
    *("", "a", "0", "\x00", "\ud800", "é中🙂", "\x1b[2J", "a" * 5000, "NaN", "{", "%s", "{0}"),
    *("../outside", "/etc/passwd", "..", ".", "~", "no/such", "__tuple__", "http://localhost:1/x"),
    *([], {}, [[]], [None], [0] * 1000, ["a", 1, None], {"": None}, {"a": {"a": {"a": 1}}}),
    *({"__tuple__": 1}, {"__dict__": []}, {"__array__": "x"}),
    *({"dtype": "float32", "shape": [2**40], "data": []}, {"dtype": "<U9999999", "value": "a"}),
    *(_DEEP, _LONG),
]
"""Values that a file may hold where another is expected."""

_TOKENS = [
    *(b"\x00", b"\xff", b"\xff" * 8, b"\x00" * 8, b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xff\xfe"),
    *(b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b"1e999", b"-", b"NaN", b"null", b'"', b"\\ud800"),
    *(b"\n", b"\r", b"\n\n", b",", b":", b"{", b"}", b"[", b"]", b"#", b"\\", b"=", b"'"),
    *(struct.pack("<Q", 2**n) for n in (8, 16, 31, 32, 40, 62, 63)),
]


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Cut, change, double, or put something into bytes, up to four times."""
    if rng.random() < 0.02:
        return rng.choice([b"", rng.randbytes(40), b"\n", b"{}", b"[]", b"null"])
    for _ in range(rng.randint(1, 4)):
        start = rng.randint(0, len(data))
        end = min(len(data), start + rng.choice([1, 2, 8, 100]))
        kind = rng.randrange(6)
        if kind == 0:
            data = data[:start]
        elif kind == 1 and start < end:
            data = data[:start] + bytes([data[start] ^ 1 << rng.randrange(8)]) + data[start + 1 :]
        elif kind == 2:
            data = data[:start] + data[end:]
        elif kind == 3:
            data = data[:end] + data[start:]
        elif kind == 4:
            data = data[:start] + rng.choice(_TOKENS) + data[start:]
        else:
            data = data[:start] + rng.randbytes(end - start) + data[end:]
    return data


def mutate_value(rng: random.Random, value: Any) -> Any:
    """Change a value of JSON at one to three of its places; the value itself stays as it is."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 3)):
        value = _mutate_once(rng, value)
    return value


def _odd(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(ODD))  # a change of it must not be one of `ODD`


def _mutate_once(rng: random.Random, value: Any) -> Any:
    places = _places(value)
    if not places or rng.random() < 0.02:
        return _odd(rng)
    held, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0:
        del held[key]
    elif kind == 1:  # what stands elsewhere
        other, place = rng.choice(places)
        held[key] = json.loads(json.dumps(other[place]))
    elif kind == 2 and isinstance(held, dict):  # another name
        held[str(_odd(rng))] = held.pop(key)
    elif kind == 2:
        held.insert(key, _odd(rng))
    elif kind == 3:
        held[key] = _shifted(rng, held[key])
    else:
        held[key] = _odd(rng)
    return value


def _shifted(rng: random.Random, value: Any) -> Any:
    """A value like another one."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, (int, float)):
        return rng.choice([value + 1, value - 1, -value, value * 1000, str(value), [value]])
    if isinstance(value, str):
        return rng.choice(
            [value + "x", value[:-1], value.upper(), "../" + value, [value], "/" + value]
        )
    if isinstance(value, list):
        return rng.choice(
            [value[:-1], value * 2, [value], value[::-1], dict.fromkeys(map(str, value))]
        )
    return rng.choice([list(value.items()), list(value), {"a": value}])


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Where a value holds others: each list or object with each index or key."""
    found, waiting = [], [value]
    while waiting:
        held = waiting.pop()
        if isinstance(held, (dict, list)):
            for key in held if isinstance(held, dict) else range(len(held)):
                found.append((held, key))
                waiting.append(held[key])
    return found


def dumps(value: Any) -> bytes:
    """A value as JSON, also those in `ODD` for which json.dumps has no form."""
    text = json.dumps(value)
    for mark, content in _TEXT_OF.items():
        text = text.replace(mark, content)
    return text.encode("utf-8", "surrogatepass")


def mutate_json(rng: random.Random, data: bytes) -> bytes:
    """Change a file of JSON."""
    return dumps(mutate_value(rng, json.loads(data)))


def mutate_lines(rng: random.Random, data: bytes) -> bytes:
    """Change one line of JSON Lines, or the order or number of the lines."""
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    kind = rng.randrange(8)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(rng.randint(0, len(lines)), lines[at])
    else:
        lines[at] = mutate_json(rng, lines[at])
    return b"\n".join(lines) + b"\n" * rng.randint(0, 2)


def mutate_gzip(rng: random.Random, data: bytes) -> bytes:
    """Change what is packed."""
    inner = rng.choice([mutate_lines, mutate_bytes])(rng, gzip.decompress(data))
    return gzip.compress(inner, mtime=0)


def mutate_toml(rng: random.Random, data: bytes) -> bytes:
    """Change a file of TOML."""
    value = mutate_value(rng, tomllib.loads(data.decode()))
    try:
        return tomli_w.dumps(value).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, AttributeError):  # null, or no table
        return mutate_bytes(rng, data)


def mutate_safetensors(rng: random.Random, data: bytes) -> bytes:
    """Change the header of a safetensors file, or what it says of its length."""
    length = int.from_bytes(data[:8], "little")
    header = dumps(mutate_value(rng, json.loads(data[8 : 8 + length])))
    said = (
        len(header)
        if rng.random() < 0.8
        else rng.choice([0, 1, len(data), 2**31, 2**63, 2**64 - 1])
    )
    return struct.pack("<Q", said) + header + data[8 + length :]


BY_ENDING: dict[str, Callable[[random.Random, bytes], bytes]] = {
    ".json": mutate_json,
    ".jsonl": mutate_lines,
    ".gz": mutate_gzip,
    ".toml": mutate_toml,
    ".safetensors": mutate_safetensors,
}
"""How a file of each ending is changed; others by their bytes alone."""


def mutate(rng: random.Random, name: str, data: bytes) -> bytes:
    """Change a file: by what its ending says that it holds, or by its bytes."""
    by_content = BY_ENDING.get("." + name.rpartition(".")[2])
    if by_content is None or rng.random() < 0.3:
        return mutate_bytes(rng, data)
    return by_content(rng, data)
