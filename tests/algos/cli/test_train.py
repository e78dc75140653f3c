"""textenv train: what a run leaves, and one line for each thing a user can get wrong."""

import json
import os
import re
import subprocess
import sys

import pytest

from textenv.algos import load_rollout
from textenv.algos.cli import main
from textenv.algos.config import read_toml

SHORT = ["--max-steps", "2", "--num-prompts", "4", "--num-generations", "4", "--eval-examples", "8"]


@pytest.fixture
def problems(tmp_path):
    path = tmp_path / "problems.jsonl"
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(10, 20) for b in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_run_leaves_a_whole_folder(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", *SHORT, "--seed", "3", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "loss dapo" in printed and "before: accuracy" in printed and "after: accuracy" in printed

    config = read_toml(out / "config.toml")
    assert config["grpo"]["max_steps"] == 2 and config["grpo"]["seed"] == 3
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [1, 2]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["state"] == "finished" and summary["versions"]["mlx"] and summary["blas"]["name"]
    assert summary["before"]["greedy"]["examples"] == 8
    assert (out / "reward.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((out / "rollouts").iterdir())) == 1

    from mlx_lm import load

    from textenv.algos import load_rollout

    _, tokenizer = load(str(out / "model"))
    assert tokenizer.decode(tokenizer.encode("12+30=")) == "12+30="
    rollout = load_rollout(next((out / "rollouts").iterdir()))
    assert len(rollout) == 16 and len({t.group_id for t in rollout}) == 4


def test_a_config_file_gives_the_same_run_and_options_win(tmp_path):
    first, second, third = (tmp_path / name for name in ("a", "b", "c"))
    assert main(["train", *SHORT, "--seed", "5", "--out", str(first)]) == 0
    config = str(first / "config.toml")
    assert main(["train", "--config", config, "--out", str(second)]) == 0
    assert main(["train", "--config", config, "--seed", "6", "--out", str(third)]) == 0

    def entropies(folder):
        return [
            json.loads(x)["entropy"] for x in (folder / "metrics.jsonl").read_text().splitlines()
        ]

    assert entropies(first) == entropies(second) != entropies(third)


def test_what_is_chosen_is_printed_first_and_kept(tmp_path, capsys):
    out = tmp_path / "run"
    argv = ["--max-steps", "1", "--num-generations", "4", "--eval-examples", "4"]
    assert main(["train", *argv, "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "loading tiny-lm"
    assert lines[3].startswith("chosen for 0.5 million weights and ")
    assert lines[3].endswith("of memory: num_prompts=32")
    assert lines[4] == "evaluating before the training, on at most 4 held-out examples"
    assert lines[5].startswith("before: accuracy")
    settings = read_toml(out / "config.toml")["grpo"]
    assert (settings["num_prompts"], settings["num_generations"]) == (32, 4)


def test_what_keeps_it_from_learning_is_in_the_summary(tmp_path, capsys):
    """tiny-lm answers 12+30= with a number, and these answers are a sentence."""
    path, out = tmp_path / "rows.jsonl", tmp_path / "run"
    rows = [{"prompt": f"{a}+{b}=", "answer": f"It is {a}"} for a in range(20, 50) for b in (1, 2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["--max-steps", "2", "--num-prompts", "4", "--num-generations", "16"]
    argv += ["--dataset", str(path), "--reward", "exact_match", "--eval-examples", "0"]
    assert main(["train", *argv, "--out", str(out)]) == 0
    said = "warning: step 1: none of the last 64 completions was right"
    assert capsys.readouterr().out.count(said) == 1
    found = json.loads((out / "summary.json").read_text())["warnings"]
    assert [(w["name"], w["step"]) for w in found] == [("no_reward", 1)]
    assert "was answered, and 'It is " in found[0]["what"] and found[0]["remedy"]
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert metrics[0]["warnings"] == found and "warnings" not in metrics[1]


def test_own_dataset_and_reward_file(tmp_path, problems, capsys):
    reward = tmp_path / "mine.py"
    reward.write_text("def digits(prompt, completion, example):\n    return completion.isdigit()\n")
    out = tmp_path / "run"
    argv = ["train", *SHORT, "--dataset", str(problems), "--reward", f"{reward}:digits"]
    assert main([*argv, "--out", str(out)]) == 0
    line = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert 0 <= line["rewards/digits/mean"] <= 1
    assert "before: reward" in capsys.readouterr().out  # no verifier: no accuracy


def test_files_with_columns_of_their_own_and_what_the_config_says_of_them(tmp_path, capsys):
    files = {"train": range(10, 40), "eval": range(50, 57), "shots": range(60, 62)}
    for name, numbers in files.items():
        names = ("prompt", "answer") if name == "shots" else ("task", "gold")
        rows = [dict(zip(names, (f"{n}+1=", str(n + 1)))) for n in numbers]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    (tmp_path / "rules.txt").write_text("Add.\n")
    argv = ["--dataset", str(tmp_path / "train.jsonl"), "--columns", "task=prompt", "gold=answer"]
    argv += ["--eval-dataset", str(tmp_path / "eval.jsonl"), "--limit", "20"]
    argv += ["--few-shot", str(tmp_path / "shots.jsonl"), "--extract", "last_number"]
    argv += ["--system-prompt", f"@{tmp_path / 'rules.txt'}", "--max-completion-length", "4"]
    argv += ["--reward", "exact_match=2", "length=0.25", "--rollouts-every", "1"]
    config = ["--config", str(tmp_path / "a" / "config.toml")]
    assert main(["train", *SHORT, *argv, "--out", str(tmp_path / "a")]) == 0
    assert main(["train", *config, "--out", str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out.count("before: accuracy") == 2
    played = []
    for out in (tmp_path / "a", tmp_path / "b"):
        summary = json.loads((out / "summary.json").read_text())
        assert summary["before"]["greedy"]["examples"] == 7
        files = sorted((out / "rollouts").iterdir())
        played.append([(t.prompt, t.actions, t.rewards) for f in files for t in load_rollout(f)])
    assert played[0] == played[1]
    shown = "System:\nAdd.\n\nUser:\n60+1=\n\nAssistant:\n61\n\nUser:\n61+1=\n\nAssistant:\n62\n\n"
    for prompt, [action], [reward] in played[0]:
        assert prompt.startswith(shown)
        number = int(prompt.removeprefix(shown).removeprefix("User:\n").partition("+")[0])
        assert 10 <= number < 30  # of the first twenty rows
        right = re.findall(r"\d+", action)[-1:] == [str(number + 1)]
        assert reward == 2 * right + 0.25 * len(action)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("return None", "returned None"),
        ("return float('nan')", "returned nan"),
        ("return 'good'", "returned 'good'"),
    ],
)
def test_reward_functions_that_fail(tmp_path, problems, refused, body, said):
    reward = tmp_path / "mine.py"
    reward.write_text(f"def faulty(prompt, completion, example):\n    {body}\n")
    out = tmp_path / "run"
    argv = ["train", *SHORT, "--dataset", str(problems), "--reward", f"{reward}:faulty"]
    error = refused(*argv, "--out", str(out))
    assert "faulty" in error and said in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"prompt": "1+1=", "answer": "2"}\n{"prompt": \n', "row 2"),
        (b'{"answer": "2"}\n', "'prompt'"),
        (b'{"prompt": "1+1="}\n', "'answer'"),
        (b"\xff\xfe{\x00", "byte-order mark"),
        (b"", "no rows"),
    ],
)
def test_datasets_that_are_broken(tmp_path, refused, content, said):
    path = tmp_path / "broken.jsonl"
    path.write_bytes(content)
    argv = ["train", *SHORT, "--dataset", str(path), "--reward", "exact_match"]
    error = refused(*argv, "--out", str(tmp_path / "run"))
    assert str(path) in error and said in error
    assert not (tmp_path / "run").exists()


def test_a_prompt_longer_than_the_context(tmp_path, refused):
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"prompt": "1" * 600, "answer": "2"}) + "\n")
    argv = ["train", *SHORT, "--dataset", str(path), "--reward", "exact_match"]
    error = refused(*argv, "--out", str(tmp_path / "run"))
    assert "600 tokens" in error and "512" in error


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--task", "aritmetic"], "did you mean 'arithmetic'"),
        (["--loss-type", "gropo"], "did you mean 'grpo'"),
        (["--temperature", "-1"], "temperature"),
        (["--temperature", "0"], "temperature"),
        (["--num-generations", "1"], "num_generations"),
        (["--model", "no-such-folder"], "no-such-folder"),
        (["--env", "NoSuchEnv-v0"], "NoSuchEnv"),
        (["--reward", "exact_mach"], "did you mean 'exact_match'"),
        (["--env", ""], "environment ''"),
        (["--task", ""], "--task is empty"),
        (["--env", "nosuchmod:X-v0"], "No module named 'nosuchmod'"),
        (["--model", ""], "the name of the model is empty"),
        (["--model", "foo bar/baz"], "model 'foo bar/baz'"),
        (["--model", "x[/]"], "model 'x[/]'"),
        (["--learning-rate", "inf"], "learning_rate must be a finite number"),
        (["--max-steps", "1" + "0" * 21], "max_steps must be at most"),
        (["--seed", "1" + "0" * 400], "seed must be at most"),
        (["--seed", "-1"], "seed must be at least 0"),
        (["--lora-rank", "1000000"], "lora_rank must be at least 0 and at most 4096"),
        (["--eval-examples", "-5"], "eval_examples must be an integer >= 0, got -5"),
        (["--rollouts-every", "-5"], "rollouts_every must be an integer >= 0, got -5"),
    ],
)
def test_settings_that_are_wrong(tmp_path, refused, argv, said):
    assert said in refused("train", *SHORT, *argv, "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_config_files_that_are_wrong(tmp_path, refused):
    path = tmp_path / "run.toml"
    path.write_text("[grpo]\nlerning_rate = 1.0\n")
    error = refused("train", "--config", str(path))
    assert str(path) in error and "did you mean 'learning_rate'" in error
    path.write_text("[grpo\n")
    assert "not TOML" in refused("train", "--config", str(path))
    assert "not a file" in refused("train", "--config", str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("text = 5", "'text' must be a table, got 5"),
        ("text = {reward = [5]}", "[text]: reward must be"),
        ("algo = {a = 1}", "algo must be"),
        ("algo = ['ppo']", "algo must be"),
        ("from_rollouts = 5", "from_rollouts must be a path, got 5"),
        ("from_rollouts = 'x'\nout = 5", "out must be a path, got 5"),
        ("grpo = {eval_examples = -5}", "[grpo]: eval_examples must be an integer >= 0, got -5"),
        ("grpo = {lora_scale = inf}", "[grpo]: lora_scale must be a finite number"),
    ],
)
def test_values_of_a_config_file_that_are_wrong(tmp_path, refused, text, said):
    path = tmp_path / "run.toml"
    path.write_text(text)
    assert said in refused("train", "--config", str(path), "--out", str(tmp_path / "run"))


