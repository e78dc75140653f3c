"""When checkpoints are written, and that the training does not wait for them."""

import math
import threading
import time

import numpy as np
import pytest

from textenv.algos.storage.checkpoints import schedule as module
from textenv.algos.storage.checkpoints.schedule import CheckpointSchedule
from textenv.algos.storage.checkpoints.state import State
from textenv.algos.storage.checkpoints.store import checkpoints, read_checkpoint, step_of
from textenv.errors import ConfigError, StorageError

STATE = State({"x": np.arange(3)}, {"y": 1})


def steps(out):
    return [step_of(path) for path in checkpoints(out / "checkpoints")]


def asked(schedule, numbers):
    """The steps at which the schedule takes the state."""
    taken = []
    for step in numbers:
        schedule.after_step(step, lambda step=step: taken.append(step) or STATE)
    return taken


def test_every_so_many_steps_and_once_at_the_end(tmp_path):
    schedule = CheckpointSchedule(tmp_path, {"a": 1}, save_steps=10)
    assert asked(schedule, range(1, 26)) == [10, 20]
    schedule.after_step(25, lambda: STATE, ends=True)
    schedule.after_step(25, lambda: pytest.fail("it is written already"), ends=True)
    schedule.wait()
    assert schedule.last == tmp_path / "checkpoints" / "step-00000025"
    found = read_checkpoint(schedule.last)
    assert found.manifest.config == {"a": 1} and found.state.values == {"y": 1}
    assert steps(tmp_path) == [20, 25]


def test_a_rollout_may_have_several_steps(tmp_path):
    schedule = CheckpointSchedule(tmp_path, {}, save_steps=10)
    assert asked(schedule, range(4, 64, 4)) == [12, 20, 32, 40, 52, 60]


