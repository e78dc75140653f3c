"""The precompiled header of MLX's compiled functions; each scenario in a folder of its own."""

import importlib.metadata
import os
import shutil
import stat
import subprocess
import sys
import time

import pytest

from textenv.algos.runtime import preamble

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler"),
    pytest.mark.skipif(preamble._header() is None, reason="this MLX does not include a header"),
]
TARGET = preamble.HEADER.with_name("compiled_preamble.h.gch")


def wait(until, seconds=120):
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        time.sleep(0.05)
    assert until()


@pytest.fixture
def folder(tmp_path):
    yield tmp_path
    shutil.rmtree(tmp_path / "mlx", ignore_errors=True)  # 50 MB


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    assert preamble.precompile(folder)
    wait((folder / TARGET).exists)
    yield folder
    shutil.rmtree(folder)


def test_it_is_made_once_and_whole(made):
    assert [file.name for file in (made / TARGET).parent.iterdir()] == [TARGET.name]
    assert stat.S_IMODE((made / "mlx").stat().st_mode) & 0o077 == 0
    before = (made / TARGET).stat()
    assert not preamble.precompile(made)
    assert (made / TARGET).stat() == before


def test_gcc_takes_it_for_what_mlx_compiles(made):
    """With MLX's own options it is used; with another one it is not, and the header is read."""
    header = preamble._header()
    (made / "function.cpp").write_text(f'#include "{preamble.HEADER}"\n')
    for options, used in ((preamble.OPTIONS, True), (("-std=c++17", "-O0", "-fPIC"), False)):
        command = ["g++", *options, "-shared", "-H", "-I", header.parents[3], "function.cpp"]
        done = subprocess.run(
            [*command, "-o", "function.so"], cwd=made, capture_output=True, text=True, check=True
        )
        first, *others = done.stderr.splitlines()  # "!" marks a precompiled header that is used
        assert TARGET.name in first and first.startswith("!") == used
        assert any(line.startswith(".") and str(header) in line for line in others) != used


def test_mlx_calls_the_compiler_with_these_options(tmp_path):
    """A compiler that notes how it is called stands in for g++."""
    tools, real = tmp_path / "bin", shutil.which("g++")
    tools.mkdir()
    (tools / "g++").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexec {real} "$@"\n')
    (tools / "g++").chmod(0o755)
    code = "import mlx.core as mx; mx.eval(mx.compile(lambda a: mx.exp(a) * 2 + 1)(mx.zeros(4)))"
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PATH": path, "TMPDIR": str(tmp_path)},
        check=True,
        timeout=120,
    )
    call = (tmp_path / "calls").read_text().splitlines()[-1].split()
    means = [word for word in call if word[:2] in ("-s", "-O", "-W", "-f", "-m", "-D")]
    assert tuple(word for word in means if word != "-shared") == preamble.OPTIONS


def test_a_header_of_another_compiler_is_made_again(made):
    old = (made / TARGET).stat().st_mtime
    os.utime(made / TARGET, (1, 1))
    assert preamble.precompile(made)
    wait(lambda: (made / TARGET).stat().st_mtime >= old)


def test_one_process_makes_it(folder):
    part = (folder / TARGET).with_suffix(".part")
    part.parent.mkdir(parents=True)
    part.touch()
    assert not preamble.precompile(folder)
    os.utime(part, (1, 1))  # its process ended long ago
    assert preamble.precompile(folder)
    wait((folder / TARGET).exists)
    assert not part.exists()


def test_a_compiler_that_fails_leaves_nothing(folder, monkeypatch):
    monkeypatch.setattr(preamble, "OPTIONS", ("-no-such-option",))
    assert preamble.precompile(folder)
    wait(lambda: not any((folder / TARGET).parent.iterdir()))


@pytest.mark.parametrize("what", ["compiler", "room", "version"])
def test_where_it_cannot_be_made_nothing_is(folder, monkeypatch, what):
    if what == "compiler":
        monkeypatch.setattr(preamble.shutil, "which", lambda _: None)
    elif what == "room":
        monkeypatch.setattr(preamble, "ROOM", 2**62)
    else:
        monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.31.2")
    assert not preamble.precompile(folder)
    assert not list(folder.iterdir())
