"""textenv play: a person plays an environment, with or against a policy, or watches a recording."""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import tyro

from textenv.algos.cli.playing.control import ControlGame
from textenv.algos.cli.playing.partner import make_partner
from textenv.algos.cli.playing.replay import replay
from textenv.algos.cli.playing.text import TextGame
from textenv.algos.cli.shared.text_envs import TextTask, make_split
from textenv.algos.config import check_integer
from textenv.algos.episodes.environments import is_text, make_env
from textenv.errors import ConfigError

_EPISODES = 5
_TEXT = "TextGen-v0"


@dataclass
class Args:
    """Play an environment yourself, alone or against a policy, or watch recorded episodes.

    On text you type answers; an answer continues in the next line if its line ends with a
    backslash. On control a key is an action; an action of several numbers (MultiDiscrete,
    MultiBinary, Box) is a line of them, such as 0.5 -1. With a policy, ? shows what it would do,
    and ! lets it do so.
    """

    env: str | None = None
    """Id of an environment of text, or of control whose actions are Discrete, MultiDiscrete,
    MultiBinary or Box; unset: TextGen-v0."""
    text: Annotated[TextTask, tyro.conf.arg(name="")] = field(default_factory=TextTask)
    split: str = "train"
    """Split of the task or dataset, train or test; all: every row of a dataset."""
    policy: str | None = None
    """Whom ? and ! ask: random, a model for text, or the folder of a policy for control; unset:
    nobody. It takes its most probable action."""
    against: bool = False
    """Let the policy play each episode after you, from the same start, and keep both scores."""
    max_completion_length: int = 64
    """Text: longest answer of the policy, in tokens."""
    episodes: int | None = None
    """How many episodes; None plays five, or shows all that a file holds."""
    seed: int = 0
    """Seed that decides which examples are played."""
    record: Path | None = None
    """A folder for a transcript of what is played."""
    replay: Path | None = None
    """A transcript or a rollout to show turn by turn, instead of playing."""


def run(args: Args) -> int:
    """Play, or show recorded episodes; the end of the input and Ctrl-C end both."""
    if isinstance(sys.stdin, io.TextIOWrapper) and sys.stdin.errors == "strict":
        with suppress(io.UnsupportedOperation):  # it was read from before, and stays as it is
            sys.stdin.reconfigure(errors="surrogateescape")  # bytes that are no text: asked again
    if args.episodes is not None:
        check_integer("episodes", args.episodes, 1)
    if args.replay is None:
        return _play(args)
    if args.record is not None:
        raise ConfigError("give --record or --replay, not both")
    if args.policy is not None or args.against:
        raise ConfigError("give --policy or --replay, not both: a recording asks nobody")
    return replay(args.replay, args.episodes)


def _play(args: Args) -> int:
    args.text.refuse_eval_dataset("play")
    check_integer("max_completion_length", args.max_completion_length, 1)
    if args.against and args.policy is None:
        raise ConfigError("--against needs --policy, which names whom you play against")
    env = _make_env(args)
    rival_env = _make_env(args) if args.against else None
    partner = None
    if args.policy is not None:
        partner = make_partner(args.policy, env, args.max_completion_length, args.seed)
    game = (TextGame if is_text(env) else ControlGame)(env, args.env or _TEXT, partner, rival_env)
    return game.play(args.episodes or _EPISODES, args.seed, args.record)


def _make_env(args: Args) -> gym.Env:
    """The environment; its task asks in the style that fits the policy, if there is one."""
    name, text = args.env or _TEXT, args.text
    if args.policy not in (None, "random"):
        text = text.for_model(name, str(args.policy))
    if args.env is None:
        return make_split(name, text, args.split)
    kwargs: dict[str, Any] = text.env_kwargs()
    kwargs |= {"split": args.split} if args.split != "train" else {}
    try:
        env: gym.Env = make_env(name, kwargs)
        if not is_text(env) and "ansi" in env.metadata.get("render_modes", ()):
            env.close()
            env = make_env(name, kwargs | {"render_mode": "ansi"})
    except TypeError as error:
        raise ConfigError(f"environment {name!r} cannot be made of {kwargs}: {error}") from error
    return env
