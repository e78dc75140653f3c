"""textenv train --dry-run: what is shown, and that nothing is written."""

import json
import re

import pytest

from textenv.algos.cli import main

SMALL = ["--num-prompts", "4", "--num-generations", "4"]


@pytest.fixture
def shown(tmp_path, monkeypatch, capsys):
    """``shown(*argv)``: what a dry run prints, in an empty folder that stays empty."""
    monkeypatch.chdir(tmp_path)

    def shown(*argv):
        assert main(["train", *argv, "--dry-run"]) == 0
        assert list(tmp_path.iterdir()) == []
        return capsys.readouterr().out

    return shown


def test_grpo_shows_tokens_answers_scores_memory_and_time(shown):
    out = shown(*SMALL)
    assert out.startswith("loading tiny-lm\n") and out.endswith("nothing was written\n")
    prompts = re.findall(r"prompt \d, 6 tokens: (\d+)\+(\d+)=\n  expected:  (\d+)\n", out)
    assert len(prompts) == 3 and all(int(a) + int(b) == int(c) for a, b, c in prompts)
    answers = re.findall(r"answered:  (\d*)(?:<eos>)?  \((\d+) tokens?(?:, cut off)?\)", out)
    assert len(answers) == 6
    assert len(re.findall(r"reward:    [01] \(correct [01]\)", out)) == 6
    assert "16 sampled answers: " in out and "of 4 groups have equal rewards" in out
    assert re.search(r"memory: training needs about [\d.]+ GB \(.*completions of 64\)", out)
    assert re.search(r"time: [\d.]+ s for a step, measured .* for 120 of them", out)


def test_ppo_on_text(shown):
    out = shown("--algo", "ppo", "--n-steps", "64", "--total-timesteps", "256")
    assert "16 sampled answers: " in out and "groups" not in out.split("sampled answers")[1]
    assert re.search(r"s for an update, measured .* for 4 of them", out)


def test_answers_that_are_near_are_pointed_out(shown, tmp_path_factory):
    """tiny-lm answers with a number, and the answers here are a number and more, or the number."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(10, 50) for b in (31, 52)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward = path.with_name("mine.py")
    reward.write_text("def never(prompt, completion, example):\n    return 0.0\n")
    out = shown(*SMALL, "--dataset", str(path), "--reward", f"{reward}:never")
    assert "16 sampled answers: reward 0.000" in out
    assert re.search(r"of the wrong answers, \d+ of 16 are the expected answer but have no", out)
    path.write_text(path.read_text().replace('"answer": "', '"answer": "= '))
    out = shown(*SMALL, "--dataset", str(path), "--reward", f"{reward}:never")
    assert "of the wrong answers" not in out


def test_an_out_that_is_there_does_not_matter(shown, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "mine").write_text("mine")
    shown(*SMALL, "--out", str(folder))
    assert [path.name for path in folder.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--algo", "ppo", "--env", "CartPole-v1"], "CartPole-v1 is control"),
        (["--from-rollouts", "somewhere"], "one from --from-rollouts does not"),
    ],
)
def test_what_has_no_dry_run_says_so(capsys, argv, said):
    assert main(["train", *argv, "--dry-run"]) == 2
    assert said in capsys.readouterr().err
