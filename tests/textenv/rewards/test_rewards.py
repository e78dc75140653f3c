"""Names of reward functions, weighted sums, and what is not a reward."""

import decimal
import fractions
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv import reward, rewards
from textenv.errors import ConfigError, ConfigTypeError, RewardError
from textenv.rewards import Reward


def returning(value):
    def given(prompt, completion, example):
        return value

    return given


def run(spec, completion="4", example=None, prompt="2+2=", score=None, **kwargs):
    made = Reward(spec, has_verifier=score is not None, **kwargs)
    return made(prompt, completion, example or {"answer": "4"}, score)


def test_several_are_summed_by_weight_and_kept_raw():
    def style(prompt, completion, example):
        return {"dots": completion.count("."), "words": len(completion.split())}

    spec = ["exact_match", style, returning(10)]
    total, components, correct = run(spec, "4 . .", weights={"dots": -0.5, "given": 0})
    assert components == {"exact_match": 0.0, "dots": 2.0, "words": 3.0, "given": 10.0}
    assert (total, correct) == (-0.5 * 2 + 3, False)


def test_a_functions_name_weighs_all_its_components_that_have_no_weight_of_their_own():
    def style(prompt, completion, example):
        return {"dots": completion.count("."), "words": len(completion.split())}

    for weights, expected in (
        ({"style": 0.5}, 0 + 0.5 * (2 + 3)),
        ({"style": 0.5, "dots": -1}, -1 * 2 + 0.5 * 3),
        ({"style": 0, "exact_match": 3, "words": 2}, 2 * 3),
    ):
        total, _, correct = run(["exact_match", style], "4 . .", weights=weights)
        assert (total, correct) == (expected, False)
    with pytest.raises(ValueError, match="'stile'"):
        run(["exact_match", style], "4 . .", weights={"stile": 0.5})


components = st.dictionaries(st.text(max_size=3), st.floats(-1e6, 1e6), min_size=1, max_size=5)


@given(components, st.data())
def test_the_total_is_the_dot_product(values, data):
    named = data.draw(st.sets(st.sampled_from(sorted(values))))
    weights = {name: data.draw(st.floats(-1e3, 1e3)) for name in named}
    total, got, _ = run(returning(values), weights=weights)
    vector = [weights.get(name, 1.0) for name in values]
    assert got == values
    assert total == pytest.approx(np.dot(vector, list(values.values())), rel=1e-9, abs=1e-3)


@pytest.mark.parametrize(
    "value",
    [1, 1.0, True, np.float32(1), np.float64(1), np.int64(1), np.uint8(1), fractions.Fraction(1)],
)
def test_any_real_number_is_a_reward(value):
    total, components, _ = run(returning(value))
    assert (type(total), type(components["given"])) == (float, float)
    assert total == 1.0


def test_a_numpy_comparison_is_a_reward_as_pythons_is():
    assert run(returning(np.float64(3) > 2))[0] == run(returning(3 > 2))[0]


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        -float("inf"),
        np.float32("nan"),
        "1.0",
        b"1",
        1j,
        [1.0],
        (1.0,),
        np.ones(3),
        decimal.Decimal(1),
        object,
    ],
)
@pytest.mark.parametrize("component", [False, True])
def test_what_is_not_a_finite_number_is_named(value, component):
    returned = {"good": 1.0, "bad": value} if component else value
    with pytest.raises(RewardError, match=r"given.*finite number") as caught:
        run(returning(returned))
    assert repr(value) in str(caught.value)
    assert ("bad" in str(caught.value)) == component


@pytest.mark.parametrize("value", [{"a": 1e308, "b": 1e308}, 10**400, {}, {1: 1.0}])
def test_what_makes_no_finite_sum_of_named_numbers_is_refused(value):
    with pytest.raises(RewardError, match="given"):
        run(returning(value))


def test_a_function_that_raises_is_named_with_what_it_was_given():
    def picky(prompt, completion, example):
        return example["missing"]

    with pytest.raises(RewardError, match=r"'picky' raised KeyError: 'missing'") as caught:
        run(picky, "c" * 10_000, prompt="p" * 10_000)
    assert isinstance(caught.value.__cause__, KeyError)
    assert len(str(caught.value)) < 300


def test_an_interrupt_is_not_a_failed_reward():
    def interrupted(prompt, completion, example):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupted)


def test_names_that_clash_are_refused():
    with pytest.raises(ConfigError, match="'length'"):
        Reward(["length", "length"])
    with pytest.raises(ConfigError, match="'<lambda>'"):
        Reward([lambda p, c, e: 1, lambda p, c, e: 2])
    with pytest.raises(RewardError, match="component 'length'"):
        run(["length", returning({"length": 1.0})])


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("exact", ConfigError, "'exact'.*exact_match"),
        (["length", "lenght"], ConfigError, "'lenght'.*did you mean 'length'"),
        ([], ConfigError, "at least one"),
        ("correct", ConfigError, "verifier"),
        (None, ConfigTypeError, "NoneType"),
        ([3], ConfigTypeError, "int"),
        ({"length": 1.0}, ConfigTypeError, "dict"),
    ],
)
def test_what_is_no_reward_function_is_named(spec, error, says):
    with pytest.raises(error, match=says):
        Reward(spec)


