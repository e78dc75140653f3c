"""The process of a measurement: from its job to the file of its answer."""

import importlib
import json
import sys
from types import ModuleType

import numpy as np
import pytest

from textenv.algos.bench import worker
from textenv.algos.bench.workload import Work


@pytest.mark.parametrize("name", worker.PROBES)
def test_every_probe_is_there(name):
    module, function = worker.PROBES[name]
    needs = {"peers.trl": "trl", "peers.mlx_lm": "mlx_lm", "peers.llama_cpp": "llama_cpp"}
    pytest.importorskip(needs.get(module, "numpy"))
    found = importlib.import_module(f"textenv.algos.bench.{module}")
    assert callable(getattr(found, function))


def test_a_probe_gets_its_arguments_and_its_answer_is_written(tmp_path, monkeypatch):
    seen = {}

    def probe(**arguments):
        seen.update(arguments)
        return {"seconds": np.float32(0.5), "count": np.int64(3)}

    module = ModuleType("textenv.algos.bench.fake")
    module.probe = probe
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(worker.PROBES, "fake", ("fake", "probe"))
    work = Work(2, 4, 8, 12, 4, timed=2, task="sort")
    arguments = {"work": work, "seed": 7, "model": "folder"}
    job = {"probe": "fake", "arguments": arguments, "started": 12.5}
    worker.main([json.dumps(job), str(tmp_path / "answer.json")])
    assert seen == {"work": work, "seed": 7, "model": "folder", "started": 12.5}
    assert isinstance(seen["work"], Work)
    assert json.loads((tmp_path / "answer.json").read_text()) == {"seconds": 0.5, "count": 3}


def test_a_model_is_made_in_a_process_of_its_own_too(tmp_path):
    arguments = {"size": "tiny", "folder": str(tmp_path / "tiny"), "seed": 3}
    job = {"probe": "make", "arguments": arguments, "started": 0.0}
    worker.main([json.dumps(job), str(tmp_path / "answer.json")])
    assert json.loads((tmp_path / "answer.json").read_text()) == {"seconds": 0.0}
    assert (tmp_path / "tiny" / "model.safetensors").is_file()
