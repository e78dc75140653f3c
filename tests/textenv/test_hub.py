"""Names of models and tokenizers, and the folders that they stand for."""

import sys
from pathlib import Path

import pytest

from textenv.errors import DataError, MissingDependencyError, MissingFileError
from textenv.hub import ASSETS, find_folder
from textenv.tokenizers import load_tokenizer


@pytest.mark.parametrize("name", ["tiny-ml", "./here", "a/b/c", "/nowhere/at/all"])
def test_a_mistyped_name_is_not_looked_up(name, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", lambda *a, **k: pytest.fail("looked up"))
    with pytest.raises(FileNotFoundError, match=name):
        load_tokenizer(name)


def test_what_ships_comes_before_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("tiny-lm", "owner/model"):
        (tmp_path / name).mkdir(parents=True)
    assert find_folder("tiny-lm", "model", []) == ASSETS / "tiny-lm"
    assert find_folder("owner/model", "model", []) == Path("owner/model")  # and before the hub
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_folder("~/owner", "model", []) == tmp_path / "owner"


@pytest.mark.parametrize("what", ["model", "tokenizer"])
def test_what_is_no_folder_is_named(tmp_path, what):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=rf"^{what} .*/file is a file; expected a folder or a hub"):
        find_folder(str(tmp_path / "file"), what, [])
    with pytest.raises(MissingFileError, match=rf"^{what} 'tiny-ml' is not a folder.*\(tiny-lm\)$"):
        find_folder("tiny-ml", what, [])


def test_a_hub_name_is_downloaded_by_the_patterns(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return "/cache/model"

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert find_folder("owner/model", "model", ("*.json",)) == Path("/cache/model")
    assert asked == [("owner/model", ["*.json"])]


def test_a_hub_without_its_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"huggingface-hub.*textenv\[tokenizers\]"):
        find_folder("owner/model", "model", [])
