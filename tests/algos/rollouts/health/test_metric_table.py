"""The table has a row for each metric of a run, and for none that no run has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import gymnasium as gym
import pytest

import textenv
from tests.algos.offline.shared import three_rollouts
from tests.algos.shared import make_env
from textenv import TextGenerationEnv
from textenv.algos import (
    GRPOConfig,
    GRPOTrainer,
    OfflineConfig,
    OfflineTextConfig,
    OfflineTextTrainer,
    OfflineTrainer,
    PPOConfig,
    PPOTrainer,
    SFTConfig,
    SFTTrainer,
)
from textenv.algos.rollouts.health.metric_table import METRICS, find
from textenv.algos.training.importance import IMPORTANCE

ALGOS = Path(textenv.__path__[0]).parent / "algos"
if not ALGOS.is_dir():  # an installed copy has it inside the package
    ALGOS = Path(textenv.__path__[0]) / "algos"
NAMES = [metric.name for rows in METRICS.values() for metric in rows]
FREE = {"strategy/{part}/{metric}", "train/{figure}"}  # of a user's part, of another library
MAKERS = ("rollouts", "strategies", "training", "trainers", "offline", "evaluation", "episodes")
FAMILIES = "rewards completions clip_ratio sampling train rollout time eval strategy tools workers"
SMALL = {"num_prompts": 4, "num_generations": 4, "max_completion_length": 4, "warmup_steps": 0}


def without_row(names):
    """Metrics that have no row, or only one that is for other people's."""
    return sorted(n for n in names if (row := find(n)) is None or row.name in FREE)


def named_in(code):
    """What looks like the name of a metric; a computed part is ``{}``."""
    tree = ast.parse(code)
    pieces = {id(piece) for node in ast.walk(tree) for piece in ast.iter_child_nodes(node)
              if isinstance(node, ast.JoinedStr)}  # fmt: skip
    for node in ast.walk(tree):
        text = ""
        if isinstance(node, ast.JoinedStr):
            text = "".join(getattr(piece, "value", "") if isinstance(piece, ast.Constant) else "{}"
                           for piece in node.values)  # fmt: skip
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value if id(node) not in pieces else ""
        family = rf"({'|'.join(FAMILIES.split())}|importance|holdout)"
        if re.fullmatch(rf"{family}/[\w/{{}}]*[\w}}]", text):
            yield text


def test_the_table_is_well_formed():
    assert len(NAMES) == len(set(NAMES)) > 90
    for metric in (metric for rows in METRICS.values() for metric in rows):
        assert metric.meaning[0].isupper() and metric.meaning.endswith("."), metric.name
        assert not metric.remedy or metric.remedy.endswith("."), metric.name
        assert metric.healthy and not metric.healthy.endswith("."), metric.name
        assert "|" not in f"{metric.meaning}{metric.healthy}{metric.remedy}", metric.name


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("reward", "reward"),
        ("rewards/exact_match/mean", "rewards/{function}/mean"),
        ("rewards/mine.py:f/std", "rewards/{function}/std"),
        ("eval/rewards/a/mean", "eval/rewards/{function}/mean"),
        ("strategy/rounds", "strategy/rounds"),
        ("strategy/replay/groups", "strategy/replay/groups"),
        ("strategy/mine/groups", "strategy/{part}/{metric}"),
        ("train/approx_kl", "train/approx_kl"),
        ("train/new", "train/{figure}"),
    ],
)
def test_a_metric_is_found_by_its_closest_row(name, row):
    assert find(name).name == row


@pytest.mark.parametrize("name", ["nothing", "rewards/mean", "reward/x", "xreward", "eval/nothing"])
def test_what_is_no_metric_has_no_row(name):
    assert find(name) is None


def test_names_in_the_code_have_a_row():
    files = [file for room in MAKERS for file in (ALGOS / room).rglob("*.py")]
    files = [file for file in files if not file.name.endswith("_metrics.py")]  # the table
    files += [ALGOS / "grpo.py", ALGOS / "ppo.py", ALGOS / "gspo.py"]
    found = {name for file in files for name in named_in(file.read_text(encoding="utf-8"))}
    assert len(found) > 50
    whole = {name for name in found if "{}" not in name}
    assert without_row(whole | {f"{IMPORTANCE}mean", f"{IMPORTANCE}truncated"}) == []


def test_the_scan_sees_names():
    code = "m = {'train/x': 1, f'eval/{a}/mean': 2, 'a/b': 3, 'completions/': 4}\nm['time/fps']"
    assert sorted(named_in(code)) == ["eval/{}/mean", "time/fps", "train/x"]


