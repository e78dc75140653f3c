"""Shows a training in the terminal: a bar with the time left, figures, sampled completions."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from textenv.algos.cli.shared.escape import one_line, printable
from textenv.algos.cli.shared.progress import duration
from textenv.algos.episodes.trajectory import Buffer

_SAMPLES = 4  # completions
_LINES = 10  # of an offline training
_NARROW = 60  # columns below which a terminal has no room for a bar beside its figures
_SPEED = 3600.0  # seconds over which a bar measures its speed: a step may take minutes
_PACE = 20  # steps over which the time left is estimated
_SILENT = 10.0  # seconds after which the next step has a line, whichever it is
_PHASES = ("rollout", "generate", "export", "update", "evaluate")
_FIGURES = ("reward", "accuracy", "completions/mean_length", "entropy", "kl", "grad_norm")
_SFT_FIGURES = ("loss", "mean_token_accuracy", "entropy", "grad_norm", "learning_rate")


class Terminal(Console):
    """A console of rich that shows texts, in tables too, as they are; see `printable`."""

    def __init__(self, **options: Any):
        super().__init__(
            **({"highlight": False, "soft_wrap": True, "markup": False, "emoji": False} | options)
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """Prepare a text for printing; rich calls this for every text that is not its own."""
        return super().render_str(printable(text), **options)


def progress_bar(unit: str, console: Console, disable: bool = False) -> Progress:
    """A bar that counts units, and estimates the time left."""
    wide = console.width >= _NARROW
    return Progress(
        *([SpinnerColumn()] if wide else []),
        TextColumn(unit),
        MofNCompleteColumn(),
        *([BarColumn(), TextColumn("time left")] if wide else []),
        TimeRemainingColumn(),
        console=console,
        disable=disable,
        speed_estimate_period=_SPEED,
    )


class TextDisplay:
    """Shows a training on text: live on a terminal, and otherwise as a line now and then.

    Args:
        total: how many steps the training has.
        console: the console to print to; None takes standard output.
        unit: what a step is: an optimizer ``"step"``, or an ``"update"`` by a whole rollout.
    """

    def __init__(self, total: int, console: Console | None = None, unit: str = "step"):
        self.console = console or Terminal()
        self._total, self._unit = total, unit
        self._progress = progress_bar(unit, self.console)
        self._bar = self._progress.add_task("train", total=total)
        self._evaluating = self._progress.add_task("evaluate", total=None, visible=False)
        self._live = Live(self._progress, console=self.console, refresh_per_second=4)
        self._every = max(1, total // 20)
        self._shown_at = time.perf_counter()
        self._pace: deque[tuple[float, int]] = deque(maxlen=_PACE + 1)  # when which step ended
        self._seconds: dict[str, float] = {}  # of the phases so far
        self._evaluated = ""
        self._best = ""

    def __enter__(self) -> TextDisplay:
        self.console.print(f"training; the first {self._unit} also compiles what is new here")
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def on_step(self, metrics: Mapping[str, float], rollout: Buffer) -> None:
        """Show one step."""
        step = int(metrics["step" if self._unit == "step" else "time/iterations"])
        self._pace.append((time.perf_counter(), step))
        for phase, seconds in phases(metrics).items():
            self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds
        if "eval/reward" in metrics:
            self._progress.update(self._evaluating, visible=False)
            self.console.print(f"{self._unit} {step}: {evaluation_line(metrics)}")
            self._keep_evaluation(metrics)
        if self.console.is_terminal:
            self._progress.update(self._bar, completed=step)
            lines = filter(None, (self._times(), health_line(metrics), self._evaluated))
            parts = [Text(line, no_wrap=False, overflow="fold") for line in lines]
            figures, samples = _figures(metrics, self.console.width), _samples(rollout)
            self._live.update(Group(self._progress, figures, *parts, samples))
        elif self._is_due(step):
            shown = [
                f"{self._unit} {step}/{self._total}",
                _line(metrics),
                f"{_tokens_a_second(metrics):.0f} tokens/s",
                health_line(metrics),
                self._left(),
            ]
            self.console.print("  ".join(filter(None, shown)))
            if step == self._total and self._times():
                self.console.print(self._times())

    def on_evaluate(self, done: int, total: int) -> None:
        """Show how far an evaluation during the training is; a terminal shows it as a bar."""
        self._progress.update(self._evaluating, completed=done, total=total, visible=True)

    def _keep_evaluation(self, metrics: Mapping[str, float]) -> None:
        """Keep a line about the last evaluation and the best one."""
        name = "accuracy" if "eval/accuracy" in metrics else "reward"
        found = f"{name} {metrics[f'eval/{name}']:.3f} at step {metrics['step']:.0f}"
        if metrics["eval/best_step"] == metrics["step"]:
            self._best = found
        best = self._best or f"at step {metrics['eval/best_step']:.0f}"  # of an earlier process
        self._evaluated = f"evaluation: {found}; best: {best}"

    def _left(self) -> str:
        """The time left, at the pace of the last steps; empty if it is not known."""
        (began, first), (ended, last) = self._pace[0], self._pace[-1]
        if last == first or last >= self._total:
            return ""
        return f"about {duration((ended - began) / (last - first) * (self._total - last))} left"

    def _times(self) -> str:
        """The share of the time that each phase took so far."""
        total = sum(self._seconds.values())
        if not total:
            return ""
        shares = [f"{phase} {spent / total:.0%}" for phase, spent in self._seconds.items()]
        return f"time: {', '.join(shares)}"

    def _is_due(self, step: int) -> bool:
        """Whether a step is shown without a terminal: one in twenty, or after some seconds."""
        now = time.perf_counter()
        chosen = step == 1 or step % self._every == 0 or step == self._total
        if not chosen and now - self._shown_at < _SILENT:
            return False
        self._shown_at = now
        return True


class _LinesAboveABar:
    """Prints lines, and on a terminal a bar below them.

    Args:
        unit: what the bar counts.
        total: how many of them there are; None: it is not known yet.
        console: the console to print to; None takes standard output.
    """

    def __init__(self, unit: str, total: int | None, console: Console | None):
        self.console = console or Terminal()
        self._progress = progress_bar(unit, self.console, disable=not self.console.is_terminal)
        self._bar = self._progress.add_task("train", total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()


class ControlDisplay(_LinesAboveABar):
    """Shows a training on control: a line for each update.

    Args:
        total: how many transitions the training has.
        console: the console to print to; None takes standard output.
    """

    def __init__(self, total: int, console: Console | None = None):
        super().__init__("transitions", total, console)

    def on_step(self, metrics: Mapping[str, float], rollout: Buffer, exported: Path | None) -> None:
        """Show one update, and the file of its rollout."""
        self._progress.update(self._bar, completed=metrics["time/total_timesteps"])
        self.console.print(ppo_line(metrics, rollout.num_transitions, exported))


class SFTDisplay(_LinesAboveABar):
    """Shows a supervised training: a line now and then.

    Args:
        console: the console to print to; None takes standard output.
    """

    def __init__(self, console: Console | None = None):
        super().__init__("step", None, console)

    def on_step(self, metrics: Mapping[str, float], total: int) -> None:
        """Show one step.

        Args:
            metrics: the metrics of the step.
            total: how many steps the training has.
        """
        step = int(metrics["step"])
        self._progress.update(self._bar, completed=step, total=total)
        if step in (1, total) or step % max(1, total // 20) == 0:
            self.console.print(
                f"step {step}/{total}  epoch {metrics['epoch']:.2f}  "
                + "  ".join(
                    f"{name} {metrics[name]:.4g}" for name in _SFT_FIGURES if name in metrics
                )
            )


class OfflineDisplay:
    """Prints a line for some of the passes of an offline training, ten or so in all.

    Args:
        console: the console to print to.
    """

    def __init__(self, console: Console):
        self._console = console

    def on_step(self, metrics: Mapping[str, float], passes: int) -> None:
        """Show a pass, if it is the first, the last, or one of those chosen between them.

        Args:
            metrics: the metrics of the pass.
            passes: how many passes the training has.
        """
        epoch = int(metrics["epoch"])
        if epoch in (1, passes) or epoch % max(1, passes // _LINES) == 0:
            shown = [
                f"{key.removeprefix('train/')} {value:.4g}"
                for key, value in metrics.items()
                if key not in ("epoch", "step", "train/n_updates", "learning_rate")
            ]
            self._console.print(f"pass {epoch}/{passes}  {'  '.join(shown)}")


def ppo_line(metrics: Mapping[str, float], transitions: int, exported: Path | None) -> str:
    """The line that describes an update on control."""
    figures = [
        f"{shown}={metrics[name]:.4g}"
        for name, shown in (
            ("train/policy_gradient_loss", "policy_loss"),
            ("train/value_loss", "value_loss"),
            ("train/entropy_loss", "entropy_loss"),
            ("train/approx_kl", "approx_kl"),
            ("rollout/ep_rew_mean", "ep_rew_mean"),
        )
        if name in metrics
    ]
    update = int(metrics["time/iterations"]) - 1  # from 0, as in the names of the rollout files
    total = int(metrics["time/total_timesteps"])
    where = f"; exported {transitions} transitions to {exported.name}" if exported else ""
    return f"PPO update {update}: {' '.join(figures)} total_steps={total}{where}"


def evaluation_line(metrics: Mapping[str, float]) -> str:
    """The line that describes an evaluation during a training."""
    shown = []
    if "eval/accuracy" in metrics:
        ends = f"{metrics['eval/accuracy_low']:.3f} to {metrics['eval/accuracy_high']:.3f}"
        shown.append(f"accuracy {metrics['eval/accuracy']:.3f} ({ends})")
    shown.append(f"reward {metrics['eval/reward']:.3f}")
    parts = {name: value for name, value in metrics.items() if name.startswith("eval/rewards/")}
    if len(parts) > 1:
        shown += [f"{name.split('/')[2]} {value:.3f}" for name, value in parts.items()]
    shown.append(f"{metrics['eval/mean_length']:.1f} tokens")
    if metrics["eval/clipped_ratio"]:
        shown.append(f"{metrics['eval/clipped_ratio']:.0%} cut off")
    best = int(metrics["eval/best_step"])
    which = (
        "the best so far" if best == int(metrics["step"]) else f"the best is optimizer step {best}"
    )
    return (
        f"evaluated on {metrics['eval/examples']:.0f} held-out examples: {', '.join(shown)}; "
        f"{which} ({metrics['time/evaluate']:.1f} s)"
    )


def phases(metrics: Mapping[str, float]) -> dict[str, float]:
    """The seconds of a step's phases, which follow one another; those that took time."""
    seconds = {name: metrics.get(f"time/{name}", 0.0) for name in _PHASES}
    return {name: spent for name, spent in seconds.items() if spent > 0}


