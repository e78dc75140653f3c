"""Runs and comparisons of strategies made by hand."""

from textenv.algos.compare.strategies.results import Point, StrategyComparison, StrategyRun
from textenv.algos.compare.strategies.runs import StrategyArena

ARENA = StrategyArena(
    {}, tokens=200, eval_every=1, eval_examples=4, num_prompts=2, num_generations=4
)


TOTALS = {"tokens_generated": 100.0, "tokens_discarded": 20.0, "tokens_trained": 80.0} | {
    "tokens_computed": 120.0,
    "prompts_skipped": 3.0,
    "frac_groups_uniform": 0.25,
    "trajectories": 40.0,
}


def run_of(strategy, seed, *rows):
    """A run from rows of tokens, seconds and sampled accuracy."""
    points = tuple(Point(t, s, i, a, a + 0.01) for i, (t, s, a) in enumerate(rows))
    return StrategyRun(strategy, seed, 1e-3, points, TOTALS)


def comparison_of(*runs, rates=(1e-3,), tries=()):
    settings = ARENA.settings() | {"learning_rates": list(rates)}
    names = dict.fromkeys([*(run.strategy for run in runs), *(t.strategy for t in tries)])
    return StrategyComparison(settings, {}, {name: name for name in names}, [*tries], [*runs])


PLAIN = (
    run_of("plain", 0, (0, 0, 0.5), (100, 10, 0.7), (200, 20, 0.9)),
    run_of("plain", 1, (0, 0, 0.5), (100, 10, 0.5), (220, 20, 0.9)),
)


FAST = (
    run_of("fast", 0, (0, 0, 0.5), (50, 40, 0.86), (210, 90, 0.9)),
    run_of("fast", 1, (0, 0, 0.5), (50, 40, 0.90), (210, 90, 0.9)),
)
BAD = (
    run_of("bad", 0, (0, 0, 0.5), (205, 9, 0.6)),
    run_of("bad", 1, (0, 0, 0.5), (205, 9, 0.8)),
)
