"""Figures of evaluations from records made by hand."""

import json

import pytest

from tests.algos.evaluation.shared import make_record
from textenv.algos import Trajectory
from textenv.algos.evaluation.results import Evaluation, Record, metrics_of_figures
from textenv.algos.evaluation.statistics import bootstrap_interval, pass_at_k, share_interval
from textenv.errors import ConfigError


def test_a_record_of_an_episode_of_two_turns():
    record = Record(7, "guess", "42")
    trajectory = Trajectory(
        actions=["17", "42"],
        rewards=[0.25, 1.0],
        infos=[
            {"rewards": {"near": 0.25, "right": 0.0}},
            {"rewards": {"right": 1.0}, "is_correct": True, "answer": "the 42"},
        ],
        token_mask=[1, 1, 0, 1],
        completion_truncated=True,
    )
    record.add(trajectory)
    record.add(Trajectory(actions=["5"], rewards=[0.0], infos=[{"scored": False}]))
    record.add(Trajectory(actions=["6"], rewards=[0.0], infos=[{"answer": None}]))
    assert record == Record(
        *(7, "guess", "42"),
        completions=["17\n42", "5", "6"],
        answers=["the 42", "5", None],
        rewards=[1.25, None, 0.0],
        components=[{"near": 0.25, "right": 1.0}, {}, {}],
        correct=[True, None, None],
        lengths=[3, 0, 0],
        truncated=[True, False, False],
    )
    assert record.accuracy == 1.0 and record.reward == 0.625
    assert Record(0, "", None).accuracy is None and Record(0, "", None).reward is None


def test_means_over_examples_by_hand():
    records = [
        make_record(0, [1, 1, 1, 1], lengths=[1, 2, 3, 4], truncated=[True, False, False, False]),
        make_record(1, [1, 0, 0, 0]),
        make_record(2, [None] * 4, rewards=[None] * 4),
    ]
    found = Evaluation.of(records, left_out=5)
    assert found.accuracy == (1 + 0.25) / 2 and found.reward == (1 + 0.25) / 2
    assert found.components == {"right": 5 / 8}
    assert found.length == 10 / 12 and found.truncated == 1 / 12
    assert (found.examples, found.samples, found.left_out) == (3, 4, 5)
    assert found.accuracy_interval == share_interval([1, 0.25], 4)
    assert found.reward_interval == found.accuracy_interval  # rewards of 0 and 1 are shares
    graded = Evaluation.of([make_record(i, [1], rewards=[r]) for i, r in enumerate([1, 0.25, 0])])
    assert graded.reward_interval == bootstrap_interval([1, 0.25, 0])
    told = json.loads(json.dumps(found.as_dict()))
    assert told["accuracy_interval"] == list(found.accuracy_interval) and told["left_out"] == 5
    assert told["rewards"] == {"right": 0.625} and "records" not in told
    assert json.loads(json.dumps(found.records_as_dicts()))[1]["correct"] == [True, *[False] * 3]
    assert "left_out" not in Evaluation.of(records).as_dict()


def test_pass_at_k_over_examples():
    found = Evaluation.of([make_record(i, [1] * i + [0] * (4 - i)) for i in range(5)])
    for k in (1, 2, 3, 4):
        shares = [pass_at_k(4, right, k) for right in range(5)]
        assert found.pass_at(k) == (pytest.approx(sum(shares) / 5), share_interval(shares, 4 // k))
    assert found.pass_at(1)[0] == pytest.approx(found.accuracy)
    with pytest.raises(ConfigError, match="pass@5 needs k from 1 to the 4"):
        found.pass_at(5)
    untold = Evaluation.of([make_record(0, [None], rewards=[0.5])])
    with pytest.raises(ConfigError, match="pass@1 counts right answers, and no reward function"):
        untold.pass_at(1)
    assert untold.accuracy is None and untold.accuracy_interval is None


def test_metrics_of_a_training_step():
    found = Evaluation.of([make_record(0, [1], lengths=[6]), make_record(1, [0], lengths=[2])])
    low, high = share_interval([1, 0])
    assert found.metrics() == {
        **{"eval/accuracy": 0.5, "eval/accuracy_low": low, "eval/accuracy_high": high},
        **{"eval/reward": 0.5, "eval/rewards/right/mean": 0.5, "eval/mean_length": 4.0},
        **{"eval/clipped_ratio": 0.0, "eval/examples": 2.0},
    }
    untold = Evaluation.of([make_record(0, [None], rewards=[0.5])])
    assert "eval/accuracy" not in untold.metrics()
    for each in (found, untold):  # as a summary has them
        assert metrics_of_figures(json.loads(json.dumps(each.as_dict()))) == each.metrics()


def test_figures_of_a_foreign_file_are_left_out_if_they_are_no_numbers():
    figures = {"accuracy": "x", "accuracy_interval": [0.25, None], "reward": True, "rewards": 3}
    figures |= {"length": 10**400, "truncated": 1}
    assert metrics_of_figures(figures) == {"eval/accuracy_low": 0.25, "eval/clipped_ratio": 1.0}
    assert metrics_of_figures({"rewards": {"a": 0.5, "b": []}}) == {"eval/rewards/a/mean": 0.5}


def test_an_evaluation_comes_back_from_json_with_its_records():
    records = [
        make_record(0, [1, 0, 1], lengths=[3, 4, 5]),
        make_record(1, [0, 0, None], rewards=[0.1 + 0.2, 0.0, None], truncated=[True, False, True]),
    ]
    found = Evaluation.of(records, left_out=3)
    back = Evaluation.from_json(json.loads(json.dumps(found.to_json())))
    assert back == found and back.records == found.records
    assert back.metrics() == found.metrics() and back.as_dict() == found.as_dict()


def test_answers_that_are_no_json_become_text():
    record = make_record(0, [1])
    record.answers[0] = {1, 2}
    back = Evaluation.from_json(Evaluation.of([record]).to_json())
    assert back.records[0].answers == ["{1, 2}"] and back.accuracy == 1.0
