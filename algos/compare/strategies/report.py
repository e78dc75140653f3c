"""Writes the files of a comparison of strategies: results.json, results.md and curves.png."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from textenv.algos.compare.plot import draw_panels, try_to_draw
from textenv.algos.compare.report import markdown_table, number, plain_text
from textenv.algos.compare.strategies.results import (
    BASELINE,
    GAIN,
    Point,
    StrategyComparison,
    StrategyRun,
    Try,
)
from textenv.algos.storage.replacing import write_whole
from textenv.errors import ConfigError, DataError

FORMAT = "textenv.compare.strategies"
VERSION = 1
JSON_FILE = "results.json"


def write_runs(
    comparison: StrategyComparison, folder: Path, summary: dict[str, Any] | None = None
) -> None:
    """Write ``results.json``; it appears complete, and replaces an earlier one.

    The summary takes a while to compute and belongs to the end. A file without it is enough to
    continue from.
    """
    whole = {
        "format": FORMAT,
        "version": VERSION,
        "settings": comparison.settings,
        "machine": comparison.machine,
        "strategies": comparison.strategies,
        "tries": [asdict(found) for found in comparison.tries],
        "runs": [asdict(run) for run in comparison.runs],
        "summary": summary or {},
    }
    text = json.dumps(whole, indent=1, allow_nan=False) + "\n"
    write_whole(folder / JSON_FILE, text)


def write_report(comparison: StrategyComparison, folder: Path) -> None:
    """Write ``results.json``, and if there are runs ``results.md`` and ``curves.png``."""
    summary = comparison.summary()
    write_runs(comparison, folder, summary)
    if not summary:
        return
    write_whole(folder / "results.md", to_markdown(comparison, summary))
    labels = {
        "tokens": "generated tokens",
        "seconds": "seconds of training, evaluations not counted",
    }
    panels = [
        (label, {name: comparison.curve(name, unit) for name in summary})
        for unit, label in labels.items()
    ]
    picture = folder / "curves.png"

    def draw(path: Path) -> None:
        draw_panels(
            panels,
            "sampled accuracy, mean and 95% band",
            f"Rollout strategies at equal generated tokens: {comparison.title}",
            comparison.threshold(),
            path,
        )

    try_to_draw(str(picture), lambda: write_whole(picture, draw))


def read_comparison(path: Path) -> StrategyComparison:
    """Read a comparison that `write_runs` wrote.

    Raises:
        DataError: if the file is something else; names it.
    """
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        if (whole["format"], whole["version"]) != (FORMAT, VERSION):
            raise ValueError(f"format {whole['format']!r}, version {whole['version']!r}")
        return StrategyComparison(
            whole["settings"],
            whole["machine"],
            whole["strategies"],
            [Try(**row) for row in whole["tries"]],
            [
                StrategyRun(**row | {"points": tuple(Point(**p) for p in row["points"])})
                for row in whole["runs"]
            ],
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is no comparison of strategies: {error!r}") from error


def check_same(found: StrategyComparison, wanted: StrategyComparison, path: Path) -> None:
    """Refuse to continue a comparison that had other settings.

    Raises:
        ConfigError: if settings differ; names each of them.
    """
    pairs = [
        (name, found.settings.get(name), wanted.settings.get(name))
        for name in found.settings.keys() | wanted.settings.keys()
    ]
    pairs += [
        (name, text, wanted.strategies[name])
        for name, text in found.strategies.items()
        if name in wanted.strategies
    ]
    differing = [f"{name} was {old}, is {new}" for name, old, new in pairs if old != new]
    if differing:
        raise ConfigError(
            f"{path} holds a comparison with other settings ({'; '.join(sorted(differing))}): "
            "choose another --out"
        )


def to_markdown(comparison: StrategyComparison, summary: dict[str, Any]) -> str:
    """The comparison as a page of Markdown tables."""
    s = comparison.settings
    seeds = sorted({run.seed for run in comparison.runs})
    threshold = comparison.threshold()
    lines = [
        f"# Rollout strategies at equal generated tokens: {comparison.title}",
        "",
        f"GRPO on {s['model']}, {s['tokens']:,} generated tokens from each of {len(seeds)} seed(s) "
        f"({seeds[0]} to {seeds[-1]}): a run ends at the first step at which they are spent. "
        f"{s['num_prompts']} prompts x {s['num_generations']} completions a rollout unless a "
        "strategy has its own, AdamW at a learning rate that is constant after its warm-up. "
        f"Evaluated every {s['eval_every']:,} tokens on up to {s['eval_examples']} test examples, "
        "not in the seconds. Accuracy is that of sampled answers, mean over the runs, with its 95% "
        "stratified bootstrap interval.",
        "",
        "## At the end",
        "",
        *markdown_table(
            (
                *("strategy", "learning rate", "runs", "accuracy", "95% interval"),
                *(f"minus {BASELINE}", "95% interval", "greedy", "seconds"),
            ),
            [_final_row(name, found) for name, found in summary.items()],
        ),
        "",
        *(f"- {line}" for line in verdicts(summary)),
        "",
    ]
    if threshold is not None:
        lines += [
            f"## Until {GAIN:.0%} of {BASELINE}'s gain ({threshold:.3f})",
            "",
            "Tokens and seconds at which the mean curve first got there, on straight lines between "
            f"evaluations, and how many of the runs did; then the ratio to {BASELINE}'s, with its "
            "95% bootstrap interval.",
            "",
            *markdown_table(
                (
                    *("strategy", "runs there", "tokens", f"/ {BASELINE}'s", "95% interval"),
                    *("seconds", f"/ {BASELINE}'s", "95% interval"),
                ),
                [_reach_row(name, found) for name, found in summary.items()],
            ),
            "",
            "Generated tokens by seed:",
            "",
            *markdown_table(("seed", *summary), _seed_rows(seeds, summary)),
            "",
        ]
    lines += [
        "## What a run took",
        "",
        "Means over the runs. Computed tokens are all that went through the model to generate, "
        "prompts included, for each finished completion. Uniform groups have equal outcomes, and "
        "nothing to learn from.",
        "",
        *markdown_table(
            (
                *("strategy", "steps", "generated", "discarded", "trained on"),
                *("prompts skipped", "groups uniform", "computed per completion"),
            ),
            [_spent_row(name, found) for name, found in summary.items()],
        ),
        "",
        "## Learning rates",
        "",
        *_tries_lines(comparison),
        "",
        "## Strategies",
        "",
        *(f"- `{name}`: {text}." for name, text in comparison.strategies.items()),
        "",
        "## Machine",
        "",
        *(f"- {key}: {plain_text(value)}" for key, value in comparison.machine.items()),
    ]
    return "\n".join(lines) + "\n"


def verdicts(summary: dict[str, Any]) -> list[str]:
    """A line for each strategy: whether it ends worse than the baseline by more than chance."""
    lines = []
    for name, found in summary.items():
        if (difference := found.get("difference")) is None:
            continue
        low, high = found["interval"]
        word = "WORSE" if difference["worse"] else "not worse"
        side = "outside" if difference["worse"] else "not above"
        lines.append(
            f"`{name}` is {word} than {BASELINE} by more than its interval: "
            f"{difference['value']:+.3f}, {BASELINE}'s mean is {side} {low:.3f} to {high:.3f}"
        )
    return lines


def _final_row(name: str, found: dict[str, Any]) -> tuple[Any, ...]:
    difference = found.get("difference")
    return (
        name,
        f"{found['learning_rate']:g}",
        found["runs"],
        f"{found['accuracy']:.3f}",
        _span(found["interval"]),
        "-" if difference is None else f"{difference['value']:+.3f}",
        "-" if difference is None else _span(difference["interval"], "+.3f"),
        f"{found['greedy']:.3f}",
        f"{found['seconds']:.1f}",
    )


def _reach_row(name: str, found: dict[str, Any]) -> tuple[Any, ...]:
    reach = found["reach"]
    return (
        name,
        f"{reach['reached']} of {found['runs']}",
        number(reach["tokens"], 0),
        number(reach["tokens_ratio"]),
        _span(reach["tokens_ratio_interval"], ".2f"),
        number(reach["seconds"], 1),
        number(reach["seconds_ratio"]),
        _span(reach["seconds_ratio_interval"], ".2f"),
    )


def _seed_rows(seeds: list[int], summary: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    for seed in seeds:
        by_name = [found["reach"]["by_seed"].get(str(seed), {}) for found in summary.values()]
        yield (seed, *(number(at.get("tokens"), 0) for at in by_name))


def _spent_row(name: str, found: dict[str, Any]) -> tuple[Any, ...]:
    totals = found["totals"]
    return (
        name,
        f"{found['steps']:.0f}",
        *(number(totals[f"tokens_{what}"], 0) for what in ("generated", "discarded", "trained")),
        number(totals["prompts_skipped"], 0),
        f"{totals['frac_groups_uniform']:.0%}",
        number(totals["computed_per_trajectory"], 1),
    )


def _tries_lines(comparison: StrategyComparison) -> list[str]:
    rates = comparison.settings["learning_rates"]
    if len(rates) == 1:
        return [f"{rates[0]:g} for all: none was tried."]
    found = {(t.strategy, t.learning_rate): t.accuracy for t in comparison.tries}
    rows = []
    for name in comparison.strategies:
        chosen = comparison.learning_rate(name)
        rows.append(
            (
                name,
                *(number(found.get((name, rate)), 3) for rate in rates),
                "-" if chosen is None else f"{chosen:g}",
            )
        )
    return [
        f"Sampled accuracy after {comparison.settings['tune_tokens']:,} generated tokens, from a "
        "seed that no run has, on test examples that are not among those of the tables. The best "
        "rate is used, the first among equals.",
        "",
        *markdown_table(("strategy", *(f"{rate:g}" for rate in rates), "used"), rows),
    ]


def _span(interval: Any, form: str = ".3f") -> str:
    """An interval in words; an end that is None has no bound."""
    if interval is None:
        return "-"
    low, high = ("no end" if end is None else format(end, form) for end in interval)
    return f"{low} to {high}"
