"""What games of text and of control have in common: episodes, scores and their end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym

from textenv.algos.cli.playing.partner import Partner
from textenv.algos.cli.shared.escape import count, say
from textenv.wrappers import RecordTranscript


class Score(NamedTuple):
    """The total rewards of an episode."""

    own: float
    """That of the person."""
    rival: float | None
    """That of the policy in the same episode; None if it did not play."""


class Game(ABC):
    """A person plays episodes of an environment.

    Args:
        env: the environment.
        name: what it is called, if its episodes do not say.
        partner: the policy that may be asked; None if there is none.
        rival_env: another one like ``env``, in which the policy plays each episode too; None if it
            does not play.
    """

    def __init__(
        self,
        env: gym.Env,
        name: str,
        partner: Partner | None = None,
        rival_env: gym.Env | None = None,
    ):
        self.env, self.name = env, name
        self.partner, self.rival_env = partner, rival_env

    @abstractmethod
    def episode(self, title: str, seed: int | None) -> Score:
        """Play an episode.

        Args:
            title: what is printed above it.
            seed: seed of its reset; None goes on from the episode before.

        Raises:
            EOFError: if the player ends the game; Ctrl-C is a KeyboardInterrupt.
        """

    def play(self, episodes: int, seed: int, record: Path | None) -> int:
        """Play episodes until the player has enough; the end of the input and Ctrl-C end them.

        Args:
            episodes: how many at most.
            seed: seed of the first one.
            record: a folder for a transcript; None keeps none.

        Returns:
            The exit code, 0.
        """
        recorder = RecordTranscript(self.env, record) if record is not None else None
        self.env = recorder or self.env
        scores: list[Score] = []
        try:
            for number in range(episodes):
                title = f"episode {number + 1} of {episodes}"
                scores.append(self.episode(title, seed if number == 0 else None))
        except (EOFError, KeyboardInterrupt):
            say()  # ends the line that asks
        finally:
            self.env.close()
            if self.rival_env is not None:
                self.rival_env.close()
        total = sum(score.own for score in scores)
        played = f"{len(scores)} of {count(episodes, 'episode')} played, total reward {total:g}"
        if self.rival_env is not None:
            played += f", that of the policy {sum(score.rival or 0.0 for score in scores):g}"
        say(f"\n{played}")
        if recorder is not None and recorder.path is not None:
            say(f"recorded in {recorder.path}")
        return 0
