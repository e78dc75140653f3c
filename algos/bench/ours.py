"""Measures training, generation and collecting with this package."""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

from textenv.algos.bench.process import mlx_facts
from textenv.algos.bench.workload import Work, batches, random_prompts, reward
from textenv.algos.runtime import backend, blas

backend.prepare()

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402
from mlx import nn  # noqa: E402

from textenv.algos.episodes.environments import make_env  # noqa: E402
from textenv.algos.grpo_config import GRPOConfig  # noqa: E402
from textenv.algos.lm.generation.policy import LanguageModelPolicy, create_policy  # noqa: E402
from textenv.algos.lm.models.loading import load_model  # noqa: E402
from textenv.algos.lm.scoring.batch import TokenBatch  # noqa: E402
from textenv.algos.lm.scoring.scorer import Scorer  # noqa: E402
from textenv.algos.rollouts.coordinator import RolloutCoordinator  # noqa: E402
from textenv.algos.rollouts.runner import RolloutRunner  # noqa: E402
from textenv.algos.runtime.compile import gradients  # noqa: E402
from textenv.algos.strategies.strategy import create_strategy  # noqa: E402
from textenv.algos.trainers.grpo import GRPOTrainer  # noqa: E402

_ENV = "textenv:TextGen-v0"
_LEARNING_RATE = 1e-5


class _ProductClock:
    """Counts the products of each phase of a step.

    A phase ends where the next one begins: a generation with the last reward of its rollout.
    """

    def __init__(self) -> None:
        self._ended = self._rewarded = blas.count_products()
        self._steps: list[dict[str, blas.Products]] = []

    def reward(self, prompt: str, completion: str, example: dict) -> float:
        """The reward of the work."""
        self._rewarded = blas.count_products()
        return reward(prompt, completion, example)

    def end_step(self) -> None:
        """End an update, and with it a step."""
        began, rewarded, self._ended = self._ended, self._rewarded, blas.count_products()
        if began and rewarded and self._ended:
            phases = {"generate": rewarded.since(began), "update": self._ended.since(rewarded)}
            self._steps.append(phases)

    def medians(self, first: int) -> dict[str, dict[str, float]]:
        """By phase, the medians of the steps from a number on; empty if nothing is counted."""
        return {
            phase: _medians([step[phase] for step in self._steps[first:]])
            for phase in ("generate", "update")
            if self._steps
        }


def _medians(products: list[blas.Products]) -> dict[str, float]:
    names = blas.Products._fields
    return {name: statistics.median(getattr(p, name) for p in products) for name in names}


def train(
    model: str,
    work: Work,
    seed: int,
    started: float,
    workers: int = 0,
    prompt_cost: bool = False,
) -> dict[str, Any]:
    """Measure GRPO steps, and the time from the start of the process to the first one.

    Args:
        model: name or folder of the model.
        work: the work of a step.
        seed: seed of the prompts and of the noise.
        started: when the process was started, by `time.time`.
        workers: how many processes generate, beside this one.
        prompt_cost: whether to measure what the prompts of a step cost by themselves.
    """
    imported = time.time()
    config = GRPOConfig(
        max_steps=work.timed + 1,
        num_prompts=work.prompts,
        num_generations=work.generations,
        max_completion_length=work.max_new,
        learning_rate=_LEARNING_RATE,
        micro_batch_size=work.micro_batch or None,
        gradient_checkpointing=bool(work.micro_batch),
        num_workers=workers,
        seed=seed,
    )
    prompts = random_prompts(work, work.prompts * config.max_steps, seed)
    products = _ProductClock()
    counted = not workers and not work.task  # then this process computes all rewards
    ends: list[float] = []

    def on_step(metrics: dict[str, float], rollout: Any) -> None:
        mx.synchronize()  # work that is still running belongs to this step
        ends.append(time.perf_counter())
        products.end_step()

    kwargs = _env_kwargs(work, prompts)
    if counted:
        kwargs["reward_fn"] = products.reward
    trainer = GRPOTrainer(model, _ENV, config, env_kwargs=kwargs, on_step=on_step)
    mx.synchronize()
    ready, start = time.time(), time.perf_counter()
    first = min(1, work.timed)
    history = trainer.train()[first:]
    facts = mlx_facts()  # before anything else is computed
    steps = list(np.diff([start, *ends][first:]))

    def median(name: str) -> float:
        return statistics.median(metrics[name] for metrics in history)

    found = facts | {
        "seconds": statistics.median(steps),
        "samples": steps,
        "import_s": imported - started,
        "make_s": ready - imported,
        "first_s": ends[0] - start,
        "prompt_tokens": statistics.mean(len(trainer.policy.encode(p)) for p in prompts)
        if not work.task
        else None,
        "tokens": statistics.mean(m["completions/mean_length"] for m in history),
        "equal_groups": statistics.mean(m["frac_reward_zero_std"] for m in history),
        "phases": {
            name.removeprefix("time/"): median(name)
            for name in history[0]
            if name.startswith("time/")
        },
        "environment_s": median("time/score"),
        "products": products.medians(first) if counted else {},
    }
    if prompt_cost:
        found |= _prompt_cost(trainer.policy, work, seed + 1)
    trainer.close()
    return found


