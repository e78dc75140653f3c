"""textenv train: trains by GRPO, PPO or supervised fine-tuning, on text or on control."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from textenv.algos.cli.shared.display import ControlDisplay, TextDisplay
from textenv.algos.cli.shared.dry_run import dry_run
from textenv.algos.cli.shared.judging import Judge, TextJudge, control_judge
from textenv.algos.cli.shared.output import lasting_output
from textenv.algos.cli.shared.reporting import Reporting, RunLog
from textenv.algos.cli.shared.run import TrainingRun
from textenv.algos.cli.shared.run_folder import Picture, RunFolder
from textenv.algos.cli.shared.step_log import KeepAnswers, StepLog
from textenv.algos.cli.shared.stopping import StopSignals
from textenv.algos.cli.shared.text_envs import TextTask, make_text_envs, paths_from_text
from textenv.algos.cli.training import offline, sft
from textenv.algos.cli.training.resume import GoingOn, check_changes, config_of, follow, settings_of
from textenv.algos.config import check_counts, from_table, read_toml
from textenv.algos.episodes.environments import is_text, make_env
from textenv.algos.episodes.trajectory import Buffer
from textenv.algos.grpo_config import GRPOConfig
from textenv.algos.ppo_config import SIZES, PPOConfig, preset
from textenv.algos.runtime import blas
from textenv.algos.runtime.launched import is_follower, is_rank
from textenv.algos.strategies.counts import summarize
from textenv.algos.trainers.grpo import GRPOTrainer
from textenv.algos.trainers.ppo import PPOTrainer
from textenv.errors import ConfigError


@dataclass
class GRPOArgs:
    """Train a language model on a text task by GRPO.

    `--algo ppo --help` shows the options of PPO, `--algo sft --help` those of training on given
    answers, and `--from-rollouts DIR --help` those of training from exported rollouts.
    """

    config: Path | None = None
    """A TOML file of these settings, such as a run's config.toml; options given beside it win."""
    algo: Literal["grpo"] = "grpo"
    """The algorithm: grpo, ppo or sft."""
    model: str = "tiny-lm"
    """tiny-lm (ships with the package), a folder, or a name on the Hugging Face hub."""
    adapters: Path | None = None
    """A folder of adapters, trained on the model, to go on from."""
    env: str = "TextGen-v0"
    """Id of a text environment."""
    text: Annotated[TextTask, tyro.conf.arg(name="")] = field(default_factory=TextTask)
    out: Path | None = None
    """The run's folder; unset: runs/NAME-TIME."""
    going_on: Annotated[GoingOn, tyro.conf.arg(name="")] = field(default_factory=GoingOn)
    reporting: Annotated[Reporting, tyro.conf.arg(name="")] = field(default_factory=Reporting)
    rollouts_every: int = 20
    """Save a rollout every so many steps, the first included; 0 saves none."""
    dry_run: bool = False
    """Show prompts, sampled answers, memory and the seconds of a step, and end; writes nothing."""
    grpo: Annotated[GRPOConfig, tyro.conf.arg(name="")] = field(default_factory=GRPOConfig)


@dataclass
class PPOArgs:
    """Train by PPO: two small networks on control, or a language model on text.

    The defaults shown are those of the preset for the environment that --env names, if it has one.
    """

    config: Path | None = None
    """A TOML file of these settings, such as a run's config.toml; options given beside it win."""
    algo: Literal["ppo"] = "ppo"
    """The algorithm: grpo, ppo or sft."""
    model: str | None = None
    """On control mlp, or the folder of a saved policy to train further; on text tiny-lm, a folder,
    or a hub name. Unset: mlp or tiny-lm."""
    adapters: Path | None = None
    """Text: a folder of adapters, trained on the model, to go on from."""
    env: str = "TextGen-v0"
    """Id of an environment, of text or of control."""
    size: Literal["fast", "standard", "stable"] | None = None
    """Transitions in a rollout. fast, 1024: updates twice as often, but noisier; standard, 2048: a
    good compromise; stable, 4096: steadier, but slow to the first update. Unset: --n-steps."""
    text: Annotated[TextTask, tyro.conf.arg(name="")] = field(default_factory=TextTask)
    out: Path | None = None
    """The run's folder; unset: runs/NAME-TIME."""
    going_on: Annotated[GoingOn, tyro.conf.arg(name="")] = field(default_factory=GoingOn)
    reporting: Annotated[Reporting, tyro.conf.arg(name="")] = field(default_factory=Reporting)
    export: Literal["json", "off"] = "json"
    """Control: write each rollout to the run's folder as json, or none (off)."""
    eval_episodes: int = 20
    """Control: episodes of the evaluations before and after the training; 0 skips them."""
    rollouts_every: int = 20
    """Text: save a rollout every so many updates, the first included; 0 saves none."""
    dry_run: bool = False
    """Text: show prompts, sampled answers, memory and the seconds of an update, and end; writes
    nothing."""
    ppo: Annotated[PPOConfig, tyro.conf.arg(name="")] = field(default_factory=PPOConfig)


