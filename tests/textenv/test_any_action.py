"""Whatever an agent says: what an environment gives back stays within its own rules."""

import json
import math
import re

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textenv import tasks
from textenv.tasks.expression import evaluate
from textenv.tasks.unsafe_verifiers import is_safe

TASKS = [task.name for task in tasks.BUILT_IN]
ENVS = {name: gym.make("TextGen-v0", task=name).unwrapped for name in TASKS}
TOKENS = {name: gym.make("TextGenTokens-v0", task=name, max_tokens=6) for name in TASKS}
ALL_UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
# What is nearly right finds more than what is far off.
NEARLY = st.text("0123456789+-*/() \n=calc.eE", max_size=20)
CALLS = st.builds("calc({})".format, NEARLY)
ACTIONS = st.lists(ALL_UNICODE | NEARLY | CALLS, min_size=8, max_size=8)


@pytest.mark.parametrize("name", TASKS)
@given(seed=st.integers(0, 2**31), actions=ACTIONS)
def test_text(name, seed, actions):
    env = ENVS[name]
    observation, info = env.reset(seed=seed)
    assert observation in env.observation_space and observation == info["prompt"]
    for turn, action in enumerate(actions, 1):
        before = observation
        observation, reward, terminated, truncated, info = env.step(action)
        assert observation in env.observation_space
        assert observation == before + action + info.get("turn", "")
        assert type(reward) is float and 0 <= reward <= 1
        assert type(terminated) is type(truncated) is bool
        assert sum(info["rewards"].values()) == reward
        json.dumps(info)
        if terminated or truncated:
            assert info["is_correct"] is (reward == 1) and not (terminated and truncated)
            break
        assert reward == 0 and turn < env.task.max_turns
    assert terminated or turn == env.task.max_turns


@pytest.mark.parametrize("name", TASKS)
@given(seed=st.integers(0, 2**31), data=st.data())
def test_tokens(name, seed, data):
    env = TOKENS[name]
    text = ENVS[name]
    observation, info = env.reset(seed=seed)
    expected, _ = text.reset(seed=seed)
    assert info["prompt"] == expected
    total, over = 0.0, False
    tokenizer = env.unwrapped.tokenizer
    picked = []
    for _ in range(80):
        allowed = np.flatnonzero(info["action_mask"])
        token = int(allowed[data.draw(st.integers(0, len(allowed) - 1))])
        picked.append(token)
        observation, reward, terminated, truncated, info = env.step(token)
        assert observation in env.observation_space
        total += reward
        if "completion" in info:
            said = [token for token in picked if token not in tokenizer.eos_token_ids]
            assert info["completion"] == tokenizer.decode(said)
            cut = picked[-1] not in tokenizer.eos_token_ids
            _, reward, *ends, _ = text.step(info["completion"], cut=cut)
            assert (reward, ends) == (total, [terminated, truncated])
            total, picked = 0.0, []
        if over := terminated or truncated:
            break
    assert over


@given(NEARLY | ALL_UNICODE)
def test_an_expression_has_pythons_value_or_none(text):
    """Python itself is the oracle, for what is made of digits, signs and brackets alone."""
    try:
        value, used = evaluate(text)
    except (ValueError, ZeroDivisionError):
        return
    assert set(text.strip()) <= set("0123456789+-*/() ")
    assert math.isclose(value, eval(text.strip()), rel_tol=1e-9)
    assert sum(used.values()) >= 1


@given(st.recursive(st.integers(0, 50).map(str), lambda inner: st.builds(
    "({}{}{})".format, inner, st.sampled_from("+-*/"), inner), max_leaves=8))  # fmt: skip
def test_every_expression_of_numbers_is_read(text):
    try:
        expected = eval(text)
    except ZeroDivisionError:
        expected = None
    try:
        value = evaluate(text)[0]
    except ZeroDivisionError:
        value = None
    except ValueError:
        assert len(text) > 200
        return
    if expected is None or value is None:
        # A float may miss by a hair that an exact fraction is zero, and the other way round.
        return
    assert math.isclose(value, expected, rel_tol=1e-6, abs_tol=1e-9)


@given(st.text("xX2 +-*/().,=_'\"[]{}:;@sincoexp\u00b2\u0661", max_size=12))
@settings(max_examples=500)
def test_what_a_formula_may_hold(text):
    """Nothing that SymPy's parser, which evaluates it, could be led astray by."""
    if is_safe("simple_integration", text):
        assert set(text) <= set("0123456789 +-*/(),.=") | set("xXsincoexp")
        assert not re.search(r"\.\s*[A-Za-z]", text)  # an attribute
        known = {"sin", "cos", "sec", "csc", "exp", "pi", "oo"}  # of these letters
        assert {*re.findall("[A-Za-z]{2,}", text)} <= known
