"""Measures llama.cpp, by llama-cpp-python, on the work of `ours.generate`.

The model is converted to a GGUF file in float32. Rows are the sequences of one context. A token is
drawn by llama.cpp's own sampler at temperature 1, from the whole vocabulary.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import llama_cpp as llama
from safetensors.numpy import load_file
from transformers import AutoTokenizer

from textenv.algos.bench.process import cores, host_facts
from textenv.algos.bench.workload import Work, batches

_OF_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OTHERS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
}


def generate(model: str, work: Work, seed: int, started: float) -> dict[str, Any]:
    """Measure completions of different prompts; ``seconds`` are those of a token."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    ends = {tokenizer.eos_token_id}
    encoded = [[tokenizer.encode(prompt) for prompt in batch] for batch in batches(work, seed)]
    with loaded(model, work) as context:
        first, *others = encoded
        complete(context, first, work.max_new, ends, seed)
        samples, lengths = [], []
        for number, prompts in enumerate(others, 1):
            start = time.perf_counter()
            done = complete(context, prompts, work.max_new, ends, seed + number)
            count = sum(map(len, done))
            samples.append((time.perf_counter() - start) / count)
            lengths.append(count / len(prompts))
        facts = host_facts(f"llama.cpp's own, {cores()} thread(s)")
    return facts | {
        "seconds": statistics.median(samples),
        "samples": samples,
        "prompt_tokens": statistics.mean(len(ids) for batch in others for ids in batch),
        "tokens": statistics.mean(lengths),
    }


def complete(
    context: Any,
    prompts: Sequence[Sequence[int]],
    max_new: int,
    ends: set[int],
    seed: int,
) -> list[list[int]]:
    """A completion of each prompt.

    Args:
        context: from `loaded`.
        prompts: the token ids of the prompts.
        max_new: the longest completion, in tokens.
        ends: the tokens after which a completion ends.
        seed: seed of what is drawn.
    """
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    sampler = llama.llama_sampler_init_dist(seed)
    batch = llama.llama_batch_init(sum(map(len, prompts)), 0, 1)
    done: list[list[int]] = [[] for _ in prompts]
    new = {row: list(prompt) for row, prompt in enumerate(prompts)}  # the tokens of rows that go on
    try:
        while new:
            places = _fill(batch, new, {row: len(prompts[row]) + len(done[row]) for row in new})
            if code := llama.llama_decode(context, batch):
                raise RuntimeError(f"llama.cpp could not decode {batch.n_tokens} tokens: {code}")
            for row, place in places.items():
                done[row].append(llama.llama_sampler_sample(sampler, context, place))
            new = {
                row: done[row][-1:]
                for row in new
                if len(done[row]) < max_new and done[row][-1] not in ends
            }
    finally:
        llama.llama_batch_free(batch)
        llama.llama_sampler_free(sampler)
    return done


def _fill(batch: Any, new: dict[int, list[int]], lengths: dict[int, int]) -> dict[int, int]:
    """Put the new tokens of rows into a batch.

    Args:
        batch: llama.cpp's batch.
        new: the new tokens of each row.
        lengths: how many tokens each row has with them.

    Returns:
        The place of each row's last token, whose logits are computed.
    """
    places, at = {}, 0
    for row, tokens in new.items():
        for position, token in enumerate(tokens, lengths[row] - len(tokens)):
            batch.token[at], batch.pos[at] = token, position
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, row
            batch.logits[at] = position == lengths[row] - 1
            at += 1
        places[row] = at - 1
    batch.n_tokens = at
    return places


@contextmanager
def loaded(model: str, work: Work) -> Iterator[Any]:
    """A context of a folder's model, with a sequence for each prompt of some work."""
    quiet = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(quiet, None)
    llama.llama_backend_init()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.gguf")
        write_gguf(Path(model), file)
        params = llama.llama_model_default_params()
        network = llama.llama_model_load_from_file(str(file).encode(), params)
        if network is None:
            raise RuntimeError(f"llama.cpp could not load {model}, converted to GGUF")
        settings = llama.llama_context_default_params()
        settings.n_seq_max = work.completions
        settings.n_ctx = work.completions * (work.longest + work.max_new)
        settings.n_batch = work.completions * work.longest
        settings.n_threads = settings.n_threads_batch = cores()
        settings.type_k = settings.type_v = llama.GGML_TYPE_F32
        context = llama.llama_init_from_model(network, settings)
        if context is None:
            raise RuntimeError(f"llama.cpp made no context of {settings.n_ctx} tokens")
        try:
            yield context
        finally:
            llama.llama_free(context)
            llama.llama_model_free(network)


def write_gguf(model: Path, file: Path) -> None:
    """Convert a model of `textenv.algos.bench.workload` to GGUF, without its tokenizer."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(str(file), config["model_type"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("no_vocab")
    for part in sorted(model.glob("*.safetensors")):
        for name, weight in load_file(part).items():
            writer.add_tensor(_OTHERS.get(name) or _of_layer(name), weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _of_layer(name: str) -> str:
    """GGUF's name of a layer's weight, ``model.layers.N.PART.weight``."""
    number, _, part = name.removeprefix("model.layers.").removesuffix(".weight").partition(".")
    return f"blk.{number}.{_OF_LAYER[part]}.weight"
