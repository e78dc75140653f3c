"""What has happened to an item of work: which workers ended with it, and what they were scoring."""

from __future__ import annotations

from dataclasses import dataclass, field

from textenv.algos.episodes.scoring import Scored
from textenv.algos.rollouts.workers.worker import GradientItem, RolloutItem, WorkerError
from textenv.rewards.outcomes import shorten

TRIES = 3
"""So many workers may end with one item, or one after another as they start."""


@dataclass
class Job:
    """An item, and what has happened to it so far.

    Attributes:
        item: what a worker is to do.
        ends: how the workers ended that were to do it, since a completion was refused.
        scored: what the last of them was scoring when it ended.
    """

    item: RolloutItem | GradientItem
    ends: list[str] = field(default_factory=list)
    scored: Scored | None = None

    def failed(self, worker: str, how: str, scored: Scored | None) -> None:
        """Note that a worker ended while it did this.

        Args:
            worker: its name.
            how: how it ended.
            scored: what it was scoring then, if anything.

        Raises:
            WorkerError: if the item must not be tried again.
        """
        self.ends.append(f"{worker} {how}")
        again = scored is not None and scored == self.scored
        self.scored = scored
        refused = self.item.refused if isinstance(self.item, RolloutItem) else {}
        if again and scored is not None and len(refused) < TRIES:
            assert isinstance(self.item, RolloutItem)
            reason = f"a reward function is taken to have ended two workers: each {how} "
            self.item = self.item._replace(refused={**refused, scored: reason + _where(scored)})
            self.ends, self.scored = [], None
        elif again or len(self.ends) >= TRIES:
            more = f", after {len(refused)} completions that ended two each" if refused else ""
            last = "" if scored is None else f" {_where(scored)}"
            raise WorkerError(
                f"one part of the {self.item.what} ended {len(self.ends)} workers{more}: "
                f"{'; '.join(self.ends)}{last}. A reward function that may hang or end its process "
                "needs reward_process=True and reward_timeout"
            )


def _where(scored: Scored) -> str:
    """What was being scored, in words."""
    prompt = "" if scored.prompt is None else f" to the prompt {shorten(scored.prompt)}"
    return f"while it scored the completion {shorten(scored.completion)}{prompt}"
