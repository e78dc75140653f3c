"""What lies in a run's folder, whole or cut off."""

import pytest

from textenv.algos.storage.run_files import json_object, recordings


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"step": 1, "a": [2]}', {"step": 1, "a": [2]}),
        (b'{"step": 1, "rew', None),
        (b'{"rew\xc3', None),
        (b"[1]", None),
        (b"7", None),
        (b"", None),
        (b'{"a": 1%s}' % (b"0" * 5000), None),  # more digits than Python reads
        (b"[" * 100_000, None),
    ],
)
def test_an_object_or_none(line, found):
    assert json_object(line) == found


def test_recordings_are_in_the_folder_and_its_rollouts(tmp_path):
    names = ["rollouts/rollout_0_x.json", "rollout_1_x.parquet", "transcript_0.jsonl"]
    (tmp_path / "rollouts").mkdir()
    for name in (*names, "config.toml", "rollouts/note.txt"):
        (tmp_path / name).write_text("")
    assert recordings(tmp_path) == [tmp_path / name for name in (names[1], names[0], names[2])]
    assert recordings(tmp_path / "nowhere") == []
