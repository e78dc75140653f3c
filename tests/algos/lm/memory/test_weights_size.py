"""Weights that are too large are refused before they are read."""

from __future__ import annotations

import json

import pytest

from textenv.algos import load_model
from textenv.algos.lm.memory import weights_size
from textenv.algos.lm.memory.limits import MemoryLimit
from textenv.algos.lm.memory.weights_size import check_weights
from textenv.errors import OutOfMemoryError

MB, GB = 10**6, 10**9


def weights(folder, **tensors):
    """A safetensors file that says it holds these: name -> (type, bytes)."""
    header, end = {"__metadata__": {"format": "mlx"}}, 0
    for name, (kind, size) in tensors.items():
        header[name] = {"dtype": kind, "shape": [1], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)


def test_weights_that_are_too_large(tmp_path):
    weights(tmp_path, a=("BF16", 7 * GB), b=("F32", 2 * GB))
    check_weights(tmp_path, MemoryLimit(16 * GB, "x"))  # float32: 14 + 2
    with pytest.raises(OutOfMemoryError, match=r"take 16\.0 GB.* the room is 15\.0 GB") as caught:
        check_weights(tmp_path, MemoryLimit(15 * GB, "the room"))
    assert "2.2 GB" in str(caught.value)  # 4 billion parameters at 4.5 bits
    with pytest.raises(OutOfMemoryError, match="fewer than 500 million parameters"):
        check_weights(tmp_path, MemoryLimit(2 * GB, "the room"))


def test_quantized_weights_stay_as_they_are(tmp_path):
    weights(tmp_path, a=("U32", 3 * GB))
    check_weights(tmp_path, MemoryLimit(3 * GB, "x"))
    with pytest.raises(OutOfMemoryError, match="smaller model"):
        check_weights(tmp_path, MemoryLimit(2 * GB, "x"))


@pytest.mark.parametrize(
    "text", [b"", b"\xff" * 20, (9).to_bytes(8, "little") + b"not json!", b"a"]
)
def test_a_broken_file_is_left_to_the_loader(tmp_path, text):
    (tmp_path / "model.safetensors").write_bytes(text)
    check_weights(tmp_path, MemoryLimit(1, "x"))


def test_load_model_looks_before_it_reads(tiny_folder, monkeypatch):
    import mlx_lm.utils

    monkeypatch.setattr(weights_size, "memory_limit", lambda: MemoryLimit(1000, "the room"))
    monkeypatch.setattr(mlx_lm.utils, "load_model", lambda *_: pytest.fail("it was read"))
    with pytest.raises(OutOfMemoryError, match="the room"):
        load_model(tiny_folder)
