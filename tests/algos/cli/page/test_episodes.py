"""What the page is given of a rollout, against rollouts written by hand."""

import math

import numpy as np

from tests.algos.cli.page.conftest import episode
from textenv.algos import Buffer, Trajectory
from textenv.algos.cli.page import episodes
from textenv.algos.cli.page.episodes import MOST_NUMBERS
from textenv.algos.storage.inspection import Inspected


def table(rollout, known=None):
    return episodes.table(rollout, known or [Inspected()] * len(rollout))


def details(rollout, known=None):
    return episodes.details(rollout, known or [Inspected()] * len(rollout))


def test_the_table_of_two_groups():
    rollout = Buffer([
        episode("2", 1.0, group=5, correct=True),
        episode("3", 0.0, group=5, correct=False, cut=True),
        episode("7", 0.0, group=9, prompt="3+3="),
        episode("8", 0.0, group=9, prompt="3+3="),
    ])  # fmt: skip
    found = table(rollout)
    rows = found["rows"]
    assert [group["prompt"] for group in found["groups"]] == ["1+1=", "3+3="]
    assert rows["group"] == [0, 0, 1, 1]
    assert rows["reward"] == [1.0, 0.0, 0.0, 0.0]
    assert rows["correct"] == [True, False, None, None]
    assert rows["cut"] == [False, True, False, False]
    assert rows["signal"] == [True, True, False, False]
    assert rows["text"] == ["2", "3", "7", "8"]
    assert rows["components"] == {"correct": [1.0, 0.0, 0.0, 0.0]}
    assert not found["control"]


def test_a_group_has_a_signal_by_its_advantages_if_they_are_recorded():
    equal = [episode("a", 1.0, token_advantages=[0.0, -0.5]), episode("b", 1.0)]
    differ = [
        episode(text, reward, token_advantages=[0.0]) for text, reward in [("a", 0), ("b", 1)]
    ]
    assert table(Buffer(equal))["rows"]["signal"] == [True, True]
    assert table(Buffer(equal))["rows"]["advantage"] == [-0.5, None]
    assert table(Buffer(differ))["rows"]["signal"] == [False, False]


def test_an_episode_without_a_group_is_a_group():
    rollout = Buffer([episode("2", group=None), episode("3", group=None)])
    assert table(rollout)["rows"]["group"] == [0, 1]
    assert table(rollout)["rows"]["signal"] == [True, True]


def test_an_episode_that_was_not_scored():
    one = episode("2", 0.0)
    one.infos[0]["scored"] = False
    assert table(Buffer([one]))["rows"]["reward"] == ["NaN"]


def test_tokens_and_their_numbers():
    one = episode(
        "ab", token_ids=[3, 4, 3], token_mask=[1, 0, 1], token_logprobs=[-0.12345678, 0, -2.5],
        token_entropies=[0.5, 0, 1e-9],
    )  # fmt: skip
    (found,) = details(Buffer([one]))["episodes"]
    assert found["tokens"] == {
        "ids": [3, 4, 3], "mask": [1, 0, 1], "logprobs": [-0.123457, 0.0, -2.5],
        "entropies": [0.5, 0.0, 1e-9],
    }  # fmt: skip


def test_a_conversation_with_a_tool():
    call = [{"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]
    messages = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "", "tool_calls": call},
        {"role": "tool", "name": "add", "content": "2"},
        {"role": "assistant", "content": "It is 2."},
    ]
    one = Trajectory(
        observations=["User: 1+1?", "..."], actions=["<call>", "It is 2."], rewards=[0.0, 1.0],
        infos=[{"messages": messages[:3], "turn": "2", "tool_calls": 1}, {"messages": messages}],
        final_observation="", terminated=True, prompt="User: 1+1?",
        reset_info={"messages": messages[:1]}, group_id=0,
    )  # fmt: skip
    (found,) = details(Buffer([one]))["episodes"]
    assert [message["role"] for message in found["messages"]] == [m["role"] for m in messages]
    assert '"name": "add"' in found["messages"][1]["calls"]
    assert found["messages"][2] == {"role": "tool", "content": "2", "name": "add"}
    assert found["rewards"] == [0.0, 1.0]
    assert table(Buffer([one]))["rows"]["text"] == ["1. <call>\n2. It is 2."]
    assert found["turns"][0]["reply"] == "2" and "tool_calls" in found["turns"][0]["info"]
    assert table(Buffer([one]))["groups"][0]["messages"] == messages[:1]


