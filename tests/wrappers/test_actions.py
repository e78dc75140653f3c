import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from hypothesis import given
from hypothesis import strategies as st

from textenv.wrappers import ActionMask, ChoiceAction, DetokenizeAction

PRINTABLE = "".join(map(chr, range(32, 127)))
EXAMPLES = [
    {"answer": "b", "choices": ["a", "b"]},
    {"answer": "d", "choices": ["a", "b", "c", "d"]},
    {"answer": "a", "choices": ["a"]},
]


def letters(examples=EXAMPLES, **kwargs):
    return gym.make(
        "TextGen-v0",
        prompts=[f"Letter {i}?" for i in range(len(examples))],
        examples=examples,
        reward_fn="exact_match",
        **kwargs,
    )


def start(env, example_id):
    return env.reset(options={"example_id": example_id})


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([19, 20, 21, 18], "1230"),
        ([19, 1, 20, 21], "1"),  # what comes after the EOS is ignored
        ([1, 1, 1, 1], ""),
        ([19], "1"),  # a shorter list is fine
        ([], ""),
        (np.array([19, 20, 1, 97]), "12"),
        ((0, 19), "<pad>1"),
    ],
)
def test_ids_are_text_up_to_the_first_eos(ids, text):
    env = DetokenizeAction(letters(), "tiny-lm", max_tokens=4)
    env.reset(seed=0)
    assert env.step(ids)[4]["completion"] == text


@given(st.text(PRINTABLE, max_size=8))
def test_text_comes_back_through_the_ids(text):
    env = DetokenizeAction(letters(), "tiny-lm", max_tokens=8)
    ids = env.tokenizer.encode(text)
    full = np.full(8, env.tokenizer.eos_token_ids[0])
    full[: len(ids)] = ids
    assert full in env.action_space
    assert env.action(ids) == env.action(full) == text


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        ([1] * 5, r"at most 4 .*\(5,\)"),
        ([[1, 2]], r"\(1, 2\)"),
        (3, r"shape \(\)"),
        ([0.5], "float64"),
        (["a"], "integers"),
        ([98], "from 0 to 97, got 98"),
        ([-1], "got -1"),
    ],
)
def test_what_is_no_list_of_ids_is_named(ids, match):
    env = DetokenizeAction(letters(), "tiny-lm", max_tokens=4)
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match=match):
        env.step(ids)


@pytest.mark.parametrize("kind", [int, np.int64, np.array])
def test_an_index_stands_for_its_answer(kind):
    env = ChoiceAction(letters(), ("a", "b", "c"))
    assert env.action_space.n == 3
    for index, reward in ((0, 0.0), (1, 1.0)):
        _, info = start(env, 0)
        assert "action_mask" not in info
        step = env.step(kind(index))
        assert (step[1], step[4]["completion"]) == (reward, "abc"[index])


def test_each_example_has_its_own_answers():
    env = ChoiceAction(letters(), "choices")
    assert env.action_space.n == 4  # the longest
    for i, example in enumerate(EXAMPLES):
        _, info = start(env, i)
        assert info["choices"] == example["choices"]
        count = len(example["choices"])
        assert info["action_mask"].tolist() == [1] * count + [0] * (4 - count)
        assert info["action_mask"].dtype == np.int8  # as Discrete.sample(mask) wants it
        assert env.action_space.sample(info["action_mask"]) < count
        step = env.step(example["choices"].index(example["answer"]))
        assert step[1] == 1.0
        assert np.array_equal(step[4]["action_mask"], info["action_mask"])
        start(env, i)
        if count < 4:
            with pytest.raises(InvalidAction, match=f"0 to {count - 1}.*got {count}"):
                env.step(count)


@pytest.mark.parametrize("action", [3, -1, 0.0, "a", None, [0]])
def test_an_index_of_nothing_is_refused(action):
    env = ChoiceAction(letters(), ["a", "b", "c"])
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="0 to 2"):
        env.step(action)


def test_a_generated_task_needs_to_be_told_how_many():
    env = gym.make("TextGen-v0")
    with pytest.raises(ValueError, match="give n"):
        ChoiceAction(env, "choices")
    with pytest.raises(ValueError, match=r"has no 'choices'.*it has 'prompt', 'answer'"):
        ChoiceAction(env, "choices", n=2).reset()


def test_more_answers_than_n_are_an_error():
    env = ChoiceAction(letters(), "choices", n=3)
    start(env, 0)
    with pytest.raises(ValueError, match="4 choices, but n is 3"):
        start(env, 1)


