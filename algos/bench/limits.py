"""What shares of the machine's limits generation and update reach, and of their own products."""

from __future__ import annotations

from textenv.algos.bench.flops import Amount, decode_bytes, generate_flops, update_flops
from textenv.algos.bench.plan import OURS
from textenv.algos.bench.results import Results
from textenv.algos.bench.workload import MODEL_SIZES

PHASES = ("generate", "update")


def phase_seconds(results: Results, row: int) -> dict[str, float]:
    """Median seconds of the generation and of the update of this package, if they are known."""
    spec = results.rows[row]
    if spec.part != "generate":
        found = {phase: results.median(row, OURS, "phases", phase) for phase in PHASES}
        return {phase: seconds for phase, seconds in found.items() if seconds}
    seconds, tokens = (results.median(row, OURS, name) for name in ("seconds", "tokens"))
    if not seconds or not tokens or spec.work is None:
        return {}
    return {"generate": seconds * tokens * spec.work.completions}


def product_shares(results: Results, row: int) -> dict[str, float]:
    """The shares of these seconds in which matrices were multiplied, if they were counted."""
    shares = {}
    for phase, seconds in phase_seconds(results, row).items():
        products = results.median(row, OURS, "products", phase, "seconds")
        if products is not None:
            shares[phase] = products / seconds
    return shares


def limit_shares(results: Results, row: int) -> dict[str, float]:
    """The shares of the machine's limits that generation and update reach; empty if not known."""
    spec = results.rows[row]
    rates = next(iter(results.of_part("hardware")), None)
    if rates is None or spec.work is None or spec.size not in MODEL_SIZES:
        return {}
    # The highest rate, because other load on the machine can only lower it.
    measured = [o.found for o in results.measurements(rates, OURS)]
    gflops = max((rate for found in measured for rate in found["gflops"].values()), default=None)
    bandwidth = max((found["gb_per_s"] for found in measured), default=None)
    prompt_tokens = results.median(row, OURS, "prompt_tokens")
    tokens = results.median(row, OURS, "tokens")
    if None in (gflops, bandwidth, prompt_tokens, tokens):
        return {}
    assert gflops and bandwidth and prompt_tokens and tokens
    size, work, seconds = MODEL_SIZES[spec.size], spec.work, phase_seconds(results, row)
    amount = Amount(work.prompts, prompt_tokens, work.completions, tokens, work.max_new - 1)
    found = {}
    if "generate" in seconds:
        found["generate"] = generate_flops(size, amount) / seconds["generate"] / gflops / 1e9
        found["bandwidth"] = decode_bytes(size, amount) / seconds["generate"] / bandwidth / 1e9
    if "update" in seconds:
        found["update"] = update_flops(size, amount) / seconds["update"] / gflops / 1e9
    return found
