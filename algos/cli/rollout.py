"""textenv rollout: collects rollouts and saves them as files, without training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from textenv.algos.cli.shared.display import Terminal, progress_bar
from textenv.algos.cli.shared.stopping import StopSignals
from textenv.algos.cli.shared.text_envs import TextTask
from textenv.algos.config import LARGEST_WIDTH, check_bounds, check_counts, check_integer
from textenv.algos.control.random_policy import RandomPolicy
from textenv.algos.episodes.environments import is_text, make_training_env
from textenv.algos.episodes.style import style_for
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.algos.storage.files import check_folder, save_rollout
from textenv.algos.storage.source import describe_source, single_spaces
from textenv.algos.storage.space_json import describe_space
from textenv.algos.strategies.strategy import create_strategy
from textenv.errors import ConfigError


@dataclass
class Args:
    """Collect rollouts and save them as files. Without options: CartPole, played at random."""

    env: str | None = None
    """Id of an environment, of control or of text; unset: CartPole-v1; with --task, --dataset and
    other options of text: TextGen-v0."""
    text: Annotated[TextTask, tyro.conf.arg(name="")] = field(default_factory=TextTask)
    policy: str | None = None
    """random; for control the folder of a trained policy, for text a model (tiny-lm, a folder,
    or a name on the Hugging Face hub); unset: random for control, tiny-lm for text."""
    adapters: Path | None = None
    """Text: a folder of adapters that were trained on the policy's model."""
    n_steps: int | None = None
    """Transitions of all environments in a rollout; for text at most so many, in whole groups;
    unset: 2048 of control, 32 of text."""
    num_envs: int = 8
    """Parallel environments of control; for text copies are made as they are needed."""
    num_generations: int = 8
    """Text: completions of each prompt (a group)."""
    max_completion_length: int = 64
    """Text: longest completion, in tokens."""
    temperature: float = 1.0
    """Text: divides the logits before sampling."""
    top_p: float = 1.0
    """Text: sample from the most probable tokens of this total probability only."""
    chat_template: bool | None = None
    """Text: whether prompts go through the chat template; unset: if the tokenizer has one."""
    chat_template_kwargs: dict[str, bool | int | str] = field(default_factory=dict)
    """Text: what the chat template is given beside the messages, as enable_thinking False."""
    stop: tuple[str, ...] = ()
    """Text: strings that end a completion, and are no part of the answer."""
    strategy: tuple[str, ...] = ()
    """Text: parts of the rollout strategy, such as dapo pods:keep=8, or FILE.py:NAME."""
    rollouts: int = 1
    """How many rollouts, each a file."""
    out: Path = Path("rollouts")
    """The folder; the index in the file names follows the highest one there."""
    format: Literal["json", "jsonl.gz", "parquet", "minari"] = "json"
    """Format of the files."""
    seed: int = 0
    """Seed of the environments and of the policy."""


def run(args: Args) -> int:
    """Collect, and print a line for each file."""
    if args.n_steps is not None:
        check_integer("n_steps", args.n_steps, 1)
    check_counts(args, ("num_envs", "rollouts"), 1)
    check_bounds(args, num_envs=(1, LARGEST_WIDTH))
    check_folder(args.out)
    env = _make_env(args)
    text = is_text(env)
    if not text and args.n_steps is not None and args.n_steps % args.num_envs:
        raise ConfigError(
            f"n_steps={args.n_steps} must be divisible by num_envs={args.num_envs}: a rollout is "
            "shared evenly by all environments"
        )
    strategy = None
    if text:
        strategy = create_strategy(
            "grpo", num_generations=args.num_generations, parts=args.strategy
        )
    policy = (_text_policy if text else _control_policy)(args, env)
    runner = RolloutRunner(env, policy, strategy, args.n_steps, args.seed)
    try:
        _collect(args, runner)
    finally:
        runner.close()
    return 0


def _collect(args: Args, runner: RolloutRunner) -> None:
    """Write one file for each rollout; a line is printed once its file exists."""
    console = Terminal()
    total = 0
    bars = progress_bar("rollout", console, disable=not console.is_terminal)
    with StopSignals() as signals, bars as progress:
        bar = progress.add_task("collect", total=args.rollouts)
        for _ in range(args.rollouts):
            rollout = runner.collect()
            rollout.source = describe_source(runner)
            with signals.deferring(lambda: None, "the rollout is written first"):
                path = save_rollout(rollout, args.out, args.format)
            count = rollout.num_transitions
            total += count
            progress.advance(bar)
            console.print(f"exported {count} transitions to {path.name} ({total} in all)")
            if signals.requested is not None:
                raise signals.requested


def _make_env(args: Args) -> Any:
    args.text.refuse_eval_dataset("rollout")
    unset = "TextGen-v0" if args.text.given else "CartPole-v1"
    name = unset if args.env is None else args.env
    kwargs = args.text.env_kwargs()
    if args.policy not in (None, "random"):
        kwargs = style_for(name, kwargs, args.policy, args.chat_template)
    try:
        return make_training_env(name, kwargs, args.num_envs)
    except TypeError as error:
        raise ConfigError(f"environment {name!r} cannot be made of {kwargs}: {error}") from error


def _control_policy(args: Args, env: Any) -> Any:
    if args.policy in (None, "random"):
        return RandomPolicy(single_spaces(env)[1], args.seed, getattr(env, "num_envs", None))
    return load_control_policy(str(args.policy), env, args.seed)


def load_control_policy(folder: str, env: Any, seed: int) -> Any:
    """Read a policy of control for an environment.

    Args:
        folder: the folder that it was saved to.
        env: the environment, single or vector.
        seed: seed of the policy's noise.

    Raises:
        ConfigError: if the policy's spaces are not those of the environment.
        MissingFileError: if the folder, or a file in it, does not exist.
        DataError: if the folder holds no control policy.
    """
    from textenv.algos.control.mlp_policy import load_policy

    observation_space, action_space = single_spaces(env)
    policy = load_policy(folder, seed)
    for what, has, needs in (
        ("observations", policy.encoder.space, observation_space),
        ("actions", policy.distribution.space, action_space),
    ):
        if describe_space(has) != describe_space(needs):
            raise ConfigError(f"{folder} is of {what} {has}, and the environment has {needs}")
    return policy


def _text_policy(args: Args, env: Any) -> Any:
    if args.policy == "random":
        return RandomPolicy(single_spaces(env)[1], args.seed)
    from textenv.algos.lm.generation.policy import create_policy
    from textenv.algos.lm.models.loading import load_model

    params = {
        "max_tokens": args.max_completion_length,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "chat_template": args.chat_template,
        "chat_template_kwargs": args.chat_template_kwargs,
        "stop": args.stop,
        "seed": args.seed,
    }
    return create_policy(*load_model(args.policy or "tiny-lm", args.adapters), params)
