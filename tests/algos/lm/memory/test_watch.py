"""What does not fit in memory is refused, with numbers and settings that add up."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest

from tests.algos.lm.generation.shared import config_for, family
from textenv.algos import GRPOConfig, GRPOTrainer, SFTConfig, Trajectory
from textenv.algos.lm.memory import watch as memory
from textenv.algos.lm.memory.estimate import ModelSizes, Workload, estimate_memory
from textenv.algos.lm.memory.limits import MemoryLimit
from textenv.algos.lm.memory.watch import MemoryWatch, settings_that_fit
from textenv.errors import OutOfMemoryError

MB, GB = 10**6, 10**9
CONFIG = GRPOConfig(num_prompts=32, num_generations=16)


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
    config = replace(CONFIG, max_completion_length=512, num_prompts=64)
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
        MemoryWatch(random_model(**tiny_config), CONFIG, Env(), tiny[1], MemoryLimit(MB, "x"))


def test_a_rough_estimate_is_given_the_benefit_of_the_doubt(random_model, tiny_config, tiny):
    model, config = random_model(**tiny_config), CONFIG
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


def test_the_need_in_words(tiny):
    config = replace(CONFIG, max_completion_length=512)
    said = MemoryWatch(tiny[0], config, Env(), tiny[1], MemoryLimit(4 * GB, "the room")).describe()
    load = Workload.of(config, 64, 512)
    total = sum(estimate_memory(ModelSizes.of(tiny[0]), load).values())
    assert f"needs about {total / 1e9:.1f} GB (" in said and "completions of 512)" in said
    assert said.endswith("and the room is 4.0 GB")


def test_prompts_of_the_task_are_looked_at(tiny):
    import gymnasium as gym

    env = gym.make("textenv:TextGen-v0", prompts=["a" * 21], reward_fn=lambda *_, **__: 1.0)
    assert memory.longest_prompt(env, tiny[1])[0] == 21
    assert memory.longest_prompt(Env(), tiny[1])[0] == 64


def test_what_stands_before_a_prompt_counts(random_model):
    """A system prompt and the chat template are read for each prompt."""
    import gymnasium as gym

    from textenv.algos import create_policy

    tokenizer = family("chatml")
    policy = create_policy(random_model(**config_for(tokenizer)), tokenizer)
    kwargs = {"prompts": ["1+1="], "reward_fn": lambda *_, **__: 1.0}
    env = gym.make("textenv:TextGen-v0", **kwargs, system_prompt="be brief")
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "1+1="}]
    whole = len(policy.encode("1+1=", messages))
    assert memory.longest_prompt(env, policy)[0] == whole
    assert whole != len(policy.encode("1+1="))  # the template has a system message of its own


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
resource.setrlimit(resource.RLIMIT_AS, (size() + 600 * 2**20,) * 2)  # threads reserve some
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

    model, config = random_model(**tiny_config), replace(CONFIG, max_completion_length=512)
    watch = MemoryWatch(model, config, Env(), tiny[1], room := MemoryLimit(2400 * MB, "x"))
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


def test_given_answers_are_checked_by_what_they_are(random_model, tiny_config):
    """Without an environment nothing is assumed; the longest step decides, and settings fit it."""
    model = random_model(**tiny_config)
    config = SFTConfig(batch_size=8)
    rows = [Trajectory(prompt_ids=[2] * 40, token_ids=[3] * 60) for _ in range(8)]
    work = Workload.of(config, 40, 60)
    assert (work.prompts, work.completions, work.micro_batch, work.reference) == (8, 8, 8, False)
    needed = sum(estimate_memory(ModelSizes.of(model), work).values())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MemoryWatch(model, config, limit=MemoryLimit(needed, "so much")).check(rows)
    with pytest.warns(RuntimeWarning, match="prompts of 40 tokens, completions of 60.*should fit"):
        MemoryWatch(model, config, limit=MemoryLimit(needed - 1, "so much")).check(rows)
    watch = MemoryWatch(model, config, limit=MemoryLimit(int(needed / 1.5), "so much"))
    with pytest.raises(OutOfMemoryError, match=r"training needs about .* so much is"):
        watch.check(rows)
