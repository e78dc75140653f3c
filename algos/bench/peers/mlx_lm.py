"""Measures mlx-lm's BatchGenerator, with the same BLAS, on the work of `ours.generate`."""

from __future__ import annotations

import statistics
import time
from typing import Any

from textenv.algos.bench.process import mlx_facts
from textenv.algos.bench.workload import Work, batches
from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
from mlx_lm import load  # noqa: E402
from mlx_lm.generate import BatchGenerator  # noqa: E402


def generate(model: str, work: Work, seed: int, started: float) -> dict[str, Any]:
    """Measure completions of different prompts; ``seconds`` are those of a token."""
    mx.random.seed(seed)
    loaded = load(model)
    network, tokenizer = loaded[0], loaded[1]
    encoded = [[tokenizer.encode(prompt) for prompt in batch] for batch in batches(work, seed)]

    def play(prompts: list[list[int]]) -> int:
        generator = BatchGenerator(
            network,
            max_tokens=work.max_new,
            sampler=mx.random.categorical,
            stop_tokens=[[token] for token in tokenizer.eos_token_ids],
            completion_batch_size=work.completions,
            prefill_batch_size=work.completions,
        )
        generator.insert(prompts)
        count = 0
        while responses := generator.next_generated():
            count += len(responses)
        return count

    play(encoded[0])
    samples, lengths = [], []
    for prompts in encoded[1:]:
        start = time.perf_counter()
        count = play(prompts)
        samples.append((time.perf_counter() - start) / count)
        lengths.append(count / len(prompts))
    return mlx_facts() | {
        "seconds": statistics.median(samples),
        "samples": samples,
        "prompt_tokens": statistics.mean(len(ids) for batch in encoded[1:] for ids in batch),
        "tokens": statistics.mean(lengths),
    }
