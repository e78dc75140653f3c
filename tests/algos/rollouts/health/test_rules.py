"""Each rule on made-up steps: what it says, when it first says it, and when it is silent."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.algos.rollouts.health.shared import facts
from textenv.algos.rollouts.health import rules
from textenv.algos.rollouts.health.answers import Answer
from textenv.algos.rollouts.health.watch import QUANTIZED

GUIDE = Path(__file__).resolve().parents[4] / "algos/training/README.md"
MIXED = [[1, 0] * 4] * 8
"""Eight groups of eight, half of each right."""
WRONG = [[0] * 8] * 8
RIGHT = [[1] * 8] * 8


def none():
    """No answers are known."""
    return []


def say(name, course, answers=none):
    """What a rule says after the last of these steps."""
    return rules.RULES[name](course, answers)


def first_step(name, course):
    """The number of steps after which a rule first says something."""
    return next((n for n in range(1, len(course) + 1) if say(name, course[:n])), None)


@pytest.mark.parametrize("name", rules.RULES)
def test_a_healthy_training_says_nothing(name):
    """From a quarter to nearly all right, with entropy falling as that happens."""
    rng = np.random.default_rng(0)
    course = []
    for step in range(1, 61):
        share = 0.25 + 0.74 * step / 60
        outcomes = (rng.random((16, 8)) < share).astype(float).tolist()
        metrics = {
            **{"entropy": 0.6 * (1 - step / 60), "sampling/logprob_difference/max": 2e-5},
            "clip_ratio/region_mean": 0.1,
        }
        course.append(facts(outcomes, step=step, metrics=metrics, cut=[False] * 120 + [True] * 8))
        assert say(name, course) is None


@pytest.mark.parametrize("name", rules.RULES)
def test_no_rule_minds_an_empty_course(name):
    assert say(name, []) is None


def test_no_reward_is_said_once_there_were_fifty_completions():
    course = [facts([[0] * 8] * 2)] * 4
    assert first_step("no_reward", course) == 4  # 16, 32, 48, 64
    what, remedy = say("no_reward", course)
    assert what == "none of the last 64 completions was right" and "--task-kwargs" in remedy
    assert say("no_reward", [facts(MIXED), *course]) is not None
    assert say("no_reward", [*course[1:], facts([[0] * 15 + [1]])]) is None
    assert say("no_reward", [facts(WRONG, judged=False)])[0].endswith("completions had a reward")
    assert say("no_reward", [facts([[-1] * 8] * 8, judged=False)]) is None  # lengths, say


def test_no_reward_shows_the_nearest_miss_and_what_would_read_it():
    answers = [Answer("12 + 30 = 42.", "12 + 30 = 42.", "42")] * 9
    answers += [Answer("who knows", "who knows", "7")] * 55
    what, remedy = say("no_reward", [facts(WRONG)], lambda: answers)
    assert what == (
        "none of the last 64 completions was right, and 9 of 64 contain the right answer but are "
        "not equal to it ('12 + 30 = 42.' was answered, and '42' expected)"
    )
    assert remedy == "--extract last_number, which finds it in 9 of them"


def test_no_reward_says_if_nothing_was_extracted():
    answers = [Answer("It is forty-two", None, "42")] * 64
    what, remedy = say("no_reward", [facts(WRONG)], lambda: answers)
    assert "no answer was found in 64 of 64" in what and "nothing was extracted" in what
    assert "--few-shot" in remedy and "--extract" in remedy


@pytest.mark.parametrize(
    ("near", "says"), [(6, "no answer was found in 64"), (7, "7 of 64 contain")]
)
def test_few_answers_that_contain_the_right_one_are_an_accident(near, says):
    answers = [Answer("42 of them, or 7", None, "42")] * near
    answers += [Answer("who knows", None, "42")] * (64 - near)
    assert says in say("no_reward", [facts(WRONG)], lambda: answers)[0]


def test_no_reward_although_answers_are_as_expected():
    what, remedy = say("no_reward", [facts(WRONG)], lambda: [Answer("42", "42", "42")] * 64)
    assert "and 64 of 64 are the expected answer but have no reward" in what
    assert "--reward" in remedy


def test_no_reward_of_answers_that_are_far():
    what, remedy = say("no_reward", [facts(WRONG)], lambda: [Answer("no", "no", "42")] * 64)
    assert what.endswith("('no' was answered, and '42' expected)") and "--algo sft" in remedy


def test_rewards_that_all_abstain():
    what, remedy = say("no_reward", [facts([[None] * 8] * 8, judged=False)])
    assert "no reward function scored any of the last 64" in what and "None" in remedy


def test_cut_off():
    course = [facts(MIXED, cut=True)]
    what, remedy = say("cut_off", course)
    assert what == "the last 64 completions were cut off before they ended"
    assert remedy.startswith("raise --max-completion-length")
    assert say("cut_off", [facts(MIXED, cut=[True] * 61 + [False] * 3)])  # 95%
    assert say("cut_off", [facts(MIXED, cut=[True] * 60 + [False] * 4)]) is None
    assert say("cut_off", [facts([[0] * 8], cut=True)]) is None  # too few


def test_right_already_is_about_the_beginning():
    what, remedy = say("right_already", [facts(RIGHT)])
    assert what.startswith("100% of the first completions are right") and "harder" in remedy
    assert say("right_already", [facts(MIXED), *[facts(RIGHT)] * 9]) is None
    assert say("right_already", [facts([[1] * 15 + [0]] * 4)]) is None  # 94%
    assert first_step("right_already", [facts([[1] * 8] * 2)] * 9) == 4
    equal = say("right_already", [facts([[0.5] * 8] * 8, judged=False)])
    assert "all have the same reward, 0.5" in equal[0]
    assert say("right_already", [facts([[2.0] * 7 + [2.1]] * 8, judged=False)]) is None


def test_little_signal():
    some = [facts([[1, 0] * 4, *[[0] * 8] * 7])] * 3  # 7 of 8 groups have equal rewards
    assert first_step("little_signal", some) == 3
    what, remedy = say("little_signal", some)
    assert what == "21 of the last 24 groups had equal rewards and taught nothing"
    assert "--num-generations" in remedy and "--strategy dapo" in remedy
    assert say("little_signal", [facts(MIXED)] * 3) is None
    assert say("little_signal", [facts(WRONG)] * 3) is None  # `no_reward` says that
    assert say("little_signal", [facts(RIGHT)] * 3) is None  # what training is for
    assert say("little_signal", [facts([[1, 0] * 4, *[[1] * 8] * 7])] * 3) is None  # 94% right
    assert say("little_signal", [facts([[1], [0], [0], [0]] * 6)] * 3) is None  # PPO has no groups
    assert say("little_signal", [facts([[-2.0] * 8] * 8, judged=False)] * 3) is not None


def test_entropy_gone():
    def course(*values, groups=MIXED):
        return [facts(groups, metrics={"entropy": v, "completions/mean_length": 4}) for v in values]

    gone = course(0.5, 0.02, 0.02, 0.02)  # 0.08 nats of a completion
    assert first_step("entropy_gone", gone) == 4
    what, remedy = say("entropy_gone", gone)
    assert "below 0.1 nats for 3 steps" in what and "--temperature" in remedy
    assert say("entropy_gone", course(0.02, 0.03, 0.02, 0.02)) is None  # 0.12
    assert say("entropy_gone", course(0.0, 0.0, 0.0, groups=RIGHT)) is None
    assert say("entropy_gone", [facts(MIXED)] * 3) is None  # nobody measured it


def test_two_completions_of_such_entropy_are_the_same_with_the_chance_that_is_stated():
    """exp(-entropy) is the least chance, by Jensen; checked on many distributions."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = rng.dirichlet(np.full(9, 0.05))
        entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
        assert (p**2).sum() >= np.exp(-entropy) - 1e-12


