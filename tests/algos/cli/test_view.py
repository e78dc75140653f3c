"""textenv view: the figures are those of the trajectories, and no line is wider than asked."""

import gzip
import json
import os

import gymnasium as gym
import pytest
from rich.cells import cell_len

from textenv.algos import Buffer, Trajectory, load_rollout
from textenv.algos.cli import main
from textenv.algos.cli.shared.run_folder import RunFolder
from textenv.algos.evaluation.results import Evaluation, Record
from textenv.wrappers import RecordTranscript


@pytest.fixture(autouse=True)
def eighty(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def view(capsys, *argv):
    assert main(["view", *map(str, argv)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out.splitlines()


def episode(prompt, actions, rewards, terminated=True, truncated=False, group=None):
    return Trajectory(
        observations=[prompt] * len(actions), actions=actions, rewards=rewards,
        infos=[{}] * len(actions), final_observation="", terminated=terminated,
        truncated=truncated, prompt=prompt, group_id=group,
    )  # fmt: skip


def test_a_transcript(capsys, tmp_path):
    env = RecordTranscript(gym.make("TextGen-v0", task="guess_number"), tmp_path)
    prompt, _ = env.reset(seed=3)
    env.step("0")
    env.step(env.unwrapped.example["answer"])
    second, _ = env.reset()
    env.step("0\n[red]")
    env.close()
    right = env.path.read_text().split('"actions": ["0", "')[1].split('"')[0]
    name, header, *rows = view(capsys, env.path)
    assert name == (
        "transcript_0.jsonl: 2 episodes, 3 steps, reward 0.500 (0 to 1), 1 terminated, 1…"
    )
    assert header.split() == ["episode", "steps", "reward", "end", "prompt", "completion"]
    assert rows[0].split()[:4] == ["0", "2", "1", "terminated"]
    assert prompt[:10] in rows[0] and rows[0].rstrip().endswith(f"0 | {right}")
    assert rows[1].split()[:4] == ["1", "1", "0", "open"]
    assert second[:10] in rows[1] and rows[1].rstrip().endswith(r"0\n[red]")


def test_figures_of_a_rollout(capsys, tmp_path, monkeypatch):
    rollout = Buffer(
        [
            episode("a", ["x"], [0.25], group=0),
            episode("a", ["y", "z"], [0.5, 1.0], terminated=False, truncated=True, group=0),
            episode("b", ["w"], [-1.0], group=1),
        ]
    )
    path = rollout.save(tmp_path / "rollout.jsonl.gz")
    monkeypatch.setenv("COLUMNS", "200")
    assert view(capsys, path)[0] == (
        "rollout.jsonl.gz: 3 episodes in 2 groups, 4 steps, reward 0.250 (-1 to 1.5), "
        "2 terminated, 1 truncated"
    )


@pytest.mark.parametrize("columns", [60, 80, 133])
def test_no_line_is_wider_than_the_terminal(capsys, tmp_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    texts = [
        "word " * 400,
        "漢字かな" * 100,
        "\x1b[31m" * 50,
        "[bold]" * 60,
        "\n" * 300,
        "🙂" * 200,
    ]
    path = Buffer([episode(t, [t, t], [1.0, 0.0]) for t in texts]).save(tmp_path / "rollout.json")
    lines = view(capsys, path)
    assert len(lines) == 2 + len(texts)
    assert max(map(cell_len, lines)) <= columns
    assert max(map(cell_len, lines)) >= columns - 2  # what there is room for is used
    assert all(line.isprintable() for line in lines)
    assert "[bold][bo" in lines[5] and r"\x1b[31m" in lines[4] and r"\n\n" in lines[6]


def test_more_episodes_than_are_listed(capsys, tmp_path):
    rollout = Buffer([episode(f"p{i}", [f"a{i}"], [1.0]) for i in range(50)])
    path = rollout.save(tmp_path / "rollout.json")

    def listed(*argv):
        lines = view(capsys, path, *argv)
        assert "50 episodes" in lines[0]
        for line in lines[2:]:  # each with its own number
            number, *_, prompt, action = line.split()
            assert (prompt, action) == (f"p{number}", f"a{number}")
        return [int(line.split()[0]) for line in lines[2:]]

    assert listed("--episodes", "50") == list(range(50))
    few = listed("--episodes", "7")
    assert len(few) == 7 and few == sorted(set(few)) and few == listed("--episodes", "7")
    assert few != listed("--episodes", "7", "--seed", "1")


def test_a_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["--max-steps", "2", "--num-prompts", "4", "--num-generations", "4"]
    assert main(["train", *short, "--eval-examples", "8"]) == 0
    capsys.readouterr()
    [run] = (tmp_path / "runs").iterdir()
    monkeypatch.setenv("COLUMNS", "120")
    lines = view(capsys)  # the newest run
    assert lines == view(capsys, os.path.relpath(run))
    assert lines[0] == os.path.relpath(run)
    summary = json.loads((run / "summary.json").read_text())
    before, after = (summary[when]["greedy"]["accuracy"] for when in ("before", "after"))
    assert f"  greedy accuracy: {before:.3f} -> {after:.3f}" in lines
    assert "  state: finished" in lines
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert "  last metrics, step 2:" in lines
    shown = "\n".join(lines)
    assert f"reward {last['reward']:.4g}" in shown and f"entropy {last['entropy']:.4g}" in shown
    [file] = (run / "rollouts").iterdir()
    rollout = load_rollout(file)
    [overview] = [line for line in lines if line.startswith(file.name)]
    assert "16 episodes in 4 groups, 16 steps" in overview
    mean = sum(t.total_reward for t in rollout) / 16
    assert f"reward {mean:.3f} " in overview
    rows = lines[lines.index(overview) + 2 :]
    assert len(rows) == 16
    for t, row in zip(rollout, rows):
        assert t.prompt in row


def test_a_folder_of_transcripts_lists_all_and_shows_the_newest(capsys, tmp_path):
    for number in range(3):
        path = tmp_path / f"transcript_{number}.jsonl"
        Buffer([episode(f"p{number}", ["a"], [0.0])] * (number + 1)).save(tmp_path / "x.jsonl.gz")
        path.write_bytes(gzip.decompress((tmp_path / "x.jsonl.gz").read_bytes()))
        os.utime(path, (number, number))
    (tmp_path / "x.jsonl.gz").unlink()
    lines = view(capsys, tmp_path)
    assert [line.split(",")[0] for line in lines[1:4]] == [
        "transcript_0.jsonl: 1 episode",
        "transcript_1.jsonl: 2 episodes",
        "transcript_2.jsonl: 3 episodes",
    ]
    assert [line.split()[-2:] for line in lines[5:]] == [["p2", "a"]] * 3


def test_a_run_that_failed_early_is_still_a_run(capsys, tmp_path):
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "summary.json").write_text('{"state": "failed", "before": null, "after": null}')
    assert view(capsys, tmp_path)[1:] == ["  state: failed"]


def test_the_warnings_of_a_run_are_listed(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "config.toml").write_text("")
    warnings = [{"name": "x", "step": 3, "what": "it \x1b[31m", "remedy": "do"}, "no warning"]
    (tmp_path / "summary.json").write_text(json.dumps({"warnings": warnings}))
    assert view(capsys, tmp_path)[1:] == [r"  warning at step 3: it \x1b[31m. Try: do"]


def test_a_run_whose_files_are_cut_off_is_shown_as_far_as_it_goes(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "600")
    (tmp_path / "config.toml").write_text("")
    lines = [b'{"step": 1, "reward": 0.5}', b'{"step": 2, "reward": 0.75}', b'{"step": 3, "rew\xc3']
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    Buffer([episode("p", ["a"], [1.0])]).save(tmp_path / "rollout_1_20260101_000000.json")
    (tmp_path / "rollout_0_20260101_000000.json").write_text('{"format": ')
    shown = view(capsys, tmp_path)
    assert shown[1] == "  metrics.jsonl: 1 line cut off, or not a JSON object"
    assert shown[2:4] == ["  last metrics, step 2:", "    reward 0.75"]
    assert any("rollout_0" in line and "is cut off or not a rollout" in line for line in shown)
    assert shown[-1].split() == ["0", "1", "1", "terminated", "p", "a"]
    for broken in ("{", "[1]", "\x00", "[" * 5000):
        (tmp_path / "summary.json").write_text(broken)
        said = "  summary.json: cut off, or not a JSON object"
        assert view(capsys, tmp_path) == [shown[0], said, *shown[1:]]


def test_a_rollout_that_is_no_file_leaves_the_others(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "rollout_1.json").mkdir()
    Buffer([episode("p", ["x"], [1.0])]).save(tmp_path / "rollout_0.json")
    said = "\n".join(view(capsys, tmp_path))
    assert "rollout_0.json: 1 episode, 1 step, reward 1.000" in said
    assert "rollout_1.json is not a file" in said
    assert main(["view", str(tmp_path), "--html"]) == 0


def test_metrics_that_are_no_numbers_are_left_out(capsys, tmp_path):
    (tmp_path / "config.toml").write_text("")
    row = '{"step": null, "a": "text", "b": [1], "c": NaN, "d": true, "e": 1%s}' % ("0" * 400)
    (tmp_path / "metrics.jsonl").write_text(row)
    (tmp_path / "summary.json").write_text('{"before": 5, "after": {"greedy": 5}}')
    assert view(capsys, tmp_path)[1:] == ["  before: 5", "  last metrics, step 1:", "    d 1"]


def test_codes_in_names_of_files_and_metrics_do_not_reach_the_terminal(capsys, tmp_path):
    run = tmp_path / "\x1b[2Jrun[b]"
    run.mkdir()
    (run / "config.toml").write_text("")
    (run / "metrics.jsonl").write_text('{"step": 1, "\\u001b[31m[/]m": 1}')
    (run / "summary.json").write_text('{"state\\u001b": "a\\u001b[0m\\nb[/]"}')
    rollout = Buffer([episode("p[/]", ["\x1b[31m"], [1.0])])
    rollout.save(run / "rollout_\x1b[31m.json")
    shown = "\n".join(view(capsys, run))
    assert shown.replace("\n", "").isprintable()
    for text in (r"state\x1b: a\x1b[0m\nb[/]", r"\x1b[31m[/]m 1", r"rollout_\x1b[31m.json", "p[/]"):
        assert text in shown, text


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder / "nothing", "nothing is not there"),
        (lambda folder: folder, "is not a file"),
        (lambda folder: folder / "broken.json", "broken.json"),
    ],
)
def test_what_cannot_be_viewed_is_named(capsys, tmp_path, make, says):
    (tmp_path / "broken.json").write_text('{"format": ')
    assert main(["view", str(make(tmp_path))]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_no_run_to_view(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["view"]) == 2
    assert "no run in runs/" in capsys.readouterr().err
    assert main(["view", "--episodes", "0"]) == 2
    assert "episodes must be" in capsys.readouterr().err


def test_what_was_not_recorded_is_not_shown(capsys, tmp_path):
    rollout = Buffer([Trajectory(actions=["a", "b"], final_observation="the end")])
    path = rollout.save(tmp_path / "r.json")
    assert main(["view", str(path)]) == 0
    assert "the end" in capsys.readouterr().out
    assert main(["play", "--replay", str(path)]) == 0
    assert "> b\nthe end\nreward 0\n" in capsys.readouterr().out


# --- two runs ---------------------------------------------------------------------------------


def records(verdicts):
    """An evaluation of so many examples, each right or wrong."""
    found = []
    for number, right in enumerate(verdicts):
        record = Record(number, f"{number}+1=", str(number + 1))
        record.completions.append(str(number + 1) if right else "\x1b[2J")
        record.answers.append(record.completions[0])
        record.rewards.append(float(right))
        record.components.append({"correct": float(right)})
        record.correct.append(right)
        record.lengths.append(1)
        record.truncated.append(False)
        found.append(record)
    return Evaluation.of(found)


@pytest.fixture
def two(tmp_path):
    """The folders of two runs."""
    for name, rate, reward, verdicts in (
        ("a", 0.1, 0.25, [True, True, False]),
        ("b", 0.2, 0.75, [True, False, True]),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.toml").write_text(f"same = 1\n[grpo]\nlearning_rate = {rate}\n")
        row = {"step": 1, "reward": reward, "kl": 0.5}
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(row) + '\n{"step": 2')
        RunFolder(tmp_path / name, resumed=True).write_last(records(verdicts))
    return tmp_path / "a", tmp_path / "b"


def test_two_runs_side_by_side(capsys, two, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    lines = [line.split() for line in view(capsys, *two)]
    assert lines[0] == ["a", "and", "b", "differ", "in", "1", "setting"]
    assert lines[1:3] == [["setting", "a", "b"], ["grpo.learning_rate", "0.1", "0.2"]]
    assert " ".join(lines[3]) == "the last metrics of each, as far as they differ"
    assert lines[4:6] == [["metric", "a", "b", "difference"], ["reward", "0.25", "0.75", "+0.5"]]
    assert lines[6][:9] == ["greedy", "answers", "of", "a", "and", "b:", "accuracy", "0.667", "and"]
    assert lines[7][:4] == ["2", "of", "the", "2"]
    assert lines[8:] == [
        ["prompt", "expected", "a", "b"],
        ["1+1=", "2", "2", r"\x1b[2J"],
        ["2+1=", "3", r"\x1b[2J", "3"],
    ]


def test_two_runs_of_which_one_is_empty(capsys, two):
    (two[1] / "metrics.jsonl").write_text("")
    (two[1] / "config.toml").write_text("broken = [")
    (two[1] / "after.json").unlink()
    lines = view(capsys, *two)
    assert lines[0] == "a and b differ in 2 settings"
    assert lines[-1].endswith("holds no metrics yet") or "…" in lines[-1]


def test_answers_to_other_examples_are_not_compared(capsys, two, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    RunFolder(two[1], resumed=True).write_last(records([True]))
    assert "answers: two models are compared on the same examples" in view(capsys, *two)[-1]


def test_two_runs_of_which_one_is_broken_are_compared_as_far_as_they_go(capsys, two, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    (two[1] / "config.toml").write_text("broken = [")
    (two[1] / "after.json").write_text('{"records": [')
    lines = view(capsys, *two)
    assert lines[0] == "a and b differ in 2 settings"
    assert lines[1].startswith("settings: ") and str(two[1] / "config.toml") in lines[1]
    assert any(line.split() == ["reward", "0.25", "0.75", "+0.5"] for line in lines)
    assert lines[-1].startswith(f"answers: {two[1] / 'after.json'} is broken")


@pytest.mark.parametrize("count", [3, 4])
def test_more_than_two_runs_are_refused(two, refused, count):
    said = refused("view", *map(str, [two[0]] * count))
    assert f"shows one run or two, got {count}" in said


def test_two_that_are_no_runs_are_refused(two, refused, tmp_path):
    assert "is not a run's folder" in refused("view", str(two[0]), str(tmp_path))


# --- the page ---------------------------------------------------------------------------------


def test_a_page_lies_in_the_runs_folder(capsys, two):
    a, b = map(str, two)
    for argv in (["--html", a], [a, "--html"], [a, "--html", "--seed", "1"]):
        [said] = view(capsys, *argv)
        assert said.startswith(f"{a}/view.html: 0.1 MB")
        assert (two[0] / "view.html").read_text().startswith("<!doctype html>")
        (two[0] / "view.html").unlink()
    [said] = view(capsys, a, b, "--html")
    assert said.startswith(f"{a}/view-b.html: ")


def test_a_page_has_the_name_that_is_given(capsys, two, tmp_path):
    page = tmp_path / "page.html"
    for argv in (["--html", page], ["--html", page], [f"--html={page}"]):  # one is replaced
        [said] = view(capsys, two[0], *argv)
        assert said.startswith(f"{page}: ")
    assert sorted(path.name for path in two[0].iterdir()) == [
        "after.json",
        "config.toml",
        "metrics.jsonl",
    ]


def test_a_rollout_has_a_page_beside_it_and_is_not_overwritten(capsys, tmp_path, refused):
    path = Buffer([episode("p", ["a"], [1.0])]).save(tmp_path / "r.jsonl.gz")
    kept = path.read_bytes()
    [said] = view(capsys, "--html", path)
    assert said.startswith(f"{tmp_path / 'r.html'}: ")
    assert "is there already and no page" in refused("view", str(path), f"--html={path}")
    assert path.read_bytes() == kept


def test_a_folder_that_is_no_run_has_no_page(tmp_path, refused):
    (tmp_path / "empty").mkdir()
    assert "empty" in refused("view", str(tmp_path / "empty"), "--html")
    assert "nothing is not there" in refused("view", str(tmp_path / "nothing"), "--html")
    assert "empty" in refused("view", str(tmp_path / "empty"), "--serve")
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]


def test_a_served_page_ends_with_ctrl_c(capsys, two, monkeypatch):
    from textenv.algos.cli.page.serving import PageServer

    def interrupted(server):
        raise KeyboardInterrupt

    monkeypatch.setattr(PageServer, "serve_forever", interrupted)
    first, last = view(capsys, two[0], "--serve")
    assert first.startswith("http://127.0.0.1:") and last == "ended"
