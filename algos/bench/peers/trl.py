"""Measures TRL's GRPOTrainer on torch, on the work of `ours.train`.

The settings: float32, all completions of a step in one batch unless the work has a micro-batch,
sampling from the full vocabulary at temperature 1, one update a rollout, no KL penalty. The rest is
as TRL has it by default, gradient checkpointing too.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from textenv.algos.bench.process import cores, torch_facts
from textenv.algos.bench.workload import Work, digits, random_prompts


class _Clock(TrainerCallback):
    """Records when training began, and when each step ended."""

    def __init__(self) -> None:
        self.begin = 0.0
        self.ends: list[float] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.begin = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def _reward(completions: list[str], **_: Any) -> list[float | None]:
    return [digits(c) for c in completions]


def train(model: str, work: Work, seed: int, started: float) -> dict[str, Any]:
    """Measure GRPO steps."""
    torch.set_num_threads(cores())
    clock = _Clock()
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    steps, at_once = work.timed + 1, work.micro_batch or work.completions
    prompts = random_prompts(work, work.prompts * steps, seed)
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
            reward_funcs=_reward,
            args=GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=at_once,
                gradient_accumulation_steps=work.completions // at_once,
                num_generations=work.generations,
                max_completion_length=work.max_new,
                max_steps=steps,
                logging_steps=1,
                report_to=[],
                bf16=False,
                fp16=False,
                use_cpu=not accelerated,
                save_strategy="no",
                learning_rate=1e-5,
                temperature=1.0,
                top_k=0,
                disable_tqdm=True,
                seed=seed,
            ),
            train_dataset=Dataset.from_list([{"prompt": p} for p in prompts]),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer.train()
    first = min(1, work.timed)
    ends = [clock.begin, *clock.ends][first:]
    samples = [b - a for a, b in itertools.pairwise(ends)]
    history = [row for row in trainer.state.log_history if "completions/mean_length" in row][first:]
    return torch_facts() | {
        "seconds": statistics.median(samples),
        "samples": samples,
        "first_s": clock.ends[0] - clock.begin,
        "prompt_tokens": statistics.mean(len(tokenizer.encode(p)) for p in prompts),
        "tokens": statistics.mean(row["completions/mean_length"] for row in history),
        "equal_groups": statistics.mean(row["frac_reward_zero_std"] for row in history),
    }