def test_collapse():
    course = [*[facts(MIXED)] * 2, *[facts(RIGHT)] * 5, *[facts(WRONG)] * 2]
    assert first_step("collapse", course) == 9  # 64 completions are too few
    what, remedy = say("collapse", course)
    assert what.startswith("the accuracy of sampled answers has fallen from 0.500 to 0.000")
    assert "--learning-rate" in remedy and "--stop-on-collapse" in remedy
    reward = [*[facts([[2.0, 4.0] * 4] * 8, judged=False)] * 2]
    assert say("collapse", [*reward, *[facts([[2.0] * 8] * 8, judged=False)] * 2])[0].startswith(
        "the reward of sampled answers has fallen from 3.000 to 2.000"
    )
    half = [facts([[2.6] * 8] * 8, judged=False)] * 2  # not half of the way from 3 to 2
    assert say("collapse", [*reward, *half]) is None
    assert (
        say("collapse", [facts(f, comparable=False) for f in (MIXED, MIXED, WRONG, WRONG)]) is None
    )


def test_a_fall_by_chance_is_no_collapse():
    """Of 2,000 trainings that stay where they are, with groups that agree, none has collapsed."""
    rng = np.random.default_rng(0)
    for _ in range(2000):
        chances = rng.beta(0.4, 1.6, (2, 16))  # groups at 0.2 on average, far apart
        before, after = (rng.binomial(8, p) / 8 for p in chances)
        assert not rules.fell(before, after, 0.0)


