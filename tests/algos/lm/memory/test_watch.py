"""What does not fit in memory is refused, with numbers and settings that add up."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import pytest

from textenv.algos import GRPOConfig, GRPOTrainer, PPOConfig, load_model
from textenv.algos.lm.memory import pressure as memory_pressure
from textenv.algos.lm.memory import watch as memory
from textenv.algos.lm.memory import weights_size
from textenv.algos.lm.memory.estimate import PROCESS, ModelSizes, Workload, estimate_memory
from textenv.algos.lm.memory.limits import MemoryLimit, _of_gpu, memory_limit, resident
from textenv.algos.lm.memory.pressure import out_of_memory
from textenv.algos.lm.memory.watch import MemoryWatch, settings_that_fit
from textenv.algos.lm.memory.weights_size import check_weights
from textenv.algos.lm.models.lora import add_lora
from textenv.errors import OutOfMemoryError

MB, GB = 10**6, 10**9
SIZES = ModelSizes(
    1000, 1000, 4, layers=3, d=8, q=8, kv=4, f=16, vocabulary=10, shares_prompts=True
)


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


def weights(folder, **tensors):
    """A safetensors file that says it holds these: name -> (type, bytes)."""
    header, end = {"__metadata__": {"format": "mlx"}}, 0
    for name, (kind, size) in tensors.items():
        header[name] = {"dtype": kind, "shape": [1], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)


def test_weights_that_are_too_large(tmp_path):
    weights(tmp_path, a=("BF16", 7 * GB), b=("F32", 2 * GB))
    check_weights(tmp_path, MemoryLimit(16 * GB, "x"))  # float32: 14 + 2
    with pytest.raises(OutOfMemoryError, match=r"take 16\.0 GB.* the room is 15\.0 GB") as caught:
        check_weights(tmp_path, MemoryLimit(15 * GB, "the room"))
    assert "2.2 GB" in str(caught.value)  # 4 billion parameters at 4.5 bits
    with pytest.raises(OutOfMemoryError, match="fewer than 500 million parameters"):
        check_weights(tmp_path, MemoryLimit(2 * GB, "the room"))


def test_quantized_weights_stay_as_they_are(tmp_path):
    weights(tmp_path, a=("U32", 3 * GB))
    check_weights(tmp_path, MemoryLimit(3 * GB, "x"))
    with pytest.raises(OutOfMemoryError, match="smaller model"):
        check_weights(tmp_path, MemoryLimit(2 * GB, "x"))


@pytest.mark.parametrize(
    "text", [b"", b"\xff" * 20, (9).to_bytes(8, "little") + b"not json!", b"a"]
)
def test_a_broken_file_is_left_to_the_loader(tmp_path, text):
    (tmp_path / "model.safetensors").write_bytes(text)
    check_weights(tmp_path, MemoryLimit(1, "x"))


def test_load_model_looks_before_it_reads(tiny_folder, monkeypatch):
    import mlx_lm.utils

    monkeypatch.setattr(weights_size, "memory_limit", lambda: MemoryLimit(1000, "the room"))
    monkeypatch.setattr(mlx_lm.utils, "load_model", lambda *_: pytest.fail("it was read"))
    with pytest.raises(OutOfMemoryError, match="the room"):
        load_model(tiny_folder)


def test_sizes_of_a_model(random_model, tiny_config):
    model = random_model(**tiny_config)
    sizes = ModelSizes.of(model)
    # 42 x 32 embeddings; two layers of 32 x (32 + 16 + 16 + 32) + 3 x 32 x 64; norms
    numbers = 42 * 32 + 2 * (32 * 96 + 3 * 32 * 64 + 2 * 32 + 2 * 8) + 32
    assert sizes.weights == sizes.trainable == 4 * numbers
    assert sizes[2:] == (4, 2, 32, 32, 32, 64, 42, True)


def test_adapters_are_counted_as_they_are_made(random_model, tiny_config):
    model = random_model(**tiny_config)
    load = Workload.of(GRPOConfig(lora_rank=4), 10, 10)
    before = estimate_memory(ModelSizes.of(model), load)
    add_lora(model, 4, 10.0, 0)
    assert before["optimizer"] == 2 * ModelSizes.of(model).trainable


def test_parts_of_a_rollout():
    """By hand: 512 completions at once of 64 prompts, three layers of keys and values."""
    load = Workload(128, 1024, prompt_tokens=100, completion_tokens=50, micro_batch=1, parts=True)
    parts = estimate_memory(SIZES, load)
    assert parts["keys and values"] == (64 * 100 + 512 * 50) * 3 * 4 * 4
    assert parts["optimizer"] == 2000 and parts["the process itself"] == PROCESS
    unshared = estimate_memory(SIZES._replace(shares_prompts=False), load)
    assert unshared["keys and values"] == 512 * 150 * 3 * 4 * 4


def test_a_reference_and_workers_have_weights_of_their_own():
    config = GRPOConfig(beta=0.1, num_workers=2)
    parts = estimate_memory(SIZES, Workload.of(config, 10, 10))
    assert parts["reference model"] == 1000
    assert parts["worker processes"] == 2 * (1000 + PROCESS)
    assert not estimate_memory(SIZES, Workload.of(replace(config, lora_rank=2), 10, 10))[
        "reference model"
    ]


def test_load_of_ppo():
    load = Workload.of(PPOConfig(n_steps=512, batch_size=64, micro_batch_size=16), 10, 20)
    assert (load.completions, load.micro_batch, load.parts) == (512, 16, True)
    assert not Workload.of(PPOConfig(n_steps=512, batch_size=64), 10, 20).parts


@pytest.mark.parametrize("checkpointing", [False, True])
def test_growth_by_layers_is_what_is_measured(
    random_model, tiny_config, tiny, sample, checkpointing
):
    """What 16 more layers add to the peak of a backward; all else is the same."""
    import mlx.core as mx
    import mlx.nn as nn

    from textenv.algos.lm.scoring.batch import make_batch
    from textenv.algos.lm.scoring.scorer import Scorer

    batch = make_batch(sample(*tiny, ["12+30="] * 48 + ["1+1="] * 48, max_tokens=33))
    measured, expected = [], []
    for layers in (8, 24):
        model = random_model(**tiny_config | {"num_hidden_layers": layers})
        scorer = Scorer(model, checkpointing)
        gradient = nn.value_and_grad(model, lambda: scorer(batch)[0].sum())  # noqa: B023
        mx.eval(gradient())
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(gradient())
        sizes = ModelSizes.of(model)
        measured.append(mx.get_peak_memory() - before - sizes.trainable)
        load = Workload(2, 96, 6, batch.token_ids.shape[1], 96, False, checkpointing)
        expected.append(estimate_memory(sizes, load)["kept for the backward"])
    growth = (expected[1] - expected[0]) / (measured[1] - measured[0])
    assert 0.75 < growth < 1.35


def test_settings_against_all_there_are():
    """Each must be needed, and no milder value do; checked by trying everything."""
    levers = {"a": [4, 2, 1], "b": [True], "c": [3, 2]}
    for bound in range(1, 60):

        def cost(changes):
            return changes.get("a", 8) * (3 if "b" in changes else 5) + changes.get("c", 6)

        def fits(changes, bound=bound):
            return cost(changes) <= bound

        found = settings_that_fit(fits, levers)
        choices = [[None, *values] for values in levers.values()]
        named = [
            {n: v for n, v in zip(levers, values) if v is not None}
            for values in itertools.product(*choices)
        ]
        assert (found is None) == (not any(fits(changes) for changes in named))
        if found:
            assert fits(found)
            for name in found:
                assert not fits({n: v for n, v in found.items() if n != name})
                for milder in itertools.takewhile(lambda v: v != found[name], levers[name]):  # noqa: B023
                    assert not fits(found | {name: milder})


def test_the_first_lever_is_enough_where_it_is():
    assert settings_that_fit(lambda c: c.get("a", 8) <= 2, {"a": [4, 2, 1], "b": [1]}) == {"a": 2}


class Env:
    """An environment without a task that is known."""


def test_a_training_that_is_too_large_is_refused(random_model, tiny_config, tiny):
    model = random_model(**tiny_config | {"num_hidden_layers": 16})
    config = GRPOConfig(max_completion_length=512, num_prompts=64)
    room = MemoryLimit(900 * MB, "the room")
    with pytest.raises(OutOfMemoryError) as caught:
        MemoryWatch(model, config, Env(), tiny[1], room)
    message = str(caught.value)
    total, *parts = [float(n) for n in re.findall(r"([\d.]+) GB", message.split("; prompts")[0])]
    assert total > 1.4 * 0.9 and sum(parts) == pytest.approx(total, rel=0.05)
    assert "the room is 0.9 GB" in message and "kept for the backward" in message
    advice = dict(re.findall(r"(\w+)=(\w+)", message.split("it should fit with ")[1]))
    assert next(iter(advice)) == "micro_batch_size"
    fitting = replace(config, **{k: v == "True" or int(v) for k, v in advice.items()})
    load = Workload.of(fitting, 64, 512)
    assert sum(estimate_memory(ModelSizes.of(model), load).values()) <= room.size
    MemoryWatch(model, fitting, Env(), tiny[1], room)


def test_where_nothing_helps(random_model, tiny_config, tiny):
    with pytest.raises(OutOfMemoryError, match="take a smaller model"):
        MemoryWatch(random_model(**tiny_config), GRPOConfig(), Env(), tiny[1], MemoryLimit(MB, "x"))


def test_a_rough_estimate_is_given_the_benefit_of_the_doubt(random_model, tiny_config, tiny):
    model, config = random_model(**tiny_config), GRPOConfig()
    total = sum(estimate_memory(ModelSizes.of(model), Workload.of(config, 64, 16)).values())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MemoryWatch(model, config, Env(), tiny[1], MemoryLimit(int(total * 1.01), "x"))
    for part in (1.01, 1.39):
        room = MemoryLimit(int(total / part), "x")
        with pytest.warns(RuntimeWarning, match="it should fit with micro_batch_size") as caught:
            watch = MemoryWatch(model, config, Env(), tiny[1], room)
            watch._check(64, 16, "again")
        assert len(caught) == 1
    with pytest.raises(OutOfMemoryError):
        MemoryWatch(model, config, Env(), tiny[1], MemoryLimit(int(total / 1.41), "x"))


def test_a_trainer_looks_before_it_starts(tiny, monkeypatch):
    model, tokenizer = tiny
    monkeypatch.setattr(memory, "memory_limit", lambda: MemoryLimit(MB, "the room"))
    with pytest.raises(OutOfMemoryError, match="the room"):
        GRPOTrainer(model, tokenizer=tokenizer)


def test_prompts_of_the_task_are_looked_at(tiny):
    import gymnasium as gym

    env = gym.make("textenv:TextGen-v0", prompts=["a" * 21], reward_fn=lambda *_, **__: 1.0)
    assert memory.longest_prompt(env, tiny[1])[0] == 21
    assert memory.longest_prompt(Env(), tiny[1])[0] == 64


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[malloc] Unable to allocate 1073741824 bytes."),
        RuntimeError("[metal::malloc] Attempting to allocate 17 bytes which is greater than ..."),
        RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory (00000008)"),
        RuntimeError("cudaMallocAsync(&data, size, stream) failed: out of memory"),
    ],
)
def test_what_runs_out_says_what_to_lower(error):
    expected = pytest.raises(OutOfMemoryError, match="while updating: lower it")
    with expected as caught, out_of_memory("updating", "lower it"):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.skipif(sys.platform != "linux", reason="on Linux alone")
@pytest.mark.parametrize("share", [0.98, 0.90])
def test_a_word_before_memory_runs_out(monkeypatch, share):
    monkeypatch.setattr(memory_pressure, "memory_limit", lambda: MemoryLimit(8 * GB, "the room"))
    monkeypatch.setattr(memory_pressure, "resident", lambda: int(share * 8 * GB))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with out_of_memory("updating", "lower it"):
            time.sleep(0.5)
    nearly = [str(w.message) for w in caught if "nearly full while updating" in str(w.message)]
    assert len(nearly) == (share > 0.95)
    said = "7.8 GB of 8.0 GB, the room. If the process is ended now, lower it"
    assert all(said in text for text in nearly)


@pytest.mark.parametrize("error", [RuntimeError("[matmul] shapes"), ValueError("out of memory")])
def test_other_errors_go_by(error):
    with pytest.raises(type(error)) as caught, out_of_memory("updating", "lower it"):
        raise error
    assert caught.value is error


SCRIPT = """
import resource, sys
from pathlib import Path
from textenv.algos import GRPOConfig, GRPOTrainer

