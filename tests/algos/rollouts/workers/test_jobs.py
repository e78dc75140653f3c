"""When an item is done again, when a completion is the cause, and when it is given up."""

from __future__ import annotations

import pytest

from textenv.algos.episodes.scoring import Scored
from textenv.algos.rollouts.workers.jobs import Job
from textenv.algos.rollouts.workers.worker import GradientItem, RolloutItem, WorkerError

ONE, OTHER = Scored(1, "1+1=", "2"), Scored(2, "1+1=", "3")


@pytest.mark.parametrize(
    ("item", "what"), [(RolloutItem(0, []), "rollout"), (GradientItem(0, []), "update")]
)
def test_three_workers_may_end(item, what):
    job = Job(item)
    for number in range(2):
        job.failed(f"worker {number}", "died", None)
    assert job.item is item
    with pytest.raises(WorkerError, match=rf"part of the {what} ended 3 workers: worker 0 died; "):
        job.failed("worker 2", "died", None)


def test_a_completion_that_ends_two_workers_is_refused():
    job = Job(RolloutItem(0, []))
    job.failed("a", "died", ONE)
    assert not job.item.refused
    job.failed("b", "died", ONE)
    assert job.item.refused.keys() == {ONE}
    expected = "each died while it scored the completion '2' to the prompt '1+1='"
    assert expected in job.item.refused[ONE]
    # It was the cause, so the tries count anew.
    job.failed("c", "died", None)
    job.failed("d", "died", OTHER)
    with pytest.raises(WorkerError, match="3 workers, after 1 completions that ended two each"):
        job.failed("e", "died", ONE)


def test_two_completions_in_turn_are_no_cause():
    job = Job(RolloutItem(0, []))
    job.failed("a", "died", ONE)
    job.failed("b", "died", OTHER)
    with pytest.raises(WorkerError, match="while it scored the completion '2'"):
        job.failed("c", "died", ONE)
    assert not job.item.refused


def test_few_completions_are_refused_in_one_item():
    """A reward that ends its process for each of them would start workers without end."""
    job = Job(RolloutItem(0, []))
    for number in range(3):
        for _ in range(2):
            job.failed("a", "died", Scored(number, "p", "c"))
    assert len(job.item.refused) == 3
    job.failed("a", "died", ONE)
    with pytest.raises(WorkerError, match="reward_process=True"):
        job.failed("b", "died", ONE)