def test_names_are_no_markup_and_no_formulas(tmp_path, capsys):
    """A path with markup, a dataset whose name is a formula that does not parse, an escape code."""
    out = tmp_path / "o[/][red]\x1b[31m"
    dataset = tmp_path / "$a$b$\\foo$.jsonl"
    dataset.write_text("".join(f'{{"prompt": "{n}+1=", "answer": "{n + 1}"}}\n' for n in range(99)))
    argv = ["train", *SHORT, "--dataset", str(dataset), "--reward", "exact_match"]
    assert main([*argv, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"{tmp_path}/o[/][red]\\x1b[31m" in printed and "\x1b" not in printed
    assert (out / "reward.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_is_there_is_not_written_over(tmp_path, refused):
    (tmp_path / "something").write_text("mine")
    assert str(tmp_path) in refused("train", *SHORT, "--out", str(tmp_path))


def test_interrupt_leaves_a_whole_folder(tmp_path):
    """Ctrl-C in the middle of training: state, model and picture are there."""
    out = tmp_path / "run"
    code = (
        "import sys, signal, os, threading, time\n"
        "from textenv.algos.cli import main\n"
        "from pathlib import Path\n"
        f"out = Path({str(out)!r})\n"
        "def interrupt():\n"
        "    while not (out / 'metrics.jsonl').exists(): time.sleep(0.05)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=interrupt, daemon=True).start()\n"
        "argv = ['train', '--max-steps', '500', '--eval-examples', '8', '--out', str(out)]\n"
        "sys.exit(main(argv))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert json.loads((out / "summary.json").read_text())["state"] == "interrupted"
    assert (out / "model" / "model.safetensors").exists() and (out / "reward.png").exists()
    assert not [name for name in os.listdir(out) if name.startswith(".")]


def test_ppo_on_control_leaves_its_rollouts_and_says_so(tmp_path, capsys):
    from textenv.algos import load_policy, load_rollouts

    out = tmp_path / "run"
    argv = ["train", "--algo", "ppo", "--env", "CartPole-v1", "--total-timesteps", "2048"]
    argv += ["--n-steps", "1024", "--num-envs", "4", "--n-epochs", "1", "--eval-episodes", "2"]
    assert main([*argv, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    rollouts = load_rollouts(out / "rollouts")
    assert [r.num_transitions for r in rollouts] == [1024, 1024]
    names = sorted(p.name for p in (out / "rollouts").iterdir())
    assert f"total_steps=2048; exported 1024 transitions to {names[1]}" in printed
    assert "PPO update 1: policy_loss=" in printed and "after: return greedy" in printed
    config = read_toml(out / "config.toml")
    assert config["ppo"]["learning_rate"] == 1e-3  # of CartPole's preset
    summary = json.loads((out / "summary.json").read_text())
    assert summary["state"] == "finished" and summary["after"]["greedy"]["examples"] == 2
    hashes = [r.source.policy_hash for r in rollouts]
    assert hashes[0] != hashes[1] == load_policy(out / "model").fingerprint()  # rate 0 at the end
    model = ["--model", str(out / "model"), "--env", "CartPole-v1", "--episodes", "3"]
    assert main(["eval", *model]) == 0
    assert "(3 episodes)" in capsys.readouterr().out
    again = tmp_path / "again"
    argv = ["train", "--config", str(out / "config.toml"), "--export", "off"]
    assert main([*argv, "--out", str(again)]) == 0
    assert not (again / "rollouts").exists()
    assert load_policy(again / "model").fingerprint() == load_policy(out / "model").fingerprint()
    larger = tmp_path / "larger"
    assert main([*argv, "--size", "standard", "--out", str(larger)]) == 0
    assert read_toml(larger / "config.toml")["ppo"]["n_steps"] == 2048
    further = tmp_path / "further"
    assert main([*argv, "--model", str(out / "model"), "--out", str(further)]) == 0
    before = json.loads((further / "summary.json").read_text())["before"]
    assert before["greedy"] == summary["after"]["greedy"]
    assert load_policy(further / "model").fingerprint() != load_policy(out / "model").fingerprint()


def test_evaluations_during_a_run(tmp_path, capsys):
    """Their metrics are at their steps, and the best model is beside the last."""
    out = tmp_path / "run"
    argv = ["train", *SHORT, "--max-steps", "5", "--eval-steps", "2", "--eval-share", "1"]
    assert main([*argv, "--out", str(out)]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    evaluated = {row["step"]: row["eval/accuracy"] for row in rows if "eval/accuracy" in row}
    assert [*evaluated] == [2, 4, 5] and all(row.get("eval/examples", 8) == 8 for row in rows)
    best = json.loads((out / "summary.json").read_text())["best"]
    step = int(max(evaluated, key=evaluated.get))
    assert (best["step"], best["value"], best["metric"]) == (step, evaluated[step], "accuracy")
    assert best["folder"] == str(out / "best") and best["stopped_early"] is False
    printed = capsys.readouterr().out
    for number in (2, 4, 5):
        assert f"step {number}: evaluated on 8 held-out examples: accuracy" in printed
    assert f"best evaluation: step {step}, accuracy {evaluated[step]:.3f}" in printed
    change = json.loads((out / "summary.json").read_text())["change"]
    assert change["examples"] == 8 and "greedy answers before and after: accuracy" in printed
    argv = ["eval", "--model", str(out / "best"), "--examples", "8", "--samples", "0"]
    assert main(argv) == 0
    assert f"accuracy {evaluated[step]:.3f}" in capsys.readouterr().out


def test_early_stopping_ends_a_run(tmp_path, capsys):
    out = tmp_path / "run"
    argv = ["train", *SHORT, "--max-steps", "9", "--eval-steps", "1", "--eval-share", "1"]
    argv += ["--early-stopping-patience", "2", "--learning-rate", "0"]
    assert main([*argv, "--out", str(out)]) == 0
    assert "ended early, after 2 evaluation(s) without gain; best" in capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert summary["steps"] == 3 and summary["best"]["stopped_early"] is True
