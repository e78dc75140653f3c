"""Write examples/metrics.md, the page with the meaning of every metric.

    python examples/make_metrics.py            # writes the page
    python examples/make_metrics.py --check    # fails if the page is out of date

The page is made from one table in the code, `textenv.algos.rollouts.health.metric_table`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from textenv.algos.rollouts.health.metric_table import METRICS, Metric

PAGE = Path(__file__).with_name("metrics.md")

HEAD = """\
# Metrics

What each metric of a training means, what it usually is when a model learns, and what to do if it
is not. A run's `metrics.jsonl` has them by step, and `trainer.history` in Python. The names are
those of TRL for text and of Stable-Baselines3 for PPO; a table on the page on training shows
[what differs](../algos/training/README.md#what-differs-from-trl-and-stable-baselines3).

A healthy range is what is usual, and not a law. Look at it over ten steps or more. If a model does
not learn, look at these in this order: `reward` and the completions themselves,
`completions/clipped_ratio`, `frac_reward_zero_std`, `entropy`, `grad_norm`. A training looks at
most of them itself, and [warns](../algos/training/README.md#warnings). [Another page](faq.md)
answers questions that people ask.

In a name, a part in braces stands for any name. `examples/make_metrics.py` writes this page.
"""


def row(metric: Metric) -> str:
    """A metric's line of the page."""
    cells = (f"`{metric.name}`", metric.meaning, metric.healthy, metric.remedy)
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def page() -> str:
    """The whole page: a list of the sections, then a table for each."""
    titles = [(title, title.lower().replace(" ", "-").replace("'", "")) for title in METRICS]
    parts = [HEAD, *(f"- [{title}](#{anchor})" for title, anchor in titles)]
    for title, metrics in METRICS.items():
        head = ["| metric | what it means | healthy | if not |", "|---|---|---|---|"]
        parts += [f"\n## {title}\n", *head, *map(row, metrics)]
    return "\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="check the page, and write nothing")
    parser.add_argument("--out", type=Path, default=PAGE)
    args = parser.parse_args()
    if not args.check:
        args.out.write_text(page(), encoding="utf-8")
        return 0
    if args.out.read_text(encoding="utf-8") == page():
        return 0
    print(f"{args.out} is out of date: run examples/make_metrics.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
