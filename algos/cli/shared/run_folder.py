"""The folder of a training run: settings, metrics, rollouts, model, summary and picture."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from textenv.algos.compare.plot import try_to_draw
from textenv.errors import ConfigError

_LABELS = {
    "step": "optimizer step",
    "reward": "reward",
    "time/iterations": "update",
    "time/total_timesteps": "transitions",
    "rollout/ep_rew_mean": "return, mean of the last 100 episodes",
}


class Picture(NamedTuple):
    """A picture to draw of a training's metrics."""

    file: str
    """Its name in the run's folder."""
    across: str
    """The metric of the horizontal axis."""
    up: str
    """The metric of the vertical axis."""
    title: str


class RunFolder:
    """Writes the files of a run.

    Args:
        path: the folder, which must be new or empty.

    Raises:
        ConfigError: if the folder is not empty.
    """

    def __init__(self, path: Path):
        self.path = path
        for place in path.parents:
            if place.exists() and not place.is_dir():
                raise ConfigError(f"{path} cannot be a folder, since {place} is a file")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(
                f"{path} is there already and not an empty folder: choose another --out"
            )

    @staticmethod
    def default_path(name: str) -> Path:
        """The default folder of a run, ``runs/<name>-<time>``."""
        return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"

    def create(self, config: Mapping[str, Any]) -> None:
        """Make the folder, and write ``config.toml`` in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        _write(self.path / "config.toml", tomli_w.dumps(dict(config)))

    def add_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(metrics)) + "\n")

    @property
    def rollouts(self) -> Path:
        """The folder for rollouts."""
        return self.path / "rollouts"

    @property
    def model(self) -> Path:
        """The folder for the trained model."""
        return self.path / "model"

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``."""
        _write(self.path / "summary.json", json.dumps(dict(summary), indent=2) + "\n")

    def draw(self, picture: Picture, history: list[dict[str, float]]) -> None:
        """Draw one metric over another, and its running mean over ten rows, as a PNG.

        If it cannot be drawn, a warning says why.
        """
        try_to_draw(picture.file, lambda: self._draw(picture, history))

    def _draw(self, picture: Picture, history: list[dict[str, float]]) -> None:
        import matplotlib.pyplot as plt

        across, up = picture.across, picture.up
        rows = [metrics for metrics in history if up in metrics]
        steps = [metrics[across] for metrics in rows]
        values = [metrics[up] for metrics in rows]
        means = [sum(values[max(0, i - 9) : i + 1]) / min(i + 1, 10) for i in range(len(values))]
        figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
        axes.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=1, label="each update")
        axes.plot(steps, means, color="tab:blue", linewidth=2, label="mean of ten")
        labels = {"xlabel": _LABELS.get(across, across), "ylabel": _LABELS.get(up, up)}
        axes.set(**labels, title=picture.title)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
        figure.savefig(self.path / picture.file, dpi=120)
        plt.close(figure)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.saving")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
