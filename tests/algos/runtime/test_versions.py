"""Versions of the libraries that matter here."""

import importlib.metadata

import pytest

from textenv.algos.runtime import versions


@pytest.fixture(autouse=True)
def looked_up_anew():
    versions._found.cache_clear()
    yield
    versions._found.cache_clear()


def test_versions_are_those_that_are_installed():
    found = versions.versions()
    assert {"numpy", "gymnasium", "mlx"} <= found.keys() <= set(versions.PACKAGES)
    for name, version in found.items():
        assert importlib.metadata.version(name) == version


def test_what_is_not_installed_is_left_out_and_each_is_looked_up_once(monkeypatch):
    asked = []

    def version(name):
        asked.append(name)
        if name == "torch":
            raise importlib.metadata.PackageNotFoundError
        return f"{len(asked)}.0"

    monkeypatch.setattr(versions.importlib.metadata, "version", version)
    first = versions.versions()
    assert first == {n: f"{i}.0" for i, n in enumerate(versions.PACKAGES, 1) if n != "torch"}
    first["numpy"] = "changed by the caller"
    assert versions.versions()["numpy"] != "changed by the caller"
    assert asked == list(versions.PACKAGES)
