"""Parquet: what plain pyarrow reads, and what is not alike."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest

from textenv.algos import Buffer, Trajectory, load_rollout


def test_parquet_is_read_by_plain_pyarrow(rollout, tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(rollout.save(tmp_path / "r.parquet"))
    assert table.column_names == [f.name for f in fields(Trajectory)]
    assert table.num_rows == len(rollout)
    for row, trajectory in zip(table.to_pylist(), rollout, strict=True):
        assert row["rewards"] == trajectory.rewards
        assert (row["terminated"], row["truncated"]) == (
            trajectory.terminated,
            trajectory.truncated,
        )
        assert row["token_ids"] == trajectory.token_ids and row["values"] == trajectory.values
        assert row["prompt"] == trajectory.prompt
        assert json.loads(row["infos"])[0].keys() == trajectory.infos[0].keys()
        for seen, observation in zip(row["observations"], trajectory.observations, strict=True):
            if isinstance(observation, dict):
                assert {k: np.array(v).tolist() for k, v in seen.items()} == {
                    k: v.tolist() for k, v in observation.items()
                }
            elif isinstance(observation, str):
                assert seen == observation
            else:
                assert np.array_equal(np.array(seen, np.float32), observation)


def test_parquet_of_what_is_not_alike(tmp_path):
    pytest.importorskip("pyarrow")
    steps = [np.zeros(2), np.zeros(3, np.float32), "text", None, (1, 2)]
    trajectories = [
        Trajectory(observations=steps, actions=[1, 2.5, 1, 2, 3], unclipped_actions=None),
        Trajectory(observations=[], actions=[3], unclipped_actions=[np.zeros((0, 2))]),
        Trajectory(final_observation=np.float32(1), unclipped_actions=[], values=[]),
    ]
    read = load_rollout(Buffer(trajectories).save(tmp_path / "lr=3" / "r.parquet"))
    assert read == Buffer(trajectories)
    assert [t.unclipped_actions is None for t in read] == [True, False, False]


def test_another_parquet_file(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "r.parquet")
    with pytest.raises(ValueError, match=r"r\.parquet is not a rollout of textenv"):
        load_rollout(tmp_path / "r.parquet")


def test_parquet_of_another_version(control, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    from textenv.algos.storage import format_json as rollout_json

    path = control.save(tmp_path / "r.parquet")
    monkeypatch.setattr(rollout_json, "SCHEMA_VERSION", 4)
    with pytest.raises(ValueError, match=r"r\.parquet has schema version 3; .*reads version 4"):
        load_rollout(path)
