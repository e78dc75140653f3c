"""Datasets from files of every format."""

import csv
import io
import json
import sys

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv.errors import ConfigError, DataError, MissingDependencyError, MissingFileError
from textenv.messages import transcript
from textenv.tasks.dataset_files import from_path

ROWS = [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(30)]
CSV = "prompt,answer\n" + "".join(f"{r['prompt']},{r['answer']}\n" for r in ROWS)


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_csv(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path, rows):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.Table.from_pylist(rows), path)


def write_folder(path, rows):
    pytest.importorskip("datasets").Dataset.from_list(rows).save_to_disk(str(path))


WRITERS = [
    ("a.jsonl", write_jsonl),
    ("a.csv", write_csv),
    ("A.CSV", write_csv),
    ("a.parquet", write_parquet),
    ("a", write_folder),
]


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_every_format_plays_the_same(tmp_path, name, write):
    write(tmp_path / name, ROWS)
    task = from_path(tmp_path / name)
    assert [task.example(i) for i in task.ids] == ROWS
    train, test = (from_path(tmp_path / name, split) for split in ("train", "test"))
    assert sorted(train.ids + test.ids) == list(range(30))
    path = str(tmp_path / name)
    env = gym.make("textenv:TextGen-v0", dataset=path, reward_fn="exact_match")
    assert env.reset(options={"example_id": 3})[0] == "3+3="
    assert env.step("6")[1] == 1.0


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_a_key_that_is_missing_is_named_with_its_row(tmp_path, name, write):
    write(tmp_path / name, [{"query": "a", "answer": "b"}])
    with pytest.raises(DataError, match=r"row 1: key 'prompt' is missing.*'query'") as caught:
        from_path(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    write(tmp_path / f"b{name}", [{"prompt": "a"}])
    with pytest.raises(DataError, match=r"row 1: key 'answer'.*exact_match"):
        gym.make("textenv:TextGen-v0", dataset=str(tmp_path / f"b{name}"), reward_fn="exact_match")


def test_typed_formats_keep_types_and_csv_gives_text(tmp_path):
    rows = [{"prompt": "a", "answer": 1.5, "units": ["m", "s"]}]
    write_parquet(tmp_path / "a.parquet", rows)
    write_folder(tmp_path / "a", rows)
    assert [from_path(tmp_path / name).example(0) for name in ("a.parquet", "a")] == rows * 2
    (tmp_path / "a.csv").write_text("prompt,answer\na,1.5\n")
    assert from_path(tmp_path / "a.csv").example(0) == {"prompt": "a", "answer": "1.5"}


def test_the_mark_that_spreadsheets_write_is_read_over(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + CSV.encode())
    (tmp_path / "b.csv").write_bytes(CSV.encode())
    marked, plain = (from_path(tmp_path / name) for name in ("a.csv", "b.csv"))
    assert [marked.example(i) for i in marked.ids] == [plain.example(i) for i in plain.ids]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (CSV.encode() + b"a\n", "row 31: expected 2 values \\('prompt', 'answer'\\), got 1"),
        (CSV.encode() + b"a,b,c\n", "row 31: expected 2 values .* got 3"),
        (CSV.encode() + b'a,"b\n', "row 31: not CSV"),
        (CSV.encode() + b'a,"b"c\n', "row 31: not CSV"),
        (CSV.encode() + b'"' + b"a" * 200_000 + b'",b\n', "row 31: not CSV: field larger"),
        (CSV.encode() + "é,b\n".encode("latin-1"), "line 32: not UTF-8"),
        (CSV.encode("utf-16"), "byte-order mark"),
        (b"prompt,prompt\na,b\n", "two columns have one name"),
        (b"query,answer\na,b\n", "row 1: key 'prompt' is missing.*'query', 'answer'"),
        (b"prompt,answer\n", "no rows"),
        (b"", "no rows"),
    ],
)
def test_a_broken_csv_is_one_line_that_names_file_and_row(tmp_path, data, says):
    path = tmp_path / "problems.csv"
    path.write_bytes(data)
    with pytest.raises(DataError, match=says) as caught:
        from_path(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=10)


@given(st.lists(st.tuples(texts.filter(bool), texts), min_size=1, max_size=5))
def test_csv_comes_back_as_it_was_written(tmp_path_factory, pairs):
    path = tmp_path_factory.getbasetemp() / "written.csv"
    rows = [{"prompt": prompt, "answer": answer} for prompt, answer in pairs]
    write_csv(path, rows)
    task = from_path(path)
    assert [task.example(i) for i in task.ids] == rows


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode), st.sampled_from(["", "x"]))
def test_any_bytes_load_or_are_refused(tmp_path_factory, data, prompt):
    pytest.importorskip("pyarrow")
    for ending in ("csv", "parquet"):
        path = tmp_path_factory.getbasetemp() / f"any.{ending}"
        path.write_bytes((b"prompt\n" if prompt else b"") + data)
        try:
            task = from_path(path)
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert all(type(task.example(i)["prompt"]) is str for i in task.ids)


