"""The files that are changed, and what loads them."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from textenv.algos import (
    GRPOConfig,
    GRPOTrainer,
    OfflineConfig,
    OfflineTrainer,
    PPOConfig,
    PPOTrainer,
    load_model,
    load_rollout,
    load_rollouts,
)
from textenv.algos.cli import main
from textenv.algos.cli.page.html import page_html
from textenv.algos.storage.checkpoints.store import checkpoints
from textenv.errors import ConfigError
from textenv.hub import ASSETS


class Target(NamedTuple):
    """A kind of files, and how they are loaded."""

    make: Callable[[Path], None]
    """Writes valid files to a folder."""
    load: Callable[[Path], Any]
    """Loads them. It may raise errors of this package, and nothing else."""
    share: int
    """How many of 10,000 inputs are of this kind."""
    fix: Callable[[random.Random, Path], None] | None = None
    """Makes what else must change with a file, such as a hash."""
    needs: str = ""
    """A library that must be installed."""


def _command(*argv: Any) -> bool:
    """Run a command, which ends with 0 or with a line of its own about an error.

    Returns:
        Whether it ended with 0.

    Raises:
        AssertionError: if it ends otherwise; an error that reaches the user is raised as it is.
    """
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        try:
            code: Any = main([str(word) for word in argv])
        except SystemExit as error:
            code = error.code
    shown = said.getvalue()
    assert code in (0, 2), (code, shown)
    assert "Traceback" not in shown, shown
    assert code == 0 or shown.strip(), "it says nothing"
    return code == 0


# --- settings ---------------------------------------------------------------------------------

SETTINGS = """
algo = "grpo"
model = "tiny-lm"
env = "TextGen-v0"
rollouts_every = 0

[text]
task = "countdown"
extract = "last_number"

[text.task_kwargs]
least = 2

[grpo]
num_generations = 4
max_completion_length = 8
learning_rate = 1e-4
beta = 0.0
loss_type = "dapo"
stop = ["\\n"]
lora_targets = []
seed = 3
"""
CONTROL_SETTINGS = """
algo = "ppo"
model = "mlp"
env = "CartPole-v1"
eval_episodes = 0
export = "off"

