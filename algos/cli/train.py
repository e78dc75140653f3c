"""textenv train: a language model learns a task."""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import tyro

from textenv.algos import blas
from textenv.algos.cli.display import TrainingDisplay
from textenv.algos.cli.run_folder import RunFolder
from textenv.algos.config import from_table, read_toml, to_table
from textenv.algos.evaluation import evaluate
from textenv.algos.grpo import GRPOConfig, GRPOTrainer
from textenv.algos.trajectory import Buffer
from textenv.algos.versions import versions
from textenv.env import TextGenerationEnv
from textenv.errors import ConfigError, DataError, MissingFileError


@dataclass
class Args:
    """Train a language model on a text task. With no argument: GRPO on sums, with tiny-lm."""

    config: Path | None = None
    """A TOML file of these settings (a run's config.toml, say); options given beside it win."""
    algo: Literal["grpo"] = "grpo"
    """The algorithm."""
    model: str = "tiny-lm"
    """tiny-lm (ships with the package), a folder, or a name on the Hugging Face hub."""
    env: str = "TextGen-v0"
    """Id of a text environment."""
    task: str | None = None
    """Name of a task, see textenv envs; unset: arithmetic."""
    task_kwargs: dict[str, int | str] = field(default_factory=dict)
    """Difficulty parameters of the task, as --task-kwargs digits 3."""
    dataset: Path | None = None
    """JSON Lines file of own examples, rows {"prompt", "answer", ...}, in place of a task."""
    reward: tuple[str, ...] = ()
    """Reward functions: names, or FILE.py:FUNCTION; unset: the task's own verifier."""
    out: Path | None = None
    """The run's folder; unset: runs/NAME-TIME."""
    eval_examples: int = 500
    """Test examples to evaluate on, before and after; 0 skips it."""
    rollouts_every: int = 20
    """Save the rollout of every so many steps, the first included; 0 saves none."""
    grpo: Annotated[GRPOConfig, tyro.conf.arg(name="")] = field(default_factory=GRPOConfig)


def parse(argv: Sequence[str]) -> Args:
    """Options over the settings of ``--config`` over the defaults."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    path = first.parse_known_args(argv)[0].config
    default = Args() if path is None else from_table(Args, _typed(read_toml(path)), str(path))
    return tyro.cli(Args, args=list(argv), prog="textenv train", default=default)


def run(args: Args) -> int:
    """Evaluate, train, evaluate again, and leave the run's folder."""
    started = time.perf_counter()
    name = args.task or (args.dataset.stem if args.dataset else "arithmetic")
    folder = RunFolder(args.out or RunFolder.default_path(f"{args.algo}-{name}"))
    env, test_env = _make_envs(args)
    display = TrainingDisplay(args.grpo.max_steps)
    say = display.console.print
    blas_status = blas.status()

    def on_step(metrics: dict[str, float], rollout: Buffer) -> None:
        folder.add_metrics(metrics)
        if args.rollouts_every and (len(trainer.history) - 1) % args.rollouts_every == 0:
            folder.add_rollout(rollout)
        display.on_step(metrics, rollout)

    trainer = GRPOTrainer(args.model, env, args.grpo, on_step=on_step)
    say(f"{args.model} on {name}; BLAS: {blas_status.name}")
    say(trainer.describe())
    before = _evaluate(trainer, test_env, args.eval_examples)
    _say_evaluation(say, "before", before)
    folder.create(to_table(replace(args, config=None, out=None)))
    state = "failed"
    try:
        with display:
            trainer.train()
        state = "finished"
    except KeyboardInterrupt:
        state = "interrupted"
        say(f"interrupted after {len(trainer.history)} steps: saving what there is")
    finally:
        if state != "failed":
            trainer.save(folder.model)
        after = None if state == "failed" else _evaluate(trainer, test_env, args.eval_examples)
        folder.write_summary(
            {
                "state": state,
                "algo": args.algo,
                "model": args.model,
                "task": name,
                "loss": trainer.describe(),
                "steps": int(trainer.history[-1]["step"]) if trainer.history else 0,
                "before": before,
                "after": after,
                "seconds": round(time.perf_counter() - started, 1),
                "seed": args.grpo.seed,
                "blas": {"name": blas_status.name, "detail": blas_status.detail},
                "versions": versions(),
            }
        )
        if trainer.history:
            folder.draw(trainer.history, f"{args.algo.upper()} on {name}, {Path(args.model).name}")
    _say_evaluation(say, "after", after)
    seconds = time.perf_counter() - started
    say(f"{seconds:.1f} s; the run is in {folder.path}, the model in {folder.model}")
    return 130 if state == "interrupted" else 0


def _make_envs(args: Args) -> tuple[gym.Env, gym.Env | None]:
    """The environment to train in, and the one to evaluate in, where there is one."""
    if args.task is not None and args.dataset is not None:
        raise ConfigError("give --task or --dataset, not both")
    kwargs: dict[str, Any] = {}
    if args.task is not None:
        kwargs["task"] = args.task
    if args.task_kwargs:
        kwargs["task_kwargs"] = args.task_kwargs
    if args.dataset is not None:
        kwargs["dataset"] = str(args.dataset)
    if args.reward:
        kwargs["reward_fn"] = [_reward(name) for name in args.reward]
    try:
        env = gym.make(args.env, **kwargs)
    except gym.error.UnregisteredEnv as error:
        raise ConfigError(f"environment {args.env!r} is not registered: {error}") from error
    if not isinstance(env.unwrapped, TextGenerationEnv) or not args.eval_examples:
        return env, None
    try:
        test_env = gym.make(args.env, **kwargs, split="test")
        train_env = gym.make(args.env, **kwargs, split="train")
    except DataError:  # a dataset so small that one side is empty
        print(f"{args.dataset} has too few rows to hold some back: it is evaluated on all of them")
        return env, env
    return train_env, test_env


def _reward(name: str) -> str | Callable[..., Any]:
    """A reward function's name, or the function of ``FILE.py:FUNCTION``."""
    path, colon, function = name.rpartition(":")
    if not colon or not path.endswith(".py"):
        return name
    if not Path(path).is_file():
        raise MissingFileError(f"--reward {name}: {path} is not a file")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        raise ConfigError(f"--reward {name}: {path} has no function {function!r}")
    return getattr(module, function)


def _evaluate(
    trainer: GRPOTrainer, env: gym.Env | None, examples: int
) -> dict[str, dict[str, Any]] | None:
    """Greedy and sampled, the sampled answers with a seed of their own."""
    if env is None:
        return None
    policy = trainer.policy.with_params(seed=trainer.config.seed + 1)
    return {
        "greedy": evaluate(policy, env, examples, deterministic=True).as_dict(),
        "sampled": evaluate(policy, env, examples, deterministic=False).as_dict(),
    }


def _say_evaluation(
    say: Callable[[str], None], when: str, result: dict[str, dict[str, Any]] | None
) -> None:
    if result is None:
        say(f"{when}: not evaluated (no test examples)")
        return
    figure = "accuracy" if result["greedy"]["accuracy"] is not None else "reward"
    say(
        f"{when}: {figure} greedy {result['greedy'][figure]:.3f}, "
        f"sampled {result['sampled'][figure]:.3f} on {result['greedy']['examples']} test examples"
    )


def _typed(table: dict[str, Any]) -> dict[str, Any]:
    """TOML has no paths and no tuples."""
    for key in ("dataset", "out", "config"):
        if isinstance(table.get(key), str):
            table[key] = Path(table[key])
    if isinstance(table.get("reward"), list):
        table["reward"] = tuple(table["reward"])
    return table
