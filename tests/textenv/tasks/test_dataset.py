"""Own prompts, and rows of a JSON Lines file."""

import copy
import json
import pickle

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

import textenv
from textenv.errors import ConfigError, DataError, MissingFileError
from textenv.tasks.dataset import Dataset, from_prompts
from textenv.tasks.dataset_files import from_path

GOOD = b'{"prompt": "2+2=", "answer": "4"}\n'


@pytest.fixture
def load(tmp_path):
    def write_and_load(data, **kwargs):
        path = tmp_path / "problems.jsonl"
        path.write_bytes(data)
        return from_path(path, **kwargs)

    return write_and_load


def rows(task):
    return [task.example(i) for i in task.ids]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (GOOD + b'{"prompt": "a"\n' + GOOD, "row 2: not JSON"),
        (GOOD + b"not json\n", "row 2: not JSON"),
        (GOOD + b"[" * 200_000, "row 2: not JSON"),
        (GOOD + b'{"prompt": "a", "answer": ' + b"9" * 5000 + b"}", "row 2: not JSON"),
        (GOOD + GOOD.strip() + GOOD, "row 2: not JSON"),
        (b"[\n" + GOOD + b"]\n", "row 1: not JSON"),
        (GOOD + b"\n" + GOOD, "row 2: not JSON"),  # a blank line
        (GOOD * 2 + b'["prompt"]\n', "row 3: expected an object.* list"),
        (GOOD + b'"prompt"\n', "row 2: expected an object.* str"),
        (GOOD + b"null\n", "row 2: expected an object.* NoneType"),
        (GOOD + b'{"query": "a", "answer": 1}\n', "row 2: key 'prompt'.*'query', 'answer'"),
        (b"{}\n", "row 1: key 'prompt' is missing.*no keys"),
        (GOOD + b'{"prompt": 7}\n', "row 2: 'prompt' must be text or a list.*, got int"),
        (GOOD + b'{"prompt": null}\n', "row 2: 'prompt' must be text or a list.*, got NoneType"),
        (GOOD + b'{"prompt": [{"role": "user"}]}\n', "row 2, 'prompt', message 0: key 'content'"),
        (GOOD + b'{"messages": [{"content": "a"}]}\n', "row 2, 'messages', message 0: 'role' must"),
        (GOOD + b'{"messages": "a"}\n', "row 2, 'messages': expected a list of messages, got str"),
        (GOOD + b'{"prompt": "\\ud800"}\n', "row 2: 'prompt' holds a lone surrogate"),
        (GOOD + '{"prompt": "é"}\n'.encode("latin-1"), "row 2: not UTF-8"),
        (GOOD + b'{"prompt": "\xed\xa0\x80"}\n', "row 2: not UTF-8"),
        (b"\xef\xbb\xbf" * 2 + GOOD, "row 1: not JSON"),
        (b"\x00\x00\xfe\xff", "byte-order mark"),
        (GOOD.decode().encode("utf-16"), "byte-order mark"),
        (GOOD.decode().encode("utf-32"), "byte-order mark"),
        (b"", "no rows"),
        (b"\n", "no rows"),
        (b" \r\n\r\n", "no rows"),
    ],
)
def test_a_broken_file_is_one_line_that_names_file_and_row(load, tmp_path, data, says):
    with pytest.raises(DataError, match=says) as caught:
        load(data)
    assert str(caught.value).startswith(str(tmp_path / "problems.jsonl"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(tmp_path)) + 200


def test_a_byte_order_mark_of_utf8_is_read_over(load):
    assert load(b"\xef\xbb\xbf" + GOOD).example(0) == load(GOOD).example(0)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"absent\.jsonl"):
        from_path(tmp_path / "absent.jsonl")


