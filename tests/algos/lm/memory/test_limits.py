"""How much memory there is, read from files of machines that are made up."""

from __future__ import annotations

import sys

import pytest

from textenv.algos.lm.memory.limits import _of_gpu, memory_limit, resident

MB, GB = 10**6, 10**9


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """``machine(files)``: a root folder with these files of ``/proc`` and ``/sys``."""
    if sys.platform != "linux":
        pytest.skip("Linux alone has these files")
    from textenv.algos.lm.memory import limits

    monkeypatch.setattr(limits, "_address_space", lambda: None)

    def make(**files):
        files = {
            "proc/self/status": "Name:\tpython\nVmSize:\t  9000 kB\nVmRSS:\t  1000 kB\n",
            "proc/meminfo": "MemTotal: 64000 kB\nMemAvailable: 20000 kB\nSwapFree: 500 kB\n",
            **files,
        }
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def test_free_memory_of_the_machine(machine):
    assert memory_limit(machine()).size == 1024 * (1000 + 20000 + 500)


def test_what_this_process_holds(machine):
    assert resident(machine()) == 1024 * 1000
    assert 10 * MB < resident() < 100 * GB


def test_cgroup_of_version_2(machine):
    """The limit of the group above: 10 MB, of which others hold 3 MB that cannot be dropped."""
    group = "sys/fs/cgroup/user"
    root = machine(
        **{
            "proc/self/cgroup": "0::/user/job\n",
            f"{group}/job/memory.max": "max\n",
            f"{group}/job/memory.current": "5000000\n",
            f"{group}/memory.max": "10000000\n",
            f"{group}/memory.current": f"{4000000 + 1024 * 1000}\n",
            f"{group}/memory.stat": "anon 3\ninactive_file 1000000\n",
        }
    )
    limit = memory_limit(root)
    assert limit.size == 7 * MB and "cgroup" in limit.what


def test_cgroup_of_version_1(machine):
    group = "sys/fs/cgroup/memory"
    root = machine(
        **{
            "proc/self/cgroup": "8:pids:/\n4:cpu,memory:/job\n0::/\n",
            f"{group}/job/memory.limit_in_bytes": "10000000\n",
            f"{group}/job/memory.usage_in_bytes": "1024000\n",
            f"{group}/memory.limit_in_bytes": "9223372036854771712\n",
            f"{group}/memory.usage_in_bytes": "1\n",
        }
    )
    assert memory_limit(root).size == 10 * MB


def test_ulimit(machine, monkeypatch):
    from textenv.algos.lm.memory import limits

    monkeypatch.setattr(limits, "_address_space", lambda: 1024 * 9000 + MB)
    limit = memory_limit(machine())
    assert limit.size == 1024 * 1000 + MB and "ulimit" in limit.what


def test_gpus():
    import mlx.core as mx

    own = mx.get_active_memory() + mx.get_cache_memory()
    assert _of_gpu({"free_memory": GB, "total_memory": 4 * GB}).size == GB + own
    metal = {"max_recommended_working_set_size": 3 * GB, "memory_size": 4 * GB}
    assert _of_gpu(metal).size == 3 * GB
    assert _of_gpu({"architecture": "x"}) is None
