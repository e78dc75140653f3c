"""textenv train --from-rollouts: trains offline, from saved rollouts."""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import tyro
from rich.console import Console

from textenv.algos.cli.shared.display import OfflineDisplay, Terminal
from textenv.algos.cli.shared.judging import Judge, TextJudge, control_judge
from textenv.algos.cli.shared.reporting import Reporting, RunLog
from textenv.algos.cli.shared.run import TrainingRun
from textenv.algos.cli.shared.run_folder import Picture, RunFolder
from textenv.algos.cli.shared.stopping import StopSignals
from textenv.algos.cli.shared.text_envs import TextTask, make_text_envs, paths_from_text
from textenv.algos.cli.training.resume import GoingOn, check_changes, settings_of
from textenv.algos.config import check_counts, check_integer, from_table
from textenv.algos.control.mlp_policy import MLPPolicy, load_policy
from textenv.algos.episodes.environments import make_env
from textenv.algos.episodes.trajectory import Buffer
from textenv.algos.offline.control import METHODS, OfflineConfig, OfflineTrainer
from textenv.algos.offline.data import common_source, refuse_stale, spaces_of
from textenv.algos.offline.text import METHODS as TEXT_METHODS
from textenv.algos.offline.text import OfflineTextConfig, OfflineTextTrainer
from textenv.algos.ppo_config import PPOConfig, preset
from textenv.algos.storage.files import load_rollouts
from textenv.algos.storage.source import check_source
from textenv.algos.trainers.callbacks import CallsBack
from textenv.envs.env import TextGenerationEnv
from textenv.errors import ConfigError, ConfigTypeError, DataError, TextEnvError
from textenv.from_files import split_name


@dataclass
class _OfflineArgs:
    """The options that all kinds of training from rollouts share."""

    from_rollouts: Path
    """A folder of exported rollouts, or a run's folder."""
    config: Path | None = None
    """A TOML file of these settings, such as a run's config.toml; options given beside it win."""
    rollouts: int | None = None
    """How many of the rollouts to use, from the first; unset: all."""
    env: str | None = None
    """The environment of the rollouts and of the evaluation; unset: what the rollouts say."""
    out: Path | None = None
    """The run's folder; unset: runs/NAME-TIME."""
    going_on: Annotated[GoingOn, tyro.conf.arg(name="")] = field(default_factory=GoingOn)
    reporting: Annotated[Reporting, tyro.conf.arg(name="")] = field(default_factory=Reporting)


@dataclass
class OfflineControlArgs(_OfflineArgs):
    """Train a control policy from exported rollouts of any policy; nothing is collected."""

    eval_episodes: int = 20
    """Episodes of the evaluations before and after the training; 0 skips them."""
    offline: Annotated[OfflineConfig, tyro.conf.arg(name="")] = field(default_factory=OfflineConfig)


@dataclass
class OfflineTextArgs(_OfflineArgs):
    """Train a language model from exported rollouts of text; nothing is generated."""

    model: str = "tiny-lm"
    """tiny-lm, a folder, or a hub name, with the tokenizer of the recorded rollouts."""
    adapters: Path | None = None
    """A folder of adapters, trained on the model, to go on from."""
    text: Annotated[TextTask, tyro.conf.arg(name="")] = field(default_factory=TextTask)
    eval_examples: int = 500
    """Test examples of the evaluations before and after the training; 0 skips them."""
    offline: Annotated[OfflineTextConfig, tyro.conf.arg(name="")] = field(
        default_factory=OfflineTextConfig
    )


@dataclass
class OneUpdateArgs(_OfflineArgs):
    """Make one update of PPO, on rollouts that the policy of --model itself collected."""

    algo: Literal["ppo"] = "ppo"
    """The algorithm: ppo, which is on-policy. Without this option training is offline."""
    model: str | None = None
    """The folder of the control policy to train; unset: a policy with new weights."""
    eval_episodes: int = 20
    """Episodes of the evaluations before and after the training; 0 skips them."""
    ppo: Annotated[PPOConfig, tyro.conf.arg(name="")] = field(default_factory=PPOConfig)