@pytest.mark.parametrize("weight", ["1", None, float("nan"), float("inf"), 10**400, True, [1]])
def test_what_is_no_weight_is_named(weight):
    with pytest.raises(ConfigError, match=r"length.*finite number"):
        Reward("length", {"length": weight})


def test_a_weight_of_nothing_names_what_there_is():
    with pytest.raises(RewardError, match=r"'lenght'.*'length'"):
        run("length", weights={"lenght": 1.0})


def test_the_tasks_own_verifier_and_others_that_verify_must_all_agree():
    spec = ["correct", "exact_match", "length"]
    for task_says, completion, expected in [(1, "4", True), (1, "5", False), (0, "4", False)]:
        total, components, correct = run(spec, completion, score=task_says)
        assert correct is expected
        assert total == sum(components.values())
    assert run("correct", score=0.5)[2] is False


def test_the_decorator_plain_named_and_with_settings():
    @reward
    def plain(prompt, completion, example):
        return 1.0

    @reward("other")
    def named(prompt, completion, example):
        return 2.0

    @reward(requires=["units"], verifies=True)
    def settled(prompt, completion, example):
        return 1.0

    assert {"plain", "other", "settled"} <= set(rewards.names())
    assert "named" not in rewards.names()
    assert run(["plain", "other"])[:2] == (3.0, {"plain": 1.0, "other": 2.0})
    assert run("settled", example={"units": "m"})[2] is True
    assert Reward(["settled", "exact_match"]).requires == ["answer", "units"]
    assert plain("", "", {}) == 1.0
    assert reward(plain) is plain  # to register the same function again is allowed
    with pytest.raises(ConfigError, match="'plain' is registered already"):
        reward("plain")(named)


def test_a_function_that_verifies_may_return_components():
    @reward(verifies=True)
    def both(prompt, completion, example):
        return {"right": 1.0, "short": 0.5}

    assert run("both")[0] == 1.5


def test_a_named_function_has_its_name_however_it_is_given():
    @reward("other")
    def named(prompt, completion, example):
        return 2.0

    assert run(named)[1] == run("other")[1]


def test_the_name_of_the_tasks_verifier_is_taken():
    with pytest.raises(ConfigError, match="correct"):
        reward("correct")(returning(1.0))


def test_none_abstains_and_is_left_out_of_the_sum():
    half = {"a": None, "b": 0.5}
    spec = [named("none", None), named("half", half), named("one", 1.0)]
    made = Reward(spec, {"a": 10.0, "one": 2.0, "none": 3.0})
    assert made("p", "c", {}) == (2.5, {"b": 0.5, "one": 1.0}, None)
    total, components, correct = Reward([named("none", None), named("d", {"a": None})])(
        "p", "c", {}
    )
    assert math.isnan(total) and (components, correct) == ({}, None)


def test_a_verifier_that_abstains_does_not_say_whether_it_is_correct():
    verifier = named("verifier", None)
    verifier.verifies = True
    assert Reward([verifier, named("one", 1.0)])("p", "c", {}) == (1.0, {"one": 1.0}, None)
    assert Reward([verifier, "exact_match"])("p", "c", {"answer": "c"})[2] is True


def test_a_batch_and_an_async_function_abstain_row_by_row():
    def some(prompts, completions, examples):
        return [None if not c else float(len(c)) for c in completions]

    async def later(prompt, completion, example):
        return None if completion == "b" else 1.0

    some.batch = True
    rows = ["a", "", "bb", "b"]
    scored = Reward([some, later]).batch(["p"] * 4, rows, [{}] * 4, [None] * 4)
    assert [row[0] for row in scored] == [2.0, 1.0, 3.0, 1.0]
    assert [sorted(row[1]) for row in scored] == [
        *(["later", "some"], ["later"], ["later", "some"], ["some"])
    ]


@pytest.mark.parametrize("value", [None, {"good": 1.0, "bad": None}])
def test_a_switch_makes_none_an_error(value):
    with pytest.raises(RewardError, match=r"returned None .*expected a finite number"):
        Reward(named("given", value), may_abstain=False)("p", "c", {})


def test_the_tasks_own_verifier_does_not_abstain():
    with pytest.raises(RewardError, match="correct returned None"):
        Reward("correct", has_verifier=True)("p", "c", {}, score=None)


def named(name, value):
    def function(prompt, completion, example):
        return value

    function.__name__ = name
    return function
