"""Language models beside agents that choose from a list of answers, on tasks of text."""

import json

import numpy as np
import pytest

from tests.algos.compare.shared import text_arena
from textenv.algos import create_policy, load_model
from textenv.algos.cli import main
from textenv.algos.compare.arena import Arena
from textenv.algos.compare.loop import compare


def test_language_models_start_alike_and_are_scored_as_by_hand():
    task = Arena("TextGen-v0", {}, total_timesteps=2560, eval_every=2560, eval_episodes=30)
    runs = compare(["grpo", "ppo"], task, [0]).runs
    first = [run.evaluations[0].returns for run in runs]
    assert first[0] == first[1]

    policy = create_policy(*load_model("tiny-lm"), {"max_tokens": 64, "temperature": 1.0})
    env = task.make_text("test")
    scores, prompts, example_id = [], set(), 0
    while len(scores) < 30:
        prompt, _ = env.reset(options={"example_id": example_id})
        example_id += 1
        if prompt not in prompts:
            prompts.add(prompt)
            scores.append(env.step(policy(prompt, deterministic=True)[0])[1])
    assert list(first[0]) == scores and 0 < np.mean(scores) < 1
    for run in runs:
        assert run.steps == 2560 and [e.steps for e in run.evaluations] == [0, 2560]
        assert run.parts["policy"] > 0 and run.parts["update"] > 0
        assert run.final > np.mean(scores) + 0.15


def test_random_choices_are_right_as_often_as_chance_has_it(tmp_path):
    rows = [{"prompt": f"coin {i}", "answer": "ht"[i % 2]} for i in range(400)]
    task = text_arena(tmp_path, rows, total_timesteps=1, eval_every=1, eval_episodes=400)
    run = compare(["random"], task, [0]).runs[0]
    returns = [x for e in run.evaluations for x in e.returns]
    assert set(returns) == {0.0, 1.0}
    assert abs(np.mean(returns) - 0.5) < 4 * 0.5 / len(returns) ** 0.5


@pytest.mark.parametrize("agent", ["PPO", "MaskablePPO", "DQN"])
def test_agents_of_stable_baselines_choose_among_answers(tmp_path, agent, one_thread):
    pytest.importorskip("sb3_contrib")
    from textenv.algos.compare.clock import Watch
    from textenv.algos.compare.sb3_agents import SB3Contestant

    # Two choices of each example's own; the prompt names the right one.
    rows = [
        {"prompt": f"item {i}: say {w}", "answer": w, "choices": ["left", "right"]}
        for i in range(40)
        for w in ("left", "right")
    ]
    task = text_arena(tmp_path, rows, total_timesteps=768, eval_every=768, eval_episodes=8)
    contestant = SB3Contestant(agent, task)
    if agent == "DQN":
        contestant.settings |= {"learning_rate": 3e-3, "exploration_fraction": 0.5}
    else:
        contestant.settings |= {"n_steps": 128, "learning_rate": 3e-3}
    run = contestant.train(0, 768, Watch(task.evaluator(), 768))
    assert run.final == 1.0  # chance: 0.5


def test_the_command_on_text(tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["--env", "TextGen-v0", "--task", "guess_number", "--agents", "random"]
    argv += ["--seeds", "1", "--total-timesteps", "64", "--eval-episodes", "4"]
    assert main(["compare", *argv, "--out", str(out)]) == 0
    whole = json.loads((out / "results.json").read_text())
    assert whole["settings"]["env_kwargs"] == {"task": "guess_number"}
    assert (out / "results.md").read_text().startswith("# TextGen-v0, guess_number\n")
