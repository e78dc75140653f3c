"""Environments of text that a command line names."""

import json
from pathlib import Path

import pytest

from tests.algos.lm.generation.shared import family
from textenv.algos.cli.shared.text_envs import TextTask, load_reward, make_text_envs
from textenv.errors import ConfigError, MissingFileError


def test_options_become_arguments_of_make():
    assert TextTask().env_kwargs() == {} and not TextTask().given
    task = TextTask("sort", {"length": 3}, reward=("exact_match",))
    assert task.env_kwargs() == {
        **{"task": "sort", "task_kwargs": {"length": 3}, "reward_fn": ["exact_match"]}
    }
    assert task.given and TextTask(dataset=Path("a/b.jsonl")).env_kwargs() == {
        "dataset": str(Path("a/b.jsonl"))
    }
    names = TextTask(), TextTask("sort"), TextTask(dataset=Path("a/rows.jsonl"))
    assert [task.name for task in names] == ["arithmetic", "sort", "rows"]
    with pytest.raises(ConfigError, match="--task or --dataset, not both"):
        TextTask("sort", dataset=Path("a")).env_kwargs()


def test_the_style_that_is_set_is_kept_and_else_fits_the_model():
    assert TextTask("sort", style="chat").env_kwargs() == {"task": "sort", "style": "chat"}
    for task in (TextTask(), TextTask("calculator"), TextTask("sort", style="chat")):
        assert task.for_model("TextGen-v0", "tiny-lm") is task  # it has no chat template


def test_a_chat_model_is_asked_in_words(tmp_path):
    family("chatml").save_pretrained(tmp_path)
    asked = TextTask("sort").for_model("TextGen-v0", str(tmp_path))
    assert asked == TextTask("sort", style="chat")
    assert TextTask("sort").for_model("TextGen-v0", str(tmp_path), False) == TextTask("sort")
    env, test = make_text_envs("TextGen-v0", asked, True)
    assert env.unwrapped.task.style == test.unwrapped.task.style == "chat"
    rows = TextTask(dataset=tmp_path / "rows.jsonl")
    assert rows.for_model("TextGen-v0", str(tmp_path)) is rows


def rows_file(tmp_path, count):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"{i}=", "answer": i}) + "\n" for i in range(count))
    )
    return path


def test_training_and_evaluation_have_examples_of_their_own(tmp_path):
    task = TextTask(dataset=rows_file(tmp_path, 200), reward=("exact_match",))
    train, test = make_text_envs("TextGen-v0", task, True)
    ids = [set(env.unwrapped.task.ids) for env in (train, test)]
    assert ids[0] and ids[1] and not ids[0] & ids[1] and len(ids[0] | ids[1]) == 200
    whole, none = make_text_envs("TextGen-v0", task, False)
    assert len(whole.unwrapped.task.ids) == 200 and none is None


def test_a_dataset_that_is_too_small_is_evaluated_on_all_of_itself(tmp_path, capsys):
    task = TextTask(dataset=rows_file(tmp_path, 1), reward=("exact_match",))
    train, test = make_text_envs("TextGen-v0", task, True)
    assert test is train and "too few rows" in capsys.readouterr().out


def test_control_has_no_examples():
    env, test = make_text_envs("CartPole-v1", TextTask(), True)
    assert env.spec.id == "CartPole-v1" and test is None


def test_rewards_from_files(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("number = 3\ndef half(prompt, completion, example):\n    return 0.5\n")
    assert load_reward("exact_match") == "exact_match"
    assert load_reward("module:function") == "module:function"  # left to the environment
    assert load_reward(f"{path}:half")("p", "c", {}) == 0.5
    with pytest.raises(ConfigError, match="no function 'number'"):
        load_reward(f"{path}:number")
    with pytest.raises(ConfigError, match="no function 'other'"):
        load_reward(f"{path}:other")
    with pytest.raises(MissingFileError, match="is not a file"):
        load_reward(f"{tmp_path / 'none.py'}:half")


def test_a_time_limit_reaches_every_kind_of_reward(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import time, textenv\n"
        "@textenv.reward(requires=['answer'])\n"
        "def slow_on_x(prompt, completion, example):\n"
        "    'Full marks; x takes a minute.'\n"
        "    time.sleep(60 if completion == 'x' else 0)\n"
        "    return 1.0\n"
    )
    reward = (f"{tmp_path / 'mine.py'}:slow_on_x", "exact_match")
    task = TextTask(dataset=rows_file(tmp_path, 2), reward=reward, reward_timeout=1.0)
    env, _ = make_text_envs("TextGen-v0", task, False)
    for completion, expected in (("x", 0.0), ("0", 2.0), ("1", 1.0)):
        env.reset(options={"example_id": 0})
        assert env.step(completion)[1] == expected
    env.close()
    task = TextTask(task="arithmetic", reward_timeout=1.0)
    with pytest.raises(ConfigError, match="reward_timeout can only cut off"):
        make_text_envs("TextGen-v0", task, False)


def test_a_time_limit_reaches_the_verifier_of_another_library():
    pytest.importorskip("reasoning_gym")
    task = TextTask(task="reasoning_gym:countdown", reward_timeout=2.5)
    assert task.given
    for env in make_text_envs("TextGen-v0", task, True):
        assert env.unwrapped.task.verifier_timeout == 2.5
