"""textenv eval: tasks, datasets and rewards, and how completions end."""

import json

import pytest

from textenv.algos.cli import main
from textenv.algos.evaluation import measure
from textenv.algos.evaluation.statistics import mcnemar_test, pass_at_k, wilson_interval


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
        counts.append(int(lines(capsys)[0].split("(")[-1].split()[0]))
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
    play = measure.RolloutRunner.play_alone

    def watched(self, *args):
        trajectories = play(self, *args)
        seen.extend(t.actions[0] for t in trajectories)
        return trajectories

    monkeypatch.setattr(measure.RolloutRunner, "play_alone", watched)
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


def test_samples_give_mean_and_pass_at_k_with_intervals(problems, tmp_path, capsys):
    """The printed figures follow from the answers in the file."""
    out = tmp_path / "results.json"
    argv = ["eval", "--dataset", str(problems), "--reward", "exact_match", "--split", "all"]
    argv += ["--examples", "30", "--max-completion-length", "6", "--samples", "4"]
    assert main([*argv, "--out", str(out)]) == 0
    greedy, sampled, passed, last = lines(capsys)
    assert last == f"the figures and all answers are in {out}"
    found = json.loads(out.read_text())
    assert found["settings"]["samples"] == 4 and found["comparison"] == {}
    (model,) = found["models"]
    assert model["model"] == "tiny-lm"
    records = model["sampled"]["records"]
    assert len(records) == 30 and all(len(r["completions"]) == 4 for r in records)
    for record in records:
        a, b = record["prompt"].rstrip("=").split("+")
        assert record["expected"] == str(int(a) + int(b))
        right = [text.strip() == record["expected"] for text in record["completions"]]
        assert record["correct"] == right and record["rewards"] == [float(r) for r in right]
    counts = [sum(record["correct"]) for record in records]
    assert (
        f"mean@4 {sum(counts) / 120:.3f} (" in sampled and "30 all examples, 4 answers" in sampled
    )
    for k in (1, 2, 4):
        value = sum(pass_at_k(4, c, k) for c in counts) / 30
        assert model["sampled"][f"pass@{k}"]["value"] == pytest.approx(value)
        assert f"pass@{k} {value:.3f} (" in passed
    right = sum(r["correct"][0] for r in model["greedy"]["records"])
    low, high = wilson_interval(right / 30, 30)
    assert f"accuracy {right / 30:.3f} ({low:.3f} to {high:.3f})" in greedy


def test_the_k_of_pass_at_k_can_be_chosen_and_sampling_left_out(problems, capsys):
    argv = ["eval", "--dataset", str(problems), "--reward", "exact_match"]
    argv += ["--max-completion-length", "4"]
    assert main([*argv, "--samples", "3", "--pass-at", "3", "2"]) == 0
    passed = lines(capsys)[2].split()
    assert [word for word in passed if word.startswith("pass")] == ["pass@2", "pass@3"]
    assert main([*argv, "--samples", "0"]) == 0
    (greedy,) = lines(capsys)
    assert greedy.startswith("greedy")


def test_components_are_shown_and_a_dict_knows_what_is_right(problems, tmp_path, capsys):
    own = tmp_path / "own.py"
    own.write_text(
        "def graded(prompt, completion, example):\n"
        "    right = float(completion == example['answer'])\n"
        "    return {'correct': right, 'short': 0.5 * (len(completion) < 3)}\n"
    )
    argv = ["eval", "--dataset", str(problems), "--reward", f"{own}:graded", "--split", "all"]
    assert main([*argv, "--samples", "0", "--max-completion-length", "6"]) == 0
    greedy, parts = lines(capsys)
    accuracy = greedy.split("accuracy ")[1].split()[0]
    assert parts.split() == ["correct", accuracy, "short", parts.split()[-1]]


def test_two_models_beside_each_other(problems, tmp_path, capsys):
    """tiny-lm and the same trained for a little while, by McNemar's test on their answers."""
    trained, out = tmp_path / "run", tmp_path / "results.json"
    data = ["--dataset", str(problems), "--reward", "exact_match"]
    short = ["--max-steps", "3", "--num-prompts", "8", "--num-generations", "8", "--seed", "1"]
    assert main(["train", *data, *short, "--eval-examples", "0", "--out", str(trained)]) == 0
    capsys.readouterr()
    argv = ["eval", *data, "--split", "all", "--max-completion-length", "6", "--out", str(out)]
    model = str(trained / "model")
    assert main([*argv, "--model", "tiny-lm", model]) == 0
    printed = lines(capsys)
    assert printed[0] == "tiny-lm:" and printed[3] == f"{model}:"
    assert printed[6] == f"{model} beside tiny-lm:"
    found = json.loads(out.read_text())
    verdicts = [[r["correct"][0] for r in m["greedy"]["records"]] for m in found["models"]]
    only = [sum(a and not b for a, b in zip(*pair)) for pair in (verdicts, verdicts[::-1])]
    greedy = found["comparison"]["greedy"]
    assert [greedy["only_first"], greedy["only_second"]] == only
    assert greedy["p_value"] == mcnemar_test(*only)
    assert greedy["difference"] == pytest.approx((only[1] - only[0]) / 50)
    assert printed[7].startswith(f"greedy   accuracy {sum(verdicts[0]) / 50:.3f} and ")
    assert "McNemar's exact test on 50 examples" in printed[7]
    # A model beside itself never differs.
    assert main([*argv[:-2], "--model", "tiny-lm", "tiny-lm", "--samples", "2"]) == 0
    printed = lines(capsys)
    assert "difference +0.000" in printed[-2] and "p = 1 by" in printed[-2]
    assert "difference +0.000" in printed[-1] and "p = 1 by" in printed[-1]


def test_what_eval_refuses(problems, refused, tmp_path):
    data = ["--dataset", str(problems), "--reward", "exact_match"]
    told = refused("eval", *data, "--samples", "4", "--pass-at", "8")
    assert "--pass-at 8: pass@k needs k from 1 to the 4 samples" in told
    assert "the 1 sample of" in refused("eval", *data, "--pass-at", "2")
    assert "samples must be an integer >= 0" in refused("eval", *data, "--samples", "-1")
    assert "or two to compare; got 3" in refused("eval", *data, "--model", "a", "b", "c")
    told = refused("eval", *data, "--model", "tiny-lm", "no-such-folder")
    assert "model 'no-such-folder'" in told
    there = tmp_path / "results.json"
    there.write_text("mine")
    assert "is there already" in refused("eval", *data, "--out", str(there))
    assert there.read_text() == "mine"
    nowhere = str(tmp_path / "no" / "results.json")
    assert "there is no folder" in refused("eval", *data, "--out", nowhere)
    control = ["--env", "CartPole-v1", "--model", "a", "b"]
    assert "takes one --model, and no --out" in refused("eval", *control)


def test_ctrl_c_leaves_it_without_a_file(problems, tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    out = tmp_path / "results.json"
    monkeypatch.setattr(measure.RolloutRunner, "play_alone", interrupted)
    argv = ["eval", "--dataset", str(problems), "--reward", "exact_match", "--out", str(out)]
    assert main(argv) == 130
    assert capsys.readouterr().err == "textenv eval: interrupted\n" and not out.exists()
