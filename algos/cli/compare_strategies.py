"""textenv compare --strategies: compares rollout strategies at equal generated tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from textenv.algos.cli.shared.display import Terminal
from textenv.algos.cli.shared.run_folder import RunFolder
from textenv.algos.cli.shared.text_envs import TextTask
from textenv.algos.compare.machine import describe_machine, use_threads
from textenv.algos.compare.strategies.report import (
    JSON_FILE,
    check_same,
    read_comparison,
    verdicts,
    write_report,
    write_runs,
)
from textenv.algos.compare.strategies.results import StrategyComparison, StrategyRun, Try
from textenv.algos.config import check_counts

if TYPE_CHECKING:
    from textenv.algos.compare.strategies.runs import Contest


@dataclass
class Args:
    """Train by GRPO with several rollout strategies, each with the same number of generated tokens.

    If --out holds a comparison with the same settings, only what is missing there is run.
    """

    strategies: tuple[str, ...] = ("plain", "dapo", "pods")
    """plain, and others: parts (dapo, pods:keep=8, ...) and settings of GRPO (num_iterations=2)
    joined by +, as in greso+pods:keep=8+num_iterations=2. A part of your own is FILE.py:NAME."""
    text: Annotated[TextTask, tyro.conf.arg(name="")] = field(default_factory=TextTask)
    model: str = "tiny-lm"
    """tiny-lm (ships with the package), a folder, or a name on the Hugging Face hub."""
    seeds: int = 5
    """How many runs of each strategy."""
    seed: int = 0
    """The first seed; the others count up from it."""
    tokens: int = 200_000
    """Generated tokens of each run, which ends at the first step at which they are spent."""
    eval_every: int | None = None
    """Generated tokens between two evaluations; unset: a twentieth of a run."""
    eval_examples: int = 300
    """Test examples of an evaluation; as many others serve to choose the learning rate."""
    learning_rates: tuple[float, ...] = (3e-4, 1e-3)
    """Rates to try for each strategy, from one more seed; a single one is used without a try."""
    tune_tokens: int | None = None
    """Generated tokens of each try; unset: half of a run."""
    num_prompts: int = 32
    """Prompts in a rollout."""
    num_generations: int = 16
    """Completions of each prompt."""
    max_completion_length: int = 64
    """Longest completion in tokens."""
    threads: int = 1
    """Threads of MLX's matrix products."""
    out: Path | None = None
    """Folder for the results; unset: runs/compare-strategies-TASK-TIME."""


def parse(argv: Sequence[str]) -> Args:
    """Parse the options."""
    return tyro.cli(Args, args=list(argv), prog="textenv compare")


def run(args: Args) -> int:
    """Compare, and write results.json, results.md and curves.png."""
    check_counts(args, ("seeds", "threads", "tokens"), 1)
    name = f"compare-strategies-{args.text.name}".replace("/", "-").replace(":", "-")
    out = args.out or RunFolder.default_path(name)
    found = read_comparison(out / JSON_FILE) if (out / JSON_FILE).is_file() else None
    if found is None:
        RunFolder(out)  # refuses a folder that is not empty
    machine = describe_machine(args.threads, use_threads(args.threads))  # before MLX is imported
    contest = _contest(args, found, machine, out)
    comparison = contest.comparison
    console = Terminal()
    for title, what in comparison.strategies.items():
        console.print(f"{title}: {what}")
    kept = f"{len(comparison.tries)} tries and {len(comparison.runs)} runs are there already; "
    left = f"{contest.tokens_left:,} tokens to generate"
    console.print((kept if found else "") + left)
    out.mkdir(parents=True, exist_ok=True)
    code, began, total = 0, time.perf_counter(), contest.tokens_left
    try:
        for done in contest.play():
            write_runs(comparison, out)
            spent = time.perf_counter() - began
            left = f"{spent / (total - contest.tokens_left) * contest.tokens_left / 60:.0f} min"
            console.print(f"{_line(done)}; about {left} left")
    except KeyboardInterrupt:
        code = 130
        console.print("interrupted: the same command with this --out goes on")
    write_report(comparison, out)
    for line in verdicts(comparison.summary()):
        console.print(line)
    console.print(f"{len(comparison.runs)} runs are in {out}")
    return code


def _contest(
    args: Args, found: StrategyComparison | None, machine: dict[str, Any], out: Path
) -> Contest:
    """Make the contest; everything that can be refused is refused here."""
    from textenv.algos.compare.strategies.runs import Contest, StrategyArena, parse_entrants

    args.text.refuse_eval_dataset("compare")
    half, twentieth = max(1, args.tokens // 2), max(1, args.tokens // 20)
    arena = StrategyArena(
        args.text.for_model("TextGen-v0", args.model).env_kwargs(),
        args.model,
        args.tokens,
        half if args.tune_tokens is None else args.tune_tokens,
        twentieth if args.eval_every is None else args.eval_every,
        args.eval_examples,
        args.learning_rates,
        args.num_prompts,
        args.num_generations,
        args.max_completion_length,
    )
    entrants = parse_entrants(args.strategies, list(found.strategies) if found else ())
    wanted = StrategyComparison(arena.settings(), machine, {})
    wanted.strategies = {entrant.name: entrant.describe(arena) for entrant in entrants}
    if found is not None:
        check_same(found, wanted, out)
        found.machine = machine
    return Contest(arena, entrants, range(args.seed, args.seed + args.seeds), found or wanted)


def _line(done: Try | StrategyRun) -> str:
    if isinstance(done, Try):
        return (
            f"{done.strategy} at {done.learning_rate:g}: validation accuracy {done.accuracy:.3f} "
            f"after {done.tokens:,} tokens, {done.seconds:.1f} s"
        )
    last = done.last
    return (
        f"seed {done.seed}  {done.strategy} at {done.learning_rate:g}: accuracy "
        f"{last.sampled:.3f}, greedy {last.greedy:.3f} after {last.tokens:,} tokens in "
        f"{last.steps} steps, {last.seconds:.1f} s"
    )