def test_a_broken_parquet_or_folder_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    write_parquet(tmp_path / "a.parquet", ROWS)
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.parquet: not Parquet"):
        from_path(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="not a Hugging Face dataset saved with save_to_disk"):
        from_path(tmp_path)
    pytest.importorskip("datasets")
    for name, text in (("state.json", "{}"), ("state.json", "no"), ("dataset_dict.json", "no")):
        folder = tmp_path / f"{name}{text}"
        folder.mkdir()
        (folder / name).write_text(text)
        with pytest.raises(DataError, match="not a Hugging Face dataset") as caught:
            from_path(folder)
        assert str(caught.value).startswith(str(folder))


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl", "a"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(MissingFileError, match=name):
        from_path(tmp_path / name)


def test_a_folder_of_splits_has_its_own(tmp_path):
    datasets = pytest.importorskip("datasets")
    splits = {"train": ROWS[:20], "test": ROWS[20:], "dev": ROWS[:1]}
    datasets.DatasetDict(
        {name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}
    ).save_to_disk(str(tmp_path / "a"))
    for split in ("train", "test"):
        task = from_path(tmp_path / "a", split)
        assert [task.example(i) for i in task.ids] == splits[split]
    assert from_path(tmp_path / "a" / "dev").size == 1
    for split in (None, "validation"):
        with pytest.raises(ConfigError, match=f"'train', 'test', 'dev'.*split={split!r}"):
            from_path(tmp_path / "a", split)


@pytest.mark.parametrize(
    ("name", "write", "package"),
    [("a.parquet", write_parquet, "pyarrow"), ("a", write_folder, "datasets")],
)
def test_a_library_that_is_not_there_names_the_extra(tmp_path, monkeypatch, name, write, package):
    write(tmp_path / name, ROWS)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"{package}.*textenv\[tasks\]"):
        from_path(tmp_path / name)


def test_line_ends_inside_quotes_are_text(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'prompt,answer\r\n"a\r\n""b""",c\r\n\r\nd,e\r\n')
    task = from_path(tmp_path / "a.csv")
    assert [task.example(i)["prompt"] for i in task.ids] == ['a\r\n"b"', "d"]
    # The settings of the csv module are unchanged.
    assert list(csv.reader(io.StringIO("a,b"))) == [["a", "b"]]