Args = OfflineControlArgs | OfflineTextArgs | OneUpdateArgs


@dataclass
class OfflineJob:
    """The parsed options, and the rollouts, whose kind decides which options there are."""

    args: Args
    rollouts: list[Buffer]


def parse(argv: Sequence[str], table: Mapping[str, Any], config: Any = None) -> OfflineJob:
    """Parse the options, and load the rollouts.

    What the command line does not set comes from ``--config``, and the rest from the defaults.

    Args:
        argv: the command line.
        table: the content of the file of settings; empty if there is none.
        config: that file.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--from-rollouts", "--algo", "--env", "--method"):
        first.add_argument(option)
    first.add_argument("--rollouts", type=int)
    given = first.parse_known_args(argv)[0]
    for key in ("from_rollouts", "out", "adapters"):
        if not isinstance(table.get(key, ""), str):
            raise ConfigTypeError(f"{config}: {key} must be a path, got {table[key]!r:.80}")
    folder = Path(given.from_rollouts or table["from_rollouts"])
    count = given.rollouts if given.rollouts is not None else table.get("rollouts")
    if count is not None:
        check_integer("rollouts", count, 1)
    inner = folder / "rollouts"  # in the folder of a run
    rollouts = load_rollouts(inner if inner.is_dir() else folder, count)
    kind = _choose_kind(given.method, given.algo or table.get("algo"), rollouts)
    if table:
        paths: dict[str, Any] = {
            key: Path(table[key]) for key in ("from_rollouts", "out", "adapters") if key in table
        }
        if isinstance(table.get("text"), dict):
            paths["text"] = paths_from_text(table["text"])
        default = from_table(kind, {**table, **paths}, str(config))
    elif kind is OneUpdateArgs:
        default = OneUpdateArgs(folder, ppo=preset(given.env or common_source(rollouts).env_id))
    else:
        default = kind(folder)
    args = tyro.cli(kind, args=list(argv), prog="textenv train", default=default)
    check_changes(default, args)
    return OfflineJob(args, rollouts)


def _choose_kind(method: str | None, algo: str | None, rollouts: list[Buffer]) -> Any:
    """Choose the options: those of the algorithm, or else those for the kind of the rollouts.

    Raises:
        ConfigError: if the algorithm or the method does not train from these rollouts.
    """
    kind: Any = OfflineTextArgs if is_text_data(rollouts) else OfflineControlArgs
    for methods, data, wanted in (
        (METHODS, "control", OfflineControlArgs),
        (TEXT_METHODS, "text", OfflineTextArgs),
    ):
        if method in methods and kind is not wanted:
            raise ConfigError(f"--method {method} is for {data}, and these rollouts are not")
    if algo == "ppo":
        return OneUpdateArgs
    if algo == "sft":
        raise ConfigError(
            "--algo sft trains on the answers of a --dataset; on the right ones of rollouts, "
            "--from-rollouts trains with --method rft, and without --algo"
        )
    if algo is not None:
        raise ConfigError(
            f"--algo {algo} collects its own rollouts; --from-rollouts trains offline, with "
            "--method awr, filtered_bc or bc (control), rft or grpo (text)"
        )
    return kind


def run(job: OfflineJob, stops: StopSignals) -> int:
    """Evaluate, train, evaluate again, and write the run's folder."""
    args = job.args
    check_counts(args, ("eval_examples", "eval_episodes"), 0)
    name = args.env or common_source(job.rollouts).env_id or args.from_rollouts.name
    method = "ppo" if isinstance(args, OneUpdateArgs) else args.offline.method
    run_name = f"{method}-{name.rpartition(':')[2]}"
    with args.reporting.attach(args.going_on.folder(args.out, run_name)) as folder:
        return _carry_out(job, name, method, folder, stops)


