"""Names of models and tokenizers, and the folders that they stand for."""

import pytest

from textenv.tokenizers import load_tokenizer


@pytest.mark.parametrize("name", ["tiny-ml", "./here", "a/b/c", "/nowhere/at/all"])
def test_a_mistyped_name_is_not_looked_up(name, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", lambda *a, **k: pytest.fail("looked up"))
    with pytest.raises(FileNotFoundError, match=name):
        load_tokenizer(name)