def test_a_key_that_the_reward_needs_is_missed_before_the_first_episode(load, tmp_path):
    load(GOOD + b'{"prompt": "3+3=", "solution": "6"}\n')
    path = str(tmp_path / "problems.jsonl")
    with pytest.raises(DataError, match=r"row 2: key 'answer'.*exact_match.*'solution'") as caught:
        gym.make("textenv:TextGen-v0", dataset=path, reward_fn="exact_match")
    assert str(caught.value).startswith(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n\n", "\r\n\r\n", "", "  \n"])
def test_line_ends_do_not_matter(load, end):
    between = "\r\n" if "\r" in end else "\n"
    data = between.join(['{"prompt": "a\\r\\n"}', ' {"prompt": "b"} ']) + end
    assert rows(load(data.encode())) == [{"prompt": "a\r\n"}, {"prompt": "b"}]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=3),
    max_leaves=5,
)
json_rows = st.builds(
    lambda row, prompt: {**row, "prompt": prompt},
    st.dictionaries(st.text(max_size=5), json_values, max_size=3),
    st.text(max_size=20),
)


@given(st.lists(json_rows, min_size=1, max_size=5), st.booleans())
def test_rows_come_back_as_they_were_written(tmp_path_factory, written, ascii_only):
    path = tmp_path_factory.getbasetemp() / "written.jsonl"
    lines = [json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in written]
    path.write_bytes("".join(lines).encode())  # U+2028 and similar characters do not end a line
    task = from_path(path)
    assert rows(task) == written
    assert (task.size, task.ids) == (len(written), list(range(len(written))))


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_bytes_load_or_are_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(data)
    try:
        task = from_path(path)
    except DataError:
        return
    assert all(type(row["prompt"]) is str for row in rows(task))


def test_splits_divide_the_rows_and_keep_their_ids():
    prompts = [f"question {i}" for i in range(1000)]
    train, test = (from_prompts(prompts, None, split) for split in ("train", "test"))
    assert sorted(train.ids + test.ids) == list(range(1000))
    assert 60 < len(test.ids) < 140  # one in ten; three standard deviations are 28
    assert [row["prompt"] for row in rows(test)] == [prompts[i] for i in test.ids]
    shuffled = from_prompts(prompts[::-1], None, "test")
    assert {r["prompt"] for r in rows(shuffled)} == {r["prompt"] for r in rows(test)}


def test_the_same_prompt_twice_falls_in_one_split():
    prompts = [f"question {i % 50}" for i in range(200)]
    train, test = (from_prompts(prompts, None, split) for split in ("train", "test"))
    assert not {r["prompt"] for r in rows(train)} & {r["prompt"] for r in rows(test)}


def test_an_environment_of_a_split_plays_that_split_alone():
    prompts = [f"question {i}" for i in range(60)]
    made = {"prompts": prompts, "reward_fn": "length", "split": "test"}
    env = gym.make("textenv:TextGen-v0", **made)
    ids = from_prompts(prompts, None, "test").ids
    seen = {env.reset(seed=seed)[1]["example_id"] for seed in range(300)}
    assert seen == set(ids)
    assert 0 < len(ids) < 20


def test_a_split_without_rows_says_so():
    task = from_prompts([f"question {i}" for i in range(60)], None, "test")
    rest = [f"question {i}" for i in range(60) if i not in task.ids]
    with pytest.raises(DataError, match="'test' split"):
        from_prompts(rest, None, "test")
    with pytest.raises(ConfigError, match="'dev'"):
        from_prompts(rest, None, "dev")


def test_an_example_is_a_new_dict_and_its_answer_the_oracles():
    task = Dataset([{"prompt": "a", "answer": 4}, {"prompt": "b"}], name="mine")
    task.example(0)["prompt"] = "changed"
    assert task.example(0) == {"prompt": "a", "answer": 4}
    assert task.oracle(task.example(0)) == "4"
    with pytest.raises(NotImplementedError, match="mine"):
        task.oracle(task.example(1))
    for outside in (-1, 2):
        with pytest.raises(ConfigError, match=f"0 to 1 in mine, got {outside}"):
            task.example(outside)


