"""The space of all Unicode strings."""

import copy
import pickle
import sys
import tracemalloc

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv.errors import ConfigError, ConfigTypeError
from textenv.spaces import UnicodeText

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # one glyph of five characters


@st.composite
def spaces(draw):
    low = draw(st.integers(0, 80))
    return UnicodeText(draw(st.integers(low, 200)), min_length=low, seed=draw(st.integers(0, 99)))


@given(st.text(st.characters(), max_size=8))  # characters() gives lone surrogates too
def test_members_are_scalar_values_within_the_lengths(text):
    scalar = all(not 0xD800 <= ord(character) <= 0xDFFF for character in text)
    assert (text in UnicodeText(5, min_length=2)) == (scalar and 2 <= len(text) <= 5)


@pytest.mark.parametrize(
    "text",
    ["", " ", "\n\t\0\x7f", "é", "e\u0301", "日本", "🙂", FAMILY, "\U0010ffff", "\ufdd0\uffff"],
)
def test_all_of_unicode_is_in_it(text):
    assert text in UnicodeText(5)


@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "\udcff", "\ude00\ud83d", "\ud83d\ude42"])
def test_surrogates_are_not_in_it(text):
    assert text not in UnicodeText(5)


def test_lengths_count_characters_not_bytes():
    space = UnicodeText(3, min_length=3)
    assert [n for n in range(6) if "🙂" * n in space] == [3]


@pytest.mark.parametrize("value", [None, 1, b"abc", ["a", "b"], ("a",), {"a": 1}, object()])
def test_only_strings_are_members(value):
    assert value not in UnicodeText(5)


@given(spaces())
def test_samples_are_members(space):
    assert all(space.sample() in space for _ in range(20))


@given(st.integers(0, 2**32))
def test_samples_follow_the_seed(seed):
    first, second = UnicodeText(100, seed=seed), UnicodeText(100)
    second.seed(seed)
    assert [first.sample() for _ in range(3)] == [second.sample() for _ in range(3)]


def test_samples_differ_within_a_seed_and_between_seeds():
    draws = {UnicodeText(100, seed=seed).sample() for seed in range(20)}
    space = UnicodeText(100, seed=0)
    more = {space.sample() for _ in range(20)}
    assert len(draws) == len(more) == 20
    assert len({len(text) for text in draws | more}) > 10


def test_sample_takes_no_mask():
    with pytest.raises(ConfigTypeError, match="no mask"):
        UnicodeText(5).sample(mask=(3, None))
    with pytest.raises(ConfigTypeError, match="no probability"):
        UnicodeText(5).sample(probability=(3, None))


def test_equality_is_by_lengths():
    assert UnicodeText(5, seed=1) == UnicodeText(5, seed=2)
    assert UnicodeText(5) != UnicodeText(6)
    assert UnicodeText(5) != UnicodeText(5, min_length=1)
    text = gym.spaces.Text(5, min_length=0)
    assert UnicodeText(5) != text
    assert text != UnicodeText(5)


def test_repr_is_short_and_names_the_lengths():
    assert repr(UnicodeText(2**20, min_length=3)) == "UnicodeText(3, 1048576)"


@pytest.mark.parametrize("clone", [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy])
def test_clones_are_equal_and_go_on_sampling_alike(clone):
    space = UnicodeText(50, min_length=1, seed=3)
    space.sample()
    twin = clone(space)
    assert type(twin) is UnicodeText
    assert twin == space
    assert [twin.sample() for _ in range(3)] == [space.sample() for _ in range(3)]
    assert "🙂" in twin
    assert "" not in twin


def steps(call):
    """How many lines and functions of Python are run by a call."""
    count, before = 0, sys.gettrace()

    def trace(frame, event, argument):
        nonlocal count
        count += 1
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def test_it_keeps_no_list_of_all_characters():
    tracemalloc.start()
    try:
        space = UnicodeText(2**20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000  # a list of all characters takes more than a hundred megabytes
    assert len(space.character_set) < 100
    assert len(pickle.dumps(space)) < 10_000
    assert steps(lambda: UnicodeText(2**20)) == steps(lambda: UnicodeText(1))


def test_membership_takes_as_many_steps_for_a_megabyte_as_for_a_character():
    space, text = UnicodeText(2**20), "é" * 2**20
    assert text in space and text + "é" not in space
    assert steps(lambda: text in space) == steps(lambda: "é" in space)


def test_composes_with_gymnasium():
    space = UnicodeText(5)
    assert isinstance(space, gym.spaces.Text)
    assert {"a": "🙂"} in gym.spaces.Dict(a=space)
    assert ("🙂", "") in gym.vector.utils.batch_space(space, 2)
    assert not space.is_np_flattenable


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (-1, 5, "min_length must be .* got -1"),
        (3, 2, "got 3 and 2"),
        (0, -1, "max_length must be .* got -1"),
        (0, 2.5, "max_length must be .* got 2.5"),
        (True, 5, "min_length must be .* got True"),
    ],
)
def test_impossible_lengths_are_refused(low, high, says):
    with pytest.raises(ConfigError, match=says):
        UnicodeText(high, min_length=low)


anything = st.text(st.characters(exclude_categories=()), max_size=4) | st.none() | st.binary()


@given(st.lists(anything, max_size=4), st.integers(0, 2))
def test_all_at_once_is_each_by_itself(values, shortest):
    space = UnicodeText(3, min_length=shortest)
    assert space.contains_all(values) == all(value in space for value in values)