def size():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmSize")).split()[1])

config = GRPOConfig(max_steps=1, num_prompts=4, num_generations=64, max_completion_length=100)
trainer = GRPOTrainer(sys.argv[1], config=config, env_kwargs={
    "prompts": list("abcd"), "reward_fn": lambda p, c, e, **_: float(len(set(c)))})
resource.setrlimit(resource.RLIMIT_AS, (size() + 300 * 2**20,) * 2)
try:
    trainer.train()
except MemoryError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is Linux's")
def test_a_real_limit_is_met_by_a_message_and_no_crash(
    random_model, tiny_config, tiny_folder, tmp_path
):
    """Under ``ulimit -v`` MLX would end in a segmentation fault."""
    import mlx_lm.utils

    folder = shutil.copytree(tiny_folder, tmp_path / "model")  # for its tokenizer
    config = tiny_config | {"num_hidden_layers": 16, "intermediate_size": 256}
    mlx_lm.utils.save_model(folder, random_model(**config))
    mlx_lm.utils.save_config(dict(config), folder / "config.json")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith("OutOfMemoryError training needs about"), done.stderr[-2000:]
    assert "ulimit -v" in done.stdout and "micro_batch_size=" in done.stdout


@pytest.mark.parametrize("long", [False, True])
def test_one_long_completion_refuses_nothing(random_model, tiny_config, tiny, long):
    """Lengths count by their mean: an update is cut by length."""
    from textenv.algos import Buffer, Trajectory

    model, config = random_model(**tiny_config), GRPOConfig(max_completion_length=512)
    watch = MemoryWatch(model, config, Env(), tiny[1], room := MemoryLimit(2500 * MB, "x"))
    lengths = [512] * 512 if long else [4] * 511 + [512]
    rollout = Buffer(Trajectory(prompt_ids=[1, 2], token_ids=[1] * n) for n in lengths)
    full = sum(estimate_memory(ModelSizes.of(model), Workload.of(config, 2, 512)).values())
    assert full > 1.4 * room.size
    if long:
        with pytest.raises(OutOfMemoryError, match="completions of 512"), watch.updating(rollout):
            pytest.fail("it was begun")
    else:
        with watch.updating(rollout):
            pass
