"""Text through the shared memory of Gymnasium's AsyncVectorEnv."""

import multiprocessing
import os
import sys
from copy import deepcopy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from gymnasium.vector.utils import (
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)
from hypothesis import given
from hypothesis import strategies as st

from textenv.spaces import UnicodeText


def round_trip(space, values):
    memory = create_shared_memory(space, n=len(values))
    # AsyncVectorEnv reads once, before anything is written.
    view = read_from_shared_memory(space, memory, n=len(values))
    for index, value in enumerate(values):
        write_to_shared_memory(space, index, value, memory)
    return view


texts = st.text(max_size=20)  # all characters but lone surrogates


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4))
def test_any_text_goes_through_shared_memory(pairs):
    space = UnicodeText(20)
    for again in (0, 1):  # the second text may be shorter than the first
        view = round_trip(space, [pair[again] for pair in pairs])
        assert deepcopy(view) == tuple(pair[again] for pair in pairs)
        assert type(deepcopy(view)) is tuple
    memory = create_shared_memory(space, n=1)
    view = read_from_shared_memory(space, memory, n=1)
    for one, two in pairs:
        for text in (one, two):
            write_to_shared_memory(space, 0, text, memory)
            assert (list(view), view[0], view, repr(view)) == ([text], text, (text,), repr((text,)))


@given(st.lists(st.tuples(texts, st.integers(0, 4)), min_size=1, max_size=3))
def test_within_dict_and_tuple_spaces(values):
    space = Dict(a=Tuple([UnicodeText(20), Discrete(5)]), b=Box(0, 5, (2,)))
    items = [{"a": value, "b": np.full(2, value[1], np.float32)} for value in values]
    read = deepcopy(round_trip(space, items))
    assert read["a"][0] == tuple(text for text, _ in values)
    assert read["a"][1].tolist() == [number for _, number in values]
    assert read["b"].tolist() == [[number] * 2 for _, number in values]


def test_the_longest_text_of_the_widest_characters_fits():
    space = UnicodeText(1000)
    values = ["🙂" * 1000, "a", "🙂" * 1000]
    assert deepcopy(round_trip(space, values)) == tuple(values)
    with pytest.raises(ValueError, match=r"1001 characters.*UnicodeText\(0, 1000\)"):
        round_trip(space, ["🙂" * 1001])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_room_for_long_texts_costs_nothing_until_it_is_used():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    space = UnicodeText(2**20)
    memory = create_shared_memory(space, n=64)  # 256 MiB of address space
    for i in range(64):
        write_to_shared_memory(space, i, "12+30=", memory)
    assert deepcopy(read_from_shared_memory(space, memory, n=64)) == ("12+30=",) * 64
    assert resident() - before < 4 * 2**20


class Nested(gym.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.observation_space = Dict(
            text=env.observation_space, pair=Tuple([env.observation_space, Discrete(9)])
        )

    def observation(self, observation):
        return {"text": observation, "pair": (observation[::-1], len(observation))}


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("copy", [True, False])
def test_async_within_dict_and_tuple_in_new_processes_too(context, copy):
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {context} here")
    env = gym.make_vec(
        "textenv:TextGen-v0",
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"context": context, "copy": copy},
        wrappers=[Nested],
    )
    starts = [gym.make("TextGen-v0").reset(seed=5 + i)[0] for i in range(2)]
    observations, _ = env.reset(seed=5)
    assert tuple(observations["text"]) == tuple(starts)
    assert tuple(observations["pair"][0]) == tuple(text[::-1] for text in starts)
    assert observations["pair"][1].tolist() == [6, 6]
    observations, *_ = env.step(("🙂", "é"))
    assert tuple(observations["text"]) == (starts[0] + "🙂", starts[1] + "é")
    env.close()