[ppo]
total_timesteps = 64
n_steps = 32
batch_size = 32
n_epochs = 1
num_envs = 2
hidden = [8, 8]
gamma = 0.99
target_kl = 0.1
"""


def _settings(text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "settings.toml").write_text(text)
        (folder / "taken" / "inner").mkdir(parents=True)  # it is not empty, so nothing is trained

    return make


def _read_settings(folder: Path) -> None:
    _command("train", "--config", folder / "settings.toml", "--out", folder / "taken")


# --- datasets ---------------------------------------------------------------------------------

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 12+30?"}]
ROWS = [
    {"prompt": "12+30=", "answer": "42", "level": 1},
    {"prompt": CHAT, "answer": 42},
    {"question": "How many?", "answer": "Two and two.\n#### 4"},
    {"messages": [*CHAT, {"role": "assistant", "content": "42"}]},
    {"prompt": "é中🙂", "answer": None, "more": {"a": [1, 2.5, True]}},
]
PLAIN_ROWS = [
    {"prompt": f"{i}+1=", "answer": str(i + 1), "weight": i / 7, "tags": ["a"]} for i in range(40)
]


def _read_dataset(name: str) -> Callable[[Path], Any]:
    def load(folder: Path) -> None:
        from textenv.tasks.dataset_files import from_path

        for row in (from_path(folder / name), from_path(folder / name, limit=2)):
            for index in range(min(row.size, 3)):
                row.example(index)

    return load


def _lines(folder: Path) -> None:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def _table(folder: Path) -> None:
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "answer", "level"])
        writer.writerows(
            [["12+30=", "42", "1"], ['a "b", c\nd', "", "2"], [json.dumps(CHAT), 4, 5]]
        )


def _parquet(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PLAIN_ROWS), folder / "rows.parquet")


def _hub_folder(folder: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(PLAIN_ROWS).save_to_disk(str(folder / "saved"))


def _validate(folder: Path) -> None:
    _command("validate", "--dataset", folder / "rows.jsonl", "--reward", "exact_match")


# --- rollouts ---------------------------------------------------------------------------------


def _rollout(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from tests.algos.storage.shared import control_rollout, structured_rollout

        control_rollout(20).save(folder / f"control.{name}")
        structured_rollout().save(folder / f"structured.{name}")

    return make


def _read_rollouts(folder: Path) -> None:
    faults = []
    for path in sorted(folder.iterdir()):
        try:
            for trajectory in load_rollout(path):
                trajectory.transitions  # noqa: B018
        except Exception as error:
            faults.append(error)
    if faults:
        raise faults[0]


def _transcript(folder: Path) -> None:
    import gymnasium as gym

    from textenv.wrappers import RecordTranscript

    env = RecordTranscript(gym.make("textenv:TextGen-v0", task="guess_number"), folder)
    for seed in range(3):
        env.reset(seed=seed)
        for action in ("5", "nothing", "\x1b[2J"):
            env.step(action)
    env.close()


def _view(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        _command("view", path)
        _command("play", "--replay", path)


def _train_on_rollouts(folder: Path) -> None:
    OfflineTrainer(load_rollouts(folder), OfflineConfig(epochs=1, critic_epochs=1)).train()


def _numbered(folder: Path) -> None:
    from tests.algos.storage.shared import control_rollout

    control_rollout(20).save(folder)
    next(folder.iterdir()).rename(folder / "rollout_0_20250101_000000.json")


# --- checkpoints and runs -----------------------------------------------------------------------


def _ppo(out: Path) -> PPOTrainer:
    config = PPOConfig(total_timesteps=64, n_steps=32, batch_size=32, n_epochs=1, num_envs=2)
    return PPOTrainer("mlp", "CartPole-v1", config, out=out)


def _ppo_checkpoint(folder: Path) -> None:
    _ppo(folder).train()


def _resume_ppo(folder: Path) -> None:
    _ppo(folder.parent / "unused").resume(folder)


def _grpo(out: Path) -> GRPOTrainer:
    config = GRPOConfig(
        max_steps=1, num_generations=2, num_prompts=1, max_completion_length=4, lora_rank=1
    )
    return GRPOTrainer("tiny-lm", "TextGen-v0", config, out=out)


def _grpo_checkpoint(folder: Path) -> None:
    _grpo(folder).train()


def _resume_grpo(folder: Path) -> None:
    _grpo(folder.parent / "unused").resume(folder)


def _run_folder(folder: Path) -> None:
    (folder / "settings.toml").write_text(CONTROL_SETTINGS)
    _command("train", "--config", folder / "settings.toml", "--out", folder / "run")
    (folder / "settings.toml").unlink()
    for picture in (folder / "run").glob("*.png"):
        picture.unlink()


def _resume_run(folder: Path) -> bool:
    _command("view", folder / "run")
    return _command("train", "--resume", folder / "run")


def _text_run(folder: Path) -> None:
    run = folder / "run"
    size = ("--num-prompts", "2", "--num-generations", "2", "--max-completion-length", "4")
    rest = ("--max-steps", "2", "--rollouts-every", "1", "--eval-examples", "2")
    _command("train", *size, *rest, "--log-to", "csv", "--out", run)
    for name in ("model", "checkpoints"):
        shutil.rmtree(run / name)
    for picture in run.glob("*.png"):
        picture.unlink()


def _show_run(folder: Path) -> None:
    page_html([folder / "run"])
    _command("view", folder / "run")


def sign(rng: random.Random, folder: Path) -> None:
    """Let a checkpoint's manifest be right for its files, in most cases."""
    for path in [
        *checkpoints(folder / "checkpoints"),
        *checkpoints(folder / "run" / "checkpoints"),
    ]:
        try:
            facts = json.loads((path / "manifest.json").read_bytes())
            for name, file in facts["files"].items():
                data = (path / name).read_bytes()
                if rng.random() < 0.9:
                    file |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            facts.pop("sha256", None)
            digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
            if rng.random() < 0.9:
                (path / "manifest.json").write_text(json.dumps({**facts, "sha256": digest}))
        except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError):
            pass  # the manifest itself was changed so that it has no files


