"""Models that are written, and read again."""

from __future__ import annotations

import json

import numpy as np
import pytest

from textenv.algos import load_model
from textenv.algos.lm.models.saving import save_model


def test_a_model_made_in_memory_is_saved_too(random_model, tiny, tiny_config, tmp_path):
    import mlx.core as mx

    model = random_model(**tiny_config)
    assert not hasattr(model, "source")
    save_model(model, tiny[1], tmp_path / "a" / "model")
    read, tokenizer = load_model(tmp_path / "a" / "model")
    ids = mx.array([[3, 4, 12]])
    np.testing.assert_array_equal(read(ids), model(ids))
    assert tokenizer.decode([3, 4, 12]) == "12+"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["model"]


def test_an_earlier_model_gives_way_whole(random_model, tiny, tiny_config, tmp_path):
    """Shards of the old weights, its critic and its strategy would be taken for the new one's."""
    import mlx.core as mx

    folder, model = tmp_path / "model", random_model(**tiny_config)
    save_model(model, tiny[1], folder)
    kept = sorted(path.name for path in folder.iterdir())
    for name in ("model-00001-of-00002.safetensors", "value_head.safetensors", "strategy.json"):
        (folder / name).write_text("of the old model")
    save_model(model, tiny[1], folder)
    assert sorted(path.name for path in folder.iterdir()) == kept
    ids = mx.array([[3, 4, 12]])
    np.testing.assert_array_equal(load_model(folder)[0](ids), model(ids))


def test_a_model_is_saved_over_the_folder_it_came_from(fresh, tiny_folder, tmp_path):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    model, tokenizer = load_model(folder)
    save_model(model, tokenizer, folder)
    assert load_model(folder)[1].decode([3, 4, 12]) == "12+"