Args = GRPOArgs | PPOArgs
Job = Args | sft.SFTArgs | offline.OfflineJob


@dataclass
class _Training:
    """A trainer, and how this command shows and evaluates it."""

    name: str
    """Name of the task, or of the environment of control."""
    model: str
    trainer: GRPOTrainer | PPOTrainer
    steps: int
    """How many times the trainer generates and trains."""
    judge: Judge
    display: TextDisplay | ControlDisplay
    log: RunLog
    axes: tuple[str, str]
    """The metrics of the picture's two axes."""


def parse(argv: Sequence[str]) -> Job:
    """Parse the options.

    What the command line does not set comes from ``--config`` or from the run of ``--resume``, and
    the rest from the defaults for the environment.

    Raises:
        ConfigError: for settings that differ from those of the run that goes on.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--config", "--algo", "--env", "--size", "--from-rollouts", "--resume", "--out"):
        first.add_argument(option)
    given = first.parse_known_args(argv)[0]
    if given.resume is not None:
        given.config = config_of(given.resume, given.config, given.out)
    table = {} if given.config is None else read_toml(given.config)
    if given.from_rollouts or "from_rollouts" in table:
        if "--dry-run" in argv:
            raise ConfigError(
                "--dry-run shows a training that generates, by grpo or by ppo on text; one from "
                "--from-rollouts does not"
            )
        return offline.parse(argv, table, given.config)
    algo = given.algo or table.get("algo", "grpo")
    if algo == "sft" and "--dry-run" in argv:
        raise ConfigError(
            "--dry-run shows a training that generates, by grpo or by ppo on text; one on given "
            "answers does not, and --max-steps 1 makes it short"
        )
    kind: Any = {"ppo": PPOArgs, "sft": sft.SFTArgs}.get(str(algo), GRPOArgs)
    if table:
        default = from_table(kind, _typed(table), given.config)
    elif kind is PPOArgs:
        default = PPOArgs(env=given.env or PPOArgs.env, ppo=preset(given.env or PPOArgs.env))
    else:
        default = kind()
    before = replace(default)
    # Another size is refused below by the parser, which has a message for it.
    if kind is PPOArgs and given.size in SIZES:
        default.ppo = replace(default.ppo, n_steps=SIZES[given.size].n_steps)
    args = tyro.cli(kind, args=list(argv), prog="textenv train", default=default)
    check_changes(before, args)
    return args


def run(args: Job) -> int:
    """Evaluate, train, evaluate again, and write the run's folder."""
    if is_rank():
        if not isinstance(args, GRPOArgs) or args.dry_run:
            raise ConfigError("several ranks train by --algo grpo, and not as --dry-run")
        if is_follower():
            return _follow(args)
    reporting = args.args.reporting if isinstance(args, offline.OfflineJob) else args.reporting
    with lasting_output(), reporting.streams(), StopSignals() as stops:
        if isinstance(args, offline.OfflineJob):
            return offline.run(args, stops)
        if isinstance(args, sft.SFTArgs):
            return sft.run(args, stops)
        return _run(args, stops)


