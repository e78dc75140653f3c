"""Measure the text environments in steps a second, each beside a similar one.

    python examples/benchmarks/environments.py

One call of ``step()`` counts as one step, or as one for each environment of a vector. The resets
between episodes are in the time, but not in the count. The rows are measured in turn, and the table
shows medians over the rounds, so a busy machine slows all rows alike. If gem is installed
(``pip install gem-llm``), its ``game:GuessTheNumber-v0-hard`` is measured too.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode

import textenv  # noqa: F401  (registers the environments)

LANES = 64
SAME_STEP = AutoresetMode.SAME_STEP
Play = Callable[[int], None]
"""A function that plays about the given number of steps."""


def single(env: Any, actions: Iterator[str]) -> Play:
    """Play one episode after another in a single environment."""

    def play(steps: int) -> None:
        over = True
        for _ in range(steps):
            if over:
                env.reset()
            _, _, terminated, truncated, _ = env.step(next(actions))
            over = terminated or truncated

    env.reset(seed=0)
    return play


def vector(env: gym.vector.VectorEnv) -> Play:
    """Play all environments of a vector, which resets them itself."""
    actions = ("42",) * env.num_envs

    def play(steps: int) -> None:
        for _ in range(steps // env.num_envs):
            env.step(actions)

    env.reset(seed=0)
    return play


def plays() -> dict[str, Play]:
    """What to measure, by the name of its row."""
    guesses = [str(i) for i in range(1, 51)]
    hard = {"task": "guess_number", "task_kwargs": {"high": 50, "max_turns": 7}}
    found = {
        "arithmetic, gym.make": single(gym.make("TextGen-v0"), itertools.repeat("42")),
        "arithmetic, unwrapped": single(gym.make("TextGen-v0").unwrapped, itertools.repeat("42")),
        "arithmetic, tokens, gym.make": single(
            gym.make("TextGenTokens-v0"), itertools.cycle([20, 21, 1])
        ),
        f"arithmetic, {LANES} sync": vector(
            gym.make_vec(
                "TextGen-v0",
                LANES,
                vectorization_mode="sync",
                vector_kwargs={"autoreset_mode": SAME_STEP},
            )
        ),
        f"arithmetic, {LANES} own": vector(
            gym.make_vec("TextGen-v0", LANES, autoreset_mode=SAME_STEP)
        ),
        "guess_number, unwrapped": single(
            gym.make("TextGen-v0", **hard).unwrapped, itertools.cycle(guesses)
        ),
    }
    if importlib.util.find_spec("gem") is not None:
        import gem

        boxed = [f"\\boxed{{{guess}}}" for guess in guesses]
        env = gem.make("game:GuessTheNumber-v0-hard")
        found["gem game:GuessTheNumber-v0-hard"] = single(env, itertools.cycle(boxed))
    return found


def steps_per_second(play: Play, steps: int) -> float:
    """The speed of one round."""
    start = time.perf_counter()
    play(steps)
    return steps / (time.perf_counter() - start)


def import_seconds() -> float:
    """The seconds that ``import textenv`` takes in a new process."""
    code = "import time; t = time.perf_counter(); import textenv; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Measure all rows in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=12_800)
    args = parser.parse_args()
    found = plays()
    speeds: dict[str, list[float]] = {name: [] for name in found}
    for round_ in range(args.rounds + 1):
        for name, play in found.items():
            speed = steps_per_second(play, args.steps)
            if round_:  # the first round only warms up
                speeds[name].append(speed)
    print("| environment | steps/s, median | lowest | highest |")
    print("|---|---|---|---|")
    for name, values in speeds.items():
        row = (statistics.median(values), min(values), max(values))
        print(f"| {name} | " + " | ".join(f"{value:,.0f}" for value in row) + " |")
    own, sync = speeds[f"arithmetic, {LANES} own"], speeds[f"arithmetic, {LANES} sync"]
    ratio = statistics.median(a / b for a, b in zip(own, sync))
    print(f"\nown vector / sync vector at {LANES} lanes, both SAME_STEP: {ratio:.1f}")
    if "gem game:GuessTheNumber-v0-hard" in speeds:
        ours, gems = speeds["guess_number, unwrapped"], speeds["gem game:GuessTheNumber-v0-hard"]
        ratio = statistics.median(a / b for a, b in zip(ours, gems))
        print(f"guess_number / gem: {ratio:.1f}")
    seconds = statistics.median(import_seconds() for _ in range(args.rounds))
    print(f"import textenv: {seconds:.2f} s")


if __name__ == "__main__":
    main()
