"""What can keep a training from learning: a rule for each, with its thresholds and their reasons.

A rule reads the facts of all steps so far, and gives what is wrong and a remedy, or None. It is
asked after each step until it has something to say. ``algos/training/README.md`` has a table of
all rules.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from textenv.algos.rollouts.health.answers import Answer, Misses, misses_of, told
from textenv.algos.rollouts.health.facts import (
    Course,
    first,
    group_means,
    is_solved,
    last,
)

ENOUGH = 50
"""Completions that a rule looks at. If none of 50 was right, fewer than 6 in 100 are, with 95%
confidence (the rule of three), and then most groups of 8 have no right answer."""
CUT = 0.95
"""The share of completions from which all count as cut off; one in twenty may end by luck."""
RIGHT = 0.95
"""The share of right answers from which a task counts as solved before training: two groups of 8
in three are then all right, and have no signal."""
SOLVED = 0.9
"""The share of right answers from which low entropy and equal groups are what training is for."""
UNIFORM = 0.8
"""The share of groups without a signal from which most of the generation is in vain."""
GROUPS = 16
"""Groups that the share of groups without a signal is measured on: of 16, 80% are 3 standard errors
above one half."""
RUNNING = 3
"""Steps running that a sign must last, so that one odd rollout says nothing."""
ENTROPY = 0.1
"""Nats of a whole completion. Two completions of a prompt are then the same with a chance of at
least exp(-0.1) = 0.9, and a group has nothing to compare."""
BASELINE = 100
"""Completions from which the outcome of the beginning is known: a share of right answers has then a
standard error of at most 0.05, if they do not depend on each other."""
ERRORS = 4.0
"""Standard errors that a fall must have: it is tested after each step, and so much comes by chance
once in 30,000 tests."""
FALL = 0.5
"""A collapse falls below this share of the way from the lowest outcome to the first mean; smaller
falls come and go."""
MISMATCH = 0.2
"""The largest difference of log-probabilities before an update. Beyond it the ratio is outside the
usual clip range of 0.2 although nothing has been learnt. In float32 it is below 0.001."""
CLIPPED = 0.5
"""The share of tokens whose ratio is clipped from which an update learns from less than half of
them; 0.1 to 0.3 is usual."""

NEAR = 0.1
"""The share of answers that contain the right one from which this is no accident, if no answer is
found in most of them."""

Said = tuple[str, str] | None
"""What is wrong, and a remedy."""

Answers = Callable[[], list[Answer]]
"""Gives the wrong answers since the last reward, if the task knows right ones."""

Rule = Callable[[Course, Answers], Said]


def no_reward(course: Course, answers: Answers) -> Said:
    """No completion was right, or had a reward.

    Args:
        course: the steps so far.
        answers: gives the wrong answers since the last reward.
    """
    window = last(course, ENOUGH)
    if not window:
        return None
    count = sum(facts.completions for facts in window)
    if not any(facts.scored for facts in window):
        return (
            f"no reward function scored any of the last {count} completions",
            "let the reward function return a number; None abstains",
        )
    judged = all(facts.judged for facts in window)
    if any(facts.high > 0 or (not judged and facts.low < 0) for facts in window):
        return None
    what = f"none of the last {count} completions {'was right' if judged else 'had a reward'}"
    remedy = (
        "make the task easier (--task-kwargs, other examples), say in the prompt how to answer or "
        "show it (--few-shot), or begin with --algo sft"
    )
    misses = misses_of(answers())
    hint = near(misses)
    if hint is not None:
        what, remedy = f"{what}, and {hint[0]}", hint[1]
    if misses.nearest is not None:
        what = f"{what} ({told(misses.nearest)})"
    return what, remedy


def near(misses: Misses) -> Said:
    """Why answers are not right that nearly are, and a remedy; None if none are near."""
    if misses.equal:
        return (
            f"{misses.equal} of {misses.of} are the expected answer but have no reward",
            "look at the reward function (--reward): it asks for something else",
        )
    unread = 2 * misses.unread > misses.of
    if misses.containing and not (unread and misses.containing < NEAR * misses.of):
        what = (
            f"{misses.containing} of {misses.of} contain the right answer but are not equal to it"
        )
        if misses.extract is None:
            return what, "--reward contains, or say in the prompt to write the answer alone"
        return what, f"--extract {misses.extract}, which finds it in {misses.found} of them"
    if unread:
        return (
            f"no answer was found in {misses.unread} of {misses.of}",
            "show examples of answers (--few-shot; a small model follows these rather than a "
            "--system-prompt), or choose another --extract",
        )
    return None


def cut_off(course: Course, answers: Answers) -> Said:
    """All completions ran out of tokens."""
    window = last(course, ENOUGH)
    count = sum(facts.completions for facts in window)
    if not window or sum(facts.cut for facts in window) < CUT * count:
        return None
    return (
        f"the last {count} completions were cut off before they ended",
        "raise --max-completion-length, ask for short answers in the prompt, or end them by --stop",
    )


def right_already(course: Course, answers: Answers) -> Said:
    """The completions were right before any training."""
    window = first(course, ENOUGH)
    if len(window) != len(course) or not window:  # only once, at the beginning
        return None
    equal = all(facts.low == facts.high == window[0].high for facts in window)
    judged = all(facts.judged for facts in window)
    if not is_solved(window, RIGHT) or not (judged or equal):
        return None
    mean = float(group_means(window).mean())
    what = (
        f"{mean:.0%} of the first completions are right"
        if judged
        else (f"the first completions all have the same reward, {mean:g}")
    )
    return f"{what}: there is little to learn", (
        "take a harder task (--task-kwargs, another dataset), or a reward that tells answers apart"
    )


def little_signal(course: Course, answers: Answers) -> Said:
    """Most groups have equal outcomes, although the task is not solved."""
    window = last(course, ENOUGH, RUNNING)
    count = sum(len(facts.groups) for facts in window)
    if count < GROUPS or not all(facts.grouped for facts in window) or is_solved(window, SOLVED):
        return None
    uniform = sum(facts.uniform for facts in window)
    nothing = all(facts.high <= 0 and facts.low >= 0 for facts in window)
    if uniform < UNIFORM * count or nothing:  # `no_reward` says that
        return None
    return (
        f"{uniform} of the last {count} groups had equal rewards and taught nothing",
        "raise --num-generations, add --strategy dapo, or take examples that are neither too easy "
        "nor too hard",
    )


def entropy_gone(course: Course, answers: Answers) -> Said:
    """The model writes the same again and again, and it is not right."""
    window = list(course[-RUNNING:])
    known = [facts.entropy for facts in window if facts.entropy is not None]
    if len(known) < RUNNING or max(known) >= ENTROPY or is_solved(window, SOLVED):
        return None
    return (
        f"the entropy of a whole completion has been below {ENTROPY:g} nats for {RUNNING} steps: "
        "all completions of a prompt are nearly the same, and many are not right",
        "raise --temperature, lower --learning-rate, or set --epsilon-high 0.28 or --beta 0.01",
    )


def collapse(course: Course, answers: Answers) -> Said:
    """The outcome has fallen far below that of the beginning."""
    course = [facts for facts in course if facts.scored]
    start = first(course, BASELINE)
    now = last(course[len(start) :], BASELINE) if start else []
    if not now or not all(facts.comparable for facts in (*start, *now)):
        return None
    before, after = group_means(start), group_means(now)
    low = min(facts.low for facts in start)
    if not fell(before, after, low):
        return None
    figure = "accuracy" if all(facts.judged for facts in (*start, *now)) else "reward"
    return _collapsed(f"the {figure} of sampled answers", before.mean(), after.mean())


def fell(before: np.ndarray, after: np.ndarray, low: float) -> bool:
    """Whether outcomes have fallen to less than half, by more than chance explains.

    Args:
        before: outcomes that do not depend on each other, at least two.
        after: the same, later.
        low: the lowest possible outcome.
    """
    if min(len(before), len(after)) < 2:
        return False
    fall = float(before.mean() - after.mean())
    error = float(np.sqrt(before.var(ddof=1) / len(before) + after.var(ddof=1) / len(after)))
    return fall > ERRORS * error and float(after.mean()) < low + FALL * float(before.mean() - low)


def _collapsed(figure: str, before: float, after: float) -> tuple[str, str]:
    return (
        f"{figure} has fallen from {before:.3f} to {after:.3f}: the updates have harmed the model",
        "lower --learning-rate (a third of it), or train adapters (--lora-rank 16); "
        "--stop-on-collapse goes back to the best model",
    )


def collapse_in_evaluation(
    figure: str, before: float, after: float, examples: tuple[int, int]
) -> Said:
    """An evaluation whose accuracy has fallen far below that of the first one.

    Args:
        figure: what was measured, for the message.
        before: the first share of right answers.
        after: the present share.
        examples: how many examples each was measured on.
    """
    error = np.sqrt(sum(p * (1 - p) / n for p, n in zip((before, after), examples)))
    if before - after > ERRORS * error and after < FALL * before:
        return _collapsed(figure, before, after)
    return None


def logprob_mismatch(course: Course, answers: Answers) -> Said:
    """Sampling and training disagree on the log-probabilities of the same tokens."""
    off = course[-1].mismatch if course else None
    if off is None or off <= MISMATCH:
        return None
    return (
        f"a token's log-probability differs by {off:.2g} between sampling and training, before any "
        f"update (expected: below {MISMATCH:g})",
        "load the model in float32 and not in half precision; if it is in float32, please report "
        "the architecture",
    )


def ratio_far(course: Course, answers: Answers) -> Said:
    """The updates go so far that most ratios are clipped."""
    shares = [facts.clipped for facts in course[-RUNNING:] if facts.clipped is not None]
    if len(shares) < RUNNING or min(shares) <= CLIPPED:
        return None
    return (
        f"more than half of the ratios were clipped in {RUNNING} steps running: the updates on one "
        "rollout go too far",
        "lower --learning-rate, or make fewer passes over a rollout (--num-iterations, --n-epochs)",
    )


RULES: dict[str, Rule] = {
    "cut_off": cut_off,
    "no_reward": no_reward,
    "right_already": right_already,
    "little_signal": little_signal,
    "entropy_gone": entropy_gone,
    "collapse": collapse,
    "logprob_mismatch": logprob_mismatch,
    "ratio_far": ratio_far,
}
"""The rules by name, in the order in which they are asked."""
