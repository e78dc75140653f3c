"""GRPO that goes on from a checkpoint comes to what it would have come to, to the last bit."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.algos.shared import PROMPTS, make_env, total, vowels
from tests.algos.trainers.killed_runs import SETTINGS, make_totals, outcome, timeless
from textenv.algos import GRPOConfig, GRPOTrainer
from textenv.algos.storage.checkpoints.store import checkpoints, read_checkpoint
from textenv.errors import ConfigError, DataError, MissingFileError, StorageError

ROOT = Path(__file__).resolve().parents[3]


def by_chance(prompt, completion, example):
    """A reward that draws from the generators of the process."""
    return vowels(prompt, completion, example) + random.random() + np.random.random()  # noqa: NPY002


def seldom(prompt, completion, example):
    """A reward that no completion gets."""
    return 0.0


EVALUATED = {"eval_steps": 2, "eval_samples": 2}
VARIANTS = {
    "plain": {},
    "one reward for all": {"reward": seldom},
    "a reward by chance": {"reward": by_chance},
    "evaluated": EVALUATED | {"early_stopping_patience": 3},
    "strategy": {"strategy": ("greso", "dapo:cap=3", "pods:keep=3", "replay:share=0.5")},
    "oversampling": {"strategy": ("dapo:cap=3,oversample=true",)},
    "pools": {"strategy": ("pools", "top_entropy:share=0.5")},
    "tree": {"strategy": ("tree",)},
    "adapters": {"lora_rank": 2, "lora_dropout": 0.2},
    "DoRA": {"lora_rank": 2, "dora": True},
    "several updates": {"num_iterations": 2, "num_minibatches": 2, "warmup_steps": 2},
    "reference": {"beta": 0.2},
    "best weights": {"stop_on_collapse": True},
    "bfloat16": {"dtype": "bfloat16"},
}


@pytest.fixture
def make(tiny, tmp_path):
    """``make(out, **settings)``: a trainer of a random model; six steps, saved after each third."""
    import mlx.core as mx

    def make(out="run", reward=total, dtype=None, on_step=None, prompts=PROMPTS, **settings):
        model, tokenizer = copy.deepcopy(tiny[0]), tiny[1]
        if dtype is not None:
            model.set_dtype(getattr(mx, dtype))
        env = make_env(reward, prompts)
        config = GRPOConfig(**{**SETTINGS, "max_steps": 6, "save_steps": 3} | settings)
        return GRPOTrainer(
            *(model, env, config),
            tokenizer=tokenizer,
            eval_env=make_env() if config.eval_steps else None,
            out=None if out is None else tmp_path / out,
            on_step=on_step,
        )

    return make


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_it_comes_to_the_same_to_the_bit(make, tmp_path, settings):
    whole = make(**settings)
    history = whole.train()
    first, last = checkpoints(tmp_path / "run" / "checkpoints")[-2:]
    again = make("again", **settings)
    again.resume(first)
    assert 0 < len(again.history) < len(history)
    assert again.history == history[: len(again.history)]  # times, too
    random.seed(99)  # it takes the states of these generators from the checkpoint
    again.resume(first)
    again.train()
    assert outcome(again) == outcome(whole)
    ended = make("ended", **settings)
    ended.resume(last)
    assert ended.has_ended and outcome(ended) == outcome(whole)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_with_workers_it_comes_to_the_same_to_the_bit(tiny_folder, tmp_path, num_workers):
    config = GRPOConfig(**SETTINGS, max_steps=4, save_steps=2, num_workers=num_workers)

    def train(out, resume=None):
        trainer = GRPOTrainer(tiny_folder, make_totals, config, out=out)
        try:
            if resume is not None:
                trainer.resume(resume)
            trainer.train()
            return outcome(trainer)
        finally:
            trainer.close()

    whole = train(tmp_path / "a")
    assert train(tmp_path / "b", checkpoints(tmp_path / "a" / "checkpoints")[0]) == whole


@pytest.mark.parametrize(
    ("num_workers", "kills"), [(0, 20), pytest.param(2, 20, marks=pytest.mark.slow)]
)
def test_killed_at_random_moments_it_comes_to_the_same_to_the_bit(tmp_path, num_workers, kills):
    """Each of the lives makes up to three steps; one that is killed may have begun to write."""
    command = [sys.executable, "-m", "tests.algos.trainers.killed_runs"]
    done = subprocess.run(
        [*command, str(tmp_path), str(kills), str(num_workers)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    moments = json.loads(done.stdout.splitlines()[-1])
    assert len(moments) == kills
    files = [tmp_path / name / "outcome" for name in ("whole", "killed")]
    whole, killed = (json.loads(file.read_text()) for file in files)
    assert whole == killed, f"killed after so many steps and seconds: {moments}"
    assert len(whole["values"]["trainer/history"]) == 5 * kills
    assert not [p.name for p in (tmp_path / "killed" / "checkpoints").iterdir() if p.name[0] == "."]


def test_stop_finishes_the_step_and_writes_a_checkpoint(make, tmp_path):
    whole = make("whole")
    whole.train()

    def on_step(metrics, rollout):
        if metrics["step"] == 4:
            stopped.stop()

    stopped = make(on_step=on_step)
    assert [m["step"] for m in stopped.train()] == [1, 2, 3, 4]
    assert not stopped.has_ended
    assert stopped.checkpoints.last == tmp_path / "run" / "checkpoints" / "step-00000004"
    again = make()
    again.resume(tmp_path / "run")
    again.train()
    stopped.train()  # the same trainer goes on, too
    assert outcome(again) == outcome(stopped) == outcome(whole)


def test_patience_goes_on_after_a_stop(make):
    """With a learning rate of 0 there is never a gain."""
    settings = {"learning_rate": 0.0, "eval_steps": 1, "early_stopping_patience": 3, "max_steps": 9}
    trainer = make(on_step=lambda metrics, rollout: trainer.stop(), **settings)
    seen = [len(trainer.train()) for _ in range(4)]
    assert seen == [1, 2, 3, 4] and trainer.evaluations.stopped and trainer.has_ended


def test_it_is_written_while_the_next_rollout_is_generated(make, monkeypatch):
    """The thread that writes cannot go on before the next rollout was collected."""
    import threading

    from textenv.algos.storage.checkpoints import schedule

    collected, write = threading.Event(), schedule.write_checkpoint
    seen = []

    def slow(folder, step, *more):
        seen.append((step, collected.wait(20)))
        return write(folder, step, *more)

    monkeypatch.setattr(schedule, "write_checkpoint", slow)
    whole = make("whole", max_steps=4)
    steps = []

    def on_step(metrics, rollout):
        steps.append(metrics["step"])
        if len(steps) == 4:
            collected.set()

    trainer = make(max_steps=4, on_step=on_step)
    trainer.train()
    assert seen == [(3, True), (4, True)]
    whole.train()
    assert outcome(trainer) == outcome(whole)
    first = read_checkpoint(checkpoints(trainer.checkpoints.last.parent)[0])
    assert len(first.state.value("trainer/history")) == first.manifest.step == 3


def test_a_finished_training_goes_on_for_another_round(make, tmp_path):
    whole = make("whole")
    whole.train()
    make().train()
    again = make()
    again.resume(tmp_path / "run")
    assert again.has_ended and len(again.history) == 6
    assert [m["step"] for m in again.train()] == [*range(1, 13)]
    whole.train()
    assert outcome(again) == outcome(whole)


def test_other_settings_are_refused_unless_allowed(make, tmp_path):
    make().train()
    with pytest.raises(ConfigError, match=r"max_steps was 6 and is 8; beta was 0.0 and is 0.1"):
        make(max_steps=8, beta=0.1).resume(tmp_path / "run")
    longer = make(max_steps=8)
    longer.resume(tmp_path / "run", allow_changed=["max_steps"])
    assert [m["step"] for m in longer.train()] == [*range(1, 9)]
    assert checkpoints(tmp_path / "run" / "checkpoints")[-1].name == "step-00000008"


def test_a_micro_batch_that_was_chosen_is_taken_over(make, tmp_path, monkeypatch):
    """It was chosen by the memory that was free then, and decides how sums are rounded."""
    from textenv.algos.training import fitting

    make(micro_batch_size=None).train()
    limit = fitting.MemoryLimit(10**9, "a limit")
    sizes = {}
    for size in (2, 3):
        monkeypatch.setattr(fitting, "_that_fit", lambda *_, size=size: {"micro_batch_size": size})
        monkeypatch.setattr(fitting, "memory_limit", lambda: limit)
        trainer = make(str(size), micro_batch_size=None)
        if size == 2:
            trainer.train()
        else:
            trainer.resume(tmp_path / "2")
        sizes[size] = trainer.config.micro_batch_size, trainer._trainer.micro_batch_size
    assert sizes == {2: (2, 2), 3: (2, 2)}
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="micro_batch_size was 2 and is 4"):
        make("4", micro_batch_size=4).resume(tmp_path / "2")


def test_another_environment_and_another_model_are_refused(make, tmp_path):
    make().train()
    with pytest.raises(ConfigError, match=r"step-00000006: the state is of .*4 examples"):
        make(prompts=["a"], out="other").resume(tmp_path / "run")
    with pytest.raises(ConfigError, match="step-00000006: the weights are those of another model"):
        make(dtype="bfloat16", out="other").resume(tmp_path / "run")


def test_a_run_without_checkpoints_and_broken_ones(make, tmp_path):
    trainer = make()
    with pytest.raises(MissingFileError, match="no checkpoint"):
        (tmp_path / "run").mkdir()
        trainer.resume(tmp_path / "run")
    trainer.train()
    before, newest = checkpoints(tmp_path / "run" / "checkpoints")
    file = newest / "arrays.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match=rf"arrays\.safetensors should be .*, got 1000; .*{before}"):
        make("other").resume(tmp_path / "run")
    again = make()
    again.resume(before)
    again.train()  # it writes the broken one anew
    assert outcome(again) == outcome(trainer)
    assert read_checkpoint(newest).manifest.step == 6


def test_a_new_training_is_not_mixed_with_an_earlier_one(make):
    make().train()
    with pytest.raises(ConfigError, match="has checkpoints of an earlier training"):
        make().train()


def test_without_a_folder_there_are_no_checkpoints(make, tmp_path):
    trainer = make(out=None)
    trainer.train()
    assert trainer.checkpoints.last is None and list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_cannot_be_written_ends_the_training_with_what_it_learnt(make, tmp_path):
    trainer = make(max_steps=9)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("a file")
    with pytest.raises(StorageError, match="the checkpoint of step 3 cannot be written"):
        trainer.train()
    assert 3 <= len(trainer.history) <= 6
    trainer.save(tmp_path / "model")


def test_metrics_have_the_steps_of_the_run_once_each(make, tmp_path):
    make().train()
    again = make("again")
    again.resume(checkpoints(tmp_path / "run" / "checkpoints")[0])
    assert [m["step"] for m in again.train()] == [1, 2, 3, 4, 5, 6]
    assert timeless(again.history[0]).keys() < again.history[0].keys()
