"""Steps without a finite gradient are skipped, and end a training if there are several in a row."""

import pytest

from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.training.guard import MOST_SKIPPED, NotFiniteError, StepGuard


def batch(name):
    return [Trajectory(observations=[name], actions=["a"], rewards=[0.0])]


def test_several_in_a_row_end_the_training_and_give_the_last_batch():
    guard, error = StepGuard(), FloatingPointError("the loss is nan: lower learning_rate")
    for number in range(MOST_SKIPPED - 1):
        guard.skipped(error, batch(number))
    with pytest.raises(
        NotFiniteError, match=r"5 steps in a row were skipped: the loss is nan"
    ) as e:
        guard.skipped(error, batch("last"))
    assert [t.observations for t in e.value.batch] == [["last"]] and e.value.__cause__ is error
    assert isinstance(e.value, FloatingPointError)


def test_a_step_that_is_taken_begins_the_count_again():
    guard, error = StepGuard(), FloatingPointError("the loss is nan")
    for _ in range(3):
        for number in range(MOST_SKIPPED - 1):
            guard.skipped(error, batch(number))
        guard.taken()
