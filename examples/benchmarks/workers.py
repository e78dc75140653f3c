"""Generation by worker processes beside generation by one process, on the same prompts.

    python examples/benchmarks/workers.py --models tiny-lm FOLDER

Each setting has a process of its own, which plays one rollout before the clock starts. Then the
settings take turns, one rollout each, and the median of the turns is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from typing import Any, NamedTuple

from grpo_step import random_prompts, share_of_digits

from textenv.algos import RolloutCoordinator, RolloutRunner, create_policy, create_strategy
from textenv.algos.models import load_model


class Work(NamedTuple):
    """A rollout."""

    prompts: int
    generations: int
    shortest: int
    """Prompt, in characters."""
    longest: int
    max_new: int
    """Completion, in tokens."""


WORKS = [Work(32, 16, 24, 40, 24), Work(8, 8, 64, 96, 48), Work(8, 16, 64, 96, 48)]


def make_env(work: Work) -> Any:
    """Random prompts, and the share of digits as the reward."""
    import gymnasium as gym

    prompts = random_prompts(64, work.shortest, work.longest)
    return gym.make("textenv:TextGen-v0", prompts=prompts, reward_fn=share_of_digits)


def make_policy(model: str, work: Work) -> Any:
    """The model, sampling from all tokens."""
    return create_policy(*load_model(model), {"max_tokens": work.max_new})


def serve(model: str, work: Work, workers: int) -> None:
    """Play a rollout for each line that comes in; answer with its seconds and its tokens."""
    strategy = create_strategy("grpo", num_generations=work.generations)
    size = work.prompts * work.generations
    factories = partial(make_env, work), partial(make_policy, model, work)
    collector: Any
    if workers:
        collector = RolloutCoordinator(*factories, strategy, workers, size)
    else:  # the whole rollout at once
        collector = RolloutRunner(factories[0](), factories[1](), strategy, size)
    collector.collect()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        rollout = collector.collect()
        seconds = time.perf_counter() - start
        print(seconds, sum(len(t.token_ids) for t in rollout), flush=True)
    collector.close()


def start(model: str, number: int, workers: int, threads: int) -> subprocess.Popen:
    """A process of this file that waits for lines."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", model, str(number), str(workers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": str(threads)},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def play(process: subprocess.Popen) -> tuple[float, float]:
    """One rollout: seconds and tokens."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    seconds, tokens = process.stdout.readline().split()
    return float(seconds), float(tokens)


def main() -> None:
    """Print a row for each model, rollout and setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["tiny-lm"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        model, number, workers = args.serve
        serve(model, WORKS[int(number)], int(workers))
        return
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    settings = {f"one process, BLAS on {threads}": (0, threads) for threads in sorted({1, cpus})}
    settings[f"{args.workers} workers"] = (args.workers, cpus)
    print("| model | prompts x completions x tokens | setting | s | tokens/s | to the best one |")
    print("|---|---|---|---|---|---|")
    for model in args.models:
        for number, work in enumerate(WORKS):
            running = {
                name: start(model, number, workers, threads)
                for name, (workers, threads) in settings.items()
            }
            played: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
            for _ in range(args.turns):
                for name, process in running.items():
                    played[name].append(play(process))
            for process in running.values():
                process.communicate()
            speeds = {
                name: statistics.median(tokens / seconds for seconds, tokens in turns)
                for name, turns in played.items()
            }
            best = max(speed for name, speed in speeds.items() if not settings[name][0])
            for name, turns in played.items():
                seconds = statistics.median(seconds for seconds, _ in turns)
                print(
                    f"| {os.path.basename(model)} | {work.prompts} x {work.generations} x "
                    f"{work.max_new} | {name} | {seconds:.3f} | {speeds[name]:,.0f} | "
                    f"{speeds[name] / best:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