def test_a_fall_by_numbers_worked_by_hand():
    before = np.array([0.5, 0.75, 0.25, 0.5])  # variance 1/24, error of the mean 0.102
    assert rules.fell(before, np.zeros(4), 0.0)  # 0.5 is 4.9 errors
    assert not rules.fell(before, np.array([0.0, 0.25, 0.0, 0.25]), 0.0)  # 0.375 of 0.125: 3.0
    assert not rules.fell(before[:1], np.zeros(4), 0.0)


def test_collapse_in_evaluations():
    what, _ = rules.collapse_in_evaluation("the greedy accuracy", 0.5, 0.1, (100, 100))
    assert what.startswith("the greedy accuracy has fallen from 0.500 to 0.100")
    assert rules.collapse_in_evaluation("it", 0.5, 0.3, (10_000, 10_000)) is None  # above half
    assert rules.collapse_in_evaluation("it", 0.5, 0.1, (10, 10)) is None  # 2.2 errors
    assert rules.collapse_in_evaluation("it", 0.1, 0.9, (100, 100)) is None


def test_mismatch_of_log_probabilities():
    def course(off):
        return [facts(MIXED, metrics={"sampling/logprob_difference/max": off})]

    what, remedy = say("logprob_mismatch", course(0.5))
    assert "differs by 0.5" in what and "float32" in remedy
    assert say("logprob_mismatch", course(0.2)) is None


def test_ratios_far_from_one():
    def course(*values):
        return [facts(MIXED, metrics={"train/clip_fraction": v}) for v in values]

    assert first_step("ratio_far", course(0.9, 0.1, 0.6, 0.6, 0.6)) == 5
    what, remedy = say("ratio_far", course(0.6, 0.6, 0.6))
    assert "more than half" in what and "--learning-rate" in remedy


def test_the_page_has_a_row_for_each_warning_and_its_thresholds():
    text = GUIDE.read_text(encoding="utf-8")
    section = text.split("## Warnings")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert rows == [*rules.RULES, QUANTIZED]
    row = dict(zip(rows, re.findall(r"^\| `\w+` \|(.*)$", section, re.MULTILINE)))
    assert f"{rules.ENOUGH} completions" in row["no_reward"]
    assert f"{rules.CUT:.0%}" in row["cut_off"] and f"{rules.RIGHT:.0%}" in row["right_already"]
    assert f"{rules.UNIFORM:.0%}" in row["little_signal"]
    assert (
        f"{rules.SOLVED:.0%}" in row["little_signal"]
        and f"{rules.SOLVED:.0%}" in row["entropy_gone"]
    )
    assert f"{rules.ENTROPY:g} nats" in row["entropy_gone"]
    assert f"{rules.BASELINE} completions" in row["collapse"]
    assert f"{rules.ERRORS:g} standard errors" in row["collapse"]
    assert f"{rules.MISMATCH:g}" in row["logprob_mismatch"]
    assert f"{rules.RUNNING} steps" in row["ratio_far"]