def health_line(metrics: Mapping[str, float]) -> str:
    """How much of a rollout teaches nothing; empty if all of it may teach something."""
    shown = []
    compared = metrics["groups"] < metrics["completions/count"]
    if compared and metrics["frac_reward_zero_std"]:
        shown.append(f"{metrics['frac_reward_zero_std']:.0%} of groups without signal")
    if metrics.get("completions/clipped_ratio"):
        shown.append(f"{metrics['completions/clipped_ratio']:.0%} of completions cut off")
    return ", ".join(shown)


def _tokens_a_second(metrics: Mapping[str, float]) -> float:
    tokens = metrics["completions/mean_length"] * metrics["completions/count"]
    return tokens / metrics["step_time"]


def _shown(metrics: Mapping[str, float]) -> dict[str, str]:
    """Those of the figures that there are, by their titles."""
    return {name.split("/")[-1]: f"{metrics[name]:.3f}" for name in _FIGURES if name in metrics}


def _line(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{title} {figure}" for title, figure in _shown(metrics).items())


def _figures(metrics: Mapping[str, float], width: int) -> Table | Text:
    """The figures of a step side by side, or in lines if there are too few columns."""
    table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
    shown = _shown(metrics) | {
        "tokens/s": f"{_tokens_a_second(metrics):.0f}",
        "s/step": f"{metrics['step_time']:.2f}",
    }
    if sum(max(len(title), len(figure)) + 2 for title, figure in shown.items()) > width:
        line = "  ".join(f"{title} {figure}" for title, figure in shown.items())
        return Text(line, no_wrap=False, overflow="fold")
    for title in shown:
        table.add_column(title, justify="right")
    table.add_row(*shown.values())
    return table


def _samples(rollout: Buffer) -> Table:
    """A table of a few completions, spread over the rollout."""
    table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
    table.add_column("prompt", max_width=40, no_wrap=True)
    table.add_column("completion", max_width=60, no_wrap=True)
    table.add_column("reward", justify="right")
    trajectories = rollout.trajectories
    for i in range(0, len(trajectories), max(1, len(trajectories) // _SAMPLES)):
        t = trajectories[i]
        text = "".join(map(str, t.actions))
        table.add_row(one_line(t.prompt or ""), one_line(text), f"{t.total_reward:g}")
    return table
