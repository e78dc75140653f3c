r"""Draw runs of ``examples/real_model.py`` and ``real_model_trl.py`` in one picture.

    python examples/benchmarks/real_model_curves.py examples/real_model.png \
        "textenv=runs/seed-0,runs/seed-1,runs/seed-2" "TRL 1.16=runs/trl"

Lines are the rewards of sampled answers, as means of a sixteenth of the steps; dots are the
accuracies of greedy answers to held-out sums. Runs of one label have one colour.
"""

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

MEAN_OF = 1 / 16  # of a run's steps
NAMES = ("accuracy", "eval/accuracy")
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#7f7f7f")


def main():
    """Draw."""
    if len(sys.argv) < 3 or not all("=" in argument for argument in sys.argv[2:]):
        sys.exit(__doc__)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for colour, argument in zip(COLOURS, sys.argv[2:], strict=False):
        label, folders = argument.split("=", 1)
        for number, folder in enumerate(folders.split(",")):
            log = json.loads(Path(folder, "log.json").read_text())
            steps = [row for row in log if "reward" in row]
            seconds = np.array([row["seconds"] for row in steps])
            rewards = np.array([row["reward"] for row in steps])
            width = max(1, int(MEAN_OF * len(rewards)))
            means = [rewards[max(0, i + 1 - width) : i + 1].mean() for i in range(len(rewards))]
            axes.plot(seconds / 60, means, color=colour, label=None if number else label)
            dots = [(row["seconds"] / 60, row[key]) for row in log for key in row if key in NAMES]
            if dots:
                axes.plot(*zip(*dots), "o", color=colour, markersize=5)
    axes.set(
        xlabel="minutes",
        ylabel="right answers: sampled (lines), greedy (dots)",
        ylim=(0, 1),
        xlim=(0, None),
    )
    axes.set_title("SmolLM2-135M-Instruct learns to add on two CPU cores")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(sys.argv[1], dpi=120)


if __name__ == "__main__":
    main()
