"""Configs: to TOML and back, and what is said of a wrong one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import pytest
import tomli_w

from textenv.algos import GRPOConfig
from textenv.algos.config import check_bounds, check_types, from_table, read_toml, to_table


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    steps: int | None = None

    def __post_init__(self):
        check_types(self)
        check_bounds(self, rate=(0, 1), steps=(1, None))


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str = "a"
    kind: Literal["x", "y"] = "x"
    flag: bool = False
    words: tuple[str, ...] = ()
    options: dict[str, int] = dataclasses.field(default_factory=dict)
    anything: Any = 0
    inner: Inner = dataclasses.field(default_factory=Inner)

    def __post_init__(self):
        check_types(self)


@dataclasses.dataclass
class Unchecked:
    """Does not check itself."""

    count: int = 0
    options: dict[str, int] = dataclasses.field(default_factory=dict)


def write(tmp_path, text) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def read(path, cls=Outer):
    return from_table(cls, read_toml(path), str(path))


@pytest.mark.parametrize(
    "config",
    [
        GRPOConfig(),
        GRPOConfig(
            **{"loss_type": "gspo", "epsilon_high": 0.28, "micro_batch_size": 7},
            **{"learning_rate": 1e-7, "mask_truncated_completions": True, "chat_template": False},
        ),
        Outer(),
        Outer("ü", "y", True, anything=[1, 2], options={"b": 2}, inner=Inner(0.25, 3)),
    ],
)
def test_round_trip(tmp_path, config):
    path = write(tmp_path, tomli_w.dumps(to_table(config)))
    assert read(path, type(config)) == config


def test_nothing_is_lost_and_nothing_is_null():
    table = to_table(Outer(inner=Inner(steps=None)))
    assert table["inner"] == {"rate": 0.5}
    assert to_table(Outer(anything=Path("a/b")))["anything"] == "a/b"
    assert to_table(GRPOConfig()).keys() == {
        f.name for f in dataclasses.fields(GRPOConfig) if f.default is not None
    }


def test_whole_numbers_serve_as_fractions(tmp_path):
    assert read(write(tmp_path, "[inner]\nrate = 1")).inner.rate == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nmae = 'b'", "unknown key 'nmae'; did you mean 'name'"),
        ("[inner]\nsetps = 3", r"\[inner\]: unknown key 'setps'; did you mean 'steps'"),
        ("[inner]\nrate = 1.5", r"\[inner\]: rate must be at least 0 and at most 1, got 1\.5"),
        ("[inner]\nsteps = 0", r"steps must be at least 1, got 0"),
        ("name = ", "not TOML"),
    ],
)
def test_bad_values_name_file_and_key(tmp_path, text, words):
    with pytest.raises(ValueError, match=rf"run\.toml.*{words}"):
        read(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = 3", r"name must be str, got 3 \(int\)"),
        ("flag = 1", "flag must be bool"),
        ("flag = 'true'", "flag must be bool"),
        ("kind = 'z'", "kind must be .*'x', 'y'.*got 'z'"),
        ("words = 'one'", "words must be"),
        ("inner = 3", "'inner' must be a table, got 3"),
        ("[inner]\nsteps = 1.5", "steps must be int | None, got 1.5"),
        ("[inner]\nsteps = true", "steps must be"),
        ("[inner]\nrate = true", "rate must be float, got True"),
        ("[inner]\nrate = '1'", "rate must be float"),
    ],
)
def test_wrong_types_name_file_and_key(tmp_path, text, words):
    with pytest.raises(TypeError, match=rf"run\.toml.*{words}"):
        read(write(tmp_path, text))


@pytest.mark.parametrize("text", ["count = 'many'", "options = 3"])
def test_types_are_checked_for_a_class_that_does_not(tmp_path, text):
    with pytest.raises(TypeError, match=r"run\.toml: (count must be int|options must be dict)"):
        read(write(tmp_path, text), Unchecked)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.toml"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes("name = 'ü'".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.toml: not TOML"):
        read_toml(tmp_path / "latin.toml")
