"""Estimates how much memory a training takes, and for what.

The estimates are for dense transformers. For models of 0.5 to 27 million parameters (d 128 to 512,
short and long prompts, with and without checkpointing, LoRA and a reference model, completions of
full length) they were 0.79 to 1.03 times the resident memory that was measured on a CPU; the
factors were fitted to these measurements. For 135 million (SmolLM2's dimensions, micro-batches,
LoRA with checkpointing) they are 0.94 to 1.05 times it, less what importing torch takes there.
What a GPU needs beside the weights, and keeps for the backward, was not measured and is set low.

Letters: d hidden size, q heads x head size, kv twice key-value heads x head size, f intermediate
size of the MLP, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402

from textenv.algos.runtime.compile import KEPT  # noqa: E402

PROCESS = 300_000_000
"""Bytes that Python, MLX and mlx-lm take before any model, on a CPU."""

PART = 2**25
"""Bytes of weights that an optimizer moves at a time."""

_AT_ONCE = 512  # completions that a policy decodes together at most
_CHUNK = 2**20  # the least logits that are computed together, see `textenv.algos.lm.scoring.scorer`


class ModelSizes(NamedTuple):
    """The sizes of a model, read from its weights and config; 0 for what the config lacks."""

    weights: int
    """Bytes of all weights."""
    trainable: int
    """Bytes of the weights that are trained without LoRA."""
    item: int
    """Bytes of one number."""
    layers: int
    d: int
    q: int
    kv: int
    f: int
    vocabulary: int
    shares_prompts: bool

    @classmethod
    def of(cls, model: nn.Module) -> ModelSizes:
        """The sizes of an mlx-lm model."""
        args = getattr(model, "args", None)

        def look(name: str, otherwise: int = 0) -> int:
            value = getattr(args, name, None)
            return value if isinstance(value, int) else otherwise

        d, heads = look("hidden_size"), look("num_attention_heads")
        head = look("head_dim", d // heads if heads else 0)
        return cls(
            weights=_bytes(model.parameters()),
            trainable=_bytes(model.trainable_parameters()),
            item=max((w.dtype.size for w in _arrays(model.parameters()) if _floats(w)), default=4),
            layers=look("num_hidden_layers"),
            d=d,
            q=heads * head,
            kv=2 * look("num_key_value_heads", heads) * head,
            f=look("intermediate_size"),
            vocabulary=look("vocab_size"),
            shares_prompts=getattr(model, "shares_prompts", True),
        )


@dataclass(frozen=True)
class Workload:
    """How much a training asks of a model: numbers of completions and tokens, and settings."""

    prompts: int
    """Prompts of one rollout."""
    completions: int
    """Completions of one rollout."""
    prompt_tokens: int
    """Tokens of the longest prompt."""
    completion_tokens: int
    """Tokens of the longest completion."""
    micro_batch: int
    """Completions in one forward and backward."""
    parts: bool
    """Whether a gradient is summed over several micro-batches."""
    gradient_checkpointing: bool = False
    lora_rank: int = 0
    reference: bool = False
    """Whether there is a second model for a KL penalty."""
    workers: int = 0
    oversampling: int = 1
    """How many times the completions of a rollout may be generated at once."""

    @classmethod
    def of(cls, config: Any, prompt_tokens: int, completion_tokens: int) -> Workload:
        """The work that a `GRPOConfig`, a `PPOConfig` on text, or an `SFTConfig` describes."""
        names = ("num_prompts", "n_steps", "batch_size")  # the last one if nothing is generated
        prompts = next(getattr(config, name) for name in names if hasattr(config, name))
        completions = prompts * getattr(config, "num_generations", 1)
        batch = getattr(config, "batch_size", completions)
        batch = min(batch, math.ceil(completions / getattr(config, "num_minibatches", 1)))
        micro_batch = min(batch, config.micro_batch_size or batch)
        return cls(
            prompts=prompts,
            completions=completions,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            micro_batch=micro_batch,
            parts=micro_batch < batch,
            gradient_checkpointing=config.gradient_checkpointing,
            lora_rank=config.lora_rank,
            reference=getattr(config, "beta", 0) > 0,
            workers=getattr(config, "num_workers", 0),
            oversampling=getattr(config, "oversampling", 1),
        )


def estimate_memory(sizes: ModelSizes, work: Workload, on_cpu: bool = True) -> dict[str, int]:
    """Bytes at the peak, by what takes them: in rollout, backward or optimizer step."""
    s = sizes
    wide = max(s.item, 4)  # what is trained is float32 or better, whatever the weights are
    trained = s.trainable * wide // s.item
    copies = trained if s.item < wide else 0
    if work.lora_rank:  # two factors for each of an attention layer's and an MLP's linear layers
        ends = (s.d + s.q) * 2 + (2 * s.d + s.kv) + 3 * (s.d + s.f)
        trained, copies = work.lora_rank * s.layers * ends * wide, 0
    common = {
        "weights": s.weights,
        "optimizer": 2 * trained + copies,
        "reference model": s.trainable if work.reference and not work.lora_rank else 0,
        "worker processes": work.workers * (s.weights + (PROCESS if on_cpu else 0)),
        "the process itself": PROCESS if on_cpu else 0,
    }
    largest = min(trained, s.vocabulary * s.d * wide)  # the embedding
    summed = trained + (2 * largest if work.parts else 0)  # an array is added, and then the next
    backward = {"gradient": min(summed, 2 * trained), **_activations(s, work, on_cpu)}
    # The new weights and moments of a part, whose last weight may be the embedding.
    step = {"gradient": trained, "update": 3 * min(trained, PART + largest)}
    phases = [common | parts for parts in (_rollout(s, work), backward, step)]
    return max(phases, key=lambda parts: sum(parts.values()))


def _rollout(s: ModelSizes, work: Workload) -> dict[str, int]:
    rows = min(_AT_ONCE, work.completions * work.oversampling)
    prompts = math.ceil(rows * work.prompts / work.completions) if s.shares_prompts else rows
    tokens = prompts * work.prompt_tokens + rows * work.completion_tokens
    widest = prompts * work.prompt_tokens * (2 * s.d + s.q + s.kv + 3 * s.f)
    return {
        "keys and values": tokens * s.layers * s.kv * s.item,
        "prompts going through": widest * s.item,
        "logits": 6 * rows * s.vocabulary * 4,
    }


def _activations(s: ModelSizes, work: Workload, on_cpu: bool) -> dict[str, int]:
    """Bytes that a forward keeps for the backward; the factors were fitted to measured peaks."""
    rows = min(work.micro_batch, work.completions)
    prompts = math.ceil(rows * work.prompts / work.completions) if s.shares_prompts else rows
    prompt_tokens = prompts * work.prompt_tokens
    tokens = prompt_tokens + rows * (work.completion_tokens - 1)
    again = on_cpu and not work.lora_rank and tokens * s.f > KEPT  # the product of a gate
    gated = (1.7 if again else 2.7) * s.f
    kept = tokens * (5.7 * s.d + 5 * s.q + 1.9 * s.kv + gated)  # for one layer
    if work.gradient_checkpointing:
        layers = s.layers * (tokens * s.d + prompt_tokens * s.kv) + kept
    else:
        layers = s.layers * kept
    # On a CPU, exponentials and sigmoids make many intermediate arrays.
    passing = tokens * ((23 * s.f + 8 * s.d + 7 * s.q + 2.5 * s.kv) if on_cpu else 4 * s.f)
    logits = rows * work.completion_tokens * s.vocabulary
    chunk, few = max(_CHUNK, s.vocabulary, s.vocabulary * s.d // 8), max(_CHUNK, s.vocabulary)
    logits = min(14 * logits, 20 * few + 4 * chunk) if on_cpu else min(6 * logits, 8 * chunk)
    return {
        "kept for the backward": int(layers * s.item),
        "logits" if logits * 4 > passing * s.item else "a layer's backward": int(
            max(logits * 4, passing * s.item)
        ),
    }


def _bytes(tree: Any) -> int:
    return sum(array.nbytes for array in _arrays(tree))


def _arrays(tree: Any) -> list[mx.array]:
    return list(dict(tree_flatten(tree)).values())


def _floats(array: mx.array) -> bool:
    return mx.issubdtype(array.dtype, mx.floating)
