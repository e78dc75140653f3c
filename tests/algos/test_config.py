"""Configs: to TOML and back, and what is said of a wrong one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tomli_w

from textenv.algos import GRPOConfig, PPOConfig
from textenv.algos.config import (
    LARGEST,
    LARGEST_RANK,
    LARGEST_REAL,
    LARGEST_SEED,
    check_bounds,
    check_counts,
    check_integer,
    check_types,
    from_table,
    read_toml,
    to_table,
)
from textenv.algos.offline.control import OfflineConfig
from textenv.algos.offline.sft import SFTConfig
from textenv.algos.offline.text import OfflineTextConfig
from textenv.errors import ConfigError, ConfigTypeError, DataError

CONFIGS = [GRPOConfig, PPOConfig, SFTConfig, OfflineTextConfig, OfflineConfig]


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
    maybe: tuple[str, ...] | None = None
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


@pytest.mark.parametrize("value", ["[" * 5000 + "]" * 5000, "9" * 5000])
def test_what_is_too_deep_or_too_long_is_no_toml(tmp_path, value):
    (tmp_path / "a.toml").write_text(f"a = {value}")
    with pytest.raises(DataError, match=r"a\.toml: not TOML"):
        read_toml(tmp_path / "a.toml")


def test_a_byte_order_mark_is_read_over(tmp_path):
    """Windows' editors write one."""
    (tmp_path / "run.toml").write_bytes(b'\xef\xbb\xbfname = "\xc3\xbc"\n')
    assert read(tmp_path / "run.toml") == Outer("ü")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e39, 10**400])
@pytest.mark.parametrize("make", CONFIGS)
def test_every_fraction_is_finite_in_float32(make, value):
    names = [f.name for f in dataclasses.fields(make) if f.type in ("float", "float | None")]
    assert len(names) > 4
    for name in names:
        with pytest.raises(ConfigError, match=name):
            make(**{name: value})


@pytest.mark.parametrize("make", CONFIGS)
def test_every_whole_number_is_one_that_mlx_counts_to(make):
    names = [f.name for f in dataclasses.fields(make) if f.type in ("int", "int | None")]
    for name in names:
        least = -1 if name == "lora_layers" else 0  # -1: all layers
        for value in (10**400, -(10**400), least - 1):
            with pytest.raises(ConfigError, match=name):
                make(**{name: value})
    assert make(seed=LARGEST_SEED).seed == LARGEST_SEED
    with pytest.raises(ConfigError, match=r"^seed must be at most 9223372036854775807, got 92233"):
        make(seed=LARGEST_SEED + 1)


def test_the_largest_learning_rate_is_float32s_own():
    largest = float(np.finfo(np.float32).max)
    assert largest == LARGEST_REAL and GRPOConfig(learning_rate=largest).learning_rate == largest
    assert dataclasses.asdict(GRPOConfig(max_steps=2**31 - 1))["max_steps"] == LARGEST


@pytest.mark.parametrize("make", [make for make in CONFIGS if make is not OfflineConfig])
def test_a_rank_that_no_model_has_is_refused_at_once(make):
    assert make(lora_rank=LARGEST_RANK).lora_rank == 4096
    with pytest.raises(ConfigError, match="lora_rank must be at least 0 and at most 4096, got 10"):
        make(lora_rank=1_000_000)


def test_items_of_tuples_are_checked_and_dataclasses_in_fields():
    with pytest.raises(ConfigTypeError, match=r"words must be tuple\[str, \.\.\.\], got \(5,\)"):
        Outer(words=(5,))
    with pytest.raises(ConfigError, match="rate must be a finite number of float32, got inf"):
        Outer(options={"rate": float("inf")})
    outside = Unchecked()
    outside.count = 2**31
    with pytest.raises(ConfigError, match="count must be at most 2147483647, got 2147483648"):
        check_types(Outer(anything=outside))


@pytest.mark.parametrize("make", [PPOConfig, OfflineConfig])
def test_widths_of_layers(make):
    for width in (0, -1, 65_537, 10**9):
        with pytest.raises(ConfigError, match=f"hidden must be from 1 to 65536 each, got {width}"):
            make(hidden=(64, width))
    assert make(hidden=(65_536, 1)).hidden == (65_536, 1) and make(hidden=()).hidden == ()


def test_counts():
    with pytest.raises(ConfigError, match="count must be an integer >= 1, got 0"):
        check_counts(Unchecked(), ("no_such_field", "count"), 1)
    with pytest.raises(ConfigError, match=r"^n must be at most \d+, got a whole number of 33220 "):
        check_integer("n", 10**10000, 0)


def test_a_list_of_toml_is_a_tuple_also_where_there_may_be_none(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('maybe = ["a", "b"]\n')
    assert from_table(Outer, read_toml(path), str(path)).maybe == ("a", "b")
    path.write_text("maybe = [1]\n")
    with pytest.raises(ConfigTypeError, match=r"maybe must be .* got \(1,\)"):
        from_table(Outer, read_toml(path), str(path))
