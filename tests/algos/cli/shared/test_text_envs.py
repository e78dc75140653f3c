"""Environments of text that a command line names."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from textenv.algos.cli.shared.text_envs import (
    TextTask,
    load_reward,
    make_split,
    make_text_envs,
    read_few_shot,
)
from textenv.errors import ConfigError, DataError, MissingFileError


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
    assert load_reward("exact_match") == ("exact_match", None)
    assert load_reward("module:function") == ("module:function", None)  # left to the environment
    function, weight = load_reward(f"{path}:half")
    assert function("p", "c", {}) == 0.5 and weight is None
    with pytest.raises(ConfigError, match="no function 'number'"):
        load_reward(f"{path}:number")
    with pytest.raises(ConfigError, match="no function 'other'"):
        load_reward(f"{path}:other=2")
    with pytest.raises(MissingFileError, match="is not a file"):
        load_reward(f"{tmp_path / 'none.py'}:half")


def test_rewards_have_weights(tmp_path):
    folder = tmp_path / "a=1"
    folder.mkdir()
    (folder / "mine.py").write_text("def half(prompt, completion, example):\n    return 0.5\n")
    own = f"{folder / 'mine.py'}:half"
    task = TextTask(reward=("correct=2", "length=-1e-3", own, "format_tags=.25"))
    kwargs = task.env_kwargs()
    assert kwargs["reward_weights"] == {"correct": 2.0, "length": -0.001, "format_tags": 0.25}
    assert "reward_weights" not in TextTask(reward=("length", own)).env_kwargs()
    assert TextTask(reward=(f"{own}=4",)).env_kwargs()["reward_weights"] == {"half": 4.0}
    env, _ = make_text_envs("TextGen-v0", TextTask(reward=("correct=2", f"{own}=4")), False)
    env.reset(seed=0)
    assert env.step(env.unwrapped.example["answer"])[1] == 2 * 1 + 4 * 0.5
    for number in ("", "two", "nan", "1e999", "1=2"):
        with pytest.raises(ConfigError, match=f"=.*weight must be a finite number, got '{number}'"):
            load_reward(f"length={number}")


def test_columns_and_a_limit_are_those_of_the_dataset(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"a=b": f"{i}=", "gold": i}) + "\n" for i in range(30)))
    columns = ("a=b=prompt", "gold=answer")
    task = TextTask(dataset=path, columns=columns, limit=20, reward=("exact_match",))
    envs = make_text_envs("TextGen-v0", task, True)
    ids = [env.unwrapped.task.ids for env in envs]
    assert sorted(ids[0] + ids[1]) == list(range(20))
    assert envs[0].unwrapped.task.example(3) == {"prompt": "3=", "answer": 3}
    for wrong in ("a", "=a", "a="):
        with pytest.raises(ConfigError, match="expected COLUMN=NAME"):
            TextTask(dataset=path, columns=(wrong,)).env_kwargs()
    with pytest.raises(ConfigError, match="--columns names 'a' twice"):
        TextTask(dataset=path, columns=("a=prompt", "a=answer")).env_kwargs()
    for name, value in (("columns", columns), ("limit", 3), ("eval_dataset", path)):
        with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} goes with --dataset"):
            TextTask("sort", **{name: value}).env_kwargs()


def test_a_dataset_of_its_own_is_evaluated_on(tmp_path):
    train = rows_file(tmp_path, 30)
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"prompt": f"{i}", "answer": i}) + "\n" for i in range(9)))
    task = TextTask(dataset=train, eval_dataset=other, limit=20, reward=("exact_match",))
    assert [len(env.unwrapped.task.ids) for env in make_text_envs("TextGen-v0", task, True)] == [
        20,
        9,
    ]
    splits = {split: make_split("TextGen-v0", task, split) for split in ("train", "test", "all")}
    sizes = {split: env.unwrapped.task.size for split, env in splits.items()}
    assert sizes == {"train": 20, "test": 9, "all": 20}
    with pytest.raises(ConfigError, match="rollout takes no --eval-dataset"):
        task.refuse_eval_dataset("rollout")
    other.write_text("no\n")
    with pytest.raises(DataError, match="row 1"):
        make_text_envs("TextGen-v0", task, True)


def test_a_folder_of_splits_is_evaluated_on_its_test_split(tmp_path):
    datasets = pytest.importorskip("datasets")
    for name, counts in (("a", {"train": 5, "test": 3}), ("b", {"train": 4, "test": 2})):
        rows = {split: [{"prompt": f"{i}"} for i in range(n)] for split, n in counts.items()}
        kinds = {split: datasets.Dataset.from_list(made) for split, made in rows.items()}
        datasets.DatasetDict(kinds).save_to_disk(str(tmp_path / name))
    task = TextTask(dataset=tmp_path / "a", reward=("length",))
    for options, sizes in (({}, [5, 3]), ({"eval_dataset": tmp_path / "b"}, [5, 2])):
        envs = [
            make_split("TextGen-v0", replace(task, **options), split) for split in ("train", "test")
        ]
        assert [env.unwrapped.task.size for env in envs] == sizes


def test_solved_examples_of_a_file(tmp_path):
    path = tmp_path / "shots.jsonl"
    rows = [{"question": "2+2?", "answer": "It is 4.\n#### 4"}, {"prompt": "3?", "answer": 3}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_few_shot(path) == [
        {"prompt": "2+2?", "answer": "It is 4.\n#### 4"},
        {"prompt": "3?", "answer": 3},
    ]
    path.write_text('{"prompt": "a", "answer": null}\n')
    with pytest.raises(DataError, match=r"row 1: 'answer' is missing.*--few-shot"):
        read_few_shot(path)


def test_options_of_conversations_and_answers_are_passed_on():
    options = {"system_prompt": "@rules.txt", "extract": "tag:answer", "style": "chat"}
    assert TextTask(**options).env_kwargs() == options


def test_a_task_of_a_file(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        "from textenv.tasks import Task\n"
        "class Two(Task):\n"
        "    name, size = 'two', 2\n"
        "    def example(self, i):\n"
        "        return {'prompt': str(i), 'answer': str(i)}\n"
        "    def score(self, example, completion):\n"
        "        return float(completion == example['answer'])\n"
    )
    task = TextTask(f"{path}:Two")
    assert task.name == "Two"
    env, test = make_text_envs("TextGen-v0", task, True)
    assert env.unwrapped.task.size == 2 and test is env
    assert "takes no split" in capsys.readouterr().out
    assert pickle.loads(pickle.dumps(env)).reset(seed=0) == env.reset(seed=0)


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