def _run(args: Args, stops: StopSignals) -> int:
    counts = ("eval_episodes", "rollouts_every")
    check_counts(args, counts, 0)
    if args.dry_run:
        args = _as_dry_run(args)
    started = time.perf_counter()
    name = args.text.name if args.env == "TextGen-v0" else args.env.rpartition(":")[2]
    folder = args.reporting.attach(args.going_on.folder(args.out, f"{args.algo}-{name}"))
    if args.dry_run:
        return _carry_out(args, name, folder, stops, started)
    with folder:
        return _carry_out(args, name, folder, stops, started)


def _carry_out(args: Args, name: str, folder: RunFolder, stops: StopSignals, started: float) -> int:
    if isinstance(args, GRPOArgs):
        training = _prepare_grpo(args, folder)
    else:
        training = _prepare_ppo(args, name, folder)
    trainer = training.trainer
    console = training.display.console
    if args.dry_run:
        dry_run(trainer, console, training.steps, "step" if args.algo == "grpo" else "update")
        return 0
    # With what was chosen, for config.toml.
    if isinstance(args, GRPOArgs) and isinstance(trainer, GRPOTrainer):
        args = replace(args, grpo=trainer.config)
    elif isinstance(args, PPOArgs) and isinstance(trainer, PPOTrainer):
        args = replace(args, ppo=trainer.config)
    judge, begins, resumed = training.judge, "", args.going_on.run is not None
    if isinstance(judge, TextJudge) and judge.evaluates and not resumed:
        most = trainer.config.eval_examples
        begins = f"evaluating before the training, on at most {most} held-out examples"
    blas_status = blas.status()

    def facts() -> dict[str, Any]:
        spent = summarize(trainer.history)
        return {
            "algo": args.algo,
            "model": training.model,
            "task": training.name,
            "loss": trainer.describe(),
            "steps": int(trainer.history[-1]["step"]) if trainer.history else 0,
            **({"stopped": trainer.stopped} if trainer.stopped else {}),
            "warnings": [finding.as_dict() for finding in trainer.warnings],
            **({"strategy": spent} if spent else {}),
        }

    title = f"{args.algo.upper()} on {training.name}, {Path(training.model).name}"
    return TrainingRun(
        folder,
        settings_of(args),
        trainer,
        judge,
        console,
        (
            f"{training.model} on {training.name}; BLAS: {blas_status.name}",
            trainer.describe(),
            *filter(None, (trainer.chosen, begins)),
        ),
        facts,
        Picture("reward.png", *training.axes, title),
        started,
        display=training.display,
        machine={"blas": {"name": blas_status.name, "detail": blas_status.detail}},
        stops=stops,
        resumed=resumed,
        log=training.log,
    ).carry_out()


def _follow(args: GRPOArgs) -> int:
    """Train as another rank than the first, which writes, evaluates and prints."""
    with StopSignals() as stops:
        text = args.text.for_model(args.env, args.model, args.grpo.chat_template)
        env, _ = make_text_envs(args.env, text, False)
        trainer = GRPOTrainer(args.model, env, args.grpo, adapters=args.adapters)
        follow(trainer, args.going_on, stops)
    return 0


def _as_dry_run(args: Args) -> Args:
    """The same settings for a dry run, which writes nothing and starts no workers."""
    args = replace(args, out=None, rollouts_every=0)
    if isinstance(args, GRPOArgs):
        return replace(
            args, grpo=replace(args.grpo, num_workers=0, backend="local", ray_address=None)
        )
    if not is_text(make_env(args.env)):
        raise ConfigError(
            f"--dry-run shows prompts and answers of text, and {args.env} is control; a short run "
            "shows what control does: --total-timesteps 4096"
        )
    return args


