"""Conversations in the environment: messages, system prompts, examples shown, tools."""

import copy
import pickle

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

from textenv.errors import ConfigError, ConfigTypeError, DataError, MissingFileError
from textenv.tasks import Task
from textenv.tools.calls import write_call

SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "What is 12+30?"}
CHAT = [SYSTEM, ASKED]


def message(role, content):
    return {"role": role, "content": content}


def make(**kwargs):
    given = {"prompts": [CHAT], "examples": [{"answer": "42"}], "reward_fn": "exact_match"}
    own = any(name in kwargs for name in ("task", "dataset"))
    return gym.make("TextGen-v0", **{**({} if own else given), **kwargs})


def add(a: int, b: int) -> int:
    """Add two numbers."""
    if a < 0:
        raise ValueError("too small")
    return a + b


def with_tools(**kwargs):
    return make(tools=[add], tool_timeout=None, **kwargs)


def test_a_conversation_is_shown_as_text_and_as_messages():
    env = make()
    observation, info = env.reset(seed=0)
    assert observation == info["prompt"] == env.unwrapped.example["prompt"]
    assert observation == "System:\nBe brief.\n\nUser:\nWhat is 12+30?\n\nAssistant:\n"
    assert info["messages"] == CHAT == env.unwrapped.example["messages"]
    after, reward, terminated, truncated, info = env.step("42")
    assert (after, reward, terminated, truncated) == (observation + "42", 1.0, True, False)
    assert info["messages"] == [*CHAT, message("assistant", "42")]
    assert info["is_correct"] and "tools" not in info and "turn" not in info


def test_text_tasks_have_no_messages():
    for env in (gym.make("TextGen-v0"), make(prompts=["a"])):
        assert "messages" not in env.reset(seed=0)[1]
        assert "messages" not in env.step("x")[4]


def test_one_users_message_is_its_content_unchanged():
    observation, info = make(prompts=[[message("user", " a\n")]]).reset()
    assert (observation, info["messages"]) == (" a\n", [message("user", " a\n")])


@pytest.mark.filterwarnings("error")
def test_check_env_has_nothing_to_say():
    check_env(make().unwrapped)
    check_env(with_tools().unwrapped)


def test_messages_belong_to_the_caller():
    env = with_tools()
    _, info = env.reset()
    call = write_call("add", {"a": 1, "b": 2})
    infos = [info, env.step(call)[4]]
    for info in infos:
        for each in info["messages"]:
            each["content"] = "changed"
            for called in each.get("tool_calls", ()):
                called["function"]["arguments"]["a"] = 7
        info["tools"][0]["function"]["name"] = "changed"
        info["messages"].clear()
    _, *_, info = env.step("42")
    assert [m["content"] for m in info["messages"]] == [
        *(m["content"] for m in CHAT),
        "",
        "3",
        "42",
    ]
    assert info["messages"][2]["tool_calls"][0]["function"]["arguments"] == {"a": 1, "b": 2}
    assert info["tools"][0]["function"]["name"] == "add"
    env.unwrapped.example["messages"].clear()
    assert env.reset()[1]["messages"] == CHAT


def test_a_system_prompt_and_examples_go_before_it(tmp_path):
    (tmp_path / "system.txt").write_bytes("\ufeffThink é.\n".encode())
    shown = [{"prompt": "1+1?", "answer": 2}, {"prompt": [message("user", "2+2?")], "answer": "4"}]
    pairs = [message("user", "1+1?"), message("assistant", "2"),
             message("user", "2+2?"), message("assistant", "4")]  # fmt: skip
    file = f"@{tmp_path / 'system.txt'}"
    _, info = make(system_prompt=file, few_shot=shown).reset()
    assert info["messages"] == [message("system", "Think é.\n\nBe brief."), *pairs, ASKED]
    _, info = make(prompts=["3+3?"], system_prompt="Think.").reset()
    assert info["messages"] == [message("system", "Think."), message("user", "3+3?")]
    observation, info = make(task="arithmetic", few_shot=shown[:1]).reset(seed=0)
    plain = gym.make("TextGen-v0").reset(seed=0)[0]
    assert info["messages"] == [*pairs[:2], message("user", plain)]
    assert observation == f"User:\n1+1?\n\nAssistant:\n2\n\nUser:\n{plain}\n\nAssistant:\n"


