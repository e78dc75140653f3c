"""textenv train --algo sft: trains a language model on given answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from textenv.algos.cli.shared.display import SFTDisplay
from textenv.algos.cli.shared.escape import say
from textenv.algos.cli.shared.judging import Judgement, TextJudge
from textenv.algos.cli.shared.reporting import Reporting
from textenv.algos.cli.shared.run import TrainingRun
from textenv.algos.cli.shared.run_folder import Picture, RunFolder
from textenv.algos.cli.shared.stopping import StopSignals
from textenv.algos.cli.shared.text_envs import TextTask, make_split, make_text_envs
from textenv.algos.cli.training.resume import GoingOn, settings_of
from textenv.algos.config import check_counts
from textenv.algos.evaluation.measure import evaluation_ids
from textenv.algos.offline.sft import SFTConfig, SFTTrainer
from textenv.algos.offline.sft_rows import Rows, read_rows
from textenv.errors import ConfigError

_ENV = "TextGen-v0"


@dataclass
class SFTArgs:
    """Train a language model on the answers of a dataset, or on those of a task's oracle.

    The rows of --dataset are {"prompt", "answer"}, {"prompt", "completion"} or {"messages"}.
    """

    config: Path | None = None
    """A TOML file of these settings, such as a run's config.toml; options given beside it win."""
    algo: Literal["sft"] = "sft"
    """The algorithm: grpo, ppo or sft."""
    model: str = "tiny-lm"
    """tiny-lm (ships with the package), a folder, or a name on the Hugging Face hub."""
    adapters: Path | None = None
    """A folder of adapters, trained on the model, to go on from."""
    text: Annotated[TextTask, tyro.conf.arg(name="")] = field(default_factory=TextTask)
    examples: int = 1000
    """How many examples of a task to train on; a dataset is used whole."""
    out: Path | None = None
    """The run's folder; unset: runs/NAME-TIME."""
    going_on: Annotated[GoingOn, tyro.conf.arg(name="")] = field(default_factory=GoingOn)
    reporting: Annotated[Reporting, tyro.conf.arg(name="")] = field(default_factory=Reporting)
    eval_examples: int = 500
    """Held-out rows of the evaluations before and after the training; 0 skips them. The model also
    answers them, and is scored, if there is a task or --reward."""
    sft: Annotated[SFTConfig, tyro.conf.arg(name="")] = field(default_factory=SFTConfig)


def run(args: SFTArgs, stops: StopSignals) -> int:
    """Evaluate, train, evaluate again, and write the run's folder."""
    check_counts(args, ("eval_examples",), 0)
    check_counts(args, ("examples",), 1)
    folder = args.reporting.attach(args.going_on.folder(args.out, f"sft-{args.text.name}"))
    with folder:
        return _carry_out(args, folder, stops)


def _carry_out(args: SFTArgs, folder: RunFolder, stops: StopSignals) -> int:
    started = time.perf_counter()
    log = args.reporting.log(folder, resumed=args.going_on.run is not None)
    name = args.text.name
    text = args.text.for_model(_ENV, args.model, args.sft.chat_template)
    styled, kwargs = replace(args, text=text), text.env_kwargs()
    rows, held_out, env = _of_dataset(styled, kwargs) if text.dataset else _of_task(styled)
    display = SFTDisplay()

    def on_step(metrics: dict[str, float]) -> None:
        folder.add_metrics(metrics)
        display.on_step(metrics, trainer.steps)

    trainer = SFTTrainer(
        args.model,
        rows,
        args.sft,
        eval_rows=held_out,
        adapters=args.adapters,
        on_step=on_step,
        out=folder.path,
        callbacks=log,
        **{name: kwargs[name] for name in ("system_prompt", "few_shot") if name in kwargs},
    )

    args.going_on.load(trainer, folder)

    def facts() -> dict[str, Any]:
        return {
            "algo": "sft",
            "model": args.model,
            "task": name,
            "loss": trainer.describe(),
            "steps": len(trainer.history),
            "rows": len(trainer.trained_on),
            "rows_cut": trainer.cut,
            "rows_left_out": trainer.left_out,
        }

    return TrainingRun(
        folder,
        settings_of(args),
        trainer,
        _Judge(trainer, env, args.eval_examples, console=display.console),
        display.console,
        (f"{args.model} on {name}", trainer.describe()),
        facts,
        Picture("loss.png", "step", "loss", f"SFT on {name}, {Path(args.model).name}"),
        started,
        unit="steps",
        display=display,
        stops=stops,
        resumed=args.going_on.run is not None,
        log=log,
    ).carry_out()


class _Judge(TextJudge):
    """Measures the loss on held-out rows, and the answers in an environment if there is one."""

    def __call__(self) -> Judgement | None:
        """Evaluate the policy as it is now."""
        answers = super().__call__() or {}
        held_out = {"held_out": self._trainer.evaluate()} if self._trainer.held_out else {}
        return {**held_out, **answers} or None


def _of_dataset(args: SFTArgs, kwargs: Mapping[str, Any]) -> tuple[Rows, Rows, Any]:
    """The rows to train on, those held out, and the environment that scores answers to these."""
    if args.text.task_kwargs:
        raise ConfigError("--task-kwargs are settings of a --task; a --dataset takes none")
    rows = read_rows(kwargs["dataset"], kwargs.get("columns"), kwargs.get("limit"))
    if not args.eval_examples:
        return rows, rows.some([]), None
    if args.text.eval_dataset is not None:
        train, held_out = rows, read_rows(args.text.eval_dataset, kwargs.get("columns"))
    else:
        train, held_out = rows.split()
    env = make_text_envs(_ENV, args.text, True)[1] if args.text.reward else None
    if not len(train) or not len(held_out):
        if env is None:  # else that has said so
            say(
                f"{args.text.dataset} has too few rows to hold some back: it is evaluated on all "
                "of them"
            )
        train = held_out = rows
    return train, held_out.some(range(min(len(held_out), args.eval_examples))), env


def _of_task(args: SFTArgs) -> tuple[Rows, Rows, Any]:
    """The same of a task, whose oracle gives the answers."""
    train, test = (make_split(_ENV, args.text, split) for split in ("train", "test"))
    rows = _oracle_rows(train, args.examples)
    if not args.eval_examples:
        return rows, rows.some([]), None
    return rows, _oracle_rows(test, args.eval_examples), test


def _oracle_rows(env: Any, count: int) -> Rows:
    task, ids = env.unwrapped.task, evaluation_ids(env, count)
    if task.max_turns > 1:
        raise ConfigError(
            f"task {task.name!r} has several turns, and its oracle's answers are to one: give "
            "conversations with --dataset"
        )
    rows = []
    for example in task.examples(ids):
        try:
            answer = task.oracle(example)
        except NotImplementedError as error:
            raise ConfigError(f"{error}: give answers with --dataset") from error
        key = "messages" if "messages" in example else "prompt"
        rows.append({key: example[key], "answer": answer})
    return Rows([f"{task.name}, example {i}" for i in ids], rows)
