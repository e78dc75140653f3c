"""Text with a policy: what it shows is what it would say, and it plays the same examples."""

import gymnasium as gym
import pytest

import textenv  # noqa: F401  (registers the environments)
from tests.algos.cli.playing.shared import play
from textenv.algos import create_policy, load_model, load_rollout
from textenv.algos.cli import main


@pytest.fixture(scope="module")
def greedy():
    """tiny-lm's most probable answer to a prompt."""
    policy = create_policy(*load_model("tiny-lm"), {"max_tokens": 64})
    return lambda prompt: policy(prompt, deterministic=True)[0]


def prompts(n, **kwargs):
    """The first prompts from seed 3 on, and their right answers."""
    env = gym.make("TextGen-v0", **kwargs)
    found = []
    for i in range(n):
        prompt, _ = env.reset(seed=3 if i == 0 else None)
        found.append((prompt, env.unwrapped.example["answer"]))
    return found


def test_the_policy_shows_its_answer_and_gives_it(monkeypatch, capsys, tmp_path, greedy):
    (first, right), (second, _) = prompts(2)
    argv = ("--policy", "tiny-lm", "--seed", "3", "--episodes", "2", "--record", str(tmp_path))
    printed = play(monkeypatch, capsys, ["?", right, "!"], *argv)
    assert printed.startswith(
        "Enter ends an answer, ? asks the policy, ! lets it answer, Ctrl-C ends the game\n"
    )
    assert f"{first}\n> policy> {greedy(first)}\n> right, reward 1\n" in printed
    assert f"{second}\n> policy> {greedy(second)}\n" in printed
    actions = [t.actions for t in load_rollout(tmp_path / "transcript_0.jsonl")]
    assert actions == [[right], [greedy(second)]]


def test_without_a_policy_these_are_answers(monkeypatch, capsys, tmp_path):
    argv = ("--episodes", "2", "--record", str(tmp_path))
    play(monkeypatch, capsys, ["?", "!"], *argv)
    assert [t.actions for t in load_rollout(tmp_path / "transcript_0.jsonl")] == [["?"], ["!"]]


def test_against_a_policy_both_answer_the_same_examples(monkeypatch, capsys, greedy):
    asked = prompts(4)
    argv = ("--policy", "tiny-lm", "--against", "--seed", "3", "--episodes", "4")
    printed = play(monkeypatch, capsys, [asked[0][1], "x", asked[2][1], "x"], *argv)
    scores = [int(greedy(prompt).strip() == answer) for prompt, answer in asked]
    assert 0 < sum(scores) < 4  # or this says little
    for (prompt, _), score in zip(asked, scores):
        told = f"policy> {greedy(prompt)}\npolicy: reward {score}\n"
        assert told in printed[printed.index(f"\n{prompt}\n") :]
    assert printed.endswith(
        f"4 of 4 episodes played, total reward 2, that of the policy {sum(scores)}\n"
    )


def test_a_game_of_several_turns_goes_on_where_the_person_is(monkeypatch, capsys, tmp_path):
    argv = ("--task", "guess_number", "--policy", "random", "--seed", "3", "--episodes", "1")
    [(_, number)] = prompts(1, task="guess_number")
    typed = ["0", "?", "!", number]
    printed = play(monkeypatch, capsys, typed, *argv, "--record", str(tmp_path))
    [trajectory] = load_rollout(tmp_path / "transcript_0.jsonl")
    assert trajectory.actions[0] == "0" and trajectory.actions[-1] == number
    assert len(trajectory.actions) == 3 and printed.count("policy> ") == 2


def test_another_environment_of_text(monkeypatch, capsys):
    env = gym.make("textgen/Reverse-v0", split="test")
    prompt, _ = env.reset(seed=3)
    answer = env.unwrapped.example["answer"]
    argv = ("--env", "textgen/Reverse-v0", "--split", "test", "--seed", "3", "--episodes", "1")
    printed = play(monkeypatch, capsys, [answer], *argv)
    assert f"\n{prompt}\n> right, reward 1\n" in printed


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--against"], "--against needs --policy"),
        (["--policy", "no-such-folder/model"], "no-such-folder/model"),
        (["--policy", "tiny-lm", "--replay", "x"], "--policy or --replay"),
        (["--env", "Nothing-v7"], "'Nothing-v7' is not registered"),
        (["--env", "CartPole-v1", "--split", "test"], "split"),
        (["--max-completion-length", "0"], "max_completion_length must be an integer >= 1, got 0"),
    ],
)
def test_settings_that_are_wrong(capsys, argv, says, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["play", *argv]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
