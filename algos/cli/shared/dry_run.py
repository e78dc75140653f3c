"""Shows what `textenv train` would do: prompts, answers, memory, seconds; writes nothing."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from textenv.algos.cli.shared.escape import count, one_line
from textenv.algos.cli.shared.progress import duration
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.rollouts.health.answers import answer_of, expected_answer, misses_of
from textenv.algos.rollouts.health.rules import CUT, near
from textenv.algos.rollouts.metrics import rollout_metrics
from textenv.algos.rollouts.rehearsal import Rehearsal
from textenv.algos.runtime import backend
from textenv.algos.strategies.groups import by_group, outcome

backend.prepare()

from textenv.algos.lm.memory.watch import MemoryWatch  # noqa: E402

_GROUPS = 3  # prompts that are shown
_ANSWERS = 2  # answers to each of them
_LEAST = 16  # completions of the part that is measured
_SHORT = 10.0  # seconds up to which a whole step is measured too
_MOST = 2_000  # characters of a prompt that are shown, and of an answer


def dry_run(trainer: Any, console: Console, steps: int, unit: str) -> None:
    """Show what a trainer of text would do.

    Its weights are changed on the way, and nothing is written.

    Args:
        trainer: a `GRPOTrainer`, or a `PPOTrainer` on text.
        console: prints.
        steps: how many steps the whole training has, for the time that it takes.
        unit: what a step is called.
    """
    say = console.print
    say(trainer.describe())
    if trainer.chosen:
        say(trainer.chosen)
    say(f"playing a part of {_a(unit)} (the first one also compiles)")
    size = getattr(trainer.config, "num_generations", 1)
    part = max(_GROUPS, -(-_LEAST // size))
    first = trainer.rehearse(part)
    for number, group in enumerate(by_group(first.rollout.played)[:_GROUPS], 1):
        _say_group(console, trainer, number, group)
    _say_figures(console, trainer, first.rollout.played)
    watch = MemoryWatch(trainer.policy.model, trainer.config, trainer.env, trainer.policy)
    say(f"memory: {watch.describe()}")
    say(_time(trainer, trainer.rehearse(part), steps, unit))
    say("a dry run: nothing was written")


def _say_group(console: Console, trainer: Any, number: int, group: list[Trajectory]) -> None:
    say, decode = console.print, trainer.policy.tokenizer.decode
    ids = group[0].prompt_ids or []
    say(f"\nprompt {number}, {count(len(ids), 'token')}: {_shown(decode(ids))}")
    expected = expected_answer(getattr(trainer.env.unwrapped, "task", None), group[0])
    if expected is not None:
        say(f"  expected:  {_shown(expected)}")
    for t in group[:_ANSWERS]:
        tokens = t.token_ids or []
        end = ", cut off" if t.completion_truncated else ""
        say(f"  answered:  {_shown(decode(tokens))}  ({count(len(tokens), 'token')}{end})")
        if "answer" in t.infos[-1]:
            found = t.infos[-1]["answer"]
            say(f"  extracted: {'nothing' if found is None else _shown(str(found))}")
        parts = t.infos[-1].get("rewards", {})
        components = ", ".join(f"{name} {value:g}" for name, value in parts.items())
        say(f"  reward:    {t.total_reward:g} ({components})")


def _say_figures(console: Console, trainer: Any, played: list[Trajectory]) -> None:
    """What the answers that were sampled have in common."""
    figures = rollout_metrics(played)
    judged = "accuracy" in figures
    share = f"{figures['accuracy']:.0%} right" if judged else f"reward {figures['reward']:.3f}"
    groups = by_group(played)
    line = (
        f"\n{len(played)} sampled answers: {share}, {figures['completions/clipped_ratio']:.0%} cut "
        f"off, {figures['completions/mean_length']:.1f} tokens on average"
    )
    if len(groups) < len(played):
        line += (
            f"; {figures['frac_reward_zero_std']:.0%} of {len(groups)} groups have equal rewards"
        )
    console.print(line)
    task = getattr(trainer.env.unwrapped, "task", None)
    wrong = [answer for t in played if outcome(t) <= 0 and (answer := answer_of(task, t))]
    if figures["completions/clipped_ratio"] >= CUT:
        console.print("nearly all are cut off. Try: raise --max-completion-length")
    hint = near(misses_of(wrong))
    if hint is not None:
        console.print(f"of the wrong answers, {hint[0]}. Try: {hint[1]}")


def _time(trainer: Any, part: Rehearsal, steps: int, unit: str) -> str:
    """How long a step and all of them take, measured on a part, or on a whole step if short."""
    how = f"in proportion to {part.groups} of {part.of} groups"
    if part.groups < part.of and part.step < _SHORT:
        part = trainer.rehearse(part.of)
    if part.groups == part.of:
        how = "measured"
    share = part.of / part.groups
    return (
        f"time: {part.step:.1f} s for {_a(unit)}, {how} (generation {part.generate * share:.1f}, "
        f"update {part.update * share:.1f}), and {duration(part.step * steps)} for {steps} of "
        "them, without evaluations"
    )


def _a(unit: str) -> str:
    return f"an {unit}" if unit[0] in "aeiou" else f"a {unit}"


def _shown(text: str) -> str:
    """A text in one line, without its middle if it is very long."""
    if len(text) > _MOST:
        half = _MOST // 2
        text = f"{text[:half]} .. {len(text) - _MOST} characters .. {text[-half:]}"
    return one_line(text)
