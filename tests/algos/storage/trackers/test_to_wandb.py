"""A run of Weights & Biases, offline, read back from the files that ``wandb sync`` uploads."""

import json
import os
import struct

import pytest

pytest.importorskip("wandb", reason="Weights & Biases is not installed: extra wandb")

from wandb.proto import wandb_internal_pb2

from textenv.algos.storage.trackers.to_wandb import WandB
from textenv.algos.storage.trackers.tracker import Run

BLOCK = 32_768


def records(path):
    """The records of a file that wandb wrote: LevelDB's log format behind a header of 7 bytes."""
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if at % BLOCK > BLOCK - 7:  # what is left of a block is too short for a header
            at += BLOCK - at % BLOCK
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)  # behind the checksum
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def test_a_run_and_its_continuation_are_read_back(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    first = WandB(Run(tmp_path, {"grpo": {"beta": 0.5}}))
    first.log({"reward": 0.25, "kl": float("nan")}, 1)
    first.table("completions", [{"prompt": "1+1=", "reward": 1.0}, {"prompt": "</script>"}], 1)
    first.log({"reward": 0.5}, 2)
    first.close(failed=False)
    second = WandB(Run(tmp_path, {"grpo": {"beta": 0.5}}, resumed=True))
    second.log({"reward": 0.75}, 3)
    second.close(failed=True)
    found, ids, ends = [], [], []
    for path in sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"), key=os.path.getmtime):
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                ids.append((record.run.run_id, record.run.project, record.run.display_name))
            elif kind == "exit":
                ends.append(record.exit.exit_code)
            elif kind == "history":
                items = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                found.append((items["_step"], items.get("reward")))
    assert found == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert len(set(ids)) == 1 and ids[0][1:] == ("textenv", tmp_path.name) and ends == [0, 1]
    (table,) = tmp_path.glob("wandb/*/files/media/table/completions_*.json")
    written = json.loads(table.read_text())
    assert written["columns"] == ["prompt", "reward"]
    assert written["data"] == [["1+1=", 1.0], ["</script>", None]]
