"""Where MLX's compiled functions lie; each scenario in a process of its own."""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from textenv.algos.runtime import kernels

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="MLX compiles with g++ on Linux"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler"),
]
CODE = """
import json, os, tempfile, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from textenv.algos.runtime import backend, kernels
    kernels.precompile = lambda folder: False  # 50 MB
    backend.prepare()
import mlx.core as mx
f = mx.compile(lambda a: mx.exp(a) * 2 + 1)
value = f(mx.zeros(4))
print(json.dumps({
    "value": value.tolist(), "tmpdir": os.environ.get("TMPDIR"), "python": tempfile.gettempdir(),
    "warnings": [str(w.message) for w in caught],
}))
"""
VERSION = importlib.metadata.version("mlx") if importlib.util.find_spec("mlx") else ""


def run(tmp_path, **env):
    env = {"TEXTENV_BLAS": "off", "XDG_CACHE_HOME": str(tmp_path / "cache"), **env}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp"), **env},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["value"] == [3.0] * 4
    return said


def compiled(folder):
    return sorted(folder.glob(f"mlx/{VERSION}/cpu/*.so"))


@pytest.fixture
def temporary(tmp_path):
    (tmp_path / "tmp").mkdir(mode=0o700)
    return tmp_path / "tmp"


def test_the_folder_is_made_for_us_alone(tmp_path, temporary):
    said = run(tmp_path)
    assert said["warnings"] == [] and said["tmpdir"] == str(temporary)
    assert len(compiled(temporary)) == 1 and not (tmp_path / "cache").exists()
    for folder in ("mlx", f"mlx/{VERSION}", f"mlx/{VERSION}/cpu"):
        assert stat.S_IMODE((temporary / folder).stat().st_mode) == 0o700


def test_what_is_compiled_is_found_again_under_any_umask(tmp_path, temporary):
    before = os.umask(0o002)  # the usual one of Ubuntu and Fedora
    try:
        for _ in range(2):
            said = run(tmp_path)
            assert said["warnings"] == [] and said["tmpdir"] == str(temporary)
    finally:
        os.umask(before)
    assert len(compiled(temporary)) == 1


@pytest.mark.parametrize("place", ["", "mlx", f"mlx/{VERSION}/cpu"])
def test_what_others_may_have_put_there_is_not_run(tmp_path, temporary, place):
    run(tmp_path)
    [kernel] = compiled(temporary)
    kernel.write_bytes(b"planted: MLX would load it")
    (temporary / place).chmod(0o777)
    said = run(tmp_path)
    own = tmp_path / "cache" / "textenv" / "tmp"
    assert said["warnings"] == [] and said["tmpdir"] == str(own)
    assert said["python"] == str(temporary)  # Python's own temporary files stay where they were
    assert [file.name for file in compiled(own)] == [kernel.name]
    assert kernel.read_bytes() == b"planted: MLX would load it"
    assert stat.S_IMODE(own.stat().st_mode) == 0o700


def test_a_file_that_others_may_have_written_is_not_run(tmp_path, temporary):
    run(tmp_path)
    [kernel] = compiled(temporary)
    kernel.chmod(0o666)
    kernel.parent.chmod(0o755)
    assert run(tmp_path)["tmpdir"] == str(tmp_path / "cache" / "textenv" / "tmp")


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone gives files away")
@pytest.mark.parametrize("place", ["", "mlx", f"mlx/{VERSION}/cpu", "file"])
def test_another_users_folder_or_file_is_not_used(tmp_path, temporary, place):
    run(tmp_path)
    [kernel] = compiled(temporary)
    os.chown(kernel if place == "file" else temporary / place, 12345, -1)
    assert run(tmp_path)["tmpdir"] == str(tmp_path / "cache" / "textenv" / "tmp")


def test_a_folder_for_temporary_files_that_is_none(tmp_path):
    said = run(tmp_path, TMPDIR="/no/such/folder")
    assert said["tmpdir"] == str(tmp_path / "cache" / "textenv" / "tmp") and not said["warnings"]


def test_without_any_folder_functions_run_uncompiled_and_that_is_said(tmp_path):
    (tmp_path / "file").touch()
    said = run(tmp_path, TMPDIR=str(tmp_path / "file"), XDG_CACHE_HOME=str(tmp_path / "file"))
    [warning] = said["warnings"]
    assert "MLX runs without compiled functions" in warning and "Set TMPDIR" in warning
    assert str(tmp_path / "file") in warning


Space = namedtuple("Space", "f_bavail f_frsize f_flag")


@pytest.mark.parametrize(
    ("system", "said"),
    [
        (Space(kernels.ROOM, 1, 0), ""),
        (Space(kernels.ROOM - 1, 1, 0), "is full"),
        (Space(kernels.ROOM, 1, os.ST_NOEXEC if hasattr(os, "ST_NOEXEC") else 8), "can be run"),
    ],
)
def test_a_full_disk_and_one_that_runs_nothing(temporary, monkeypatch, system, said):
    monkeypatch.setattr(kernels.os, "statvfs", lambda _: system)
    assert kernels._fault(temporary).endswith(said) and bool(said) == bool(
        kernels._fault(temporary)
    )


def test_what_is_switched_off_is_left_alone(tmp_path, temporary):
    said = run(tmp_path, MLX_DISABLE_COMPILE="1")
    assert not list(temporary.iterdir()) and not said["warnings"]


def test_the_shared_folder_of_the_system_is_fine(tmp_path, temporary):
    temporary.chmod(0o1777)
    assert run(tmp_path)["tmpdir"] == str(temporary)
    assert len(compiled(Path(temporary))) == 1
