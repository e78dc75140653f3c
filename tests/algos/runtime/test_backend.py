"""What happens before MLX is imported."""

import pytest

from textenv.algos.runtime import backend
from textenv.errors import MissingDependencyError


@pytest.mark.parametrize(("missing", "said"), [("mlx", "mlx"), ("mlx_lm", "mlx-lm")])
def test_what_is_missing_is_named_before_anything_is_loaded(monkeypatch, missing, said):
    found = backend.importlib.util.find_spec
    monkeypatch.setattr(
        backend.importlib.util, "find_spec", lambda name: None if name == missing else found(name)
    )
    monkeypatch.setattr(backend.blas, "load", lambda: pytest.fail("the BLAS was loaded"))
    with pytest.raises(MissingDependencyError) as caught:
        backend.prepare()
    assert f"{said}" in str(caught.value) and f"textenv[{backend.EXTRA}]" in str(caught.value)


def test_the_blas_comes_first_and_freed_memory_is_kept(monkeypatch):
    calls = []
    monkeypatch.setattr(backend.blas, "load", lambda: calls.append("blas"))
    monkeypatch.setattr(backend.kernels, "keep_private", lambda: calls.append("kernels"))
    monkeypatch.setattr(backend.heap, "keep_freed_memory", lambda: calls.append("heap"))
    backend.prepare()
    assert calls == ["blas", "kernels", "heap"]
