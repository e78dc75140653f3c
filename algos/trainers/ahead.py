"""Collects rollouts one step ahead of the training: workers play while the trainer updates."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict

from textenv.algos.episodes.rollout import Counts, Rollout
from textenv.algos.episodes.trajectory import Buffer
from textenv.algos.rollouts.worker_runner import WorkerRunner
from textenv.algos.storage.checkpoints.state import State
from textenv.algos.storage.codec import decode_rollout, encode_rollout


class AheadRunner:
    """Collects rollouts of workers, each while the one before is trained on.

    So the weights that play a rollout are those before one update, and never older: the next
    rollout begins when this one is taken.

    Args:
        workers: they play, and compute no gradients.
        goes_on: whether there will be another rollout after the one that is taken.
    """

    def __init__(self, workers: WorkerRunner, goes_on: Callable[[], bool]):
        self._workers, self._goes_on = workers, goes_on
        self._thread = ThreadPoolExecutor(1, "rollouts")
        self._next: Future[Rollout] | None = None

    def collect(self) -> Rollout:
        """Take the rollout that was begun, and begin the next with the present weights.

        Raises:
            WorkerError, Exception: as `WorkerRunner.collect`.
        """
        begun, self._next = self._next, None
        rollout = self._workers.collect() if begun is None else begun.result()
        if self._goes_on():
            self._next = self._thread.submit(self._workers.begin())
        return rollout

    def state(self) -> State:
        """The rollout that was begun, if there is one, once it is there."""
        if self._next is None:
            return State(values={"rollout": None})
        rollout = self._next.result()
        place = {id(trajectory): i for i, trajectory in enumerate(rollout.played)}
        return State(
            values={
                "rollout": {
                    "played": encode_rollout(Buffer(rollout.played)),
                    "kept": [place[id(trajectory)] for trajectory in rollout],
                    "counts": None if rollout.counts is None else asdict(rollout.counts),
                    "seconds": dict(rollout.seconds),
                }
            }
        )

    def load_state(self, state: State) -> None:
        """Go on from what `state` gave."""
        self._next, held = None, state.value("rollout")
        if held is not None:
            played = decode_rollout(held["played"], None, "the rollout ahead").trajectories
            self._next = Future()
            self._next.set_result(
                Rollout(
                    [played[i] for i in held["kept"]],
                    played=played,
                    counts=None if held["counts"] is None else Counts(**held["counts"]),
                    seconds=held["seconds"],
                )
            )

    def close(self) -> None:
        """End the workers, and with them a rollout that was begun."""
        self._workers.close()
        self._thread.shutdown()
