"""Checks that a model's weights fit in memory, by the headers of its files alone."""

from __future__ import annotations

import json
from pathlib import Path

from textenv.algos.runtime import backend
from textenv.errors import OutOfMemoryError

backend.prepare()

import mlx.core as mx  # noqa: E402

from textenv.algos.lm.memory.limits import MemoryLimit, in_gb, memory_limit  # noqa: E402


def check_weights(folder: Path, limit: MemoryLimit | None = None) -> None:
    """Refuse a folder whose weights alone are too large, before any weight is read.

    Args:
        folder: the model's folder.
        limit: the memory that there is; None: what this process has now.

    Raises:
        OutOfMemoryError: if they are too large; the message has both sizes, and what would fit.
    """
    limit = limit or memory_limit()
    tensors = [t for header in _headers(folder) for t in header.values()]
    on_cpu = mx.default_device() == mx.cpu
    size, count = 0, 0
    for kind, length in tensors:
        half = kind in ("F16", "BF16")
        size += 2 * length if half and on_cpu else length  # `load_model` makes them float32
        count += length // (2 if half else 4)
    if limit is None or size <= limit.size:
        return
    quantized = any(kind == "U32" for kind, _ in tensors)
    small = int(count * 0.5625)  # 4 bits, and two half-precision numbers for each 64
    if not quantized and small <= limit.size:
        advice = (
            f"a copy quantized to 4 bits (mlx_lm.convert -q) takes about {in_gb(small)} and can be "
            "trained with lora_rank"
        )
    else:
        fit = limit.size // (4 if on_cpu else 2)
        advice = f"take a smaller model, of fewer than {fit / 1e6:,.0f} million parameters"
    raise OutOfMemoryError(
        f"the weights in {folder} take {in_gb(size)}"
        f"{', in float32 on a CPU' if on_cpu and not quantized else ''}, and {limit.what} is "
        f"{in_gb(limit.size)}: {advice}"
    )


def weight_names(folder: Path) -> frozenset[str]:
    """The names of the weights in a model's folder, as its files have them."""
    return frozenset(name for header in _headers(folder) for name in header)


def _headers(folder: Path) -> list[dict[str, tuple[str, int]]]:
    return [_header(file) for file in sorted(folder.glob("model*.safetensors"))]


def _header(file: Path) -> dict[str, tuple[str, int]]:
    """Type and bytes of each tensor of a safetensors file; empty if the file is broken."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > file.stat().st_size:
            return {}  # loading it will say so
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError):
            return {}
    if not isinstance(header, dict):
        return {}
    tensors = {}
    for name, entry in header.items():
        match entry:
            case {"dtype": str(kind), "data_offsets": [int(start), int(end)]}:
                tensors[name] = kind, end - start
    return tensors
