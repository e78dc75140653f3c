"""textenv eval: figures against playing by hand."""

import gymnasium as gym

from textenv.algos import MLPPolicy, create_policy, load_model
from textenv.algos.cli import main
from textenv.algos.evaluation import episode_returns, evaluate


def test_model_folders_that_are_broken(tmp_path, refused):
    folder = tmp_path / "model"
    folder.mkdir()
    assert "config.json" in refused("eval", "--model", str(folder))
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    error = refused("eval", "--model", str(folder))
    assert str(folder) in error and "tokenizer" in error


def test_figures_of_a_language_model_are_those_of_evaluate(capsys):
    argv = ["--task", "sort", "--examples", "20", "--max-completion-length", "16", "--seed", "3"]
    assert main(["eval", *argv]) == 0
    policy = create_policy(*load_model("tiny-lm"), {"max_tokens": 16, "seed": 3})
    env = gym.make("textenv:TextGen-v0", task="sort", split="test")
    expected = []
    for name, deterministic in (("greedy", True), ("sampled", False)):
        found = evaluate(policy, env, 20, deterministic)
        expected.append(
            f"{name:<8} accuracy {found.accuracy:.3f}  reward {found.reward:.3f}  "
            f"length {found.length:.1f} tokens  (20 test examples)"
        )
    assert capsys.readouterr().out.splitlines() == expected


def test_figures_of_control_are_those_of_its_episodes(tmp_path, capsys):
    env = gym.make("CartPole-v1")
    policy = MLPPolicy(env.observation_space, env.action_space, seed=4)
    policy.save(tmp_path / "policy")
    argv = ["--model", str(tmp_path / "policy"), "--env", "CartPole-v1", "--episodes", "4"]
    assert main(["eval", *argv, "--seed", "5"]) == 0
    greedy, sampled = capsys.readouterr().out.splitlines()
    returns = episode_returns(policy, env, 4, seed=5)
    assert greedy == (
        f"greedy   return {returns.mean():.1f} +- {returns.std():.1f}  "
        f"lowest {returns.min():.1f}  highest {returns.max():.1f}  (4 episodes)"
    )
    assert sampled.startswith("sampled  return ") and sampled[8:] != greedy[8:]


def test_what_cannot_be_evaluated(refused):
    assert "examples" in refused("eval", "--examples", "0")
    assert "'NoSuchEnv-v0' is not registered" in refused("eval", "--env", "NoSuchEnv-v0")