def _carry_out(
    job: OfflineJob, name: str, method: str, folder: RunFolder, stops: StopSignals
) -> int:
    started = time.perf_counter()
    args, rollouts = job.args, job.rollouts
    console = Terminal()
    env, why = _make_env(args, rollouts)
    log = args.reporting.log(folder, resumed=args.going_on.run is not None)
    trainer, judge = _prepare(args, rollouts, env, folder, console, log)
    args.going_on.load(trainer, folder)
    transitions = sum(r.num_transitions for r in rollouts)
    data = _describe_data(trainer)
    opening = [
        f"{len(rollouts)} rollouts of {name}, {transitions} transitions; {_in_words(data)}",
        trainer.describe(),
    ]

    def facts() -> dict[str, Any]:
        return {
            "algo": method,
            "task": name,
            "rollouts": len(rollouts),
            "transitions": transitions,
            "data": data,
            "loss": trainer.describe(),
        }

    def export() -> str:
        from textenv.algos.control.onnx_export import export_onnx

        return f"for other programs: {export_onnx(trainer.policy, folder.path / 'policy.onnx')}"

    on_text = isinstance(args, OfflineTextArgs)
    up = "loss" if on_text else "train/policy_loss"
    picture = Picture("loss.png", "epoch", up, f"{method}: {name}")
    return TrainingRun(
        folder,
        settings_of(args),
        trainer,
        judge,
        console,
        [*opening, why] if why else opening,
        facts,
        None if isinstance(args, OneUpdateArgs) else picture,
        started,
        unit="passes",
        export=export if not on_text and importlib.util.find_spec("onnx") else None,
        stops=stops,
        resumed=args.going_on.run is not None,
        log=log,
    ).carry_out()


def _prepare(
    args: Args,
    rollouts: list[Buffer],
    env: Any,
    folder: RunFolder,
    console: Console,
    log: RunLog,
) -> tuple[Any, Judge]:
    """Make the trainer, and the judge that evaluates its policy in ``env``."""
    display = OfflineDisplay(console)

    def on_step(metrics: dict[str, float]) -> None:
        folder.add_metrics(metrics)
        display.on_step(metrics, trainer.passes)

    trainer: Any
    shared: dict[str, Any] = {"on_step": on_step, "out": folder.path, "callbacks": log}
    if isinstance(args, OfflineTextArgs):
        trainer = OfflineTextTrainer(
            rollouts, args.model, args.offline, adapters=args.adapters, **shared
        )
        return trainer, TextJudge(trainer, env, args.eval_examples, console=console)
    if isinstance(args, OfflineControlArgs):
        trainer = OfflineTrainer(rollouts, args.offline, env, **shared)
    else:
        trainer = _OneUpdate(rollouts, args, env, on_step, log)
    return trainer, control_judge(trainer, env, args.eval_episodes)


def is_text_data(rollouts: Sequence[Buffer]) -> bool:
    """Whether these are rollouts of text.

    Raises:
        DataError: if some of them are and others are not.
    """
    kinds = {t.prompt is not None for rollout in rollouts for t in rollout}
    if len(kinds) > 1:
        raise DataError("some of the rollouts are of text and others of control")
    return True in kinds


class _OneUpdate(CallsBack):
    """A trainer that makes one update of PPO on rollouts of the policy itself."""

    passes = 1

    def __init__(
        self,
        rollouts: list[Buffer],
        args: OneUpdateArgs,
        env: Any,
        on_step: Callable[[dict[str, float]], None],
        log: RunLog,
    ):
        from textenv.algos.trainers.ppo_control import ControlUpdater

        self.config = args.ppo
        text = is_text_data(rollouts)
        policy = _text_policy(args) if text else _control_policy(args, rollouts, env)
        refuse_stale(rollouts, policy)
        if text:
            raise ConfigError(
                "PPO on text collects its own rollouts (--algo ppo without --from-rollouts); from "
                "these a language model is trained with --method rft or grpo"
            )
        self.policy = policy
        self._learner = ControlUpdater(env, args.ppo, policy)
        self._rollout = Buffer([t for rollout in rollouts for t in rollout])
        self._log_step = on_step
        self._call(None, log)
        self.history: list[dict[str, float]] = []

    def train(self) -> list[dict[str, float]]:
        """Make the update."""
        metrics = self._learner.update(self._rollout, 1.0, self.config.max_steps)
        self.history.append(metrics | {"epoch": 1.0})
        self._log_step(self.history[-1])
        self._after_step(self.history[-1])
        return self.history

    def stop(self) -> None:
        """Change nothing: there is only one update."""

    @property
    def has_ended(self) -> bool:
        """Whether the update was made."""
        return bool(self.history)

    def resume(self, folder: Path, allow_changed: Any) -> None:
        """Refuse to: there are no checkpoints of one update."""
        raise ConfigError(f"{folder} is a run of one update: it is made anew, without --resume")

    def describe(self) -> str:
        """Describe in one line what is trained."""
        c = self.config
        return (
            f"one update of PPO on {self._rollout.num_transitions} transitions: {c.n_epochs} "
            f"epochs of minibatches of {c.batch_size}, Adam at {c.learning_rate:g}"
        )

    def save(self, folder: str | Path) -> None:
        """Write the policy to a folder."""
        self.policy.save(folder)


