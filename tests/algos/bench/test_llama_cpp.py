"""llama.cpp computes the same model, where it is installed."""

import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")

import mlx.core as mx
from mlx_lm import load

from textenv.algos.bench.peers.llama_cpp import complete, loaded
from textenv.algos.bench.workload import MODEL_SIZES, Work, batches, make_model


def test_completions_are_those_of_mlx_lm(tmp_path):
    """With logits a thousand times as large, a token that is drawn is the most probable one."""
    make_model(MODEL_SIZES["tiny"], tmp_path)
    weights = mx.load(str(tmp_path / "model.safetensors"))
    weights["model.norm.weight"] *= 1000
    mx.save_safetensors(str(tmp_path / "model.safetensors"), weights, {"format": "mlx"})
    network, tokenizer = load(str(tmp_path))
    work = Work(4, 1, 8, 16, 6)
    prompts = [tokenizer.encode(prompt) for prompt in batches(work, 0)[0]]
    assert len(set(map(len, prompts))) > 1
    expected = [list(prompt) for prompt in prompts]
    for ids in expected:
        for _ in range(work.max_new):
            ids.append(network(mx.array([ids]))[0, -1].argmax().item())
    with loaded(str(tmp_path), work) as context:
        done = complete(context, prompts, work.max_new, set(), 0)
    assert done == [ids[-work.max_new :] for ids in expected]
    assert len({token for ids in done for token in ids}) > 2  # not one token for all