def test_turns_of_a_task_are_messages_of_the_user():
    env = make(task="guess_number", system_prompt="Guess.")
    observation, info = env.reset(options={"example_id": 0})
    start = [message("system", "Guess."), message("user", "guess a number from 3 to 16:\n")]
    assert info["messages"][0] == start[0] and info["messages"][1]["role"] == "user"
    answer = env.unwrapped.example["answer"]
    after, *_, info = env.step("0")
    assert info["turn"] == "\n\nUser:\nhigher\n\nAssistant:\n"
    assert after == observation + "0" + info["turn"]
    assert info["messages"][2:] == [message("assistant", "0"), message("user", "higher")]
    after, reward, terminated, *_, info = env.step(answer)
    assert (reward, terminated, info["turn"]) == (1.0, True, "\n\nUser:\nright")
    assert after.endswith(f"{answer}\n\nUser:\nright")
    assert info["messages"][-1] == message("user", "right")


class Asking(Task):
    """A task that gives messages of its own."""

    name, size = "asking", 3

    def example(self, example_id):
        messages = [CHAT, [{"role": "user"}], [*CHAT, message("assistant", "42")]][example_id]
        return {"prompt": "?", "messages": messages, "answer": "42"}

    def score(self, example, completion):
        return float(completion == example["answer"])


def test_a_task_may_give_messages_which_are_checked():
    env = make(task=Asking())
    assert env.reset(options={"example_id": 0})[1]["messages"] == CHAT
    assert env.step("42")[1] == 1.0
    with pytest.raises(DataError, match="task 'asking', 'messages', message 0: key 'content'"):
        env.reset(options={"example_id": 1})
    with pytest.raises(DataError, match="'messages': the last one is the assistant's"):
        env.reset(options={"example_id": 2})


def test_copies_specs_and_pickles_say_the_same(same):
    env = with_tools(system_prompt="Think.", few_shot=[{"prompt": "a", "answer": "b"}], max_turns=3)
    env.reset(seed=1)
    env.step(write_call("add", {"a": 1, "b": 2}))
    spec = copy.deepcopy(env.spec)
    spec.kwargs |= env.unwrapped.copy_kwargs
    others = [
        gym.make(env.spec),
        gym.make(spec),
        copy.deepcopy(env),
        pickle.loads(pickle.dumps(env)),
    ]
    assert others[1].unwrapped.task is env.unwrapped.task
    for other in others[2:]:  # in the middle of an episode
        same(other.step("42"), copy.deepcopy(env).step("42"))
    for other in [env, *others]:
        same(other.reset(seed=2), others[0].reset(seed=2))
        call = write_call("add", {"a": 5, "b": 2})
        assert other.step(call)[4]["messages"][-1]["content"] == "7"
    direct = type(env.unwrapped)([CHAT], "exact_match", examples=[{"answer": "42"}], tools=[add],
                                 tool_timeout=None)  # fmt: skip
    assert direct.spec.kwargs["tool_timeout"] is None
    same(gym.make(direct.spec).reset(seed=1), direct.reset(seed=1))


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"system_prompt": 7}, ConfigTypeError, "system_prompt must be text, got int"),
        ({"system_prompt": "@/nowhere"}, MissingFileError, "/nowhere is not a file"),
        ({"few_shot": "a"}, ConfigTypeError, "few_shot must be a list of rows"),
        ({"few_shot": ["a"]}, DataError, "few_shot, row 0: expected an object, got str"),
        ({"few_shot": [{"prompt": "a"}]}, DataError, "row 0: key 'answer' is missing.*'prompt'"),
        ({"few_shot": [{"prompt": "a", "answer": None}]}, DataError, "'answer' is missing"),
        ({"few_shot": [{"prompt": CHAT, "answer": 1}]}, DataError, "row 0: a system message"),
        ({"few_shot": [{"prompt": [1], "answer": 1}]}, DataError, "row 0, 'prompt', message 0"),
        ({"prompts": [[]], "examples": None}, DataError, "prompts, row 0, 'prompt': an empty"),
        ({"max_turns": 3}, ConfigError, "max_turns is the number of actions.*with tools"),
        ({"tools": [], "max_turns": 3}, ConfigError, "there are none"),
        ({"tools": [add], "max_turns": 0}, ConfigError, "max_turns.*1 to 1000, got 0"),
        ({"tools": add}, ConfigTypeError, "tools must be a list of functions"),
        ({"tools": [lambda a: a]}, ConfigError, "a function with a name"),
        ({"tools": [add], "tool_timeout": 0}, ConfigError, "tool_timeout"),
    ],
)
def test_bad_settings_are_named_in_one_line(kwargs, error, says):
    with pytest.raises(error, match=says) as caught:
        make(**kwargs)
    assert "\n" not in str(caught.value)


