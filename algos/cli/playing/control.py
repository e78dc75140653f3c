"""A person plays an environment of control whose actions are Discrete, by keys."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from textenv.algos.cli.playing.game import Game, Score
from textenv.algos.cli.playing.keys import key_by_key, read_key
from textenv.algos.cli.playing.replay import tidy
from textenv.algos.cli.playing.text import ASK, LET
from textenv.algos.cli.shared.escape import count, printable, say, shown
from textenv.errors import ConfigError

_DIGITS = 10  # with no more actions than digits, a digit is an action, without Enter
_LISTED = 40
_NUMBER = re.compile(r"-?[0-9]{1,18}")  # a longer one is no action, and may be too long for int
_COLOUR = re.compile(r"(\x1b\[[\d;]*m)")
_RESETS = ("\x1b[0m", "\x1b[m")


class ControlGame(Game):
    """Episodes of control: a key is an action.

    Args:
        *args: those of `Game`.
        **kwargs: those of `Game`.

    Raises:
        ConfigError: for actions that are not Discrete.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        space = self.env.action_space
        if not isinstance(space, gym.spaces.Discrete):
            raise ConfigError(
                "play takes environments of text, and of control with Discrete actions; "
                f"{self.name} has {space}"
            )
        self._first, self._last = int(space.start), int(space.start + space.n - 1)
        self._type = space.dtype.type
        self._by_key = self._first >= 0 and self._last < _DIGITS

    def play(self, episodes: int, seed: int, record: Path | None) -> int:
        """Play episodes, key by key if there are no more actions than digits."""
        with key_by_key() if self._by_key else nullcontext():
            return super().play(episodes, seed, record)

    def episode(self, title: str, seed: int | None) -> Score:
        """Play an episode, and let the policy play it from the same seed if it is an opponent."""
        if seed is None:  # both need the same one
            seed = int(self.env.np_random.integers(2**31))
        observation, info = self.env.reset(seed=seed)
        keys = f"{self._first} to {self._last}{'' if self._by_key else ', then Enter'}"
        more = "" if self.partner is None else f"; {ASK} asks the policy, {LET} lets it act"
        say(f"\n== {title}: {self.name}, seed {seed}\nactions: {keys}{more}{self._meanings()}")
        total, steps, over, truncated = 0.0, 0, False, False
        while not over:
            self._show(observation)
            action = self._action(observation, info, steps == 0)
            observation, reward, terminated, truncated, info = self.env.step(action)
            total, steps, over = total + float(reward), steps + 1, terminated or truncated
            if reward:
                say(f"reward {reward:g}, {total:g} so far")
        self._show(observation)
        ending = "truncated" if truncated else "terminated"
        say(f"{ending} after {count(steps, 'step')}, total reward {total:g}")
        return Score(total, self._rival(seed))

    def _rival(self, seed: int) -> float | None:
        if self.rival_env is None or self.partner is None:
            return None
        total, steps = self.partner.play(self.rival_env, seed=seed)
        say(f"policy: total reward {total:g} after {count(steps, 'step')}")
        return total

    def _action(self, observation: Any, info: dict[str, Any], starts: bool) -> Any:
        allowed = info.get("action_mask")
        while True:
            key = read_key("> ") if self._by_key else input("> ").strip()
            if self.partner is not None and key in (ASK, LET):
                action = self.partner.action(observation, info, starts)
                say(f"policy> {shown(action)}")
                if key == LET:
                    return action
            elif not _NUMBER.fullmatch(key):
                say(f"expected an action from {self._first} to {self._last}, got {key!r:.80}")
            elif not self._first <= int(key) <= self._last:
                say(f"expected an action from {self._first} to {self._last}, got {key}")
            elif allowed is not None and not allowed[int(key) - self._first]:
                say(f"action {key} is not allowed here; allowed: {self._listed(allowed)}")
            else:
                return self._type(int(key))

    def _listed(self, allowed: Any) -> str:
        numbers = [int(i) + self._first for i in np.flatnonzero(allowed)]
        rest = f" and {len(numbers) - _LISTED} more" if len(numbers) > _LISTED else ""
        return f"{', '.join(map(str, numbers[:_LISTED]))}{rest}"

    def _meanings(self) -> str:
        """What the actions do, if the environment says so, as those of the ALE do."""
        tell = getattr(self.env.unwrapped, "get_action_meanings", None)
        if not callable(tell):
            return ""
        return "".join(f"\n{self._first + i}: {shown(name)}" for i, name in enumerate(tell()))

    def _show(self, observation: Any) -> None:
        """Print the environment's drawing in characters if it makes one, else the observation."""
        drawn = self.env.render() if self.env.render_mode == "ansi" else None
        if isinstance(drawn, str):
            print(drawing(drawn, colours=sys.stdout.isatty()))
        else:
            say(tidy(observation))


def drawing(text: str, colours: bool) -> str:
    r"""A drawing in characters, of whose codes no other than those of colours may stay.

    Gymnasium's toys mark the player by a colour alone.

    Args:
        text: the drawing.
        colours: whether colours stay; else what is coloured stands in brackets.

    Example:
        >>> drawing("S\x1b[41mF\x1b[0mH", colours=False)
        'S[F]H'
    """
    said, inside = "", False
    for number, piece in enumerate(_COLOUR.split(text)):  # every other one is a colour
        if number % 2 == 0:
            said += printable(piece)
        elif colours:
            said += piece
        elif inside == (piece in _RESETS):  # colours may be nested, and then reset twice
            said, inside = said + ("]" if inside else "["), not inside
    return f"{said}{']' if inside else ''}".strip("\n")
