"""Writes the files of the measurements: results.json and results.md."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from textenv.algos.bench.earlier import NOISE, comparisons
from textenv.algos.bench.limits import PHASES, limit_shares, phase_seconds, product_shares
from textenv.algos.bench.plan import OURS, STEPS
from textenv.algos.bench.results import Results
from textenv.algos.storage.replacing import write_whole

FORMAT = "textenv.bench"
VERSION = 1
_WITHIN = ("environment", "policy", "score")  # phases that are included in others


def write_report(results: Results, folder: Path) -> None:
    """Write both files. Each appears complete, and replaces an earlier one."""
    for name, text in (("results.json", to_json(results)), ("results.md", to_markdown(results))):
        write_whole(folder / name, text)


def to_json(results: Results) -> str:
    """All measurements, with their medians and ratios, as JSON."""
    rows = []
    for i, row in enumerate(results.rows):
        sides = {}
        for side in row.sides:
            runs = [{"round": o.round} | o.found for o in results.measurements(i, side.name)]
            sides[side.name] = {
                "runs": runs,
                "error": results.failed(i, side.name) or None,
                "seconds": results.median(i, side.name, "seconds"),
                "memory_mb": results.median(i, side.name, "memory_mb"),
            }
        ratios = {
            f"{peer.name} / {own.name}": {
                key: results.ratios(i, peer.name, own.name, key) for key in _COMPARED
            }
            for peer in row.sides
            for own in row.sides
            if peer.of == own.name or (peer.peer and not own.peer and not own.of)
        }
        work = row.work._asdict() if row.work else None
        rows.append(
            {
                "part": row.part,
                "model": row.size,
                "work": work,
                "sides": sides,
                "ratios": ratios,
            }
        )
    whole = {
        "format": FORMAT,
        "version": VERSION,
        "settings": results.settings,
        "machine": results.machine,
        "rows": rows,
    }
    return json.dumps(whole, indent=1) + "\n"


def to_markdown(results: Results) -> str:
    """The measurements as a page of Markdown tables."""
    lines = ["# Measurements", "", f"    {results.settings.get('command', 'textenv bench')}", ""]
    lines += _machine(results)
    for title, table in (
        ("Beside other libraries", _peers(results)),
        ("Where a step goes, and what share of the limit it reaches", _phases(results)),
        ("A step as groups grow", _groups(results)),
        ("Rollouts by workers", _workers(results)),
        ("Until the first step", _start(results)),
        ("Beside an earlier state", _earlier(results)),
        ("Limits of this machine", _hardware(results)),
        ("Not measured", _failures(results)),
    ):
        if table:
            lines += [f"## {title}", "", *table, ""]
    return "\n".join(lines)


_COMPARED = ("seconds", "memory_mb")


def _peers(results: Results) -> list[str]:
    rows = []
    for part in (*STEPS, "generate"):
        for i in results.of_part(part):
            row = results.rows[i]
            # Without a peer the row still has what was measured of this package.
            peers = [side.name for side in row.present if side.peer] or [""]
            own = [side.name for side in row.present if not side.peer]
            for ours, peer in itertools.product(own, peers):
                setting = f" ({ours.partition(', ')[2]})" if ours != OURS else ""
                rows.append(
                    (
                        _name(part),
                        row.size,
                        row.title,
                        _speed(results, i, ours) + setting,
                        peer or "-",
                        _speed(results, i, peer) if peer else "-",
                        _ratio(results.ratios(i, peer, ours, "seconds")),
                        _number(results.median(i, ours, "memory_mb"), 0),
                        _number(results.median(i, peer, "memory_mb"), 0),
                        _ratio(results.ratios(i, peer, ours, "memory_mb")),
                        _pair(results, i, ours, peer, "tokens", 1),
                        _pair(results, i, ours, peer, "equal_groups", 2),
                    )
                )
    if not rows:
        return []
    titles = (
        *("what", "model", "work", OURS, "peer", "the peer's", "times as fast (by round)"),
        *("MB", "the peer's MB", "times the memory (by round)", "tokens a completion"),
        "groups of equal rewards",
    )
    return [
        "Medians of the rounds. Ratios are the peer's figure over ours: above 1 textenv is better. "
        "Work is prompts, then completions of each x tokens. Memory is the peak of the process "
        "and its workers, or of the device if it has its own.",
        "",
        *_table(titles, rows),
    ]


def _phases(results: Results) -> list[str]:
    found = [
        i
        for part in (*STEPS, "environment", "generate")
        for i in results.of_part(part)
        if results.measurements(i, OURS)
    ]
    if not found:
        return []
    names = list(
        dict.fromkeys(
            phase
            for i in found
            for measurement in results.measurements(i, OURS)
            for phase in measurement.found.get("phases", {})
        )
    )
    rows = []
    for i in found:
        row, step = results.rows[i], results.median(i, OURS, "seconds")
        cells = ["-"] * (len(names) + 2)
        if row.part == "generate":
            step = phase_seconds(results, i).get("generate")
        else:
            parts = {name: results.median(i, OURS, "phases", name) for name in names}
            known = sum(v for name, v in parts.items() if v and name not in _WITHIN)
            cells = [_share(parts[name], step) for name in names]
            cells += [_share(max(0.0, (step or 0) - known), step)]
            cells += [_share(results.median(i, OURS, "environment_s"), step, 1)]
        products, limits = product_shares(results, i), limit_shares(results, i)
        rows.append(
            (
                _name(row.part),
                row.size or "tiny-lm",
                row.title,
                _number(step, 3),
                *cells,
                *(_percent(products.get(phase)) for phase in PHASES),
                *(_percent(limits.get(key)) for key in _LIMITS),
            )
        )
    titles = ("what", "model", "work", "seconds", *names, "rest", "of it environment and rewards")
    products_of = (f"products, of {phase}" for phase in PHASES)
    return [
        "Shares of the seconds of a step, or of a batch of completions; then the shares of the "
        "seconds of generation and update in which matrices were multiplied, as counted in the "
        "BLAS; then shares of the limits: "
        "the fewest operations or bytes needed, over what this machine does in that time at the "
        "highest rates that were measured. "
        "Operations are 2 for each parameter that multiplies and each token, prompts once a group, "
        "a backward twice its forward (`textenv.algos.bench.flops`).",
        "",
        *_table((*titles, *products_of, *_LIMITS.values()), rows),
    ]


_LIMITS = {
    "generate": "generate, of the product rate",
    "update": "update, of the product rate",
    "bandwidth": "generate, of the bandwidth",
}


def _groups(results: Results) -> list[str]:
    lines = []
    for i in results.of_part("groups"):
        row = results.rows[i]
        rows, points = [], []
        for side in row.present:
            step = results.median(i, side.name, "seconds")
            prompt = [results.median(i, side.name, f"prompt_{x}_s") for x in ("generate", "update")]
            once = sum(x or 0 for x in prompt) or None
            if step:
                points.append((int(side.name), step))
            rows.append(
                (
                    side.name,
                    _number(step, 3),
                    *(_number(results.median(i, side.name, "phases", x), 3) for x in PHASES),
                    _number(results.median(i, side.name, "memory_mb"), 0),
                    *(_number(x, 3) for x in prompt),
                    _share(once, step),
                    _number(once and once * int(side.name), 3),
                )
            )
        titles = (
            *("completions", "s/step", *PHASES, "MB", "prompt: generate", "prompt: update"),
            *("the prompt's share", "prompt, were it computed for each"),
        )
        once_each = row.work._replace(generations=1).title if row.work else ""
        lines += [f"{row.size}, {once_each} tokens a completion:"]
        lines += ["", *_table(titles, rows), ""]
        if len(points) > 1:
            (few, fast), (many, slow) = points[0], points[-1]
            each = (slow - fast) / (many - few)
            lines += [
                f"From {few} to {many} completions a step takes {slow / fast:.1f} times as long, "
                f"{each:.3f} s for each further completion.",
                "",
            ]
    return lines


def _workers(results: Results) -> list[str]:
    rows = []
    for i in results.of_part("workers"):
        row = results.rows[i]
        *single, many = (side.name for side in row.present)
        rows.append(
            (
                row.size,
                row.title,
                *(_rate(results.median(i, name, "seconds")) for name in (*single, many)),
                _ratio(best_ratios(results, i)),
            )
        )
    if not rows:
        return []
    names = [side.name for side in results.rows[results.of_part("workers")[0]].present]
    return [
        "Tokens a second; the ratio is over the better of the single processes, by round.",
        "",
        *_table(("model", "work", *names, "times as fast (by round)"), rows),
    ]


def best_ratios(results: Results, row: int) -> dict[int, float]:
    """The seconds of the best single process over those of the workers, by round."""
    *single, many = (side.name for side in results.rows[row].present)
    by_side = [results.ratios(row, name, many, "seconds") for name in single]
    rounds = set.intersection(*map(set, by_side)) if by_side else set()
    return {number: min(ratios[number] for ratios in by_side) for number in sorted(rounds)}


def _start(results: Results) -> list[str]:
    rows = []
    for i in results.of_part("start"):
        row = results.rows[i]
        imports, make, first, step = (
            results.median(i, OURS, key) for key in ("import_s", "make_s", "first_s", "seconds")
        )
        if imports is None or make is None or first is None or step is None:
            continue
        excess = first - step
        cells = (imports, make, excess, imports + make + max(0.0, excess))
        rows.append((row.size, row.title, *(_number(cell, 2) for cell in cells)))
    if not rows:
        return []
    titles = (
        *("model", "work", "Python and imports, s", "model and trainer, s"),
        *("first step beyond the median, s", "in all, s"),
    )
    return [
        "Measured after a run that does not count, so that files that are compiled once exist.",
        "",
        *_table(titles, rows),
    ]


def _earlier(results: Results) -> list[str]:
    rows = [
        (
            _name(c.row.part),
            c.row.size or "tiny-lm",
            c.row.title,
            c.side,
            _number(c.before, 4),
            _number(c.now, 4),
            f"{c.median:.2f} ({c.low:.2f} to {c.high:.2f})",
            c.verdict,
        )
        for c in comparisons(results)
    ]
    if not rows or results.earlier is None:
        return []
    titles = ("what", "model", "work", "side", "s before", "s now", "times as fast", "it is")
    return [f"Before is {results.earlier.name}. {NOISE}", "", *_table(titles, rows)]


def _hardware(results: Results) -> list[str]:
    lines = []
    for i in results.of_part("hardware"):
        sides = [side.name for side in results.rows[i].sides]
        products = results.side(i, OURS).arguments["products"]
        rows = [
            (
                name,
                " x ".join(map(str, shape)),
                *(_number(results.median(i, side, "gflops", name), 0) for side in sides),
            )
            for name, shape in products.items()
        ]
        titles = [f"GFLOP/s, {'torch' if results.side(i, side).peer else 'MLX'}" for side in sides]
        lines += _table(("float32 product", "m x k x n", *titles), rows)
        rate = results.median(i, OURS, "gb_per_s")
        if rate:
            lines += ["", f"A large copy reads and writes {rate:.1f} GB/s."]
    return lines


def _failures(results: Results) -> list[str]:
    return [
        f"- {_name(row.part)}{f', {row.size}' if row.size else ''}"
        f"{f', {row.title}' if row.title else ''}, {side.name}: {why}"
        for i, row in enumerate(results.rows)
        for side in row.sides
        if (why := results.failed(i, side.name))
    ]


def _machine(results: Results) -> list[str]:
    lines = [f"- {key}: {_plain(value)}" for key, value in results.machine.items()]
    said: dict[str, set[str]] = {}
    for i, row in enumerate(results.rows):
        for side in row.sides:
            for measurement in results.measurements(i, side.name):
                if "blas" in measurement.found and not side.environ:
                    what = f"{measurement.found['device']}, {measurement.found['blas']}"
                    said.setdefault(side.peer or OURS, set()).add(what)
    lines += [f"- {name} computes on: {'; '.join(sorted(what))}" for name, what in said.items()]
    lines += [f"- rounds: {results.settings.get('rounds')}, seed: {results.seed}"]
    return [*lines, ""]


def _name(part: str) -> str:
    return {"generate": "generation"}.get(part, "GRPO step" if part in STEPS else part)


def _speed(results: Results, row: int, side: str) -> str:
    """Seconds a step or tokens a second; if there are none, the reason."""
    seconds = results.median(row, side, "seconds")
    if seconds is None:
        return results.failed(row, side) or "-"
    if results.rows[row].part == "generate":
        return f"{_rate(seconds)} tokens/s"
    return f"{seconds:.3f} s"


def _pair(results: Results, row: int, ours: str, peer: str, key: str, digits: int) -> str:
    values = [results.median(row, side, key) for side in (ours, peer)]
    return " / ".join(_number(value, digits) for value in values)


def _rate(seconds: float | None) -> str:
    return "-" if not seconds else f"{1 / seconds:,.0f}"


def _ratio(by_round: dict[int, float]) -> str:
    if not by_round:
        return "-"
    values = sorted(by_round.values())
    middle = values[len(values) // 2]
    if len(values) % 2 == 0:
        middle = (middle + values[len(values) // 2 - 1]) / 2
    return f"{middle:.2f} ({', '.join(f'{value:.2f}' for value in by_round.values())})"


def _share(value: float | None, whole: float | None, digits: int = 0) -> str:
    return "-" if value is None or not whole else f"{value / whole:.{digits}%}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.{0 if value >= 0.1 else 1}%}"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)


def _table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return [
        "| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines
    ]
