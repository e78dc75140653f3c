"""Trainings that are stopped from outside, and what is compared after they went on."""

from __future__ import annotations

import contextlib

_COUNTS = ("time/iterations", "time/total_timesteps")


class Stopped(Exception):
    """Ends a training from outside."""


def stop_after(steps):
    """An ``on_step`` that ends the training in the step after these."""
    seen = 0

    def on_step(metrics, rollout=None):
        nonlocal seen
        seen += 1
        if seen > steps:
            raise Stopped

    return on_step


def without_times(history):
    """Metrics apart from times, as texts, so that NaN equals itself."""
    return [
        {
            name: repr(value)
            for name, value in metrics.items()
            if name in _COUNTS or not (name.startswith("time/") or name == "step_time")
        }
        for metrics in history
    ]


def train_until(make, out, steps):
    """Train in a folder, from its checkpoint on if it has one, and stop after these more steps."""
    trainer = make(out=out, on_step=stop_after(steps))
    if (out / "checkpoints").exists():
        trainer.resume(out)
    with contextlib.suppress(Stopped):
        trainer.train()
    trainer.checkpoints.wait()


def resumed(make, out):
    """The trainer that goes on from the newest checkpoint, to the end."""
    trainer = make(out=out)
    trainer.resume(out)
    trainer.train()
    return trainer
