"""A whole training is watched: each thing is said once, and nothing of a training that is well."""

from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import pytest

from tests.algos.rollouts.health.shared import rollout
from textenv import tasks
from textenv.algos import create_strategy
from textenv.algos.episodes.rollout import Counts, Rollout
from textenv.algos.rollouts.health.watch import QUANTIZED, Finding, HealthWatch
from textenv.algos.storage.checkpoints.store import read_checkpoint, write_checkpoint

METRICS = {"completions/mean_length": 3.0, "entropy": 0.5}


def make_watch(parts=(), task=None, model=None, precision="float32"):
    strategy = create_strategy("grpo", num_generations=8, parts=list(parts))
    env = SimpleNamespace(unwrapped=SimpleNamespace(task=task))
    return HealthWatch(env, strategy, model or nn.Linear(2, 2), precision)


def names(found):
    return [finding.name for finding in found]


def test_each_thing_is_said_once():
    watch = make_watch()
    wrong = rollout([[0] * 8] * 8, cut=True)
    found = [names(watch.step(n, METRICS, wrong)) for n in range(1, 20)]
    assert found == [["cut_off", "no_reward"], *[[]] * 18]
    assert names(watch.findings) == ["cut_off", "no_reward"]
    first = watch.findings[0]
    assert first.as_dict() == {
        **{"name": "cut_off", "step": 1, "what": first.what, "remedy": first.remedy}
    }
    assert str(first) == f"step 1: {first.what}. Try: {first.remedy}"
    assert str(Finding("x", 0, "a", "b")) == "a. Try: b"


def test_a_well_training_has_no_findings():
    watch = make_watch()
    for n in range(1, 30):
        watch.step(n, METRICS, rollout([[1, 0] * 4] * 8))
    assert watch.findings == [] and not watch.has_collapsed


def test_wrong_answers_since_the_last_reward_are_shown():
    task = tasks.make("arithmetic")
    right = task.example(0)["answer"]
    watch = make_watch(task=task)
    watch.step(1, METRICS, rollout([[1, *[0] * 7]], texts=["old"] * 8))
    texts = [f"That is {right}.", *["hm"] * 15]
    for n in range(2, 6):
        found = watch.step(n, METRICS, rollout([[0] * 16], texts=texts))
    assert names(found) == ["no_reward"]
    assert found[0].what == (
        "none of the last 64 completions was right, and 4 of 64 contain the right answer but are "
        f"not equal to it ('That is {right}.' was answered, and '{right}' expected)"
    )
    assert found[0].remedy == "--extract last_number, which finds it in 4 of them"


def test_a_strategy_that_chooses_prompts_is_not_compared_with_the_beginning():
    def collapsed(parts):
        watch = make_watch(parts)
        for n in range(1, 9):
            watch.step(n, METRICS, rollout([[1, 0] * 4 if n < 5 else [0] * 8] * 8))
        return watch.has_collapsed

    assert collapsed([]) and collapsed(["pods:keep=4"]) and not collapsed(["greso"])


def test_strategies_with_parts_see_to_groups_without_signal_themselves():
    def found(parts):
        watch = make_watch(parts)
        for n in range(1, 9):
            watch.step(n, METRICS, rollout([[1, 0] * 4, *[[0] * 8] * 7]))
        return names(watch.findings)

    assert found([]) == ["little_signal"] and found(["dapo"]) == []


def test_replayed_groups_may_have_other_log_probabilities():
    metrics = METRICS | {"sampling/logprob_difference/max": 0.9}
    own = rollout([[1, 0] * 4] * 8)
    replayed = Rollout(own.trajectories, counts=Counts(groups_reused=2))
    watch = make_watch()
    assert watch.step(1, metrics, replayed) == []
    assert names(watch.step(2, metrics, own)) == ["logprob_mismatch"]


def test_a_mismatch_by_dropout_is_meant(random_model, tiny_config):
    from textenv.algos.lm.models.lora import add_lora

    for share, expected in ((0.0, ["logprob_mismatch"]), (0.1, [])):
        model = random_model(**tiny_config)
        add_lora(model, 2, 10.0, 0, dropout=share)
        metrics = METRICS | {"sampling/logprob_difference/max": 0.9}
        found = make_watch(model=model).step(1, metrics, rollout([[1, 0] * 4] * 8))
        assert names(found) == expected


def test_a_mismatch_by_sampling_in_bfloat16_is_meant():
    metrics = METRICS | {"sampling/logprob_difference/max": 0.9}
    for precision, expected in (("float32", ["logprob_mismatch"]), ("bfloat16", [])):
        found = make_watch(precision=precision).step(1, metrics, rollout([[1, 0] * 4] * 8))
        assert names(found) == expected


def test_a_step_that_played_nothing_is_passed_over():
    assert make_watch().step(1, {}, Rollout([])) == []


def test_evaluations_are_compared_with_the_first_of_their_kind():
    watch = make_watch()
    assert watch.evaluated(0, "greedy accuracy", 0.5, 200) == []
    assert watch.evaluated(0, "sampled accuracy", 0.1, 200) == []
    assert watch.evaluated(20, "sampled accuracy", 0.09, 200) == []
    found = watch.evaluated(20, "greedy accuracy", 0.09, 200)
    assert names(found) == ["collapse"] and "the greedy accuracy has fallen" in found[0].what
    assert watch.has_collapsed and watch.evaluated(40, "greedy accuracy", 0.0, 200) == []


def test_evaluations_that_come_with_a_step():
    watch = make_watch()
    for step, accuracy in ((1, 0.5), (2, 0.1)):
        metrics = METRICS | {"eval/accuracy": accuracy, "eval/examples": 300.0}
        found = watch.step(step, metrics, rollout([[1, 0] * 4] * 8))
    assert names(found) == ["collapse"] and "0.500 to 0.100" in found[0].what


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="a GPU is fast with rounded weights")
def test_rounded_weights_on_a_cpu_are_slow():
    model = nn.Sequential(nn.Linear(64, 64))
    nn.quantize(model, group_size=64, bits=4)
    watch = make_watch(model=model)
    assert names(watch.findings) == [QUANTIZED] and watch.findings[0].step == 0
    assert "dequantize" in watch.findings[0].remedy


@pytest.mark.parametrize("stops", [1, 4])
def test_it_goes_on_from_a_checkpoint(tmp_path, stops):
    """It finds what one finds that never stopped, which needs what was played before."""
    task = tasks.make("arithmetic")
    right = task.example(0)["answer"]
    steps = [
        (METRICS | {"eval/accuracy": 0.5, "eval/examples": 300.0}, rollout([[1, *[0] * 7]] * 2)),
        *[(METRICS, rollout([[0] * 16], texts=[f"That is {right}.", *["hm"] * 15]))] * 4,
        (METRICS | {"eval/accuracy": 0.1, "eval/examples": 300.0}, rollout([[0] * 16])),
    ]
    for _, each in steps:
        for trajectory in each.played:
            trajectory.prompt_ids, trajectory.token_logprobs = [1], [-1.0] * 3
    whole, first, again = (make_watch(task=task) for _ in range(3))
    for n, step in enumerate(steps):
        whole.step(n, *step)
        if n < stops:
            first.step(n, *step)
    path = write_checkpoint(tmp_path, 1, first.state(), {})
    again.load_state(read_checkpoint(path).state)
    assert again.findings == first.findings
    for n, step in enumerate(steps[stops:], stops):
        again.step(n, *step)
    assert again.findings == whole.findings
    assert names(whole.findings) == ["no_reward", "collapse"]
    assert "4 of 64 contain the right answer" in whole.findings[0].what
