"""textenv eval: evaluates models on a task's test examples, or a control policy in episodes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import tyro
from rich.console import Console

from textenv.algos.cli.shared.display import Terminal
from textenv.algos.cli.shared.escape import count, say
from textenv.algos.cli.shared.progress import evaluation_progress
from textenv.algos.cli.shared.text_envs import TextTask, make_split
from textenv.algos.config import check_counts, to_table
from textenv.algos.control.mlp_policy import load_policy
from textenv.algos.episodes.environments import is_text, make_env
from textenv.algos.evaluation.measure import episode_returns, evaluate
from textenv.algos.evaluation.paired import Comparison, compare
from textenv.algos.evaluation.results import Evaluation
from textenv.algos.evaluation.statistics import Interval
from textenv.algos.lm.generation.policy import create_policy
from textenv.algos.lm.models.loading import load_model
from textenv.algos.runtime.versions import versions
from textenv.algos.storage.replacing import write_whole
from textenv.errors import ConfigError
from textenv.tokenizers import load_tokenizer

Found = dict[str, Evaluation]
"""The evaluations of a model, under ``"greedy"`` and, with samples, ``"sampled"``."""


@dataclass
class Args:
    """Evaluate a model on a task's test examples, or two beside each other with a paired test.

    On control, play a policy in episodes. Intervals are of 95%.
    """

    model: tuple[str, ...] = ("tiny-lm",)
    """Text: tiny-lm, a folder, or a name on the Hugging Face hub; two to compare them. Control: a
    policy's folder."""
    adapters: Path | None = None
    """Text: a folder of adapters that were trained on the model; of two models, on the second."""
    env: str = "TextGen-v0"
    """Id of an environment, of text or of control."""
    text: Annotated[TextTask, tyro.conf.arg(name="")] = field(default_factory=TextTask)
    split: Literal["test", "train", "all"] = "test"
    """Text: split of the task or dataset; all: every row of a dataset."""
    examples: int = 500
    """Text: how many examples; fewer if the task has fewer."""
    samples: int = 1
    """Text: sampled answers to each example, beside the greedy one; 0: none."""
    pass_at: tuple[int, ...] = ()
    """Text: the k of pass@k, the share of examples of which one of k samples is right; unset: 1, 2,
    4 ... and all samples."""
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
    out: Path | None = None
    """Text: a new file for the figures and all answers, as JSON."""
    seed: int = 0
    """Seed of the sampled answers; for control, of the sampled actions and the first episode."""


def run(args: Args) -> int:
    """Print accuracy, reward and length, or the return, greedy and sampled."""
    check_counts(args, ("examples", "episodes"), 1)
    check_counts(args, ("samples",), 0)
    if args.env != "TextGen-v0":
        env = make_env(args.env)
        if not is_text(env):
            return _play_control(args, env)
        raise ConfigError(f"--env {args.env}: tasks of text are named by --task, in TextGen-v0")
    if not 1 <= len(args.model) <= 2:
        raise ConfigError(f"--model takes one model, or two to compare; got {len(args.model)}")
    ks = _ks(args)
    if args.out is not None:
        _check_new(args.out)
    console = Terminal()
    for name in args.model[1:]:  # a wrong name is told before the first model is evaluated
        load_tokenizer(name, "model")
    models: list[Found] = []
    for number, name in enumerate(args.model, 1):
        if len(args.model) > 1:
            say(f"{name}:")
        adapters = args.adapters if number == len(args.model) else None
        models.append(_measure(args, name, adapters, console, ks))
    comparisons = {}
    if len(models) == 2:
        comparisons = {kind: compare(models[0][kind], models[1][kind]) for kind in models[0]}
        say(f"{args.model[1]} beside {args.model[0]}:")
        for kind, comparison in comparisons.items():
            say(f"{kind:<8} {comparison.describe()}")
    if args.out is not None:
        _write(args, models, comparisons, ks)
        say(f"the figures and all answers are in {args.out}")
    return 0


def _ks(args: Args) -> tuple[int, ...]:
    """The k of pass@k: those given, or powers of two up to all samples, ascending."""
    for k in args.pass_at:
        if not 1 <= k <= args.samples:
            raise ConfigError(
                f"--pass-at {k}: pass@k needs k from 1 to the {count(args.samples, 'sample')} of "
                "each example; raise --samples"
            )
    powers = {2**i for i in range(args.samples.bit_length())} | {args.samples}
    return tuple(sorted({*args.pass_at} or (powers - {0} if args.samples > 1 else ())))


