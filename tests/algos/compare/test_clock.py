"""The clock of a comparison."""

from types import SimpleNamespace

from textenv.algos.compare import clock
from textenv.algos.compare.clock import Watch


def test_the_clock_stands_still_while_an_agent_is_evaluated(monkeypatch):
    now = [100.0]
    fake = SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: 2 * now[0])
    monkeypatch.setattr(clock, "time", fake)

    def evaluate(policy):
        now[0] += 50
        return [policy, policy + 2]

    watch = Watch(evaluate, eval_every=100)
    for steps, policy in ((0, 1), (64, 2), (128, 3), (192, 4), (256, 5)):
        now[0] += 1
        watch(steps, policy)
    run = watch.finish("agent", 7, 256, 6, {"environment": 1.0, "policy": 0.5, "update": 2.5})
    # Checkpoints 0, 100 and 200, each at the first call at or after it.
    assert [(e.steps, e.seconds, e.cpu_seconds) for e in run.evaluations] == [
        (0, 1, 2),
        (128, 3, 6),
        (256, 5, 10),
    ]
    assert [e.mean for e in run.evaluations] == [2, 4, 6]
    assert (run.seconds, run.cpu_seconds, run.steps, run.final) == (5, 10, 256, 6)
    assert run.parts == {"environment": 1.0, "policy": 0.5, "update": 2.5, "other": 1.0}
    assert run.reached(4).steps == 128 and run.reached(6.5) is None


def test_a_run_that_ends_between_checkpoints_is_evaluated_at_its_end():
    watch = Watch(lambda policy: [policy], eval_every=100)
    watch(0, 1.0)
    watch(90, 2.0)
    run = watch.finish("agent", 0, 90, 3.0, {})
    assert [(e.steps, e.mean) for e in run.evaluations] == [(0, 1), (90, 3)]
