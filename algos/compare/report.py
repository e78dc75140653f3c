"""Writes the files of a comparison: results.json, results.csv, results.md and curves.png."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from textenv.algos.compare.plot import draw_curves, try_to_draw
from textenv.algos.compare.results import PARTS, Comparison
from textenv.algos.storage.replacing import write_whole

FORMAT = "textenv.compare"
VERSION = 1
COLUMNS = (
    "agent",
    "seed",
    "steps",
    "seconds",
    "cpu_seconds",
    "episodes",
    "mean_return",
    "std_return",
    "final",
)


def write_report(comparison: Comparison, folder: Path) -> None:
    """Write the four files. Each appears complete, and replaces an earlier one."""
    summary = comparison.summary()
    write_whole(folder / "results.json", to_json(comparison, summary))
    write_whole(folder / "results.csv", to_csv(comparison))
    write_whole(folder / "results.md", to_markdown(comparison, summary))
    picture = folder / "curves.png"
    try_to_draw(
        str(picture), lambda: write_whole(picture, lambda path: draw_curves(comparison, path))
    )


def to_json(comparison: Comparison, summary: dict[str, Any]) -> str:
    """All measurements and their summary, as JSON."""
    whole = {
        "format": FORMAT,
        "version": VERSION,
        "settings": comparison.settings,
        "machine": comparison.machine,
        "agents": {name: vars(info) for name, info in comparison.agents.items()},
        "runs": [
            {
                "agent": run.agent,
                "seed": run.seed,
                "steps": run.steps,
                "seconds": run.seconds,
                "cpu_seconds": run.cpu_seconds,
                "parts": run.parts,
                "evaluations": [vars(e) | {"returns": list(e.returns)} for e in run.evaluations],
            }
            for run in comparison.runs
        ],
        "summary": summary,
    }
    return json.dumps(whole, indent=1, allow_nan=False) + "\n"


def to_csv(comparison: Comparison) -> str:
    """The evaluations as CSV, a line each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for run in comparison.runs:
        for e in run.evaluations:
            std = (sum((x - e.mean) ** 2 for x in e.returns) / len(e.returns)) ** 0.5
            last = int(e is run.evaluations[-1])
            times = (e.seconds, e.cpu_seconds)
            row = (run.agent, run.seed, e.steps, *times, len(e.returns), e.mean, std, last)
            writer.writerow(row)
    return text.getvalue()


def to_markdown(comparison: Comparison, summary: dict[str, Any]) -> str:
    """The comparison as a page of Markdown tables."""
    settings, machine = comparison.settings, comparison.machine
    seeds = settings["seeds"]
    lines = [
        f"# {comparison.title}",
        "",
        f"{settings['total_timesteps']:,} steps from each of {len(seeds)} seed(s) "
        f"({seeds[0]} to {seeds[-1]}); evaluated every {settings['eval_every']:,} steps on "
        f"{settings['eval_episodes']} fixed episodes with deterministic actions, with the clock "
        "stopped.",
        "",
        "## Final return",
        "",
        "Interquartile mean over the runs with its 95% stratified bootstrap interval, and the "
        "probability that a run beats one of the first agent (Agarwal et al. 2021).",
        "",
        *markdown_table(
            ("agent", "runs", "IQM", "95% interval", "lowest", "highest", "P(better than first)"),
            [
                (
                    name,
                    s["runs"],
                    f"{s['final_iqm']:.4g}",
                    _interval(s["final_interval"]),
                    f"{s['final_lowest']:.4g}",
                    f"{s['final_highest']:.4g}",
                    _improvement(s.get("probability_of_improvement")),
                )
                for name, s in summary.items()
            ],
        ),
        "",
        "## Time",
        "",
        "Median seconds of a run, CPU seconds of all its threads, and the share of each part. They "
        "include neither imports nor the first use (compilation, and a rollout and an update that "
        "were thrown away). What agents share counts for the first agent that needs it.",
        "",
        *markdown_table(
            ("agent", "seconds", "CPU seconds", "steps/s", *PARTS, "first use, s"),
            [
                (
                    name,
                    f"{s['seconds']:.2f}",
                    f"{s['cpu_seconds']:.2f}",
                    f"{s['steps_per_second']:,.0f}",
                    *(f"{s['shares'][part]:.0%}" for part in PARTS),
                    f"{comparison.agents[name].first_use_seconds:.1f}",
                )
                for name, s in summary.items()
            ],
        ),
        "",
    ]
    if settings["reach"] is not None:
        lines += _reach_lines(comparison, summary)
    lines += ["## Agents", ""]
    lines += [f"- `{name}`: {info.description}." for name, info in comparison.agents.items()]
    lines += ["", "## Machine", ""]
    lines += [f"- {key}: {plain_text(value)}" for key, value in machine.items()]
    return "\n".join(lines) + "\n"


def _reach_lines(comparison: Comparison, summary: dict[str, Any]) -> list[str]:
    threshold = comparison.settings["reach"]
    first, *others = summary
    rows = []
    for seed in comparison.settings["seeds"]:
        found = {name: summary[name]["reach"]["by_seed"].get(str(seed)) for name in summary}
        if not any(str(seed) in s["reach"]["by_seed"] for s in summary.values()):
            continue
        seconds = {name: None if e is None else e["seconds"] for name, e in found.items()}
        rows.append(
            (
                seed,
                *(number(seconds[name]) for name in summary),
                *(_ratio(seconds[first], seconds[name]) for name in others),
            )
        )
    return [
        f"## Until an evaluation reached {threshold:g}",
        "",
        *markdown_table(
            ("agent", "reached", "median seconds", "median CPU seconds", "median steps"),
            [
                (
                    name,
                    f"{s['reach']['reached']} of {s['runs']}",
                    number(s["reach"]["median_seconds"]),
                    number(s["reach"]["median_cpu_seconds"]),
                    number(s["reach"]["median_steps"], 0),
                )
                for name, s in summary.items()
            ],
        ),
        "",
        f"Seconds by seed, and those of {first} over each other agent's.",
        "",
        *markdown_table(("seed", *summary, *(f"{first} / {name}" for name in others)), rows),
        "",
    ]


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def _interval(interval: Sequence[float]) -> str:
    return f"{interval[0]:.4g} to {interval[1]:.4g}"


def _improvement(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    low, high = found["interval"]
    return f"{found['value']:.2f} ({low:.2f} to {high:.2f})"


def number(value: float | None, digits: int = 2) -> str:
    """A number with thousands separators; a dash if it is None."""
    return "-" if value is None else f"{value:,.{digits}f}"


def _ratio(mine: float | None, theirs: float | None) -> str:
    return "-" if mine is None or theirs is None else f"{mine / theirs:.2f}"


def plain_text(value: Any) -> str:
    """A value of the machine's description, in words."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)
