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
    write(tmp_path / name, [{"question": "a", "answer": "b"}])
    with pytest.raises(DataError, match=r"row 1: key 'prompt' is missing.*'question'") as caught:
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
        (b"question,answer\na,b\n", "row 1: key 'prompt' is missing.*'question', 'answer'"),
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
        "textenv.tasks.dataset.json.loads", lambda text: count.append(text) or loads(text)
    )
    made = {"id": "textenv:TextGen-v0", "dataset": str(path), "reward_fn": "exact_match"}
    envs = [gym.make(**made, split=split) for split in ("train", "test", None, "train")]
    ids = [set(env.unwrapped.task.ids) for env in envs]
    assert len(count) == 100 and ids[0] | ids[1] == ids[2] == set(range(100))
    assert ids[0] == ids[3] and not ids[0] & ids[1]
    path.write_text('{"prompt": "another"}\n')  # a file that was changed is read again
    assert from_path(path).example(0) == {"prompt": "another"}
    assert envs[0].unwrapped.task.example(3)["prompt"] == "q 3"