# --- models -------------------------------------------------------------------------------------


def _model(folder: Path) -> None:
    for path in (ASSETS / "tiny-lm").iterdir():
        shutil.copy(path, folder / path.name)


def _read_model(folder: Path) -> None:
    load_model(folder)


def _tokenizer(folder: Path) -> None:
    for path in (ASSETS / "tiny-lm").glob("*.json"):
        shutil.copy(path, folder / path.name)


def _read_tokenizer(folder: Path) -> None:
    from textenv.tokenizers import load_tokenizer

    load_tokenizer(str(folder)).encode("12+30=")


def _adapters(folder: Path) -> None:
    model, _ = load_model("tiny-lm")
    from textenv.algos.lm.models.adapters import save_adapters
    from textenv.algos.lm.models.lora import add_lora

    add_lora(model, rank=2, scale=2.0, seed=0)
    save_adapters(model, folder / "mlx")
    save_adapters(model, folder / "peft", peft=True)


def _read_adapters(folder: Path) -> None:
    faults = []
    for name in ("mlx", "peft"):
        try:
            load_model("tiny-lm", adapters=folder / name)
        except Exception as error:
            faults.append(error)
    if faults:
        raise faults[0]


def _agent(folder: Path) -> None:
    data = {"policy_class": {"__module__": "sb3_contrib.qrdqn.policies"}, "gamma": 0.99}
    with zipfile.ZipFile(folder / "agent.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", json.dumps(data))
        archive.writestr("policy.pth", bytes(300))


def _read_agent(folder: Path) -> None:
    """Without trust: it is looked at, and refused."""
    from textenv.wrappers.sb3 import load_sb3

    with contextlib.suppress(ConfigError):
        load_sb3(folder / "agent.zip", trust=False)


def _policy(folder: Path) -> None:
    _ppo(folder.parent / "unused").save(folder / "policy")


def _read_policy(folder: Path) -> None:
    from textenv.algos import load_policy

    load_policy(folder / "policy")


TARGETS = {
    "settings of GRPO": Target(_settings(SETTINGS), _read_settings, 600),
    "settings of PPO": Target(_settings(CONTROL_SETTINGS), _read_settings, 600),
    "dataset, JSON Lines": Target(_lines, _read_dataset("rows.jsonl"), 1000),
    "dataset, CSV": Target(_table, _read_dataset("rows.csv"), 600),
    "dataset, Parquet": Target(_parquet, _read_dataset("rows.parquet"), 500, needs="pyarrow"),
    "dataset, folder": Target(_hub_folder, _read_dataset("saved"), 400, needs="datasets"),
    "dataset, command": Target(_lines, _validate, 300),
    "rollout, JSON": Target(_rollout("json"), _read_rollouts, 900),
    "rollout, JSON Lines": Target(_rollout("jsonl.gz"), _read_rollouts, 600),
    "rollout, Parquet": Target(_rollout("parquet"), _read_rollouts, 500, needs="pyarrow"),
    "rollout, Minari": Target(_rollout("minari"), _read_rollouts, 300, needs="minari"),
    "rollouts to train on": Target(_numbered, _train_on_rollouts, 300),
    "transcript": Target(_transcript, _read_rollouts, 400),
    "transcript, commands": Target(_transcript, _view, 300),
    "checkpoint, PPO": Target(_ppo_checkpoint, _resume_ppo, 1200, sign),
    "checkpoint, GRPO": Target(_grpo_checkpoint, _resume_grpo, 200, sign),
    "run, commands": Target(_run_folder, _resume_run, 300, sign),
    "run, page": Target(_text_run, _show_run, 300),
    "model": Target(_model, _read_model, 300),
    "tokenizer": Target(_tokenizer, _read_tokenizer, 300),
    "adapters": Target(_adapters, _read_adapters, 150),
    "policy": Target(_policy, _read_policy, 500),
    "agent of Stable-Baselines3": Target(_agent, _read_agent, 200),
}
"""By name; the shares are 10,000 together and a few."""