# -- tools


def test_a_call_is_run_and_an_answer_without_one_ends_it():
    env = with_tools(max_turns=4)
    observation, info = env.reset()
    assert observation.startswith('Tools:\nYou may call these functions:\n{"type": "function"')
    assert [tool["function"]["name"] for tool in info["tools"]] == ["add"]
    assert info["turn"] == observation
    action = "Let me see. " + write_call("add", {"a": 12, "b": 30})
    after, reward, terminated, truncated, info = env.step(action)
    assert (reward, terminated, truncated, info["rewards"]) == (0.0, False, False, {})
    assert info["turn"] == "\n\nTool:\n42\n\nAssistant:\n"
    assert after == observation + action + info["turn"]
    function = {"name": "add", "arguments": {"a": 12, "b": 30}}
    calls = [{"id": "call00000", "type": "function", "function": function}]
    assert info["messages"][2:] == [
        {"role": "assistant", "content": "Let me see.", "tool_calls": calls},
        {"role": "tool", "name": "add", "tool_call_id": "call00000", "content": "42"},
    ]
    assert [info[k] for k in ("tool_calls", "tool_failures", "malformed_calls")] == [1, 0, 0]
    after, reward, terminated, truncated, info = env.step("42")
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info["is_correct"] and info["messages"][-1] == message("assistant", "42")
    assert [info[k] for k in ("tool_calls", "tool_failures", "malformed_calls")] == [0, 0, 0]


def test_errors_and_malformed_calls_are_messages_and_counted():
    env = with_tools()
    env.reset()
    good, bad = write_call("add", {"a": 1, "b": 1}), write_call("add", {"a": -1, "b": 1})
    *_, info = env.step(good + bad + "<tool_call>add</tool_call>")
    said = [m["content"] for m in info["messages"] if m["role"] == "tool"]
    assert said[:2] == ["2", "error: add raised ValueError: too small"]
    assert said[2].startswith("error: the tool call cannot be read: it is not JSON")
    assert [info[k] for k in ("tool_calls", "tool_failures", "malformed_calls")] == [3, 1, 1]
    called = info["messages"][2]
    assert len(called["tool_calls"]) == 2 and called["content"] == "<tool_call>add</tool_call>"
    *_, info = env.step("<tool_call>add</tool_call>")
    assert info["messages"][-2] == message("assistant", "<tool_call>add</tool_call>")
    assert info["messages"][-1]["role"] == "tool"


def test_turns_without_an_answer_end_in_a_wrong_one():
    ran = []

    def note(a: int) -> str:
        ran.append(a)
        return "noted"

    env = make(tools=[note], tool_timeout=None, max_turns=2)
    env.reset()
    assert env.step(write_call("note", {"a": 1}))[2:4] == (False, False)
    _, reward, terminated, truncated, info = env.step(write_call("note", {"a": 2}))
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["is_correct"] is False and info["rewards"] == {"exact_match": 0.0}
    assert (ran, info["turn"], info["tool_calls"]) == ([1], "", 1)
    assert info["messages"][-1]["role"] == "assistant"


def test_reward_functions_do_not_see_calls_but_the_transcript():
    seen = []

    def reward(prompt, completion, example):
        seen.append((prompt, completion))
        return 1.0

    env = with_tools(reward_fn=reward)
    env.reset()
    call = write_call("add", {"a": 1, "b": 2})
    after, *_ = env.step(call)
    env.unwrapped.prescore(call)
    env.step("x")
    assert seen == [(after, "x")]


def test_a_task_with_turns_of_its_own_takes_tools_too():
    env = make(task="guess_number", tools=[add], tool_timeout=None)
    env.reset(options={"example_id": 0})
    assert env.unwrapped.task.max_turns == 6
    assert env.step(write_call("add", {"a": 1, "b": 2}))[4]["messages"][-1]["content"] == "3"
    *_, info = env.step("0")
    assert info["messages"][-1] == message("user", "higher")


def test_tools_run_in_a_process_with_a_limit():
    env = make(tools=[add], tool_timeout=20)
    env.reset()
    *_, info = env.step(write_call("add", {"a": 1, "b": 2}))
    assert info["messages"][-1]["content"] == "3"
