"""Files of Arrow, and saved datasets, that are not what they say, or name files elsewhere."""

import json

import numpy as np
import pytest

from textenv.errors import DataError
from textenv.tasks.dataset_files import from_path

datasets = pytest.importorskip("datasets")
ROWS = [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(30)]
NAMES = ["../other/data-00000-of-00001.arrow", "{other}/data-00000-of-00001.arrow", "..", "", 3]


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def whole(tmp_path):
    """A dataset, a split of another one, and one that they must not read."""
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(str(tmp_path / "other"))
    data.save_to_disk(str(tmp_path / "whole"))
    datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / "splits"))
    assert from_path(tmp_path / "whole").size == from_path(tmp_path / "splits", "train").size == 30
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_a_file_outside_its_folder_is_not_read(whole, name):
    name = name.format(other=whole / "other") if isinstance(name, str) else name
    files = [{"filename": name}]
    for folder, split in (("whole", None), ("splits", "train")):
        place = whole / folder if split is None else whole / folder / split
        edit(place / "state.json", _data_files=files)
        with pytest.raises(DataError, match=f"{place}: it names a file that is not in this folder"):
            from_path(whole / folder, split)


@pytest.mark.parametrize("name", ["../other", "{other}", ".."])
def test_a_split_outside_its_folder_is_not_read(whole, name):
    name = name.format(other=whole / "other")
    edit(whole / "splits" / "dataset_dict.json", splits=["train", name])
    with pytest.raises(DataError, match="it names a file that is not in this folder"):
        from_path(whole / "splits", name)


def test_a_folder_that_is_both_is_read_by_neither_name(whole):
    """datasets reads it as one dataset, whatever it says of splits."""
    (whole / "whole" / "dataset_dict.json").write_text('{"splits": []}')
    edit(whole / "whole" / "state.json", _data_files=[{"filename": "../other/x.arrow"}])
    with pytest.raises(DataError, match="it names a file that is not in this folder"):
        from_path(whole / "whole")


def test_a_file_whose_offsets_are_wrong_is_not_read(whole):
    """Arrow itself would read what lies before or behind the file's bytes."""
    import pyarrow as pa

    text = pa.array([row["prompt"] for row in ROWS])
    offsets = np.frombuffer(text.buffers()[1], np.int32).copy()
    offsets[3] = 2**30
    wrong = pa.Array.from_buffers(pa.string(), 30, [None, pa.py_buffer(offsets), text.buffers()[2]])
    table = pa.table({"prompt": wrong, "answer": [row["answer"] for row in ROWS]})
    file = next((whole / "whole").glob("*.arrow"))
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="not a Hugging Face dataset"):
        from_path(whole / "whole")


def test_parquet_whose_text_is_not_utf8_is_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    offsets = pa.py_buffer(np.array([0, 2], np.int32))
    wrong = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"\xf1a")])
    pyarrow.parquet.write_table(pa.table({"prompt": wrong}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: not Parquet: 'utf-8' codec"):
        from_path(tmp_path / "a.parquet")


def test_an_info_that_is_no_object_is_named(whole):
    (whole / "whole" / "dataset_info.json").write_text("[]")
    with pytest.raises(DataError, match="not a Hugging Face dataset"):
        from_path(whole / "whole")