def test_a_tokenizer_that_cannot_be_written_leaves_the_old_model(fresh, tmp_path):
    class Broken:
        def save_pretrained(self, folder):
            raise OSError("no room on the disk")

    model, tokenizer = fresh
    save_model(model, tokenizer, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    with pytest.raises(OSError, match="no room"):
        save_model(model, Broken(), tmp_path / "model")
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == before


def test_a_disk_that_takes_no_more_leaves_the_old_model(fresh, tmp_path):
    import resource

    from textenv.errors import StorageError

    model, tokenizer = fresh
    save_model(model, tokenizer, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"the model cannot be written to .*model: "):
            save_model(model, tokenizer, tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == before


def doors(model, tokenizer):
    """Every way in which this package writes a model: its name, and a function of a folder."""
    from gymnasium import spaces

    from textenv.algos import GRPOConfig, GRPOTrainer, MLPPolicy, PPOConfig, PPOTrainer, export_onnx

    policy = MLPPolicy(spaces.Box(-1, 1, (2,)), spaces.Discrete(2), (3,))
    settings = {"max_completion_length": 4}
    grpo = GRPOConfig(num_prompts=2, num_generations=2, strategy=("greso",), **settings)
    ppo = PPOConfig(n_steps=4, batch_size=4, total_timesteps=4, **settings)
    yield "save_model", lambda folder: save_model(model, tokenizer, folder)
    yield "grpo", GRPOTrainer(model, config=grpo, tokenizer=tokenizer).save
    yield "ppo", PPOTrainer(model, env="TextGen-v0", config=ppo, tokenizer=tokenizer).save
    yield "control", PPOTrainer("mlp", env="CartPole-v1").save
    yield "policy", policy.save
    yield "onnx", lambda folder: export_onnx(policy, folder)


def test_no_door_deletes_what_it_did_not_write(fresh, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    for name, save in doors(*fresh):
        folder = tmp_path / name
        (folder / "src").mkdir(parents=True)
        (folder / "src" / "main.py").write_text("mine")
        (folder / "notes.json").write_text("mine")
        monkeypatch.chdir(folder)
        targets = [".", folder] if name == "onnx" else [".", folder, folder / "notes.json"]
        for target in targets:
            with pytest.raises(ValueError, match=r"notes\.json|folder"):
                save(target)
            assert (folder / "notes.json").read_text() == "mine", name
            assert (folder / "src" / "main.py").read_text() == "mine", name
        assert len(list(folder.iterdir())) == 2, name
        if name != "onnx":
            save(folder / "model")
            save(folder / "model")
            monkeypatch.chdir(folder / "model")
            save(".")
            assert not list((folder / "model").glob(".saving-*"))
            assert (folder / "model" / "config.json").is_file()


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_config_names_the_type_of_the_weights(tiny_folder, tmp_path, key, dtype):
    """A folder in bfloat16 is trained in float32 on a CPU, and its reader must not round it."""
    import shutil

    import mlx.core as mx

    folder = tmp_path / "half"
    shutil.copytree(tiny_folder, folder)
    weights = {
        n: w.astype(mx.bfloat16) for n, w in mx.load(str(folder / "model.safetensors")).items()
    }
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    config = json.loads((folder / "config.json").read_text())
    nested = {"text_config": {key: "bfloat16", "hidden_size": 32}}
    (folder / "config.json").write_text(json.dumps(config | {key: "bfloat16"} | nested))
    model, tokenizer = load_model(folder)
    model.set_dtype(getattr(mx, dtype))
    save_model(model, tokenizer, tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert saved[key] == saved["text_config"][key] == dtype
    weights = mx.load(str(tmp_path / "saved" / "model.safetensors"))
    assert {str(w.dtype) for w in weights.values()} == {f"mlx.core.{dtype}"}


def test_the_folder_that_a_model_came_from_is_not_needed(tiny_folder, tmp_path):
    import shutil

    import mlx.core as mx

    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    model, tokenizer = load_model(folder)
    expected = json.loads((folder / "config.json").read_text())
    ids = mx.array([[3, 4, 12]])
    logits = np.array(model(ids))
    shutil.rmtree(folder)
    save_model(model, tokenizer, tmp_path / "saved")
    read, _ = load_model(tmp_path / "saved")
    np.testing.assert_array_equal(read(ids), logits)
    assert json.loads((tmp_path / "saved" / "config.json").read_text()) == expected
    assert load_model(tmp_path / "saved")[1].decode([3, 4, 12]) == "12+"


def test_a_tokenizer_that_needs_a_folder_that_is_gone_says_so(tiny_folder, tmp_path):
    import shutil

    class Copying:
        """As tokenizers of sentencepiece do it."""

        def save_pretrained(self, target):
            shutil.copy(tmp_path / "model" / "tokenizer.json", target)

    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    model, _ = load_model(folder)
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match=f"tokenizer cannot be written, since {folder}"):
        save_model(model, Copying(), tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_page_of_the_users_own_may_be_in_the_folder(fresh, tmp_path):
    (tmp_path / "README.md").write_text("# Mine")
    save_model(*fresh, tmp_path, card="ours")
    save_model(*fresh, tmp_path)
    assert (tmp_path / "README.md").read_text() == "# Mine"
    assert load_model(tmp_path)[1].decode([3, 4, 12]) == "12+"


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_merged_weights_have_the_precision_of_the_others(fresh, learn, tmp_path, dora):
    import mlx.core as mx

    from textenv.algos.lm.models.lora import add_lora

    model, tokenizer = fresh
    model.set_dtype(mx.bfloat16)
    add_lora(model, 2, 3.0, 0, dora=dora)
    learn(model)
    save_model(model, tokenizer, tmp_path / "saved")
    weights = mx.load(str(tmp_path / "saved" / "model.safetensors"))
    assert {str(w.dtype) for w in weights.values()} == {"mlx.core.bfloat16"}
    ids = mx.array([[3, 4, 12]])
    read, expected = load_model(tmp_path / "saved")[0](ids), model(ids).astype(mx.float32)
    # bfloat16 has 8 bits: the merged weights are rounded to them once.
    np.testing.assert_allclose(read, expected, atol=0.05 * float(mx.abs(expected).max()))
