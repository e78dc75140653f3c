"""Trainings that are killed and go on, in processes of their own; this module is imported there.

``python -m tests.algos.trainers.killed_runs FOLDER KILLS NUM_WORKERS`` trains once to the end, and
once with SIGKILL at so many random moments, and writes what both came to.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.algos.shared import make_env, total

SETTINGS = {
    "max_completion_length": 6,
    "num_prompts": 2,
    "num_generations": 4,
    "learning_rate": 1e-3,
    "eval_share": 1.0,
    "micro_batch_size": 4,
}


def outcome(trainer):
    """All that a trainer remembers, as JSON, but for times and the process's own generators."""
    state = trainer.state()
    values = {n: v for n, v in state.values.items() if not n.startswith("random/")}
    values["trainer/history"] = [timeless(metrics) for metrics in values["trainer/history"]]
    values.pop("evaluations/seconds")
    arrays = {
        name: [array.dtype.name, *array.shape, hashlib.sha256(array.tobytes()).hexdigest()]
        for name, array in state.arrays.items()
        if not name.startswith("random/")
    }
    return json.loads(json.dumps({"arrays": arrays, "values": values}))


def timeless(metrics):
    """The metrics of a step that are no times."""
    return {
        name: value
        for name, value in metrics.items()
        if name != "step_time" and not name.startswith("time/")
    }


def train(folder: Path, num_workers: int, max_steps: int):
    """Train to the end, from the newest checkpoint if there is one."""
    from textenv.algos import GRPOConfig, GRPOTrainer
    from textenv.algos.storage.checkpoints.store import checkpoints

    def on_step(metrics, rollout):
        with (folder / "steps").open("a") as file:
            file.write(f"{metrics['step']:.0f}\n")

    config = GRPOConfig(
        **SETTINGS, max_steps=max_steps, save_steps=2, num_workers=num_workers, eval_steps=5
    )
    trainer = GRPOTrainer(
        "tiny-lm", make_totals, config, on_step=on_step, eval_env=make_env, out=folder
    )
    try:
        if checkpoints(folder / "checkpoints"):
            trainer.resume(folder)
        trainer.train()
        (folder / "outcome").write_text(json.dumps(outcome(trainer)))
    finally:
        trainer.close()


def make_totals():
    """An environment whose rewards are seldom equal."""
    return make_env(total)


class Life:
    """A process that trains in a folder, until it ends or is killed."""

    def __init__(self, folder: Path, num_workers: int, max_steps: int):
        self._steps = folder / "steps"
        self._before = self._lines()
        context = multiprocessing.get_context("forkserver")
        self.process = context.Process(target=train, args=(folder, num_workers, max_steps))
        self.process.start()

    def wait_for_steps(self, count: int):
        """Wait until it has made so many steps; False if it ended before."""
        while self._lines() < self._before + count:
            if self.process.exitcode is not None:
                return False
            time.sleep(0.002)
        return True

    def kill(self):
        """SIGKILL; False if it had ended before."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL

    def _lines(self) -> int:
        return self._steps.read_text().count("\n") if self._steps.exists() else 0


def main(folder: Path, kills: int, num_workers: int):
    """Train once without and once with kills; prints the moments of these."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["textenv.algos.trainers.grpo", "tests.algos.shared"])
    max_steps = 5 * kills  # it makes about four steps at most before it is killed
    whole, killed = folder / "whole", folder / "killed"
    whole.mkdir()
    killed.mkdir()
    life = Life(whole, num_workers, max_steps)
    started = time.perf_counter()
    assert life.wait_for_steps(1), "the training that is not killed failed"
    began = time.perf_counter()
    life.process.join()
    assert life.process.exitcode == 0, "the training that is not killed failed"
    step = (time.perf_counter() - began) / max_steps  # seconds
    moments = []
    while len(moments) < kills:
        life = Life(killed, num_workers, max_steps)
        steps = random.choice([0, 1, 1, 2, 2, 3])
        assert life.wait_for_steps(steps), f"{moments}: it ended before it was killed, or failed"
        later = random.random() * (1.5 * step if steps else began - started)
        time.sleep(later)
        if life.kill():
            moments.append((steps, round(later, 3)))
    life = Life(killed, num_workers, max_steps)
    life.process.join()
    assert life.process.exitcode == 0, f"killed at {moments}, the training failed"
    print(json.dumps(moments))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