def test_the_lists_of_the_caller_are_not_the_datasets():
    prompts, examples = ["a"], [{"answer": "1"}]
    task = from_prompts(prompts, examples)
    prompts[0], examples[0]["answer"] = "b", "2"
    assert rows(task) == [{"prompt": "a", "answer": "1"}]
    assert examples == [{"answer": "2"}]
    given = [{"prompt": "a"}]
    task = Dataset(given)
    given[0]["prompt"] = "b"
    assert rows(task) == [{"prompt": "a"}]


def test_rows_are_checked_once_however_many_environments_share_them():
    seen = []

    @textenv.reward("counted", requires=["answer"], check=seen.append)
    def counted(prompt, completion, example):
        return 1.0

    task = from_prompts(["a", "b"], [{"answer": i} for i in range(2)])
    envs = [gym.make("textenv:TextGen-v0", task=task, reward_fn=counted) for _ in range(5)]
    envs += [gym.make("TextGen-v0", task=task.in_split(None), reward_fn=counted)]
    envs += [gym.make(copy.deepcopy(envs[0].spec))]
    assert seen == [{"prompt": p, "answer": i} for i, p in enumerate("ab")]
    assert len(envs) == 7
    other = pickle.loads(pickle.dumps(task))
    assert rows(other) == rows(task)
    with pytest.raises(DataError, match="'pattern' is missing"):
        gym.make("TextGen-v0", task=task, reward_fn="regex")  # another check still finds a fault


def test_another_split_shares_the_rows():
    task = from_prompts([f"question {i}" for i in range(1000)], None)
    halves = [task.in_split("train"), task.in_split("test")]
    assert sorted(halves[0].ids + halves[1].ids) == task.ids
    assert all(half._rows is task._rows for half in halves)
    for half, split in zip(halves, ("train", "test")):
        assert half.split == split
        assert half.ids == from_prompts([f"question {i}" for i in range(1000)], None, split).ids
    with pytest.raises(ConfigError, match="split must be one of"):
        task.in_split("valid")


# -- conversations

SYSTEM, ASKED = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}
SHOWN = "System:\nBe brief.\n\nUser:\n1+1?\n\nAssistant:\n"


def test_a_prompt_may_be_a_conversation_under_either_key():
    rows = [
        {"prompt": [SYSTEM, ASKED], "answer": "2"},
        {"messages": [SYSTEM, ASKED], "answer": "2"},
        {"messages": [SYSTEM, ASKED, {"role": "assistant", "content": "2"}]},
        {"prompt": "a title", "messages": (SYSTEM, ASKED), "answer": "2"},
    ]
    expected = {"prompt": SHOWN, "messages": [SYSTEM, ASKED], "answer": "2"}
    task = Dataset(rows)
    assert [task.example(i) for i in range(4)] == [expected] * 4
    assert "messages" not in Dataset([{"prompt": "1+1?"}]).example(0)
    alone = Dataset([{"prompt": [ASKED]}]).example(0)
    assert alone == {"prompt": "1+1?", "messages": [ASKED]}


def test_a_last_message_of_the_assistant_gives_way_to_the_rows_answer():
    said = {"role": "assistant", "content": "It is 2."}
    task = Dataset([{"messages": [ASKED, said], "answer": "2"}])
    assert task.example(0) == {"messages": [ASKED], "prompt": "1+1?", "answer": "2"}


def test_the_split_of_a_conversation_is_that_of_its_text():
    rows = [{"prompt": [SYSTEM, {"role": "user", "content": str(i)}]} for i in range(100)]
    as_text = [{"prompt": Dataset(rows).example(i)["prompt"]} for i in range(100)]
    assert Dataset(rows, split="test").ids == Dataset(as_text, split="test").ids


def test_one_conversation_in_place_of_a_list_of_them_says_so():
    with pytest.raises(TypeError, match=r"one conversation.*prompts=\[messages\]"):
        from_prompts([SYSTEM, ASKED], None)


def test_the_same_rows_with_other_turns_are_held_once():
    task = Dataset([{"prompt": "a"}])
    longer = task.with_max_turns(3)
    assert (task.max_turns, longer.max_turns) == (1, 3)
    assert longer._rows is task._rows
