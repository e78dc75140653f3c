"""textenv compare --strategies: runs that are not repeated, and what is refused."""

import json

import pytest

from textenv.algos.cli import main
from textenv.algos.compare.strategies import runs as strategy_runs
from textenv.algos.compare.strategies.report import read_comparison
from textenv.errors import DataError

TINY = [
    *("--seeds", "2", "--tokens", "120", "--eval-every", "60", "--eval-examples", "4"),
    *("--num-prompts", "2", "--num-generations", "4", "--max-completion-length", "8"),
]


def names_of(out):
    whole = json.loads((out / "results.json").read_text())
    return [(run["strategy"], run["seed"]) for run in whole["runs"]]


def test_the_command_and_going_on_with_it(tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    rates = ["--learning-rates", "1e-3", "3e-4", "--tune-tokens", "50"]
    argv = ["compare", "--strategies", "plain", "pods:keep=2", *TINY, *rates, "--out", str(out)]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert printed.count("seed 0") == printed.count("seed 1") == 2
    assert printed.count("validation accuracy") == 4
    assert sorted(p.name for p in out.iterdir()) == ["curves.png", "results.json", "results.md"]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert names_of(out) == [(s, i) for i in (0, 1) for s in ("plain", "pods:keep=2")]
    whole = json.loads((out / "results.json").read_text())
    for run in whole["runs"]:
        largest = 2 * 4 * 8  # tokens of a step
        assert 120 <= run["points"][-1]["tokens"] < 120 + largest
        best = max(
            (t for t in whole["tries"] if t["strategy"] == run["strategy"]),
            key=lambda t: t["accuracy"],
        )
        assert run["learning_rate"] == best["learning_rate"]
    assert whole["summary"]["plain"]["runs"] == 2

    # One run is missing, and a strategy is new: these are run, and nothing else.
    gone = whole["runs"].pop(2)
    (out / "results.json").write_text(json.dumps(whole))
    before = read_comparison(out / "results.json").runs
    trained = []
    real = strategy_runs.train
    monkeypatch.setattr(
        strategy_runs, "train", lambda *args: trained.append((args[1], args[3])) or real(*args)
    )
    again = [*argv[:2], "plain", "dapo", *argv[4:]]
    assert main(again) == 0
    runs = [name for name, budget in trained if budget == 120]
    assert runs == ["dapo", "plain", "dapo"]
    assert [name for name, budget in trained if budget == 50] == ["dapo", "dapo"]
    after = read_comparison(out / "results.json").runs
    assert after[:3] == before and len(after) == 6
    # The run that was made again is the one that was there.
    (made,) = [r for r in after if (r.strategy, r.seed) == ("plain", 1)]
    assert [p.sampled for p in made.points] == [p["sampled"] for p in gone["points"]]
    assert [p.tokens for p in made.points] == [p["tokens"] for p in gone["points"]]

    trained.clear()
    assert main(again) == 0 and not trained  # nor a warm-up

    assert main([*again, "--num-prompts", "3"]) == 2
    error = capsys.readouterr().err
    assert "num_prompts was 2, is 3" in error and "choose another --out" in error


def test_what_is_interrupted_goes_on(tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    argv = ["compare", "--strategies", "plain", "dapo", *TINY, "--learning-rates", "1e-3"]
    argv += ["--out", str(out)]
    real, stops = strategy_runs.train, [True]

    def stopping(arena, name, config, *args):
        if stops and (name, config.seed) == ("dapo", 1):
            raise KeyboardInterrupt
        return real(arena, name, config, *args)

    monkeypatch.setattr(strategy_runs, "train", stopping)
    assert main(argv) == 130
    assert "goes on" in capsys.readouterr().out
    assert names_of(out) == [("plain", 0), ("dapo", 0), ("plain", 1)]
    assert (out / "results.md").is_file() and (out / "curves.png").is_file()
    stops.clear()
    assert main(argv) == 0
    assert names_of(out) == [("plain", 0), ("dapo", 0), ("plain", 1), ("dapo", 1)]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["plain", "dapoo"], "unknown strategy 'dapoo'; did you mean 'dapo'? Known: plain, "),
        (["plain", "greso+podz"], "unknown strategy 'podz'"),
        (["plain", "dapo:cop=3"], "unknown setting 'cop'"),
        (["plain", "num_prompt=3"], "unknown setting 'num_prompt'"),
        (["plain", "num_prompts=x"], "num_prompts must be int, got 'x'"),
        (["plain", "plain+dapo"], "plain has no parts"),
        (["plain", "pods:keep=9", "--num-generations", "8"], "keep=9"),
        (["plain", "greso+pools"], "one part for its prompts"),
        (["plain", "dapo", "dapo"], "named twice"),
        (["dapo"], "name plain too"),
        ([], "no strategies are named; known: plain, "),
        (["plain", "--tokens", "0"], "tokens"),
        (["plain", "--seeds", "0"], "seeds"),
        (["plain", "--eval-every", "0"], "eval_every"),
        (["plain", "--learning-rates", "0"], "learning_rates must all be above 0"),
        (["plain", "--task", "sorting"], "sorting"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(
    tmp_path, capsys, monkeypatch, argv, says
):
    monkeypatch.setattr(strategy_runs, "train", lambda *args: pytest.fail("it ran"))
    out = tmp_path / "out"
    assert main(["compare", "--strategies", *argv, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1, error
    assert not out.exists()


def test_a_part_that_does_not_fit_the_task_is_refused_before_anything_runs(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(strategy_runs, "train", lambda *args: pytest.fail("it ran"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "{i}+1=", "answer": "{i + 1}"}}\n' for i in range(300)))
    argv = ["compare", "--strategies", "plain", "curriculum", "--dataset", str(rows)]
    argv += ["--reward", "exact_match", "--eval-examples", "5", "--out", str(tmp_path / "out")]
    assert main(argv) == 2
    assert "curriculum needs levels of difficulty" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_files_of_others_are_left_alone(tmp_path, capsys):
    (tmp_path / "results.json").write_text('{"format": "textenv.compare", "version": 1}')
    with pytest.raises(DataError, match="no comparison of strategies"):
        read_comparison(tmp_path / "results.json")
    (tmp_path / "results.json").unlink()
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["compare", "--strategies", "plain", "--out", str(tmp_path)]) == 2
    assert "choose another --out" in capsys.readouterr().err
