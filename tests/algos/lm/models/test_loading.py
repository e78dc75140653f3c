"""Model folders: what loads, what is written, and one line for what is broken."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from textenv.algos import load_model
from textenv.algos.lm.models.properties import context_length, count_parameters
from textenv.algos.lm.models.saving import save_model


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def edit_tokenizer(folder, **changes):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_loaded(tiny_folder, tiny_config):
    import mlx.core as mx
    import mlx_lm

    model, tokenizer = load_model(tiny_folder)
    expected, _ = mlx_lm.load(str(tiny_folder))
    ids = mx.array([tokenizer.encode("12+30=")])
    assert ids.tolist()[0] == [3, 4, 12, 5, 2, 14]
    np.testing.assert_array_equal(model(ids), expected(ids))
    assert tokenizer.eos_token_ids == {1}
    assert context_length(model) == tiny_config["max_position_embeddings"]
    # embeddings; per layer q, k, v, o, their norms, the mlp, the norms; the last norm
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 2 * 8 + 3 * 32 * 64 + 2 * 32
    assert count_parameters(model) == 42 * 32 + 2 * layer + 32


@pytest.mark.parametrize("rope", ["plain", "scaled"])
def test_another_thread_may_run_what_this_one_loaded(folder, rope):
    """MLX's streams are of one thread: nothing may be left to compute, also beside the weights."""
    import mlx.core as mx

    if rope == "scaled":
        factors = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        scaling = {"rope_type": "llama3", "original_max_position_embeddings": 64, **factors}
        edit(folder, rope_scaling=scaling)
    with ThreadPoolExecutor(1) as pool:
        model, _ = pool.submit(load_model, folder).result()
    ids = mx.array([[3, 4, 12, 5, 2, 14]])
    np.testing.assert_array_equal(model(ids), load_model(folder)[0](ids))