def test_a_file_in_use_is_read_once_for_both_splits(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    write = {"prompt": "question {}", "answer": 1}
    path.write_text("".join(json.dumps({**write, "prompt": f"q {i}"}) + "\n" for i in range(100)))
    loads, count = json.loads, []
    monkeypatch.setattr(
        "textenv.tasks.dataset_files.json.loads", lambda text: count.append(text) or loads(text)
    )
    made = {"id": "textenv:TextGen-v0", "dataset": str(path), "reward_fn": "exact_match"}
    envs = [gym.make(**made, split=split) for split in ("train", "test", None, "train")]
    ids = [set(env.unwrapped.task.ids) for env in envs]
    assert len(count) == 100 and ids[0] | ids[1] == ids[2] == set(range(100))
    assert ids[0] == ids[3] and not ids[0] & ids[1]
    path.write_text('{"prompt": "another"}\n')  # a file that was changed is read again
    assert from_path(path).example(0) == {"prompt": "another"}
    assert envs[0].unwrapped.task.example(3)["prompt"] == "q 3"


GSM8K = [  # in the form of the rows of GSM8K
    {
        "question": f"{i} boxes hold 1,250 nails each. How many nails are there?",
        "answer": f"There are <<{i}*1250={i * 1250}>>{i * 1250:,} nails.\n#### {i * 1250:,}",
    }
    for i in range(1, 31)
]


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_gsm8k_is_known(tmp_path, name, write):
    write(tmp_path / name, GSM8K)
    task = from_path(tmp_path / name)
    for i, (row, example) in enumerate(zip(GSM8K, task.examples(task.ids)), start=1):
        assert example == {
            "prompt": row["question"],
            "answer": str(i * 1250),
            "solution": row["answer"],
        }
    made = {"id": "textenv:TextGen-v0", "dataset": str(tmp_path / name)}
    env = gym.make(**made, reward_fn="exact_match")
    env.reset(options={"example_id": 1})
    assert env.step("2500")[1] == 1.0
    train, test = (gym.make(**made, reward_fn="exact_match", split=s) for s in ("train", "test"))
    ids = [env.unwrapped.task.ids for env in (train, test)]
    assert sorted(ids[0] + ids[1]) == list(range(30)) and ids[1]


def test_gsm8k_as_a_user_plays_it(tmp_path):
    write_jsonl(tmp_path / "gsm.jsonl", GSM8K)
    made = {
        "dataset": str(tmp_path / "gsm.jsonl"),
        "columns": {"question": "prompt", "answer": "answer"},
        "system_prompt": "Think, then answer.",
        "extract": "after:####",
    }
    env = gym.make("textenv:TextGen-v0", **made)  # what is extracted must equal the answer
    for i, row in enumerate(GSM8K):
        asked = [
            {"role": "system", "content": "Think, then answer."},
            {"role": "user", "content": row["question"]},
        ]
        for said, reward in ((row["answer"], 1.0), (row["answer"] + "0", 0.0), ("no", 0.0)):
            _, info = env.reset(options={"example_id": i})
            assert info["messages"] == asked
            assert env.step(said)[1] == reward
    with pytest.raises(DataError, match=r"key 'answer' is missing.*exact_match"):
        gym.make("TextGen-v0", prompts=["a"], extract="after:####")
    with pytest.raises(ConfigError, match="need a reward_fn"):
        gym.make("TextGen-v0", dataset=made["dataset"])


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_columns_have_the_names_that_are_given(tmp_path, name, write):
    write(tmp_path / name, [{"q": row["prompt"], "gold": row["answer"], "id": "x"} for row in ROWS])
    task = from_path(tmp_path / name, columns={"q": "prompt", "gold": "answer"})
    assert task.examples(task.ids) == [{**row, "id": "x"} for row in ROWS]
    with pytest.raises(DataError, match=r"row 1: there is no column 'Q'.* 'q', 'gold', 'id'") as no:
        from_path(tmp_path / name, columns={"Q": "prompt"})
    assert str(no.value).startswith(str(tmp_path / name)) and "\n" not in str(no.value)


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_a_limit_reads_the_first_rows_alone(tmp_path, name, write):
    write(tmp_path / name, ROWS)
    for limit in (1, 7, 30, 1000):
        task = from_path(tmp_path / name, limit=limit)
        assert task.examples(task.ids) == ROWS[:limit]
    halves = [from_path(tmp_path / name, split, limit=20).ids for split in ("train", "test")]
    whole = [from_path(tmp_path / name, split).ids for split in ("train", "test")]
    assert halves == [[i for i in ids if i < 20] for ids in whole]  # of these rows, as of all
    for limit in (0, -1, True, 2.0):
        with pytest.raises(ConfigError, match="limit must be an integer >= 1"):
            from_path(tmp_path / name, limit=limit)


SYSTEM = {"role": "system", "content": "Be brief."}
TALKS = [
    [SYSTEM, {"role": "user", "content": "2+2?"}],
    [{"role": "user", "content": 'Say "a",\nthen b.'}],
    [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "And 2 more?"},
    ],
]


def as_json(rows, name):
    """Rows whose conversations are JSON if the file is one of CSV, which has only text."""
    if not name.lower().endswith("csv"):
        return rows
    return [{k: v if isinstance(v, str) else json.dumps(v) for k, v in r.items()} for r in rows]


@pytest.mark.parametrize("key", ["prompt", "messages", "chat"])
@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_conversations_of_trl(tmp_path, name, write, key):
    rows = [{key: talk, "answer": str(i)} for i, talk in enumerate(TALKS)]
    write(tmp_path / name, as_json(rows, name))
    columns = {"chat": "messages"} if key == "chat" else None
    task = from_path(tmp_path / name, columns=columns)
    for i, (talk, example) in enumerate(zip(TALKS, task.examples(task.ids))):
        assert example == {"messages": talk, "prompt": transcript(talk), "answer": str(i)}
    made = {"dataset": str(tmp_path / name), "columns": columns, "reward_fn": "exact_match"}
    env = gym.make("textenv:TextGen-v0", **made)
    prompt, info = env.reset(options={"example_id": 0})
    assert prompt == transcript(TALKS[0]) and info["messages"] == TALKS[0]
    assert env.step("0")[1] == 1.0


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_a_conversation_that_the_assistant_ends_has_its_answer(tmp_path, name, write):
    answer = {"role": "assistant", "content": "It is 4.\n#### 4"}
    kept = {"score": "0.5", "chosen": [answer]}
    rows = [{"messages": [*TALKS[0], answer], **kept}]
    write(tmp_path / name, as_json(rows, name))
    example = from_path(tmp_path / name).example(0)
    chosen = json.dumps([answer]) if name.lower().endswith("csv") else [answer]
    assert example == {
        "messages": TALKS[0],
        "prompt": transcript(TALKS[0]),
        "answer": "4",
        "solution": answer["content"],
        "score": "0.5",
        "chosen": chosen,
    }


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_a_wrong_message_of_a_file_is_named(tmp_path, name, write):
    rows = [{"messages": TALKS[0]}, {"messages": [SYSTEM, {"role": "robot", "content": "a"}]}]
    write(tmp_path / name, as_json(rows, name))
    with pytest.raises(DataError, match=r"row 2, 'messages', message 1: 'role'.*'robot'") as no:
        from_path(tmp_path / name)
    assert str(no.value).startswith(str(tmp_path / name)) and "\n" not in str(no.value)


