"""Files of all kinds that are broken: each is read, or refused by an error of this package.

A short run changes some hundred files. All 10,000 take some minutes: ``TEXTENV_FUZZ=10000 pytest
tests/fuzzing``. A fault is met again by ``python -m tests.fuzzing.child '[["TARGET", SEED, 1]]'``.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import random
import sys
import time

import pytest

from tests.fuzzing import child, driving
from tests.fuzzing.child import change, check
from tests.fuzzing.mutations import BY_ENDING, mutate
from textenv.errors import DataError

_SHARES = 10_000
_COUNT = int(os.environ.get("TEXTENV_FUZZ", 0))
_SHORT = 300


def test_no_file_does_more_than_be_refused():
    """Values or errors of this package, soon, in little memory, with all files as they were."""
    from tests.fuzzing.targets import TARGETS

    count = _COUNT or _SHORT
    jobs = [
        (name, 0, -(-each.share * count // _SHARES))
        for name, each in TARGETS.items()
        if not each.needs or importlib.util.find_spec(each.needs)
    ]
    assert driving.faults(jobs) == []


def test_there_are_ten_thousand():
    from tests.fuzzing.targets import TARGETS

    assert sum(target.share for target in TARGETS.values()) >= _SHARES


FILES = {
    "a.json": b'{"a": [1, {"b": "c"}], "d": null}',
    "a.jsonl": b'{"a": 1}\n{"b": [2]}\n',
    "a.toml": b'a = 1\n[b]\nc = "d"\n',
    "a.bin": bytes(range(256)),
    "a.safetensors": b"\x40"
    + bytes(7)
    + b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(64)
    + bytes(4),
}


@pytest.mark.parametrize("name", FILES)
def test_changes_follow_from_the_seed_alone_and_are_changes(name):
    made = [mutate(random.Random(seed), name, FILES[name]) for seed in range(200)]
    assert made == [mutate(random.Random(seed), name, FILES[name]) for seed in range(200)]
    assert len({*made, FILES[name]}) > 150


def test_what_is_packed_is_changed():
    import gzip

    data = gzip.compress(FILES["a.jsonl"], mtime=0)
    made = [gzip.decompress(BY_ENDING[".gz"](random.Random(seed), data)) for seed in range(20)]
    assert len({*made, FILES["a.jsonl"]}) > 15


def test_one_file_of_a_folder_is_changed(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    for name, data in FILES.items():
        (base / name).write_bytes(data)
    names = set()
    for seed in range(40):
        name = change(seed, "x", base, tmp_path / "it", None)
        names.add(name)
        others = [other for other in FILES if other != name]
        assert all((tmp_path / "it" / other).read_bytes() == FILES[other] for other in others)
    assert names == set(FILES)


def refuses(folder):
    raise DataError(f"{folder} is no such file")


def says_nothing(folder):
    raise DataError("")


def fails(folder):
    {}["key"]


def leaves(folder):
    (folder / ".half").write_bytes(b"written")
    refuses(folder)


def grows(folder):
    # Of the system itself: a process that was larger before may have pages left for a bytearray.
    with mmap.mmap(-1, child.SPARE + 2**20) as held:
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1


@pytest.mark.parametrize(
    ("load", "fault"),
    [
        (lambda folder: None, None),
        (refuses, None),
        (says_nothing, "DataError says nothing"),
        (fails, "KeyError: 'key'"),
        (lambda folder: sys.exit(1), "SystemExit: 1"),
        (leaves, "changed .half"),
        (lambda folder: (folder / "a").write_bytes(b"other"), "changed a"),
        (lambda folder: time.sleep(0.1), "took 0.1 s"),
        pytest.param(
            *(grows, "bytes of memory for files of 3 bytes"),
            marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux counts it"),
        ),
    ],
)
def test_each_fault_is_seen(tmp_path, monkeypatch, load, fault):
    if fault and "took 0.1" in fault:
        monkeypatch.setattr(child, "_MOST_SECONDS", 0.09)
    (tmp_path / "a").write_bytes(b"abc")
    found = check(load, tmp_path)
    assert found is None if fault is None else fault in found


SCRIPT = """
import json, os, sys, time
for name, first, count in json.loads(sys.argv[1]):
    for seed in range(first, first + count):
        facts = {"target": name, "seed": seed, "file": "a"}
        print(json.dumps(facts), flush=True)
        if seed == 2:
            print(json.dumps(facts | {"fault": "KeyError"}), flush=True)
        if seed == 4:
            os.abort()
        if seed == 6:
            time.sleep(100)
"""


def test_a_process_that_hangs_or_dies_is_noticed_and_the_rest_is_done(tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.setattr(driving, "COMMAND", [sys.executable, str(tmp_path / "script.py")])
    found = driving.faults([("x", 0, 7), ("y", 1, 2)], patience=1)
    assert [text.split(": ")[:2] for text in found] == [
        ["x 2, a", "KeyError"],
        ["x 4, a", "the process ended with -6"],
        ["x 6, a", "hangs"],
        ["y 2, a", "KeyError"],
    ]
