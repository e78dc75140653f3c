"""Work, rows and results made by hand, for the tests of the measurements."""

from textenv.algos.bench.plan import OURS, Row, Side
from textenv.algos.bench.results import Measurement, Results
from textenv.algos.bench.workload import MODEL_SIZES, ModelSize, Work

BY_HAND = ModelSize(hidden=64, layers=1, vocabulary=100)  # 4 heads of 16, 2 of keys, 192 wide
WORK = Work(2, 4, 8, 12, 4, timed=2)


def models():
    return {name: f"/models/{name}" for name in MODEL_SIZES}


def two_sides(warm=False):
    sides = (
        Side(OURS, "train", 1.0, {"work": WORK}),
        Side("trl", "trl-train", 4.0, {"work": WORK}, peer="trl"),
    )
    return Row("step", "tiny", WORK, sides, warm)


def results_of(rows, found):
    """Results whose runs are ``found[row, side]``, one a round."""
    results = Results(rows, seed=0, settings={"command": "textenv bench", "rounds": 3})
    for (row, side), figures in found.items():
        for number, run in enumerate(figures, 1):
            results.add(row, side, Measurement(number, run))
    return results


def run_of(seconds, memory, **more):
    return {"seconds": seconds, "memory_mb": memory} | more
