"""textenv eval: tasks, datasets and rewards, and how completions end."""

import json

import pytest

from textenv.algos.cli import main
from textenv.algos.evaluation import measure


@pytest.fixture
def problems(tmp_path):
    """Fifty sums and their answers."""
    path = tmp_path / "sums.jsonl"
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(5) for b in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_a_dataset_is_evaluated_with_a_reward(problems, tmp_path, capsys):
    own = tmp_path / "own.py"
    own.write_text("def half(prompt, completion, example):\n    return 0.5\n")
    argv = ["eval", "--dataset", str(problems), "--max-completion-length", "8"]
    assert main([*argv, "--reward", f"{own}:half", "--split", "all"]) == 0
    greedy, sampled = lines(capsys)
    assert "reward 0.500" in greedy and "(50 all examples)" in greedy
    assert sampled.startswith("sampled")
    counts = []
    for split in ("test", "train"):
        assert main([*argv, "--reward", "exact_match", "--split", split]) == 0
        counts.append(int(lines(capsys)[0].split("(")[1].split()[0]))
    assert sum(counts) == 50 and 0 < counts[0] < counts[1]


def test_the_same_rows_are_held_back_as_in_training(problems, tmp_path, capsys):
    out = tmp_path / "run"
    argv = ["train", "--dataset", str(problems), "--reward", "exact_match", "--out", str(out)]
    argv += ["--max-steps", "1", "--num-prompts", "2", "--num-generations", "2"]
    argv += ["--learning-rate", "0", "--max-completion-length", "8"]
    assert main(argv) == 0
    capsys.readouterr()
    judged = json.loads((out / "summary.json").read_text())["after"]["greedy"]
    argv = ["eval", "--dataset", str(problems), "--reward", "exact_match"]
    assert main([*argv, "--max-completion-length", "8"]) == 0
    greedy = lines(capsys)[0]
    assert f"accuracy {judged['accuracy']:.3f}" in greedy
    assert f"({judged['examples']} test examples)" in greedy


def test_stop_strings_end_the_answers(problems, capsys, monkeypatch):
    seen = []
    play = measure.RolloutRunner.play

    def watched(self, *args):
        rollout = play(self, *args)
        seen.extend(t.actions[0] for t in rollout.trajectories)
        return rollout

    monkeypatch.setattr(measure.RolloutRunner, "play", watched)
    argv = ["eval", "--dataset", str(problems), "--reward", "exact_match", "--split", "all"]
    assert main([*argv, "--stop", *"0123456789"]) == 0
    assert set(seen) == {""}


def test_what_does_not_go_together_is_refused(problems, refused, tmp_path):
    assert "'all' is all rows" in refused("eval", "--split", "all")
    assert "not both" in refused("eval", "--task", "sort", "--dataset", str(problems))
    assert "reward_fn" in refused("eval", "--dataset", str(problems))
    assert "no chat template" in refused("eval", "--chat-template-kwargs", "think", "True")
    one = tmp_path / "one.jsonl"
    one.write_text('{"prompt": "1+1=", "answer": "2"}\n')
    told = refused("eval", "--dataset", str(one), "--reward", "exact_match")
    assert "'test' split; use all rows instead" in told