def test_no_row_is_of_a_metric_that_is_gone():
    code = "\n".join(file.read_text(encoding="utf-8") for file in ALGOS.rglob("*.py")
                     if not file.name.endswith("_metrics.py"))  # fmt: skip
    of_sb3 = {"train/loss", "train/actor_loss", "train/critic_loss", "train/ent_coef",
              "train/ent_coef_loss", "train/clip_range_vf"}  # fmt: skip
    for name in set(NAMES) - FREE - of_sb3:
        last = name.rpartition("/")[2]
        assert re.search(rf"\b{last}\b", code), name


def grpo(fresh, env=None, **settings):
    config = GRPOConfig(**SMALL, **{"max_steps": 2, **settings})
    env = make_env() if env is None else env
    trainer = GRPOTrainer(fresh[0], env, config, tokenizer=fresh[1], eval_env=make_env())
    return trainer.train()


def test_grpo(fresh):
    history = grpo(fresh, beta=0.1, num_iterations=2, eval_steps=1, eval_examples=4)
    names = {name for row in history for name in row}
    assert {"kl", "clip_ratio/region_mean", "eval/reward", "rewards/vowels/mean"} <= names
    assert without_row(names) == []


@pytest.mark.parametrize("part", ["greso", "pools", "replay", "top_entropy", "dapo", "tree"])
def test_parts_of_strategies(fresh, part):
    history = grpo(fresh, strategy=(part,))
    names = {name for row in history for name in row}
    assert "strategy/rounds" in names and without_row(names) == []


def test_a_curriculum(fresh):
    history = grpo(fresh, gym.make("TextGen-v0", task="reverse"), strategy=("curriculum",))
    assert "strategy/curriculum/level" in history[0] and without_row(history[0]) == []


@pytest.mark.filterwarnings("ignore:the model's tokenizer does not know some")
def test_tools_and_rewards_that_abstain_or_fail(fresh):
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    def some(prompt, completion, example):
        if "12" in prompt:
            raise ValueError("twelve")

    chats = [[{"role": "user", "content": text}] for text in ("a", "12+30=")]
    env = TextGenerationEnv(chats, some, tools=[add], max_turns=2)
    fresh[0].args.max_position_embeddings = 2048  # the page about the tool is long
    names = set(grpo(fresh, env, max_steps=1, on_reward_error=0.0)[0])
    assert {"tools/call_frequency", "reward_errors", "completions/unscored_ratio"} <= names
    assert without_row(names) == []


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_ppo_on_control(env_id):
    config = PPOConfig(total_timesteps=256, n_steps=256, n_epochs=1, num_envs=1)
    names = set(PPOTrainer("mlp", env_id, config).train()[0])
    assert ("train/std" in names) == (env_id == "Pendulum-v1")
    assert without_row(names) == []


def test_ppo_on_text(fresh):
    config = PPOConfig(
        **{"total_timesteps": 8, "n_steps": 8, "batch_size": 8, "n_epochs": 1, "beta": 0.1},
        **{"max_completion_length": 4, "ent_coef": 0.01},
    )
    names = set(PPOTrainer(fresh[0], make_env(), config, tokenizer=fresh[1]).train()[0])
    assert {"kl", "train/grad_norm"} <= names and without_row(names) == []


def test_given_answers(fresh):
    rows = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "a", "answer": "b"}]
    config = SFTConfig(max_steps=1, batch_size=2)
    names = set(SFTTrainer(fresh[0], rows, config, tokenizer=fresh[1]).train()[0])
    assert "mean_token_accuracy" in names and without_row(names) == []


def test_text_from_files(fresh):
    config = GRPOConfig(**SMALL, max_steps=1)
    trainer = GRPOTrainer(fresh[0], make_env(), config, tokenizer=fresh[1])
    rollout = trainer._runner.collect()
    offline = OfflineTextConfig("grpo", epochs=1)
    found = OfflineTextTrainer([rollout], fresh[0], offline, tokenizer=fresh[1]).train()[0]
    assert "importance/mean" in found and without_row(found) == []


@pytest.mark.parametrize("method", ["awr", "bc"])
def test_control_from_files(method):
    settings = {"epochs": 1, "holdout": 0.4, "batch_size": 4}
    settings |= {"critic_epochs": 1} if method == "awr" else {}
    history = OfflineTrainer(three_rollouts(), OfflineConfig(method, **settings)).train()
    names = {name for row in history for name in row}
    assert "holdout/logprob" in names and without_row(names) == []
