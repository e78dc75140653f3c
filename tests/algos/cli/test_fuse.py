"""textenv fuse, and adapters in the commands that name a model."""

import json

import numpy as np
import pytest

from textenv.algos.cli import main

SMALL = ["--max-steps", "1", "--num-prompts", "2", "--num-generations", "2"]
SMALL += ["--max-completion-length", "4", "--eval-examples", "4", "--rollouts-every", "0"]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Adapters of tiny-lm that write something else than it does."""
    import mlx.core as mx

    from textenv.algos import load_model
    from textenv.algos.lm.models.adapters import save_adapters
    from textenv.algos.lm.models.lora import add_lora, lora_layers

    model, _ = load_model("tiny-lm")
    add_lora(model, rank=2, scale=5.0, seed=0)
    for number, (_, layer) in enumerate(lora_layers(model)):
        layer.lora_b = mx.random.normal(layer.lora_b.shape, key=mx.random.key(number))
    folder = tmp_path_factory.mktemp("adapters") / "adapters"
    save_adapters(model, folder)
    return folder


def test_fuse_writes_the_model_with_its_adapters(adapters, tmp_path, capsys):
    import mlx.core as mx
    import mlx_lm

    from textenv.algos import load_model

    out = tmp_path / "fused"
    assert main(["fuse", "tiny-lm", str(adapters), str(out)]) == 0
    assert f"{out}: tiny-lm with LoRA rank 2 on 3 layers" in capsys.readouterr().out
    expected, tokenizer = load_model("tiny-lm", adapters=adapters)
    ids = mx.array([tokenizer.encode("12+30=")])
    for read in (load_model(out)[0], mlx_lm.load(str(out))[0]):
        np.testing.assert_allclose(read(ids), expected(ids), atol=1e-4)
    assert float(mx.abs(expected(ids) - load_model("tiny-lm")[0](ids)).max()) > 0.1


def test_what_cannot_be_fused(adapters, tmp_path, refused):
    (tmp_path / "notes.txt").write_text("mine")
    assert "notes.txt" in refused("fuse", "tiny-lm", str(adapters), str(tmp_path))
    nowhere = tmp_path / "nowhere"
    assert f"{nowhere} is not a folder" in refused("fuse", "tiny-lm", str(nowhere), "out")


def test_adapters_are_evaluated_and_collected_with(adapters, tmp_path, capsys):
    from textenv.algos import load_rollout

    size = ["--examples", "20", "--max-completion-length", "8"]
    assert main(["eval", *size]) == 0
    plain = capsys.readouterr().out
    assert main(["eval", *size, "--adapters", str(adapters)]) == 0
    adapted = capsys.readouterr().out
    assert adapted != plain
    argv = ["eval", "--model", "tiny-lm", "tiny-lm", *size, "--adapters", str(adapters)]
    assert main(argv) == 0  # they are of the second
    both = capsys.readouterr().out
    assert both.index(plain) < both.index(adapted)
    texts = []
    for number, more in enumerate(([], ["--adapters", str(adapters)])):
        out = tmp_path / str(number)
        argv = ["rollout", "--task", "arithmetic", "--n-steps", "8", "--out", str(out)]
        assert main([*argv, *more]) == 0
        texts.append([t.actions for t in load_rollout(next(out.iterdir()))])
    assert texts[0] != texts[1]


def test_training_goes_on_from_adapters_and_writes_a_card(adapters, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", *SMALL, "--adapters", str(adapters), "--out", str(out)]) == 0
    assert "LoRA rank 2 on 3 layers" in capsys.readouterr().out
    card = (out / "model" / "README.md").read_text()
    after = json.loads((out / "summary.json").read_text())["after"]["greedy"]["accuracy"]
    before, found = card.split("| accuracy, greedy | ")[1].split(" |")[0:2]
    assert 0 <= float(before) <= 1 and found.strip() == f"{after:.3f}"
    assert "Measured on 4 held-out examples." in card
    again = tmp_path / "again"
    assert main(["train", "--config", str(out / "config.toml"), "--out", str(again)]) == 0
    assert f'adapters = "{adapters}"' in (again / "config.toml").read_text()


def test_control_has_no_adapters(adapters, refused):
    argv = ["train", "--algo", "ppo", "--env", "CartPole-v1", "--adapters", str(adapters)]
    assert "--adapters is for language models, and CartPole-v1 is control" in refused(*argv)
