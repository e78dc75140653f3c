"""Folders for compiled code: whose they are, and who may write there."""

import os
import stat
import sys

import pytest

from textenv.algos.runtime.private import cache_folder, is_ours, is_private, make_private

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes of POSIX")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def test_a_new_folder_is_ours_alone_under_any_umask(tmp_path, umask):
    folder = make_private(tmp_path / "a" / "b")
    assert mode(folder) == mode(folder.parent) == 0o700 and is_private(folder)
    (folder / "kept").touch(0o600)
    assert make_private(folder) == folder and (folder / "kept").exists()


@pytest.mark.parametrize("open_to", [0o777, 0o775, 0o1777])
def test_a_folder_that_others_could_write_to_is_closed_and_emptied(tmp_path, open_to):
    (tmp_path / "mine").write_text("mine")
    folder = tmp_path / "cache"
    (folder / "deep").mkdir(parents=True)
    (folder / "planted.so").write_text("evil")
    (folder / "deep" / "planted").write_text("evil")
    (folder / "link").symlink_to(tmp_path)
    folder.chmod(open_to)
    assert not is_private(folder)
    make_private(folder)
    assert mode(folder) == 0o700 and not list(folder.iterdir())
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_folder_that_others_may_only_read_keeps_what_it_has(tmp_path):
    (tmp_path / "ours").touch()
    tmp_path.chmod(0o755)
    assert is_private(tmp_path)
    make_private(tmp_path)
    assert mode(tmp_path) == 0o700 and (tmp_path / "ours").exists()


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="root alone gives files away")
def test_what_is_another_users_is_refused(tmp_path):
    for name in ("folder", "file"):
        path = tmp_path / name
        path.mkdir(0o700) if name == "folder" else path.touch(0o600)
        os.chown(path, 12345, -1)
        assert not is_private(path) and not is_ours(path)
    with pytest.raises(PermissionError, match=r"another user.*folder"):
        make_private(tmp_path / "folder")


def test_a_link_is_not_private(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    assert is_private(tmp_path.resolve()) and not is_private(tmp_path / "link")
    assert is_ours(tmp_path.resolve()) and not is_ours(tmp_path / "link")


def test_the_cache_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for given in ("relative", "", "./here"):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert cache_folder() == tmp_path / "home" / ".cache" / "textenv"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" / "textenv"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "own"]
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "nowhere")
    with pytest.raises(FileNotFoundError, match="no home folder"):
        cache_folder()
