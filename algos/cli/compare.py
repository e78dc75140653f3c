"""textenv compare: trains agents side by side, and compares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Group
from rich.live import Live
from rich.table import Table

from textenv.algos.cli import compare_strategies
from textenv.algos.cli.shared.display import Terminal
from textenv.algos.cli.shared.run_folder import RunFolder
from textenv.algos.cli.shared.text_envs import TextTask
from textenv.algos.compare.arena import Arena
from textenv.algos.compare.loop import Observer, compare
from textenv.algos.compare.machine import describe_machine, import_seconds, use_threads
from textenv.algos.compare.report import write_report
from textenv.algos.compare.results import Comparison, EvaluationPoint, Run
from textenv.algos.config import check_counts
from textenv.algos.episodes.environments import is_text, make_env
from textenv.errors import ConfigError

_EVALUATIONS = 20  # of a run, if eval_every is not given


@dataclass
class Args:
    """Train agents in one environment from the same seeds, and report how they differ.

    `--strategies --help` shows the options for comparing rollout strategies of GRPO.
    """

    env: str = "CartPole-v1"
    """Id of the environment."""
    agents: tuple[str, ...] = ("ppo", "sb3:PPO")
    """ppo (native), grpo (text), random, sb3:NAME (of Stable-Baselines3 or sb3-contrib; trained
    from the rollout loop if on-policy), sb3-learn:NAME (on-policy, by its own learn())."""
    seeds: int = 5
    """How many runs of each agent."""
    seed: int = 0
    """The first seed; the others count up from it."""
    total_timesteps: int | None = None
    """Transitions of each run; unset: as many as the environment's preset has."""
    eval_every: int | None = None
    """Transitions between two evaluations; unset: a twentieth of a run."""
    eval_episodes: int = 20
    """Episodes of an evaluation, always the same ones."""
    reach: float | None = None
    """A return; the report says how long each agent took until an evaluation reached it."""
    threads: int = 1
    """Threads of torch and of MLX's matrix products."""
    text: Annotated[TextTask, tyro.conf.arg(name="")] = field(default_factory=TextTask)
    model: str = "tiny-lm"
    """Text: what grpo and ppo train: tiny-lm, a folder, or a name on the Hugging Face hub."""
    choices: tuple[str, ...] = ()
    """Text: answers that sb3 agents and random choose from; unset: taken from the task."""
    out: Path | None = None
    """Folder for the results; unset: runs/compare-ENV-TIME."""


def parse(argv: Sequence[str]) -> Args | compare_strategies.Args:
    """Parse the options: those for agents, or with ``--strategies`` those for strategies."""
    if any(option.partition("=")[0] == "--strategies" for option in argv):
        return compare_strategies.parse(argv)
    return tyro.cli(Args, args=list(argv), prog="textenv compare")


def run(args: Args | compare_strategies.Args) -> int:
    """Compare, and write results.json, results.csv, results.md and curves.png."""
    if isinstance(args, compare_strategies.Args):
        return compare_strategies.run(args)
    check_counts(args, ("seeds", "threads"), 1)
    out = args.out or RunFolder.default_path(
        f"compare-{args.env.rpartition(':')[2]}".replace("/", "-")
    )
    RunFolder(out)  # refuses a folder that is not empty
    imports = import_seconds(["torch"])
    threads = use_threads(args.threads)  # before MLX is imported
    imports |= import_seconds(["textenv.algos.ppo", "stable_baselines3", "sb3_contrib"])
    machine = describe_machine(args.threads, threads) | {"import, s": imports}
    display = _CompareDisplay(out)
    seeds = range(args.seed, args.seed + args.seeds)
    try:
        with display:
            compare(
                args.agents,
                _arena(args),
                seeds,
                reach=args.reach,
                machine=machine,
                observer=display,
            )
    except KeyboardInterrupt:
        done = display.runs
        display.console.print(f"interrupted: {out} holds the {done} run(s) that were finished")
        return 130
    display.console.print(f"results.md, results.json, results.csv and curves.png are in {out}")
    return 0


def _arena(args: Args) -> Arena:
    from textenv.algos.ppo_config import preset

    args.text.refuse_eval_dataset("compare")
    total = args.total_timesteps
    if total is None:
        total = preset(args.env).total_timesteps
    every = max(1, total // _EVALUATIONS) if args.eval_every is None else args.eval_every
    arena = Arena(
        args.env,
        args.text.for_model(args.env, args.model).env_kwargs(),
        total,
        every,
        args.eval_episodes,
        args.model,
        args.choices,
    )
    if args.text.given or args.choices:
        probe = make_env(args.env)
        if not is_text(probe):
            raise ConfigError(
                f"--task, --dataset, --reward and --choices are for text, and {args.env} is control"
            )
    return arena


class _CompareDisplay(Observer):
    """Shows a live table on a terminal, else a line for each run; keeps the files up to date."""

    def __init__(self, out: Path):
        self.console = Terminal()
        self.runs = 0
        self._out = out
        self._now: tuple[str, int] | None = None
        self._last: EvaluationPoint | None = None
        self._table = Table()
        self._live = Live(console=self.console, refresh_per_second=4)

    def __enter__(self) -> _CompareDisplay:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def on_ready(self, comparison: Comparison) -> None:
        """Print the descriptions of the agents."""
        self._table = _table(comparison)
        for name, info in comparison.agents.items():
            self.console.print(f"{name}: {info.description}")
        self._out.mkdir(parents=True, exist_ok=True)
        if self.console.is_terminal:
            self._live.start()

    def on_start(self, agent: str, seed: int) -> None:
        """Show which agent is trained."""
        self._now, self._last = (agent, seed), None
        self._refresh()

    def on_evaluation(self, agent: str, seed: int, evaluation: EvaluationPoint) -> None:
        """Show the latest evaluation."""
        self._last = evaluation
        self._refresh()

    def on_run(self, comparison: Comparison, run: Run) -> None:
        """Write the files again."""
        write_report(comparison, self._out)
        self.runs = len(comparison.runs)
        self._now, self._table = None, _table(comparison)
        self._refresh()
        if not self.console.is_terminal:
            self.console.print(
                f"seed {run.seed}  {run.agent}: return {run.final:.4g} after {run.steps} steps, "
                f"{run.seconds:.1f} s"
            )

    def _refresh(self) -> None:
        if self.console.is_terminal:
            self._live.update(Group(self._table, self._line()))

    def _line(self) -> str:
        if self._now is None:
            return ""
        agent, seed = self._now
        if self._last is None:
            return f"seed {seed}, {agent}: starting"
        e = self._last
        return f"seed {seed}, {agent}: return {e.mean:.4g} at {e.steps:,} steps, {e.seconds:.1f} s"


def _table(comparison: Comparison) -> Table:
    """The summary of the finished runs as a table."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("agent")
    titles = ("runs", "IQM", "95% interval", "seconds", "steps/s", "env", "policy", "update")
    for title in titles:
        table.add_column(title, justify="right")
    summary = comparison.summary()
    for name in comparison.agents:
        if (s := summary.get(name)) is None:
            table.add_row(name, "0")
            continue
        low, high = s["final_interval"]
        table.add_row(
            name,
            str(s["runs"]),
            f"{s['final_iqm']:.4g}",
            f"{low:.4g} to {high:.4g}",
            f"{s['seconds']:.1f}",
            f"{s['steps_per_second']:,.0f}",
            *(f"{s['shares'][part]:.0%}" for part in ("environment", "policy", "update")),
        )
    return table
