"""textenv play: a person answers a task's prompts, or watches recorded episodes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import gymnasium as gym
import tyro
from gymnasium.error import InvalidAction

from textenv.algos.cli.shared.escape import count, say, shown
from textenv.algos.cli.shared.text_envs import TextTask, make_split
from textenv.algos.config import check_integer
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.storage.files import load_rollout
from textenv.env import TextGenerationEnv
from textenv.errors import ConfigError
from textenv.wrappers import RecordTranscript

_EPISODES = 5


@dataclass
class Args:
    """Answer a task yourself, or watch recorded episodes.

    An answer continues in the next line if its line ends with a backslash.
    """

    text: Annotated[TextTask, tyro.conf.arg(name="")] = field(default_factory=TextTask)
    split: str = "train"
    """Split of the task or dataset, train or test; all: every row of a dataset."""
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
    if args.episodes is not None:
        check_integer("episodes", args.episodes, 1)
    if args.replay is None:
        return _play(args)
    if args.record is not None:
        raise ConfigError("give --record or --replay, not both")
    return _replay(args.replay, args.episodes)


def _play(args: Args) -> int:
    args.text.refuse_eval_dataset("play")
    env: gym.Env[str, str] = make_split("TextGen-v0", args.text, args.split)
    game: TextGenerationEnv = env.unwrapped  # type: ignore[assignment]
    recorder = RecordTranscript(env, args.record) if args.record is not None else None
    episodes = args.episodes or _EPISODES
    rewards: list[float] = []
    try:
        for number in range(episodes):
            seed = args.seed if number == 0 else None
            title = f"episode {number + 1} of {episodes}"
            rewards.append(_episode(recorder or env, game, title, seed))
    except (EOFError, KeyboardInterrupt):
        say()  # ends the line that asks for an answer
    finally:
        (recorder or env).close()
    played = f"{len(rewards)} of {count(episodes, 'episode')} played"
    say(f"\n{played}, total reward {sum(rewards):g}")
    if recorder is not None and recorder.path is not None:
        say(f"recorded in {recorder.path}")
    return 0


def _episode(env: gym.Env, game: TextGenerationEnv, title: str, seed: int | None) -> float:
    """Play an episode; returns its total reward."""
    prompt, info = env.reset(seed=seed)
    say(f"\n== {title}: {info['task']}, example {info['example_id']}\n{_tidy(prompt)}")
    total, over = 0.0, False
    while not over:
        try:
            _, reward, terminated, truncated, info = env.step(_typed())
        except InvalidAction as error:
            say(error)
            continue
        total += float(reward)
        over = terminated or truncated
        if said := _tidy(info.get("turn", "")):
            say(said)
        if reward and not over:
            say(f"reward {reward:g}")
    say(f"{_verdict(info, truncated)}reward {total:g}{_solution(game, info)}")
    return total


def _typed() -> str:
    """Read an answer: one line, or several of which all but the last end with a backslash."""
    lines = [input("> ")]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input(". "))
    return "\n".join(lines)


def _tidy(value: object) -> str:
    """An observation as it is shown, without line breaks at its ends."""
    return shown(value).strip("\n")


def _verdict(info: dict, truncated: bool) -> str:
    if info.get("is_correct"):
        return "right, "
    if truncated:
        return "no turns left, "
    return "wrong, " if info.get("is_correct") is False else ""


def _solution(game: TextGenerationEnv, info: dict) -> str:
    """The oracle's answer to an example that was not answered right; empty if there is none."""
    if info.get("is_correct") or game.example is None:
        return ""
    try:
        return f"; an answer with full marks: {shown(game.task.oracle(game.example))}"
    except NotImplementedError:
        return ""


def _replay(path: Path, episodes: int | None) -> int:
    trajectories = load_rollout(path).trajectories
    some = trajectories[:episodes]
    waits = sys.stdin.isatty() and sys.stdout.isatty()
    try:
        for number, trajectory in enumerate(some):
            _show(trajectory, f"episode {number + 1} of {len(trajectories)}", waits)
    except (EOFError, KeyboardInterrupt):
        say()
    return 0


def _show(trajectory: Trajectory, title: str, waits: bool) -> None:
    """Print a recorded episode, one turn after another."""
    start = trajectory.reset_info
    about = [str(start["task"])] if "task" in start else []
    about += [f"example {start['example_id']}"] if "example_id" in start else []
    about += [f"seed {trajectory.seed}"] if trajectory.seed is not None else []
    say(f"\n== {title}{': ' if about else ''}{', '.join(about)}")
    first = [*trajectory.observations, trajectory.final_observation][0]
    say(_tidy(first))
    for step in trajectory.transitions:
        if waits:
            input("-- Enter shows the next turn ")
        say(f"> {shown(step.action)}")
        said = step.next_observation
        before = f"{step.observation}{step.action}"
        if isinstance(said, str) and said.startswith(before):  # a transcript: only the new text
            said = said[len(before) :]
        if said := _tidy(said):
            say(said)
        say(f"reward {step.reward:g}")
    ending = "terminated" if trajectory.terminated else "truncated"
    if not (trajectory.terminated or trajectory.truncated):
        ending = "left in the middle"
    say(
        f"{ending} after {count(len(trajectory), 'turn')}, total reward {trajectory.total_reward:g}"
    )