def test_a_hub_name_downloads_what_loads_a_model_and_no_code(monkeypatch, folder):
    import fnmatch

    import huggingface_hub

    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    model, _ = load_model("owner/model")
    assert count_parameters(model) == count_parameters(load_model(folder)[0])
    [(name, patterns)] = asked
    assert name == "owner/model"

    def wanted(file):
        return any(fnmatch.fnmatch(file, pattern) for pattern in patterns)

    assert all(wanted(path.name) for path in folder.iterdir())
    assert wanted("model-00001-of-00002.safetensors") and wanted("model.safetensors.index.json")
    assert not any(map(wanted, ["modeling_owner.py", "pytorch_model.bin", "training_args.pkl"]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_becomes_float32_on_a_cpu(tiny_folder, folder, dtype):
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map

    model, tokenizer = load_model(tiny_folder)
    model.update(tree_map(lambda w: w.astype(getattr(mx, dtype)), model.parameters()))
    save_model(model, tokenizer, folder)
    types = {w.dtype for _, w in tree_flatten(load_model(folder)[0].parameters())}
    assert types == {mx.float32 if mx.default_device() == mx.cpu else getattr(mx, dtype)}


BROKEN = {
    "config is a list": lambda f: (f / "config.json").write_text("[]"),
    "config is cut off": lambda f: (f / "config.json").write_text('{"a": '),
    "config has a number of 5000 digits": lambda f: (f / "config.json").write_text("9" * 5000),
    "config is empty": lambda f: (f / "config.json").write_text("{}"),
    "unknown type": lambda f: edit(f, model_type="qwen99"),
    "other sizes": lambda f: edit(f, hidden_size=64),
    "more layers": lambda f: edit(f, num_hidden_layers=3),
    "text for a number": lambda f: edit(f, hidden_size="big"),
    "weights are cut off": lambda f: (f / "model.safetensors").write_bytes(b"\x10" * 100),
    "a header of weights that is too deep": lambda f: (f / "model.safetensors").write_bytes(
        (10_000).to_bytes(8, "little") + b"[" * 10_000
    ),
    "tokenizer is cut off": lambda f: (f / "tokenizer.json").write_text("{"),
    "no tokenizer data": lambda f: (f / "tokenizer.json").unlink(),
    "code of its own": lambda f: edit(f, model_file="evil.py"),
    "no heads": lambda f: edit(f, num_attention_heads=0),
    "fewer than no heads": lambda f: edit(f, num_key_value_heads=-1),
    "no width": lambda f: edit(f, hidden_size=0),
    "heads of no width": lambda f: edit(f, head_dim=0),
    "heads of a fraction": lambda f: edit(f, head_dim=8.5),
    "a billion layers": lambda f: edit(f, num_hidden_layers=10**9),
    "a width of 400 digits": lambda f: edit(f, hidden_size=10**400),
    "an activation width of none": lambda f: edit(f, intermediate_size=0),
    "a context of text": lambda f: edit(f, max_position_embeddings="x"),
    "a context of less than nothing": lambda f: edit(f, max_position_embeddings=-1),
    "a rope of text": lambda f: edit(f, rope_theta="x"),
    "a rope of nothing": lambda f: edit(f, rope_theta=0),
    "an end of text": lambda f: edit(f, eos_token_id="x"),
    "ends of text": lambda f: edit(f, eos_token_id=["x"]),
    "generation is a list": lambda f: (f / "generation_config.json").write_text("[]"),
    "generation ends in text": lambda f: (f / "generation_config.json").write_text(
        '{"eos_token_id": "x"}'
    ),
    "tokenizer config is a list": lambda f: (f / "tokenizer_config.json").write_text("[]"),
    "tokenizer config is a number": lambda f: (f / "tokenizer_config.json").write_text("5"),
    "tokenizer is a list": lambda f: (f / "tokenizer.json").write_text("[]"),
    "unknown template type": lambda f: edit_tokenizer(f, chat_template_type="nosuch"),
    "unknown tool parser": lambda f: edit_tokenizer(f, tool_parser_type="nosuch"),
    "template is cut off": lambda f: edit_tokenizer(f, chat_template="{% if"),
    "template divides by zero": lambda f: edit_tokenizer(f, chat_template="{{ 1/0 }}"),
    "template without end": lambda f: edit_tokenizer(
        f, chat_template="{% for i in range(10**12) %}x{% endfor %}"
    ),
    "template of what is not there": lambda f: edit_tokenizer(f, chat_template="{{ a.b.c }}"),
    "template is a number": lambda f: edit_tokenizer(f, chat_template=5),
}
MISSING = {
    "no config": "config.json",
    "no weights": "model.safetensors",
    "no tokenizer": "tokenizer_config.json",
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_folders_are_named(folder, what):
    BROKEN[what](folder)
    with pytest.raises(ValueError, match=str(folder)):
        load_model(folder)


def test_code_in_a_folder_is_not_run_even_by_an_mlx_lm_that_would(folder, monkeypatch):
    """As mlx-lm was before it asked for trust_remote_code."""
    import mlx_lm.utils

    (folder / "evil.py").write_text("raise SystemExit('it ran')")
    edit(folder, model_file="evil.py")
    monkeypatch.setattr(
        mlx_lm.utils, "load_model", lambda _: exec((folder / "evil.py").read_text())
    )
    with pytest.raises(ValueError, match=r"names a file of code, 'evil\.py'"):
        load_model(folder)


def test_code_of_a_tokenizer_is_not_run_nor_asked_about(folder, monkeypatch):
    """transformers would ask, and run it on a yes."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    (folder / "evil.py").write_text("raise SystemExit('it ran')")
    edit_tokenizer(folder, auto_map={"AutoTokenizer": ["evil.Tok", None]}, tokenizer_class="Tok")
    load_model(folder)  # by its tokenizer.json
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=f"{folder} does not hold a tokenizer that loads"):
        load_model(folder)


def test_a_template_that_refuses_a_message_by_itself_is_one_that_runs(folder):
    edit_tokenizer(folder, chat_template="{{ raise_exception('a system message comes first') }}")
    load_model(folder)


@pytest.mark.parametrize("what", MISSING)
def test_missing_files_are_named(folder, what):
    (folder / MISSING[what]).unlink()
    with pytest.raises(FileNotFoundError, match=str(folder)):
        load_model(folder)


@pytest.mark.parametrize("name", ["no-such-model", "./no/such", "a/b/c", "/no/such/folder"])
def test_names_that_are_nothing(name):
    with pytest.raises(FileNotFoundError, match=f"model '{name}' is not a folder"):
        load_model(name)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        load_model(tmp_path / "file")