def test_an_episode_of_control():
    seen = np.arange(8, dtype=np.float32).reshape(2, 4)
    one = Trajectory(
        observations=list(seen), actions=[np.int64(1), np.int64(0)], rewards=[1.0, 2.0],
        infos=[{}, {}], final_observation=seen[0], truncated=True, values=[0.5, 0.25],
    )  # fmt: skip
    found = details(Buffer([one]))["episodes"][0]["control"]
    assert found["observations"] == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert found["actions"] == [[1, 0]] and found["size"] == 4
    assert table(Buffer([one]))["control"] and table(Buffer([one]))["rows"]["cut"] == [True]


def test_observations_of_parts_of_many_numbers_and_of_no_numbers():
    def shown(*observations):
        one = Trajectory(
            observations=list(observations), actions=[0] * len(observations),
            rewards=[0.0] * len(observations), infos=[{}] * len(observations),
        )  # fmt: skip
        return details(Buffer([one]))["episodes"][0]["control"]

    parts = {"a": np.ones(2), "b": (np.zeros(1), 5)}
    assert shown(parts)["observations"] == [[1], [1], [0], [5]]
    many = shown(np.zeros((20, 5)), np.ones((20, 5)))
    assert many["observations"] == [[0, 1]] * MOST_NUMBERS and many["size"] == 100
    assert shown(np.zeros(2), np.zeros(3))["observations"] == []
    assert shown(None)["observations"] == []


def test_what_the_run_kept_beside_the_rollout():
    pair = [episode("ab", 1.0, token_ids=[3, 4], token_mask=[1, 1]), episode("b", 0.0)]
    known = [
        Inspected(token_texts=["a", "b"], token_advantages=[0.5, -2.0], token_ratios=[1.25, 1.0],
                  expected=[1, "x"]),
        Inspected(advantage=-1.0),
    ]  # fmt: skip
    found = table(Buffer(pair), known)
    assert found["rows"]["advantage"] == [-2.0, -1.0]
    assert found["groups"][0]["expected"] == '[\n 1,\n "x"\n]'
    shown = details(Buffer(pair), known)
    assert shown["texts"] == ["a", "b"]
    assert shown["episodes"][0]["tokens"] == {
        "ids": [3, 4], "mask": [1, 1], "texts": [0, 1], "entropies": [0.0, 0.0],
        "advantages": [0.5, -2.0], "ratios": [1.25, 1.0],
    }  # fmt: skip


def test_advantages_and_ratios_that_are_not_finite_have_names():
    """Of tokens, a NaN is told whatever stands beside it, and an infinity is the largest."""
    nan, inf = math.nan, math.inf
    group = [episode("ab", 1.0, token_ids=[3, 4], token_mask=[1, 1]) for _ in range(4)]
    known = [
        Inspected(advantage=nan),
        Inspected(token_advantages=[5.0, nan], token_ratios=[inf, nan]),
        Inspected(token_advantages=[nan, 5.0]),
        Inspected(token_advantages=[2.0, -inf]),
    ]
    rows = table(Buffer(group), known)["rows"]
    assert rows["advantage"] == ["NaN", "NaN", "NaN", "-Infinity"] and all(rows["signal"])
    shown = details(Buffer(group), known)["episodes"][1]["tokens"]
    assert shown["advantages"] == [5.0, "NaN"] and shown["ratios"] == ["Infinity", "NaN"]