@pytest.mark.parametrize(
    ("choices", "match"),
    [
        ([], "at least one"),
        (["a", 3], "text, got 3"),
        (3, "list of text, got int"),
        ("choices", "example 1"),
    ],
)
def test_bad_answers_are_named(choices, match):
    examples = [EXAMPLES[0], {"answer": "x", "choices": "xy"}]
    with pytest.raises((TypeError, ValueError), match=match):
        ChoiceAction(letters(examples), choices)


def test_n_goes_with_a_key():
    with pytest.raises(ValueError, match="n=2"):
        ChoiceAction(letters(), ["a", "b"], n=2)


def test_masks_as_sb3_contrib_asks_for_them():
    env = ActionMask(ChoiceAction(letters(), "choices"))
    with pytest.raises(ResetNeeded):
        env.action_masks()
    start(env, 0)
    masks = env.action_masks()
    assert (masks.dtype, masks.tolist()) == (bool, [True, True, False, False])
    masks[:] = True  # the caller's own
    assert env.action_masks().tolist() == [True, True, False, False]
    limited = gym.wrappers.TimeLimit(env, 5)
    assert limited.get_wrapper_attr("action_masks")().tolist() == [True, True, False, False]
    start(env, 2)
    assert env.action_masks().tolist() == [True, False, False, False]


def test_masked_actions_are_refused():
    env = ActionMask(ChoiceAction(letters(), "choices"))
    start(env, 0)
    with pytest.raises(InvalidAction, match="action 3 is masked; 2 of 4 are valid: 0, 1"):
        env.step(3)
    assert env.step(1)[1] == 1.0  # the episode goes on


def test_masked_actions_are_replaced_by_valid_ones():
    env = ActionMask(ChoiceAction(letters(), "choices"), on_invalid="random")
    taken = []
    for seed in range(40):
        env.reset(seed=seed, options={"example_id": 0})
        taken.append(env.step(3)[4])
        env.reset(seed=seed, options={"example_id": 0})
        assert env.step(3)[4]["completion"] == taken[-1]["completion"]  # by the seed
    assert {info["completion"] for info in taken} == {"a", "b"}
    assert all(info["invalid_action"] for info in taken)
    start(env, 0)
    assert env.step(1)[4]["invalid_action"] is False


def test_replacing_leaves_the_order_of_examples_alone():
    plain, masked = letters(), ActionMask(ChoiceAction(letters(), "choices"), "random")
    ids = [[env.reset(seed=4)[1]["example_id"]] for env in (plain, masked)]
    for _ in range(20):
        masked.step(3)
        for env, seen in zip((plain, masked), ids):
            seen.append(env.reset()[1]["example_id"])
    assert ids[0] == ids[1]


def test_the_mask_in_the_observation():
    env = ActionMask(ChoiceAction(letters(), "choices"), in_observation=True)
    observation, _ = start(env, 0)
    assert observation["observation"] == "Letter 0?"
    assert observation["action_mask"].tolist() == [1, 1, 0, 0]
    after = env.step(1)[0]
    assert after["action_mask"].tolist() == [1, 1, 0, 0]
    assert after["observation"] == "Letter 0?b"


class Masked(gym.Env):
    """Actions 5..7; gives whatever mask it is told."""

    observation_space = gym.spaces.Discrete(1)
    action_space = gym.spaces.Discrete(3, start=5)

    def __init__(self, info):
        self.info = info

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, dict(self.info)

    def step(self, action):
        self.action = action
        return 0, 0.0, False, False, dict(self.info)


def test_actions_that_do_not_begin_at_zero():
    env = ActionMask(Masked({"action_mask": [0, 1, 0]}), "random")
    env.reset(seed=0)
    env.step(7)
    assert env.unwrapped.action == 6
    with pytest.raises(InvalidAction, match="got 0"):
        env.step(0)


@pytest.mark.parametrize(
    ("info", "match"),
    [
        ({}, "no keys"),
        ({"a": 1}, "'a'"),
        ({"action_mask": [1, 1]}, r"shape \(2,\)"),
        ({"action_mask": [0, 0, 0]}, "with 0"),
    ],
)
def test_a_mask_that_is_none_is_named(info, match):
    with pytest.raises(ValueError, match=match):
        ActionMask(Masked(info)).reset()


def test_bad_settings_of_the_mask():
    with pytest.raises(ValueError, match="error, random, got 'no'"):
        ActionMask(Masked({}), on_invalid="no")
    with pytest.raises(TypeError, match="Discrete, got UnicodeText"):
        ActionMask(letters())
