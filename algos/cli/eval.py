"""textenv eval: evaluates a model on a task's test examples, or a control policy in episodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import gymnasium as gym
import tyro

from textenv.algos.cli.shared.escape import say
from textenv.algos.cli.shared.text_envs import TextTask, make_split
from textenv.algos.config import check_counts
from textenv.algos.control.mlp_policy import load_policy
from textenv.algos.episodes.environments import is_text, make_env
from textenv.algos.evaluation.measure import episode_returns, evaluate
from textenv.algos.lm.generation.policy import create_policy
from textenv.algos.lm.models.loading import load_model
from textenv.errors import ConfigError


@dataclass
class Args:
    """Evaluate a model on a task's test examples, or a control policy in episodes."""

    model: str = "tiny-lm"
    """Text: tiny-lm, a folder, or a name on the Hugging Face hub; control: a policy's folder."""
    adapters: Path | None = None
    """Text: a folder of adapters that were trained on the model."""
    env: str = "TextGen-v0"
    """Id of an environment, of text or of control."""
    text: Annotated[TextTask, tyro.conf.arg(name="")] = field(default_factory=TextTask)
    split: Literal["test", "train", "all"] = "test"
    """Text: split of the task or dataset; all: every row of a dataset."""
    examples: int = 500
    """Text: how many examples; fewer if the task has fewer."""
    max_completion_length: int = 64
    """Text: longest completion, in tokens."""
    temperature: float = 1.0
    """Text: temperature of the sampled answers."""
    chat_template: bool | None = None
    """Text: whether prompts go through the chat template; unset: if the tokenizer has one."""
    chat_template_kwargs: dict[str, bool | int | str] = field(default_factory=dict)
    """Text: what the chat template is given beside the messages, as enable_thinking False."""
    stop: tuple[str, ...] = ()
    """Text: strings that end a completion, and are no part of the answer."""
    episodes: int = 20
    """Control: how many episodes."""
    seed: int = 0
    """Seed of the sampled answers; for control, of the sampled actions and the first episode."""


def run(args: Args) -> int:
    """Print accuracy, reward and length, or the return, greedy and sampled."""
    check_counts(args, ("examples", "episodes"), 1)
    if args.env != "TextGen-v0":
        env = make_env(args.env)
        if not is_text(env):
            return _play_control(args, env)
        raise ConfigError(f"--env {args.env}: tasks of text are named by --task, in TextGen-v0")
    text = args.text.for_model(args.env, args.model, args.chat_template)
    env = make_split(args.env, text, args.split)
    params = {
        "max_tokens": args.max_completion_length,
        "temperature": args.temperature,
        "chat_template": args.chat_template,
        "chat_template_kwargs": args.chat_template_kwargs,
        "stop": args.stop,
        "seed": args.seed,
    }
    policy = create_policy(*load_model(args.model, args.adapters), params)
    for name, deterministic in (("greedy", True), ("sampled", False)):
        result = evaluate(policy, env, args.examples, deterministic)
        accuracy = "-" if result.accuracy is None else f"{result.accuracy:.3f}"
        say(
            f"{name:<8} accuracy {accuracy}  reward {result.reward:.3f}  "
            f"length {result.length:.1f} tokens  ({result.examples} {args.split} examples)"
        )
    return 0


def _play_control(args: Args, env: gym.Env) -> int:
    policy = load_policy(args.model, args.seed)
    for name, deterministic in (("greedy", True), ("sampled", False)):
        returns = episode_returns(policy, env, args.episodes, args.seed, deterministic)
        say(
            f"{name:<8} return {returns.mean():.1f} +- {returns.std():.1f}  "
            f"lowest {returns.min():.1f}  highest {returns.max():.1f}  ({args.episodes} episodes)"
        )
    return 0
