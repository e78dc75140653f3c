"""The models that are measured: Qwen3 (2025, arXiv 2505.09388) of some sizes, weights at random."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPECIAL = ("<pad>", "<eos>")
CHARACTERS = [*map(chr, range(32, 127)), "\n"]
CONTEXT = 2048
_STD = 0.02  # of the weights: answers are near uniform, so that completions are long


@dataclass(frozen=True)
class Size:
    """Dimensions of a model with tied embeddings."""

    hidden: int
    layers: int
    vocabulary: int

    @property
    def heads(self) -> int:
        """Query heads."""
        return max(4, self.hidden // 64)

    @property
    def kv_heads(self) -> int:
        """Heads of the keys and values."""
        return max(2, self.heads // 2)

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden // self.heads

    @property
    def intermediate(self) -> int:
        """Width of the feed-forward layers."""
        return 3 * self.hidden

    @property
    def layer_matrices(self) -> int:
        """Parameters of a layer that multiply its input."""
        attention = 2 * (self.heads + self.kv_heads) * self.head_dim * self.hidden
        return attention + 3 * self.hidden * self.intermediate

    @property
    def head_matrix(self) -> int:
        """Parameters of the head, which are the embedding's."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters: those that multiply, and the norms."""
        norms = 2 * self.hidden + 2 * self.head_dim
        return self.head_matrix + self.layers * (self.layer_matrices + norms) + self.hidden

    def config(self) -> dict[str, Any]:
        """The model's config.json, as transformers and mlx-lm read it."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "max_position_embeddings": CONTEXT,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": 1,
            "pad_token_id": 0,
        }


SIZES = {
    "tiny": Size(32, 2, 100),
    "small": Size(128, 4, 100),
    "medium": Size(512, 8, 4096),
    "vocabulary": Size(128, 4, 150_000),
}


def make_model(size: Size, folder: str | Path, seed: int = 0) -> None:
    """Write a model with weights at random, and a tokenizer of one token a character.

    Args:
        size: its dimensions.
        folder: where to, in the layout of the Hugging Face hub.
        seed: of the weights.
    """
    from textenv.algos.runtime import backend

    backend.prepare()
    import mlx.core as mx
    import mlx_lm.utils
    from mlx.utils import tree_flatten, tree_unflatten

    folder, config = Path(folder), size.config()
    model_class, args_class = mlx_lm.utils._get_classes(config)
    model = model_class(args_class.from_dict(config))
    key = mx.random.key(seed)
    weights = []
    parameters: Any = tree_flatten(model.parameters())
    for name, value in parameters:
        if value.ndim > 1:  # norms stay as they are
            key, own = mx.random.split(key)
            weights.append((name, _STD * mx.random.normal(value.shape, key=own)))
    model.update(tree_unflatten(weights))
    mlx_lm.utils.save_model(folder, model)
    mlx_lm.utils.save_config(config, folder / "config.json")
    _make_tokenizer(size.vocabulary).save_pretrained(folder)


def _make_tokenizer(vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *CHARACTERS]
    words += [f"<{i}>" for i in range(len(words), vocabulary)]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", unk_token="<pad>"
    )