def test_every_so_many_minutes_since_the_last(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    schedule = CheckpointSchedule(tmp_path, {}, save_steps=7, save_minutes=2)
    schedule.begin()
    taken = []
    for step in range(1, 13):
        now[0] += 59
        schedule.after_step(step, lambda step=step: taken.append(step) or STATE)
    # After 3 steps of 59 seconds; then the seventh step comes in between, and 3 steps after it.
    assert taken == [3, 6, 7, 10]


def test_without_a_folder_or_a_step_nothing_is_written(tmp_path):
    schedule = CheckpointSchedule(None, {}, save_steps=1)
    schedule.after_step(1, lambda: pytest.fail("there is no folder"), ends=True)
    schedule = CheckpointSchedule(tmp_path, {}, save_steps=1)
    schedule.after_step(0, lambda: pytest.fail("there was no step"), ends=True)
    schedule.wait()
    assert schedule.last is None and list(tmp_path.iterdir()) == []


@pytest.fixture
def held(monkeypatch):
    """Writing that waits until the event is set."""
    go, write = threading.Event(), module.write_checkpoint

    def slow(*args):
        assert go.wait(10)
        return write(*args)

    monkeypatch.setattr(module, "write_checkpoint", slow)
    yield go
    go.set()


def test_the_training_goes_on_while_one_is_written(tmp_path, held):
    schedule = CheckpointSchedule(tmp_path, {}, save_steps=1)
    schedule.after_step(1, lambda: STATE)
    assert schedule.last is None and steps(tmp_path) == []
    held.set()
    schedule.wait()
    assert steps(tmp_path) == [1]


def test_only_one_is_written_at_a_time(tmp_path, held):
    schedule = CheckpointSchedule(tmp_path, {}, save_steps=1)
    schedule.after_step(1, lambda: STATE)
    threading.Timer(0.1, held.set).start()
    began = time.monotonic()
    schedule.after_step(2, lambda: STATE)
    assert time.monotonic() - began > 0.09 and steps(tmp_path)[0] == 1
    schedule.wait()
    assert steps(tmp_path) == [1, 2]


def test_it_waits_where_the_memory_for_both_is_short(tmp_path, held):
    schedule = CheckpointSchedule(tmp_path, {}, save_steps=1)
    schedule.after_step(1, lambda: State({"x": np.zeros(1000)}))  # 8,000 bytes
    schedule.make_room(16_000)
    assert steps(tmp_path) == []
    held.set()
    schedule.make_room(15_999)
    assert steps(tmp_path) == [1]


def test_the_state_is_taken_at_once_and_arrays_are_not_copied(tmp_path, held, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "write_checkpoint", lambda *args: seen.append(args[2].arrays["x"]))
    schedule = CheckpointSchedule(tmp_path, {}, save_steps=1)
    schedule.after_step(1, lambda: STATE)
    schedule.wait()
    assert seen[0] is STATE.arrays["x"]


@pytest.mark.parametrize("asks", ["after_step", "wait"])
def test_an_error_of_the_thread_reaches_the_training(tmp_path, asks):
    (tmp_path / "checkpoints").write_text("a file")
    schedule = CheckpointSchedule(tmp_path, {}, save_steps=1)
    schedule.after_step(1, lambda: STATE)
    with pytest.raises(StorageError, match="the checkpoint of step 1 cannot be written"):
        if asks == "wait":
            schedule.wait()
        else:
            schedule.after_step(2, lambda: STATE)
    (tmp_path / "checkpoints").unlink()
    schedule.after_step(3, lambda: STATE)  # it is said once
    schedule.wait()
    assert steps(tmp_path) == [3]


def test_checkpoints_of_another_training_are_not_mixed_in(tmp_path):
    first = CheckpointSchedule(tmp_path, {}, save_steps=1)
    first.begin()
    first.after_step(1, lambda: STATE)
    first.wait()
    first.begin()  # of a further call of the same training
    with pytest.raises(ConfigError, match=r"has checkpoints of an earlier training.*resume\("):
        CheckpointSchedule(tmp_path, {}).begin()


def test_later_ones_go_once_a_training_that_went_on_from_an_earlier_one_writes(tmp_path):
    first = CheckpointSchedule(tmp_path, {}, save_steps=1)
    for step in (10, 20):
        first.after_step(step, lambda: STATE)
    first.wait()
    again = CheckpointSchedule(tmp_path, {}, save_steps=4)
    again.resumed(tmp_path / "checkpoints" / "step-00000010")
    again.begin()
    assert (steps(tmp_path), asked(again, [11])) == ([10, 20], [])
    assert asked(again, [12]) == [12]
    again.wait()
    assert steps(tmp_path) == [10, 12]


def test_a_training_may_go_on_in_another_folder(tmp_path):
    first = CheckpointSchedule(tmp_path / "a", {}, save_steps=1)
    first.after_step(8, lambda: STATE)
    first.wait()
    again = CheckpointSchedule(tmp_path / "b", {})
    again.resumed(first.last)
    again.begin()
    again.after_step(8, lambda: STATE, ends=True)
    again.wait()
    assert (steps(tmp_path / "a"), steps(tmp_path / "b")) == ([8], [8])
    other = CheckpointSchedule(tmp_path / "b", {})
    other.resumed(first.last)
    with pytest.raises(ConfigError, match="another folder"):
        other.begin()


@pytest.fixture
def hold_all(monkeypatch):
    """States are held after each step, whatever that costs."""
    monkeypatch.setattr(module, "HELD_SHARE", math.inf)


def state_of(step):
    return lambda: State({"x": np.full(3, step)}, {"step": step})


def test_a_training_that_ends_in_a_step_saves_what_the_last_whole_one_left(tmp_path, hold_all):
    schedule = CheckpointSchedule(tmp_path, {"a": 1}, save_steps=3)
    assert schedule.save_last() is None
    for step in range(1, 6):
        schedule.after_step(step, state_of(step))
        schedule.hold(step, state_of(step))
    path = schedule.save_last()
    assert path == schedule.last and steps(tmp_path) == [3, 5]
    found = read_checkpoint(path)
    assert (found.manifest.step, found.manifest.config) == (5, {"a": 1})
    assert found.state.values == {"step": 5} and found.state.arrays["x"].tolist() == [5, 5, 5]
    written = path.stat().st_mtime_ns
    assert schedule.save_last() == path and path.stat().st_mtime_ns == written


def test_what_was_written_is_not_written_again(tmp_path, held):
    schedule = CheckpointSchedule(tmp_path, {}, save_steps=1)
    schedule.after_step(1, state_of(1))
    schedule.hold(1, lambda: pytest.fail("it is held already"))
    held.set()
    assert step_of(schedule.save_last()) == 1 and steps(tmp_path) == [1]


def test_what_cannot_be_written_is_written_to_another_folder(tmp_path):
    """What the thread failed to write is held, until the training has made another step."""
    (tmp_path / "checkpoints").write_text("a file")
    schedule = CheckpointSchedule(tmp_path, {}, save_steps=1)
    schedule.after_step(1, state_of(1))
    for _ in range(2):
        with pytest.raises(StorageError, match="the checkpoint of step 1 cannot be written"):
            schedule.save_last()
    path = schedule.save_last(tmp_path / "spare")
    assert path == tmp_path / "spare" / "checkpoints" / "step-00000001"
    assert read_checkpoint(path).state.values == {"step": 1}


def test_holding_takes_a_hundredth_of_the_time(tmp_path, monkeypatch):
    """Steps of 0.25 seconds, and states that take 0.01 seconds: one in four is held."""
    now = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def state():
        now[0] += 0.01
        taken.append(step)
        return STATE

    schedule, taken = CheckpointSchedule(tmp_path, {}), []
    for step in range(1, 12):
        now[0] += 0.25
        schedule.hold(step, state)
    assert taken == [1, 5, 9]  # 1 second after the one before, and that is in the fourth step
    assert step_of(schedule.save_last()) == 9


def test_what_is_held_is_given_up_where_memory_is_short(tmp_path, hold_all):
    schedule = CheckpointSchedule(tmp_path, {})
    for free, last in ((16_000, 2), (15_999, None)):
        schedule.hold(2, lambda: State({"x": np.zeros(1000)}))  # 8,000 bytes
        schedule.make_room(free)
        assert (schedule._held and schedule._held[0]) == last
    assert schedule.save_last() is None