def _control_policy(args: OneUpdateArgs, rollouts: list[Buffer], env: Any) -> MLPPolicy:
    if args.model is not None:
        return load_policy(args.model, args.ppo.seed)
    return MLPPolicy(*spaces_of(common_source(rollouts), env), seed=args.ppo.seed)


def _text_policy(args: OneUpdateArgs) -> Any:
    from textenv.algos.lm.generation.policy import create_policy
    from textenv.algos.lm.models.loading import load_model

    return create_policy(*load_model(args.model or "tiny-lm"))


def _make_env(args: Args, rollouts: list[Buffer]) -> tuple[Any, str]:
    """Make the environment to evaluate in; if there is none, the text says why.

    Raises:
        DataError: if the rollouts are of another environment than ``--env``.
    """
    source = common_source(rollouts)
    if isinstance(args, OfflineTextArgs) and args.text.given:
        env = make_text_envs(args.env or source.env_id or "TextGen-v0", args.text, True)[1]
        for rollout in rollouts if env is not None else ():
            check_source(rollout, env)
        return env, ""
    if split_name(str(source.env_kwargs.get("task", ""))):
        return None, (
            f"the task {source.env_kwargs['task']} is code that the rollouts name, which is not "
            "run: --task names it to evaluate on it"
        )
    if args.env is not None:
        env = make_env(args.env, source.env_kwargs if args.env == source.env_id else None)
        for rollout in rollouts:
            check_source(rollout, env)
        return env, ""
    if source.env_id is None:
        return None, "the rollouts do not say of which environment they are; --env says it"
    if source.env_id not in gym.registry:  # gym.make would import what stands before a colon
        return None, (
            f"{source.env_id} cannot be made as it was for the rollouts: it is not registered, and "
            "code that a file names is not imported; see --env"
        )
    try:
        env = make_env(source.env_id, source.env_kwargs)
        if isinstance(env.unwrapped, TextGenerationEnv):
            env = _test_split(source.env_id, source.env_kwargs) or env
        for rollout in rollouts:
            check_source(rollout, env)
    except (TextEnvError, TypeError, ValueError) as error:
        return (
            None,
            f"{source.env_id} cannot be made as it was for the rollouts ({error}); see --env",
        )
    return env, ""


def _test_split(env_id: str, kwargs: dict[str, Any]) -> Any:
    """Make the environment with the test split; None if there is no such split."""
    try:
        return make_env(env_id, {**kwargs, "split": "test"})
    except (DataError, ConfigError):
        return None


def _describe_data(trainer: Any) -> dict[str, float | None]:
    """Figures of the data, in the units of the evaluation."""
    names = {"return": "data_return", "accuracy": "data_accuracy", "reward": "data_reward"}
    return {key: getattr(trainer, name) for key, name in names.items() if hasattr(trainer, name)}


def _in_words(data: Mapping[str, float | None]) -> str:
    known = [f"mean {name} {value:.4g}" for name, value in data.items() if value is not None]
    return f"data: {', '.join(known) or 'no whole episode'}"