def _measure(
    args: Args, model: str, adapters: Path | None, console: Console, ks: tuple[int, ...]
) -> Found:
    """Evaluate a model, and print what was found."""
    text = args.text.for_model(args.env, model, args.chat_template)
    env = make_split(args.env, text, args.split)
    params = {
        "max_tokens": args.max_completion_length,
        "temperature": args.temperature,
        "chat_template": args.chat_template,
        "chat_template_kwargs": args.chat_template_kwargs,
        "stop": args.stop,
        "seed": args.seed,
    }
    policy = create_policy(*load_model(model, adapters), params)
    found: Found = {}
    for kind, samples in (("greedy", 1), ("sampled", args.samples)):
        if not samples:
            continue
        with evaluation_progress(console, f"{kind} answers") as on_progress:
            found[kind] = result = evaluate(
                policy,
                env,
                args.examples,
                kind == "greedy",
                samples=samples,
                on_progress=on_progress,
            )
        for line in _lines(kind, result, args.split, ks):
            say(line)
    return found


def _lines(kind: str, found: Evaluation, split: str, ks: tuple[int, ...]) -> Iterator[str]:
    """What is printed of an evaluation."""
    name = "accuracy" if found.samples == 1 else f"mean@{found.samples}"
    if found.accuracy is None or found.accuracy_interval is None:
        accuracy = f"{name} -"
    else:
        accuracy = _figure(name, found.accuracy, found.accuracy_interval)
    each = "" if found.samples == 1 else f", {found.samples} answers to each"
    yield (
        f"{kind:<8} {accuracy}  {_figure('reward', found.reward, found.reward_interval)}  "
        f"length {found.length:.1f} tokens  cut off {found.truncated:.1%}  "
        f"({found.examples} {split} examples{each})"
    )
    if kind == "sampled" and found.accuracy is not None and ks:
        yield " " * 9 + "  ".join(_figure(f"pass@{k}", *found.pass_at(k)) for k in ks)
    if len(found.components) > 1:
        parts = (f"{part} {value:.3f}" for part, value in found.components.items())
        yield " " * 9 + "  ".join(parts)


def _figure(name: str, value: float, interval: Interval) -> str:
    return f"{name} {value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def _check_new(path: Path) -> None:
    """Refuse a file that is there already, or whose folder is not."""
    if path.exists():
        raise ConfigError(f"--out {path} is there already: choose another file, or remove it")
    if not path.parent.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {path.parent}")


def _write(
    args: Args, models: list[Found], comparisons: Mapping[str, Comparison], ks: tuple[int, ...]
) -> None:
    """Write the figures and the records of all models."""
    content = {
        "settings": to_table(replace(args, out=None)),
        "models": [
            {"model": name, **{kind: _content(e, ks) for kind, e in found.items()}}
            for name, found in zip(args.model, models)
        ],
        "comparison": {kind: each.as_dict() for kind, each in comparisons.items()},
        "versions": versions(),
    }
    assert args.out is not None
    write_whole(args.out, json.dumps(content, indent=1, default=str) + "\n")


def _content(found: Evaluation, ks: tuple[int, ...]) -> dict[str, Any]:
    passed = {}
    if found.samples > 1 and found.accuracy is not None:
        for k in ks:
            value, interval = found.pass_at(k)
            passed[f"pass@{k}"] = {"value": value, "interval": list(interval)}
    return {**found.as_dict(), **passed, "records": found.records_as_dicts()}


def _play_control(args: Args, env: gym.Env) -> int:
    if len(args.model) != 1 or args.out is not None:
        raise ConfigError(f"--env {args.env} is control: it takes one --model, and no --out")
    policy = load_policy(args.model[0], args.seed)
    for name, deterministic in (("greedy", True), ("sampled", False)):
        returns = episode_returns(policy, env, args.episodes, args.seed, deterministic)
        say(
            f"{name:<8} return {returns.mean():.1f} +- {returns.std():.1f}  "
            f"lowest {returns.min():.1f}  highest {returns.max():.1f}  ({args.episodes} episodes)"
        )
    return 0