def _prepare_grpo(args: GRPOArgs, folder: RunFolder) -> _Training:
    config = args.grpo
    steps = config.max_steps
    run_log = _run_log(args, folder)
    display = TextDisplay(steps)
    log = StepLog(folder, display, args.reporting.warnings)
    display.console.print(f"loading {args.model}")
    text = args.text.for_model(args.env, args.model, config.chat_template)
    env, test_env = make_text_envs(args.env, text, bool(config.eval_examples))
    shared = _on_text(args, folder, log, test_env)
    trainer = GRPOTrainer(
        args.model, env, config, callbacks=(run_log, KeepAnswers(folder)), **shared
    )
    args.going_on.load(trainer, folder)
    log.watch(trainer.health, args.going_on.run is not None)
    rollouts = -(-steps // (config.num_iterations * config.num_minibatches))
    judge = _judge(trainer, test_env, log, rollouts * trainer.config.completions)
    axes = ("step", "reward")
    return _Training(args.text.name, args.model, trainer, steps, judge, display, run_log, axes)


def _prepare_ppo(args: PPOArgs, name: str, folder: RunFolder) -> _Training:
    config = args.ppo
    run_log = _run_log(args, folder)
    probe = make_env(args.env)
    updates = -(-config.total_timesteps // config.n_steps)
    if is_text(probe):
        model = args.model or "tiny-lm"
        shown = TextDisplay(updates, unit="update")
        log = StepLog(folder, shown, args.reporting.warnings)
        shown.console.print(f"loading {model}")
        text = args.text.for_model(args.env, model, config.chat_template)
        env, test_env = make_text_envs(args.env, text, bool(config.eval_examples))
        shared = _on_text(args, folder, log, test_env)
        trainer = PPOTrainer(model, env, config, callbacks=(run_log, KeepAnswers(folder)), **shared)
        args.going_on.load(trainer, folder)
        log.watch(trainer.health, args.going_on.run is not None)
        judge = _judge(trainer, test_env, log, config.total_timesteps)
        axes = ("time/iterations", "reward")
        return _Training(args.text.name, model, trainer, updates, judge, shown, run_log, axes)
    if args.adapters is not None:
        raise ConfigError(f"--adapters is for language models, and {args.env} is control")
    if args.text.given:
        raise ConfigError(f"--task, --dataset and --reward are for text, and {args.env} is control")
    display = ControlDisplay(config.total_timesteps)

    def on_control_step(metrics: dict[str, float], rollout: Buffer) -> None:
        folder.add_metrics(metrics)
        display.on_step(metrics, rollout, trainer.exporter.last)

    model = args.model or "mlp"
    export_to = folder.rollouts if args.export == "json" else None
    trainer = PPOTrainer(
        *(model, args.env, config),
        on_step=on_control_step,
        export_to=export_to,
        out=folder.path,
        callbacks=run_log,
    )
    args.going_on.load(trainer, folder)

    judge = control_judge(trainer, probe, args.eval_episodes)
    axes = ("time/total_timesteps", "rollout/ep_rew_mean")
    return _Training(name, model, trainer, updates, judge, display, run_log, axes)


def _run_log(args: Args, folder: RunFolder) -> RunLog:
    """Make what logs the run to trackers; a dry run logs nothing."""
    reporting = replace(args.reporting, log_to=()) if args.dry_run else args.reporting
    return reporting.log(folder, args.rollouts_every, args.going_on.run is not None)


def _judge(trainer: Any, env: Any, log: StepLog, completions: int) -> Judge:
    """Make the judge of a training on text that has so many completions."""
    config = trainer.config
    return TextJudge(
        trainer,
        env,
        config.eval_examples,
        console=log.display.console,
        completions=completions,
        share=config.eval_share,
        on_found=log.on_evaluation,
    )


def _on_text(args: Args, folder: RunFolder, log: StepLog, eval_env: Any) -> dict[str, Any]:
    """Arguments of a trainer of text, which write and show each step and each evaluation."""
    export = {"export_to": folder.rollouts, "export_every": args.rollouts_every}
    return {
        "on_step": log.on_step,
        "adapters": args.adapters,
        "eval_env": eval_env,
        "out": folder.path,
        "on_evaluate": log.display.on_evaluate,
        **(export if args.rollouts_every else {}),
    }


def _typed(table: dict[str, Any]) -> dict[str, Any]:
    """Turn strings into paths where the settings have paths, because TOML has only strings."""
    for key in ("out", "config", "adapters"):
        if isinstance(table.get(key), str):
            table[key] = Path(table[key])
    if isinstance(table.get("text"), dict):
        table["text"] = paths_from_text(table["text"])
    return table
