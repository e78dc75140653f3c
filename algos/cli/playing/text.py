"""A person answers the prompts of an environment of text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.error import InvalidAction

from textenv.algos.cli.playing.game import Game, Score
from textenv.algos.cli.playing.replay import tidy
from textenv.algos.cli.shared.escape import say, shown
from textenv.envs.env import TextGenerationEnv

ASK, LET = "?", "!"
"""What asks the policy for its answer, and what lets it answer."""


class TextGame(Game):
    """Episodes of text, answered line by line."""

    def play(self, episodes: int, seed: int, record: Path | None) -> int:
        """Say once how to answer, to ask and to leave, and play episodes."""
        more = "" if self.partner is None else f", {ASK} asks the policy, {LET} lets it answer"
        say(f"Enter ends an answer{more}, Ctrl-C ends the game")
        return super().play(episodes, seed, record)

    def episode(self, title: str, seed: int | None) -> Score:
        """Play an episode, and let the policy play the same example if it is an opponent."""
        env = self.env
        prompt, start = observation, info = env.reset(seed=seed)
        known = [str(start.get("task", self.name))]
        known += [f"example {start['example_id']}"] if "example_id" in start else []
        say(f"\n== {title}: {', '.join(known)}\n{tidy(prompt)}")
        total, over, starts = 0.0, False, True
        while not over:
            try:
                action = self._action(observation, info, starts)
                observation, reward, terminated, truncated, info = env.step(action)
            except InvalidAction as error:
                say(error)
                continue
            total, over, starts = total + float(reward), terminated or truncated, False
            if said := tidy(info.get("turn", "")):
                say(said)
            if reward and not over:
                say(f"reward {reward:g}")
        say(f"{_verdict(info, truncated)}reward {total:g}{_solution(env, info)}")
        return Score(total, self._rival(start))

    def _rival(self, start: dict[str, Any]) -> float | None:
        if self.rival_env is None or self.partner is None:
            return None

        def told(action: Any) -> None:
            say(f"policy> {shown(action)}")

        options = {key: start[key] for key in ("example_id", "level") if key in start}
        total, _ = self.partner.play(self.rival_env, told, options=options)
        say(f"policy: reward {total:g}")
        return total

    def _action(self, observation: Any, info: dict[str, Any], starts: bool) -> str:
        while True:
            typed = _typed()
            if self.partner is None or typed not in (ASK, LET):
                return typed
            answer: str = self.partner.action(observation, info, starts)
            say(f"policy> {shown(answer)}")
            if typed == LET:
                return answer


def _typed() -> str:
    """Read an answer: one line, or several of which all but the last end with a backslash."""
    lines = [input("> ")]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input(". "))
    return "\n".join(lines)


def _verdict(info: dict[str, Any], truncated: bool) -> str:
    if info.get("is_correct"):
        return "right, "
    if truncated:
        return "no turns left, "
    return "wrong, " if info.get("is_correct") is False else ""


def _solution(env: gym.Env, info: dict[str, Any]) -> str:
    """The oracle's answer to an example that was not answered right; empty if there is none."""
    game = env.unwrapped
    if info.get("is_correct") or not isinstance(game, TextGenerationEnv) or game.example is None:
        return ""
    try:
        return f"; an answer with full marks: {shown(game.task.oracle(game.example))}"
    except NotImplementedError:
        return ""
