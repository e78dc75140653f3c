"""Writes a model card: a README.md beside the weights that says what the model is.

It begins with the metadata that the Hugging Face hub reads. Names and settings come from users:
on the page they stand in code, where nothing in them is markup.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textenv.algos.storage.replacing import write_whole

CARD = "README.md"
"""The name of a model card's file."""

_MARK = "<!-- Written by textenv. A page without this line is never replaced. -->"
_RESULTS = "<!-- results -->"
_FIGURES = ("accuracy", "reward", "loss")  # of each kind the first that there is
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_LARGEST = 1_000_000  # characters of a page that is looked at


@dataclass(frozen=True)
class ModelCard:
    """What a model card says of a training."""

    method: str
    """The algorithm's name, such as GRPO."""
    base_model: str | None
    """The name or folder of the model that was trained; None if it has none."""
    task: str | None
    """The name of what it was trained on."""
    trained: str
    """The trainer's line about what it trained, and how."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings that differ from the defaults."""
    steps: int = 0
    """Optimizer steps."""
    rewards: tuple[float, float] | None = None
    """The mean reward of the first and of the last rollout; None if it is not known."""
    evaluated: Mapping[str, Any] | None = None
    """The last evaluation of the training: ``accuracy`` or ``reward``, and ``examples``."""
    adapters: str | None = None
    """What reads the adapters that the card lies beside, ``"mlx"`` or ``"peft"``; None: a model."""

    def text(self) -> str:
        """The page, in Markdown."""
        what = "Adapters" if self.adapters else "Model"
        name = Path(self.base_model).name if self.base_model else "a language model"
        task = f" on {code(self.task)}" if self.task else ""
        base = code(self.base_model) if self.base_model else "A model made in memory"
        lines = [
            *self._metadata(),
            _MARK,
            "",
            f"# {what}: {code(name)} trained by {self.method}{task}",
            "",
            f"{base} was trained{task} by {self.method} with textenv, in {self.steps} optimizer "
            f"step{'s' * (self.steps != 1)}.",
            "",
            _RESULTS,
            "",
            "## Training",
            "",
            *fenced([self.trained]),
            "",
        ]
        if self.rewards:
            first, last = self.rewards
            lines += [f"Mean reward of a rollout: {first:.3f} at first, {last:.3f} at last.", ""]
        found = self.evaluated or {}
        if known := [name for name in _FIGURES if found.get(name) is not None]:
            figure = f"{known[0]} {_figure(found[known[0]])} on {found.get('examples')}"
            lines += [f"Last evaluation of the training: {figure} held-out examples.", ""]
        if self.settings:
            lines += ["Settings that differ from the defaults:", ""]
            lines += [*fenced([f"{k} = {_plain(v)}" for k, v in self.settings.items()]), ""]
        return "\n".join(lines)

    def _metadata(self) -> list[str]:
        """The front matter, in YAML, of which JSON's strings are a part."""
        base = self.base_model or ""
        # The hub refuses a base model that is not the name of one there.
        on_hub = _HUB_NAME.fullmatch(base) and not Path(base).exists()
        method = self.method.lower()
        by_rewards = [] if method == "sft" else ["reinforcement-learning"]
        tags = ["textenv", "mlx", *by_rewards, method]
        library = {"peft": "peft", "mlx": "mlx", None: "mlx"}[self.adapters]
        return [
            "---",
            *([f"base_model: {json.dumps(base)}"] if on_hub else []),
            f"library_name: {library}",
            "pipeline_tag: text-generation",
            "tags:",
            *(f"- {tag}" for tag in tags),
            "---",
        ]


def changed_settings(config: Any) -> dict[str, Any]:
    """The settings of a dataclass that differ from its defaults."""
    default = type(config)()
    return {
        f.name: getattr(config, f.name)
        for f in dataclasses.fields(config)
        if getattr(config, f.name) != getattr(default, f.name)
    }


def card_patterns(folder: str | Path) -> tuple[str, ...]:
    """The names of cards that saving to a folder may replace: none if the card is a user's own."""
    return () if _is_anothers(Path(folder) / CARD) else (CARD,)


def write_card(target: Path, folder: str | Path, text: str | None) -> None:
    """Write a card, unless the text is None or the folder has a README.md that we did not write.

    Args:
        target: where to write it.
        folder: where it will be.
        text: from `ModelCard.text`.
    """
    if text is not None and not _is_anothers(Path(folder) / CARD):
        (target / CARD).write_text(text, encoding="utf-8")


def add_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write a table of evaluations into the card of a folder, if it is one that we wrote.

    Args:
        folder: the folder that a model was saved to.
        results: evaluations by their names, such as ``"before"`` and ``"after"``; each has figures
            under ``"greedy"`` and ``"sampled"``, or is None.
    """
    path = folder / CARD
    if not path.is_file() or _is_anothers(path):
        return
    before, mark, after = path.read_text(encoding="utf-8").partition(_RESULTS)
    if mark:
        page = "\n".join([before.rstrip("\n"), "", *_table(results), _RESULTS]) + after
        write_whole(path, page)


def _table(results: Mapping[str, Any]) -> list[str]:
    """A table of evaluations; empty if there was none."""
    found = {when: figures for when, figures in results.items() if figures}
    if not found:
        return []
    kinds = list(dict.fromkeys(kind for figures in found.values() for kind in figures))
    rows, examples = [], 0
    for kind in kinds:
        known = [figures[kind] for figures in found.values() if kind in figures]
        names = [n for n in _FIGURES if any(each.get(n) is not None for each in known)]
        if names:
            cells = (_figure(figures.get(kind, {}).get(names[0])) for figures in found.values())
            rows.append(f"| {names[0]}, {kind.replace('_', ' ')} | {' | '.join(cells)} |")
            examples = max(examples, *(each.get("examples") or 0 for each in known))
    return [
        f"| | {' | '.join(found)} |",
        f"|---|{'---|' * len(found)}",
        *rows,
        "",
        *([f"Measured on {examples} held-out examples.", ""] if examples else []),
    ]


def code(text: object) -> str:
    """A text as inline code, in which nothing is markup, on one line."""
    line = " ".join(_plain(text).split()) or " "
    longest = max(map(len, re.findall("`+", line)), default=0)
    mark = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{mark}{space}{line}{space}{mark}"


def fenced(lines: list[str]) -> list[str]:
    """Lines as a block of code, whose fence is longer than any in them."""
    text = "\n".join(lines)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [f"{fence}text", text, fence]


def _is_anothers(path: Path) -> bool:
    """Whether a page is there that this program did not write."""
    if path.is_symlink() or not path.is_file():
        return path.is_symlink() or path.exists()
    with path.open(encoding="utf-8", errors="replace") as file:
        return _MARK not in file.read(_LARGEST).splitlines()


def _plain(value: Any) -> str:
    """A setting as text without control characters."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _figure(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, (int, float)) else "-"
