"""Trainings of control that are killed and go on, in processes of their own.

``python -m tests.algos.trainers.killed_control FOLDER KILLS`` trains once to the end, and once with
SIGKILL at so many random moments, and prints what both came to.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

_PRELOAD = ["textenv.algos.trainers.ppo", "textenv.algos.trainers.ppo_control"]
UPDATES_A_LIFE = 2
"""How many updates a life has at most before it is killed."""


def train(folder: Path, updates: int):
    """Train to the end, from the newest checkpoint on if there is one."""
    from tests.algos.control_envs import quick
    from tests.algos.resuming import without_times
    from textenv.algos import PPOTrainer
    from textenv.algos.storage.checkpoints.store import checkpoints

    def on_step(metrics, rollout):
        with (folder / "updates").open("a") as file:
            file.write(".")

    sizes = {"n_steps": 128, "batch_size": 64, "n_epochs": 2, "num_envs": 4}
    switches = dict.fromkeys(("normalize_observations", "normalize_rewards"), True)
    config = quick(**sizes, **switches, total_timesteps=128 * updates, save_steps=1)
    trainer = PPOTrainer("mlp", "CartPole-v1", config, on_step=on_step, out=folder)
    if checkpoints(folder / "checkpoints"):
        trainer.resume(folder)
    trainer.train()
    outcome = {"policy": trainer.policy.fingerprint(), "metrics": without_times(trainer.history)}
    (folder / "outcome").write_text(json.dumps(outcome))


class Life:
    """A process that trains in a folder, until it ends or is killed."""

    def __init__(self, context, folder: Path, updates: int):
        self._file = folder / "updates"
        self._before = self._made()
        self.process = context.Process(target=train, args=(folder, updates))
        self.process.start()

    def kill(self, updates: int, later: float):
        """Kill it so many seconds after so many updates."""
        while self._made() < self._before + updates:
            assert self.process.exitcode is None, "it ended before it was killed"
            time.sleep(0.001)
        time.sleep(later)
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        assert self.process.exitcode == -signal.SIGKILL

    def _made(self) -> int:
        return self._file.stat().st_size if self._file.exists() else 0


def main(folder: Path, kills: int):
    """Train once without and once with kills."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    updates = (UPDATES_A_LIFE + 2) * kills
    outcomes = []
    for name, count in (("whole", 0), ("killed", kills)):
        place = folder / name
        place.mkdir()
        for _ in range(count):
            made = random.randint(0, UPDATES_A_LIFE)
            # The first update comes after the start of a process, each other one at once.
            later = random.random() * (0.12 if made == 0 else 0.03)
            Life(context, place, updates).kill(made, later)
        last = Life(context, place, updates)
        last.process.join()
        assert last.process.exitcode == 0
        outcomes.append(json.loads((place / "outcome").read_text()))
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
