"""A person plays an environment of control: an action is a key, or a line of numbers."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from textenv.algos.cli.playing.game import Game, Score
from textenv.algos.cli.playing.keys import key_by_key, read_key
from textenv.algos.cli.playing.replay import tidy
from textenv.algos.cli.playing.text import ASK, LET
from textenv.algos.cli.playing.typed import Refused, TypedActions
from textenv.algos.cli.shared.escape import count, printable, say, shown

_COLOUR = re.compile(r"(\x1b\[[\d;]*m)")
_RESETS = ("\x1b[0m", "\x1b[m")


class ControlGame(Game):
    """Episodes of control: a key is an action, or a line if an action is more than a digit.

    Args:
        *args: those of `Game`.
        **kwargs: those of `Game`.

    Raises:
        ConfigError: for actions that cannot be typed as numbers, see `TypedActions`.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._actions = TypedActions(self.env.action_space, self.name)

    def play(self, episodes: int, seed: int, record: Path | None) -> int:
        """Play episodes, key by key if there are no more actions than digits."""
        with key_by_key() if self._actions.by_key else nullcontext():
            return super().play(episodes, seed, record)

    def episode(self, title: str, seed: int | None) -> Score:
        """Play an episode, and let the policy play it from the same seed if it is an opponent."""
        if seed is None:  # both need the same one
            seed = int(self.env.np_random.integers(2**31))
        observation, info = self.env.reset(seed=seed)
        more = "" if self.partner is None else f"; {ASK} asks the policy, {LET} lets it act"
        say(f"\n== {title}: {self.name}, seed {seed}")
        say(f"actions: {self._actions.explained}{more}{self._meanings()}")
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
        while True:
            typed = read_key("> ") if self._actions.by_key else input("> ").strip()
            if self.partner is not None and typed in (ASK, LET):
                action = self.partner.action(observation, info, starts)
                say(f"policy> {shown(action)}")
                if typed == LET:
                    return action
                continue
            try:
                return self._actions.read(typed, info.get("action_mask"))
            except Refused as refused:
                say(refused)

    def _meanings(self) -> str:
        """What the actions do, if the environment says so, as those of the ALE do."""
        tell = getattr(self.env.unwrapped, "get_action_meanings", None)
        first = self._actions.first
        if first is None or not callable(tell):
            return ""
        return "".join(f"\n{first + i}: {shown(name)}" for i, name in enumerate(tell()))

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