def generate(model: str, work: Work, seed: int, started: float) -> dict[str, Any]:
    """Measure completions of different prompts; ``seconds`` are those of a token."""
    mx.random.seed(seed)
    policy = create_policy(*load_model(model), {"max_tokens": work.max_new, "seed": seed})
    first, *others = batches(work, seed)
    policy(first)
    samples, lengths, products = [], [], []
    for prompts in others:
        start, before = time.perf_counter(), blas.count_products()
        _, extras = policy(prompts)
        seconds, after = time.perf_counter() - start, blas.count_products()
        count = sum(map(len, extras["token_ids"]))
        samples.append(seconds / count)
        lengths.append(count / len(prompts))
        if before and after:
            products.append(after.since(before))
    return mlx_facts() | {
        "seconds": statistics.median(samples),
        "samples": samples,
        "products": {"generate": _medians(products)} if products else {},
        "prompt_tokens": statistics.mean(len(policy.encode(p)) for b in others for p in b),
        "tokens": statistics.mean(lengths),
    }


def collect(model: str, work: Work, seed: int, started: float, workers: int) -> dict[str, Any]:
    """Measure rollouts by this process or by workers; ``seconds`` are those of a token."""
    strategy = create_strategy("grpo", num_generations=work.generations)
    factories = partial(_make_env, work, seed), partial(_make_policy, model, work, seed)
    collector: Any
    if workers:
        collector = RolloutCoordinator(*factories, strategy, workers, work.completions, seed)
    else:  # the whole rollout at once
        env, policy = (make() for make in factories)
        collector = RolloutRunner(env, policy, strategy, work.completions, seed)
    collector.collect()
    samples, lengths = [], []
    for _ in range(work.timed):
        start = time.perf_counter()
        rollout = collector.collect()
        seconds = time.perf_counter() - start
        count = sum(len(t.token_ids or ()) for t in rollout)
        samples.append(seconds / count)
        lengths.append(count / len(rollout))
    facts = mlx_facts()
    collector.close()
    return facts | {
        "seconds": statistics.median(samples),
        "samples": samples,
        "tokens": statistics.mean(lengths),
    }


def _env_kwargs(work: Work, prompts: list[str]) -> dict[str, Any]:
    return {"task": work.task} if work.task else {"prompts": prompts, "reward_fn": reward}


def _make_env(work: Work, seed: int) -> Any:
    return make_env(_ENV, _env_kwargs(work, random_prompts(work, 2 * work.prompts, seed)))


def _make_policy(model: str, work: Work, seed: int) -> Any:
    return create_policy(*load_model(model), {"max_tokens": work.max_new, "seed": seed})


def _prompt_cost(
    policy: LanguageModelPolicy, work: Work, seed: int, repeats: int = 3
) -> dict[str, float]:
    """Seconds that the prompts of a step take by themselves, in generation and in the update.

    They are measured by completions of one token, which the last hidden state of the prompt gives.
    """
    reader, scorer = policy.with_params(max_tokens=1), Scorer(policy.model)
    n = work.prompts
    prompts = random_prompts(work, n * (repeats + 1), seed)
    prefills, updates = [], []
    for i in range(0, len(prompts), n):
        start = time.perf_counter()
        _, extras = reader(prompts[i : i + n])
        prefills.append(time.perf_counter() - start)
        batch = _one_token(extras["prompt_ids"])
        step = nn.value_and_grad(policy.model, lambda batch=batch: scorer(batch)[0].sum())
        start = time.perf_counter()
        with gradients():
            mx.eval(step())
        mx.synchronize()
        updates.append(time.perf_counter() - start)
    return {
        "prompt_generate_s": statistics.median(prefills[1:]),
        "prompt_update_s": statistics.median(updates[1:]),
    }


def _one_token(prompts: list[list[int]]) -> TokenBatch:
    """A batch with a completion of one token, number 0, for each prompt."""
    n = len(prompts)
    return TokenBatch(
        prompts=prompts,
        prompt_index=np.arange(n, dtype=np.int32),
        token_ids=np.zeros((n, 1), np.int32),
        mask=np.ones((n, 1), np.float32),
        old_logprobs=np.zeros((n, 1), np.float32),
        support=None,
        temperature=np.ones(n, np.float32),
        rewards=np.zeros(n),
        group_ids=np.arange(n),
        order=np.arange(n),
    )