def test_a_table_of_text_and_conversations_has_both(tmp_path):
    write_parquet(
        tmp_path / "a.parquet",
        [{"prompt": "1+1=", "messages": None}, {"prompt": None, "messages": TALKS[1]}],
    )
    task = from_path(tmp_path / "a.parquet")
    assert task.example(0) == {"prompt": "1+1="}
    assert task.example(1) == {"prompt": TALKS[1][0]["content"], "messages": TALKS[1]}


def test_rows_behind_the_limit_may_be_broken(tmp_path):
    for name, data in (("a.jsonl", b'{"prompt": "a"}\nno\n'), ("a.csv", b"prompt\na\nb,c\n")):
        (tmp_path / name).write_bytes(data)
        assert from_path(tmp_path / name, limit=1).size == 1
        with pytest.raises(DataError, match="row 2"):
            from_path(tmp_path / name, limit=2)


def test_what_is_remembered_of_a_file_is_of_its_columns_and_limit(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"a": "x", "b": "y", "prompt": "z"}] * 3)
    path = tmp_path / "a.jsonl"
    renamed = {"prompt": "old", "a": "prompt"}
    tasks = [
        from_path(path),
        from_path(path, columns=renamed),
        from_path(path, columns={"prompt": "old", "b": "prompt"}),
        from_path(path, limit=2),
    ]
    assert [task.example(0)["prompt"] for task in tasks] == ["z", "x", "y", "z"]
    assert [task.size for task in tasks] == [3, 3, 3, 2]
    assert from_path(path, columns=dict(renamed)) is tasks[1]
    assert from_path(path, "train", renamed)._rows is tasks[1]._rows


def test_a_folder_of_splits_has_columns_and_a_limit_too(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"q": row["prompt"]} for row in ROWS]
    datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(rows), "test": datasets.Dataset.from_list(rows[:5])}
    ).save_to_disk(str(tmp_path / "a"))
    for split, size in (("train", 7), ("test", 5)):
        task = from_path(tmp_path / "a", split, {"q": "prompt"}, limit=7)
        assert [task.example(i) for i in task.ids] == [{"prompt": r["q"]} for r in rows[:size]]


def test_all_forms_of_the_environment_take_columns_and_a_limit(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"q": row["prompt"], "a": row["answer"]} for row in ROWS])
    made = {
        "dataset": str(tmp_path / "a.jsonl"),
        "columns": {"q": "prompt", "a": "answer"},
        "limit": 3,
        "reward_fn": "exact_match",
    }
    env = gym.make("textenv:TextGen-v0", **made)
    assert gym.make(env.spec).unwrapped.task.size == env.unwrapped.task.size == 3
    again = gym.make("TextGen-v0", **{**env.spec.kwargs, **env.unwrapped.copy_kwargs})
    assert again.unwrapped.task is env.unwrapped.task
    own = gym.make_vec("TextGen-v0", num_envs=4, **made)
    sync = gym.make_vec("TextGen-v0", num_envs=4, vectorization_mode="sync", **made)
    assert own.reset(seed=1)[0] == sync.reset(seed=1)[0]
    answers = [str(2 * int(prompt[0])) for prompt in own.reset(seed=1)[0]]
    assert own.step(answers)[1].tolist() == [1.0] * 4
    tokens = gym.make("TextGenTokens-v0", **made)
    assert tokens.unwrapped.task.size == 3


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({"columns": {"a": "prompt"}}, "columns are those of a dataset"),
        ({"prompts": ["a"], "reward_fn": "length", "limit": 3}, "limit is of a dataset"),
        ({"columns": ["a"]}, "columns must map"),
        ({"columns": {"a": 1}}, "columns must map"),
        ({"columns": {"a": "prompt", "b": "prompt"}}, "'a' and 'b' the same name, 'prompt'"),
    ],
)
def test_wrong_columns_and_limits_say_so(tmp_path, made, says):
    write_jsonl(tmp_path / "a.jsonl", [{"a": "x", "b": "y"}])
    if "must" in says or "same" in says:
        made = {**made, "dataset": str(tmp_path / "a.jsonl"), "reward_fn": "length"}
    with pytest.raises((ConfigError, TypeError), match=says):
        gym.make("textenv:TextGen-v0", **made)
