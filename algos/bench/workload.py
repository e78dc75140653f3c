"""The work that all sides do: models, prompts, lengths and the reward.

The models are Qwen3 (2025, arXiv 2505.09388) in several sizes, with random weights.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

ALPHABET = "abcdefghij 0123456789+-="
SPECIAL = ("<pad>", "<eos>")
CHARACTERS = [*map(chr, range(32, 127)), "\n"]
CONTEXT = 2048
_STD = 0.02  # of the weights; tokens are almost uniform, so that completions are long


@dataclass(frozen=True)
class ModelSize:
    """Dimensions of a model with tied embeddings."""

    hidden: int
    layers: int
    vocabulary: int
    queries_per_key: int = 2
    """Query heads that share one head of keys and values."""
    feed_forward: int = 0
    """Width of the feed-forward layers; 0: three times ``hidden``."""

    @property
    def heads(self) -> int:
        """Number of query heads."""
        return max(4, self.hidden // 64)

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.heads // self.queries_per_key

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden // self.heads

    @property
    def intermediate(self) -> int:
        """Width of the feed-forward layers."""
        return self.feed_forward or 3 * self.hidden

    @property
    def layer_matrices(self) -> int:
        """Parameters of a layer's matrices."""
        attention = 2 * (self.heads + self.kv_heads) * self.head_dim * self.hidden
        return attention + 3 * self.hidden * self.intermediate

    @property
    def head_matrix(self) -> int:
        """Parameters of the head, which it shares with the embedding."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters: those of the matrices and of the norms."""
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


MODEL_SIZES = {
    "tiny": ModelSize(32, 2, 100),
    "small": ModelSize(128, 4, 100),
    "medium": ModelSize(512, 8, 4096),
    "vocabulary": ModelSize(128, 4, 150_000),
    # The dimensions of SmolLM2-135M (Ben Allal et al. 2025, arXiv 2502.02737).
    "smollm2": ModelSize(576, 30, 49_152, queries_per_key=3, feed_forward=1536),
}


def make_model(size: ModelSize, folder: str | Path, seed: int = 0) -> None:
    """Write a model with random weights, and a tokenizer with one token for each character.

    Args:
        size: the dimensions of the model.
        folder: the folder to write, in the layout of the Hugging Face hub.
        seed: seed of the weights.
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
        if value.ndim > 1:  # the norms stay as they are
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


class Work(NamedTuple):
    """The work of a rollout, and how often it is timed."""

    prompts: int
    generations: int = 1
    """Completions of each prompt."""
    shortest: int = 24
    """Length of the shortest prompt, in tokens."""
    longest: int = 40
    """Length of the longest prompt, in tokens."""
    max_new: int = 24
    """Longest completion, in tokens."""
    timed: int = 3
    """Steps or rollouts that are timed, after one that is not; 0: the first step is timed."""
    task: str = ""
    """A task of TextGen-v0, instead of random prompts."""
    micro_batch: int = 0
    """Completions of an update at once, with gradient checkpointing; 0: all, and without.
    TRL has gradient checkpointing in both, by default."""

    @property
    def completions(self) -> int:
        """Completions of a rollout."""
        return self.prompts * self.generations

    @property
    def title(self) -> str:
        """The work in words."""
        lengths = f"{self.shortest}"
        if self.longest > self.shortest:
            lengths += f" to {self.longest}"
        what = f"of {self.task}" if self.task else f"of {lengths} tokens"
        each = f"{self.generations} x {self.max_new}" if self.generations > 1 else self.max_new
        parts = f", {self.micro_batch} at a time" if self.micro_batch else ""
        return f"{self.prompts} prompt{'s' if self.prompts > 1 else ''} {what}, {each}{parts}"


def random_prompts(work: Work, count: int, seed: int) -> list[str]:
    """Prompts of random characters, each character one token."""
    rng = random.Random(seed)
    return [
        "".join(rng.choice(ALPHABET) for _ in range(rng.randint(work.shortest, work.longest)))
        for _ in range(count)
    ]


def batches(work: Work, seed: int) -> list[list[str]]:
    """A batch of prompts that is not timed, then those that are; all prompts differ."""
    prompts = random_prompts(work, work.completions * (work.timed + 1), seed)
    return [prompts[i :: work.timed + 1] for i in range(work.timed + 1)]


def digits(completion: str) -> float:
    """The reward: the share of digits, which every vocabulary has, so that rewards differ."""
    return sum(c.isdigit() for c in completion) / max(1, len(completion))


def reward(prompt: str, completion: str, example: dict) -> float:
    """The same reward as a reward function of this package."""
    return digits(completion)
