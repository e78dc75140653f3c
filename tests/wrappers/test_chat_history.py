"""The transcript of an episode as chat messages."""

import json
import shutil

import gymnasium as gym
import pytest

from textenv.hub import ASSETS
from textenv.spaces import UnicodeText
from textenv.wrappers import ChatHistory

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def message(role, content):
    return {"role": role, "content": content}


def guess(number=None):
    return gym.make("TextGen-v0", task="guess_number")


@pytest.fixture
def chat_model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        config = json.loads((ASSETS / "tiny-lm" / name).read_text())
        if name == "tokenizer_config.json":
            config["chat_template"] = TEMPLATE
        (folder / name).write_text(json.dumps(config))
    return str(folder)


def test_one_turn_is_two_messages():
    env = ChatHistory(gym.make("TextGen-v0", prompts=["2+2?"], reward_fn="length"))
    observation, info = env.reset()
    assert observation == (message("user", "2+2?"),)
    assert info["prompt"] == "2+2?"
    observation, reward, terminated, *_ = env.step("four")
    assert observation == (message("user", "2+2?"), message("assistant", "four"))
    assert (reward, terminated) == (4.0, True)
    assert observation in env.observation_space


def test_turns_alternate_and_give_back_the_transcript():
    env, plain = ChatHistory(guess(), system="Guess."), guess()
    start, _ = env.reset(seed=1)
    transcript, _ = plain.reset(seed=1)
    assert start == (message("system", "Guess."), message("user", transcript))
    for action in ("0", "x", "100"):
        observation, *_ = env.step(action)
        transcript = plain.step(action)[0]
        assert "".join(m["content"] for m in observation[1:]) == transcript
    assert [m["role"] for m in observation] == ["system", *["user", "assistant"] * 3, "user"]
    assert [m["content"] for m in observation[3::2]] == ["\nhigher\n", "\nnot a number\n",
                                                         "\nlower\n"]  # fmt: skip
    again, _ = env.reset(seed=1)
    assert again == start


def test_earlier_observations_stay_as_they_were():
    env = ChatHistory(guess())
    first, _ = env.reset(seed=1)
    second = env.step("0")[0]
    second[0]["content"] = "changed"
    third = env.step("0")[0]
    assert (len(first), len(second), len(third)) == (1, 3, 5)
    assert third[0] == first[0]


class Echo(gym.Env):
    """A foreign text environment, without info["turn"]."""

    observation_space = action_space = UnicodeText(1000)

    def __init__(self, whole):
        self.whole = whole

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.transcript = "start:"
        return self.transcript, {}

    def step(self, action):
        reply = f"<{action}>"
        self.transcript += action + reply
        return self.transcript if self.whole else reply, 0.0, False, False, {}


@pytest.mark.parametrize("whole", [True, False])
def test_transcripts_and_replies_of_others_are_told_apart(whole):
    env = ChatHistory(Echo(whole))
    env.reset()
    env.step("a")
    observation = env.step("b")[0]
    contents = [m["content"] for m in observation]
    assert contents == ["start:", "a", "<a>", "b", "<b>"]


def test_a_models_template_renders_the_messages(chat_model):
    pytest.importorskip("transformers")
    env = ChatHistory(guess(), chat_model, system="Guess.")
    prompt = guess().reset(seed=1)[0]
    observation, _ = env.reset(seed=1)
    assert observation == f"[system]Guess.[user]{prompt}[assistant]"
    observation = env.step("0")[0]
    assert observation == (f"[system]Guess.[user]{prompt}[assistant]0[user]\nhigher\n[assistant]")
    assert observation in env.observation_space
    twin = gym.make(env.spec)
    twin.reset(seed=1)
    assert twin.step("0")[0] == observation


def test_info_has_the_messages_and_what_the_template_puts_after_the_action(chat_model):
    pytest.importorskip("transformers")
    env = ChatHistory(guess(), chat_model, system="Guess.")
    before, info = env.reset(seed=1)
    assert info["turn"] == before
    assert [m["role"] for m in info["messages"]] == ["system", "user"]
    for action in ("0", "1"):
        observation, *_, info = env.step(action)
        assert observation == before + action + info["turn"]
        assert info["turn"] == "[user]\nhigher\n[assistant]"
        assert info["messages"][-2:] == [
            message("assistant", action),
            message("user", "\nhigher\n"),
        ]
        before = observation
    plain = ChatHistory(guess(), system="Guess.")
    plain.reset(seed=1)
    observation, *_, info = plain.step("0")
    assert info["turn"] == "\nhigher\n"
    assert info["messages"] == list(observation)


def test_settings_reach_the_template(chat_model, tmp_path):
    pytest.importorskip("transformers")
    folder = tmp_path / "thinking"
    shutil.copytree(chat_model, folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] += "{% if add_generation_prompt and not think %}[none]{% endif %}"
    path.write_text(json.dumps(config))
    for think in (True, False):
        env = ChatHistory(guess(), str(folder), chat_template_kwargs={"think": think})
        observation, _ = env.reset(seed=1)
        shown = [observation, env.step("0")[4]["turn"]]
        assert [text.endswith("[none]") for text in shown] == [not think] * 2


def test_at_the_end_nobody_is_asked_to_speak(chat_model):
    pytest.importorskip("transformers")
    env = ChatHistory(gym.make("TextGen-v0", prompts=["Hi"], reward_fn="length"), chat_model)
    env.reset()
    assert env.step("Ho")[0] == "[user]Hi[assistant]Ho"


def test_a_tokenizer_without_a_template_is_refused():
    with pytest.raises(ValueError, match="'tiny-lm' has no chat template"):
        ChatHistory(guess(), "tiny-lm")


def add(a: int) -> int:
    """Add one."""
    return a + 1


def test_the_environments_own_messages_are_shown(chat_model):
    pytest.importorskip("transformers")
    chat = [message("system", "Be brief."), message("user", "2+2?")]
    given = {"prompts": [chat], "reward_fn": "length", "tools": [add], "tool_timeout": None}
    env = ChatHistory(gym.make("TextGen-v0", **given), system="Think.")
    observation, info = env.reset()
    start = [message("system", "Think.\n\nBe brief."), chat[1]]
    assert observation == tuple(start) and info["messages"] == start
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 3}}\n</tool_call>'
    observation, *_, info = env.step(call)
    assert observation == (*start, message("assistant", call), message("tool", "4"))
    assert observation in env.observation_space
    assert info["messages"][2]["tool_calls"][0]["function"]["arguments"] == {"a": 3}
    observation, _, terminated, *_ = env.step("4")
    assert terminated and observation[-1] == message("assistant", "4")
    env = ChatHistory(gym.make("TextGen-v0", **given), chat_model)
    before, _ = env.reset()
    after, *_, info = env.step(call)
    assert after == before + call + info["turn"]
    assert info["turn"] == "[user]<tool_response>\n4\n</tool_response>[assistant]"
