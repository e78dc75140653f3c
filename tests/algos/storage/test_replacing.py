"""Folders of models that are saved to again, and folders that hold something else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from textenv.algos.storage.replacing import replacing, write_whole
from textenv.errors import StorageError

OWN = ("config.json", "model*.safetensors")


def save(folder, **files):
    with replacing(folder, OWN) as target:
        for name, text in files.items():
            (target / name.replace("_", ".")).write_text(text)


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "a" / "model"
    save(folder, config_json="1", model1_safetensors="1", model2_safetensors="1")
    return folder


def test_a_new_folder_appears_when_it_is_whole(tmp_path):
    folder = tmp_path / "a" / "model"
    with replacing(folder, OWN) as target:
        (target / "config.json").write_text("1")
        assert not folder.exists()
    assert content(folder) == {"config.json": "1"}
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_an_earlier_model_is_replaced_with_all_its_files(saved):
    """A weight file that the new one lacks would be read together with it."""
    save(saved, config_json="2", model_safetensors="2")
    assert content(saved) == {"config.json": "2", "model.safetensors": "2"}
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("new", [True, False])
def test_what_fails_changes_nothing(saved, tmp_path, new):
    before = content(saved)
    folder = tmp_path / "other" if new else saved
    with pytest.raises(OSError, match="disk"), replacing(folder, OWN) as target:
        (target / "config.json").write_text("half")
        raise OSError("no room on the disk")
    assert content(saved) == before
    assert not (tmp_path / "other").exists()
    assert sorted(os.listdir(tmp_path)) == ["a"]


@pytest.mark.parametrize("at", range(6))
def test_a_move_that_fails_is_taken_back(saved, monkeypatch, at):
    before, rename, calls = content(saved), os.rename, []

    def failing(source, target):
        calls.append(source)
        if len(calls) == at + 1:
            raise PermissionError("not this one")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    moves = 5  # three old files out, two new ones in
    if at < moves:
        with pytest.raises(PermissionError):
            save(saved, config_json="2", model_safetensors="2")
        assert content(saved) == before
    else:
        save(saved, config_json="2", model_safetensors="2")
        assert content(saved) == {"config.json": "2", "model.safetensors": "2"}


@pytest.mark.parametrize("other", ["thesis.tex", "results.json", "src/main.py"])
def test_a_folder_that_holds_something_else_is_refused_and_left_alone(saved, other):
    (saved / other).parent.mkdir(exist_ok=True)
    (saved / other).write_text("mine")
    with pytest.raises(ValueError, match=rf"holds {other.split('/')[0]}, which"):
        save(saved, config_json="2")
    assert (saved / other).read_text() == "mine"
    assert (saved / "config.json").read_text() == "1"


def test_the_working_folder(saved, monkeypatch):
    monkeypatch.chdir(saved)
    save(".", config_json="2")
    assert content(saved) == {"config.json": "2"}
    assert os.path.samefile(os.getcwd(), saved)  # it is the same folder still
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"saved to \.: it holds notes.txt"):
        save(".", config_json="3")
    assert content(saved) == {"config.json": "2", "notes.txt": "mine"}


def test_a_link_stays_a_link(saved, tmp_path):
    (tmp_path / "latest").symlink_to(saved)
    save(tmp_path / "latest", config_json="2")
    assert (tmp_path / "latest").is_symlink()
    assert content(saved) == {"config.json": "2"}
    (tmp_path / "next").symlink_to(tmp_path / "run2")
    save(tmp_path / "next", config_json="3")
    assert content(tmp_path / "run2") == {"config.json": "3"}


def test_what_a_killed_save_left_does_not_stop_the_next(saved):
    (saved / ".saving-abc").mkdir()
    save(saved, config_json="2")
    assert (saved / "config.json").read_text() == "2"
    assert (saved / ".saving-abc").is_dir()


def test_a_file_is_refused(tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(ValueError, match=r"model is a file"):
        save(tmp_path / "model", config_json="1")
    assert (tmp_path / "model").read_text() == "mine"


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "model").mkdir()
    save(tmp_path / "model", config_json="1")
    assert content(tmp_path / "model") == {"config.json": "1"}


def test_a_full_disk_as_mlx_tells_it_is_an_error_of_the_disk(saved):
    before = content(saved)
    said = "[write] Unable to write 399092 bytes to file."
    with pytest.raises(StorageError) as caught, replacing(saved, OWN):
        raise RuntimeError(said)
    assert str(caught.value) == f"{saved} cannot be written to: {said}"
    with pytest.raises(RuntimeError, match="another"), replacing(saved, OWN):
        raise RuntimeError("another fault of MLX")
    assert content(saved) == before


def test_mlx_tells_a_full_disk_so(tmp_path):
    """By a file-size limit, in a process of its own."""
    pytest.importorskip("mlx.core")
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "a.safetensors")],
        capture_output=True,
        text=True,
    )
    assert ended.stdout.startswith("[write]"), ended


FULL = """
import os, resource, sys
import mlx.core as mx
mx.set_default_device(mx.cpu)
arrays = {"a": mx.zeros((100_000,))}
mx.eval(arrays)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    mx.save_safetensors(sys.argv[1], arrays)
except RuntimeError as error:
    print(error)
"""


def test_one_file_is_replaced(tmp_path):
    path = tmp_path / "results.md"
    write_whole(path, "caf\u00e9\n")
    assert path.read_bytes() == b"caf\xc3\xa9\n"
    write_whole(path, lambda staged: staged.write_bytes(staged.name.encode()))
    assert content(tmp_path) == {"results.md": "results.md"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_file_that_is_half_written_is_not_left(tmp_path, error):
    path = tmp_path / "results.md"
    path.write_text("old")

    def fail(staged):
        staged.write_text("half")
        assert path.read_text() == "old"
        raise error

    with pytest.raises(error):
        write_whole(path, fail)
    assert content(tmp_path) == {"results.md": "old"}


def test_nothing_is_written_through_a_link_to_a_file(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "results.md").symlink_to(tmp_path / "precious")
    write_whole(tmp_path / "results.md", "new")
    assert content(tmp_path) == {"precious": "kept", "results.md": "new"}
