"""The style of prompts follows the model, unless somebody has said otherwise."""

from types import SimpleNamespace

import gymnasium as gym
import pytest

from tests.algos.lm.generation.shared import chat_tokenizer, family
from textenv import register_task, tasks
from textenv.algos.episodes.environments import title
from textenv.algos.episodes.style import style_for
from textenv.errors import ConfigError
from textenv.tasks import Task

CHAT = family("chatml")


def test_a_chat_model_is_asked_in_words():
    assert style_for("TextGen-v0", None, CHAT) == {"style": "chat"}
    given = {"task": "sort", "task_kwargs": {"max_count": 5}, "split": "test"}
    assert style_for("TextGen-v0", given, CHAT) == {**given, "style": "chat"}
    assert given.keys() == {"task", "task_kwargs", "split"}  # a copy was changed
    assert style_for("textenv:TextGen-v0", {}, CHAT) == {"style": "chat"}
    assert style_for("textgen/Sort-v0", {}, CHAT) == {"style": "chat"}
    assert style_for("TextGen-v0", {"style": None, "dataset": None}, CHAT)["style"] == "chat"


@pytest.mark.parametrize(
    ("env", "kwargs"),
    [
        ("TextGen-v0", {"style": "plain"}),
        ("TextGen-v0", {"prompts": ["a"]}),
        ("TextGen-v0", {"dataset": "rows.jsonl"}),
        ("TextGen-v0", {"task": tasks.make("sort")}),
        ("CartPole-v1", {}),
        ("NoSuchThing-v0", {}),
        ("no_such_module:NoSuchThing-v0", {}),
        (lambda: None, {}),
        (SimpleNamespace(), {}),
    ],
)
def test_what_is_left_as_it_is(env, kwargs):
    assert style_for(env, kwargs, CHAT) == kwargs


def test_a_model_without_a_chat_template_and_one_that_is_switched_off():
    assert style_for("TextGen-v0", {}, "tiny-lm") == {}
    assert style_for("TextGen-v0", {}, chat_tokenizer(None, eos="<eos>")) == {}
    assert style_for("TextGen-v0", {}, CHAT, chat_template=False) == {}
    assert style_for("TextGen-v0", {}, CHAT, chat_template=True) == {"style": "chat"}


def test_the_tokenizer_is_read_only_if_it_matters():
    assert style_for("CartPole-v1", {}, "no/such/folder") == {}
    assert style_for("TextGen-v0", {"style": "plain"}, "no/such/folder") == {"style": "plain"}


def test_an_unknown_task_is_named():
    with pytest.raises(ConfigError, match="unknown task 'sorting'; did you mean 'sort'"):
        style_for("TextGen-v0", {"task": "sorting"}, CHAT)


def test_a_task_of_ones_own_has_a_style_if_it_takes_one(monkeypatch):
    monkeypatch.setattr(tasks, "_factories", dict(tasks._factories))

    class Mine(Task):
        name = "mine"

        def __init__(self, split, style="plain"):
            self.style = style

        def example(self, example_id):
            return {"prompt": {"plain": "1+1=", "chat": "What is 1+1?"}[self.style]}

    register_task("mine", Mine)
    register_task("other", lambda split: Mine(split))
    assert style_for("TextGen-v0", {"task": "mine"}, CHAT) == {"task": "mine", "style": "chat"}
    assert style_for("TextGen-v0", {"task": "other"}, CHAT) == {"task": "other"}
    env = gym.make("TextGen-v0", task="mine", style="chat", reward_fn="length")
    assert env.reset(seed=0)[0] == "What is 1+1?"
    assert env.step(" ab ")[4]["answer"] == "ab"  # by default everything but the thinking


def test_a_title_names_the_style():
    assert title(gym.make("TextGen-v0")) == "TextGen-v0, task arithmetic"
    assert title(gym.make("TextGen-v0", style="chat")) == "TextGen-v0, task arithmetic, style chat"
