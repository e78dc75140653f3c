"""textenv compare --strategies: equal tokens, where curves cross, runs that are not repeated."""

import json

import numpy as np
import pytest

from textenv.algos.cli import main
from textenv.algos.compare.strategies import runs as strategy_runs
from textenv.algos.compare.strategies.report import read_comparison, to_markdown, verdicts
from textenv.algos.compare.strategies.results import (
    Point,
    StrategyComparison,
    StrategyRun,
    Try,
    crossing,
)
from textenv.algos.compare.strategies.runs import StrategyArena, parse_entrant, train
from textenv.algos.episodes.environments import make_env
from textenv.errors import ConfigError, DataError

TINY = [
    *("--seeds", "2", "--tokens", "120", "--eval-every", "60", "--eval-examples", "4"),
    *("--num-prompts", "2", "--num-generations", "4", "--max-completion-length", "8"),
]
ARENA = StrategyArena(
    {}, tokens=200, eval_every=1, eval_examples=4, num_prompts=2, num_generations=4
)
TOTALS = {"tokens_generated": 100.0, "tokens_discarded": 20.0, "tokens_trained": 80.0} | {
    "tokens_computed": 120.0,
    "prompts_skipped": 3.0,
    "frac_groups_uniform": 0.25,
    "trajectories": 40.0,
}


@pytest.fixture
def trainers(monkeypatch):
    """All trainers that are made."""
    made = []

    class Recorded(strategy_runs.GRPOTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(strategy_runs, "GRPOTrainer", Recorded)
    return made


def run_of(strategy, seed, *rows):
    """A run from rows of tokens, seconds and sampled accuracy."""
    points = tuple(Point(t, s, i, a, a + 0.01) for i, (t, s, a) in enumerate(rows))
    return StrategyRun(strategy, seed, 1e-3, points, TOTALS)


def comparison_of(*runs, rates=(1e-3,), tries=()):
    settings = ARENA.settings() | {"learning_rates": list(rates)}
    names = dict.fromkeys([*(run.strategy for run in runs), *(t.strategy for t in tries)])
    return StrategyComparison(settings, {}, {name: name for name in names}, [*tries], [*runs])


PLAIN = (
    run_of("plain", 0, (0, 0, 0.5), (100, 10, 0.7), (200, 20, 0.9)),
    run_of("plain", 1, (0, 0, 0.5), (100, 10, 0.5), (220, 20, 0.9)),
)


def test_crossings_by_hand():
    x = np.array([0.0, 10.0, 20.0, 40.0])
    y = np.array([[0.0, 0.5, 0.2, 1.0], [0.0, 0.0, 0.0, 0.4], [0.8, 0.1, 0.1, 0.9], [0, 0, 0, 0]])
    assert crossing(x, y, np.array([0.25, 0.25, 0.25, 0.25])).tolist() == [5, 32.5, 0, np.inf]
    assert crossing(x, y, np.array([0.6, 0.4, 0.9, 0.0])).tolist() == [30, 40, 40, 0]
    assert crossing(x, y[0], 0.5) == 10  # at a point, and not where it comes back


def test_what_runs_come_to_by_hand():
    fast = (
        run_of("fast", 0, (0, 0, 0.5), (50, 40, 0.86), (210, 90, 0.9)),
        run_of("fast", 1, (0, 0, 0.5), (50, 40, 0.90), (210, 90, 0.9)),
    )
    bad = (
        run_of("bad", 0, (0, 0, 0.5), (205, 9, 0.6)),
        run_of("bad", 1, (0, 0, 0.5), (205, 9, 0.8)),
    )
    found = comparison_of(*PLAIN, *fast, *bad)
    summary = found.summary()
    # .5 to .9: 95% of the gain is .88. Plain's mean: at 100 .6, at 220 .9, and at 200 between.
    assert found.threshold() == pytest.approx(0.88)
    at_200 = (0.9 + 0.5 + 0.4 * 100 / 120) / 2
    tokens = 200 + 20 * (0.88 - at_200) / (0.9 - at_200)
    plain, quick, slow = (summary[name] for name in ("plain", "fast", "bad"))
    assert plain["reach"]["tokens"] == pytest.approx(tokens)
    # By seconds: .6 at 10 and .9 at 20.
    assert plain["reach"]["seconds"] == pytest.approx(10 + 10 * 0.28 / 0.3)
    assert plain["reach"]["by_seed"]["0"]["tokens"] == pytest.approx(190)
    assert plain["reach"]["by_seed"]["1"]["tokens"] == pytest.approx(100 + 120 * 0.38 / 0.4)
    assert plain["reach"]["tokens_ratio"] == 1 and "difference" not in plain

    assert quick["reach"]["tokens"] == pytest.approx(50)  # the mean is .88 there
    assert quick["reach"]["tokens_ratio"] == pytest.approx(50 / tokens)
    assert quick["reach"]["by_seed"]["0"]["tokens"] == pytest.approx(50 + 160 * 0.02 / 0.04)
    assert quick["reach"]["by_seed"]["1"]["tokens"] == pytest.approx(50 * 0.38 / 0.4)
    assert quick["reach"]["seconds"] == pytest.approx(40) and quick["reach"]["reached"] == 2
    low, high = quick["reach"]["tokens_ratio_interval"]
    assert low < 50 / tokens < high
    assert quick["difference"]["value"] == 0 and not quick["difference"]["worse"]

    assert slow["reach"]["tokens"] is None and slow["reach"]["tokens_ratio"] is None
    assert slow["reach"]["reached"] == 0 and slow["reach"]["tokens_ratio_interval"] == [None] * 2
    assert slow["accuracy"] == pytest.approx(0.7) and slow["greedy"] == pytest.approx(0.71)
    assert slow["interval"] == pytest.approx((0.6, 0.8))
    assert slow["difference"]["value"] == pytest.approx(-0.2) and slow["difference"]["worse"]
    assert slow["totals"]["computed_per_trajectory"] == 3
    lines = verdicts(summary)
    assert "`fast` is not worse" in lines[0] and "+0.000" in lines[0]
    assert "`bad` is WORSE than plain" in lines[1] and "-0.200" in lines[1]
    text = to_markdown(found, summary)
    assert "| bad | 0 of 2 | - | - | no end to no end | - | - | no end to no end |" in text
    assert "| 0 | 190 | 130 | - |" in text
    assert "| fast | 2 | 100 | 20 | 80 | 3 | 25% | 3.0 |" in text


def test_runs_that_are_all_alike_have_no_spread():
    rows = (0, 0, 0.0), (100, 10, 0.8), (200, 20, 1.0)
    half = (0, 0, 0.0), (50, 10, 0.8), (100, 20, 1.0)
    runs = [run_of("plain", s, *rows) for s in range(3)] + [run_of("a", s, *half) for s in range(3)]
    reach = comparison_of(*runs).summary()["a"]["reach"]
    assert reach["tokens_ratio"] == pytest.approx(0.5)
    assert reach["tokens_ratio_interval"] == pytest.approx([0.5, 0.5])


def test_without_a_gain_there_is_nothing_to_reach():
    found = comparison_of(run_of("plain", 0, (0, 0, 0.5), (100, 1, 0.4)))
    assert found.threshold() is None
    assert "gain" not in to_markdown(found, found.summary())


def test_the_learning_rate_is_the_best_of_the_grid_once_all_are_tried():
    tries = [Try("a", 3e-4, 0.6, 10, 1.0), Try("a", 1e-3, 0.8, 10, 1.0), Try("b", 3e-4, 0.6, 9, 1)]
    found = comparison_of(rates=(3e-4, 1e-3), tries=tries)
    assert found.learning_rate("a") == 1e-3 and found.learning_rate("b") is None
    found.tries.append(Try("b", 1e-3, 0.6, 9, 1.0))
    assert found.learning_rate("b") == 3e-4  # the first of equals
    assert comparison_of(rates=(5e-4,)).learning_rate("a") == 5e-4


@pytest.mark.parametrize("strategy", ["plain", "dapo", "pods:keep=2", "num_iterations=2"])
def test_a_run_ends_at_the_step_that_spends_its_tokens(strategy, trainers):
    entrant = parse_entrant(strategy)
    config = entrant.config(ARENA, 1e-3, 3)
    run = train(ARENA, strategy, config, 300, ARENA.examples()[0], 1)
    (trainer,) = trainers
    generated = np.cumsum([m["strategy/tokens_generated"] for m in trainer.history])
    assert generated[-2] < 300 <= generated[-1] == run.totals["tokens_generated"]
    # Evaluated every token: a point for each step, and the one before all of them.
    assert [p.tokens for p in run.points] == [0, *generated]
    assert [p.steps for p in run.points] == [0, *(m["step"] for m in trainer.history)]
    seconds = np.cumsum([m["step_time"] for m in trainer.history])
    assert [p.seconds for p in run.points[1:]] == pytest.approx(seconds)
    rates = [m["learning_rate"] for m in trainer.history if "learning_rate" in m]
    assert len(rates) > 5 and set(np.round(rates[5:], 9)) == {1e-3}  # after the warm-up
    assert trainer.config.num_generations * 2 <= run.totals["trajectories"] / len(generated)


def test_evaluations_come_at_their_places():
    config = parse_entrant("plain").config(ARENA, 1e-3, 0)
    ids = ARENA.examples()[0]
    every = train(ARENA, "plain", config, 300, ids, 1).points
    places = [p.tokens for p in train(ARENA, "plain", config, 300, ids, 100).points]
    wanted = [0, *(next(p.tokens for p in every if p.tokens >= at) for at in (100, 200, 300))]
    assert places == list(dict.fromkeys(wanted))
    assert [p.tokens for p in train(ARENA, "plain", config, 300, ids, None).points] == places[-1:]


def test_the_learning_rate_is_chosen_on_other_examples():
    arena = StrategyArena({"task": "countdown"}, eval_examples=40)
    report, validation = arena.examples()
    task = make_env("TextGen-v0", {"task": "countdown", "split": "test"}).unwrapped.task
    keys = [{task.split_key(task.example(i)) for i in side} for side in (report, validation)]
    assert len(report) == len(validation) == 40 and not keys[0] & keys[1]
    assert arena.examples() == (report, validation)


def test_entrants():
    found = parse_entrant("greso+dapo:cap=4,at_cap=raise+num_iterations=2+epsilon_high=0.28")
    assert found.parts == ("greso", "dapo:cap=4,at_cap=raise")
    config = found.config(ARENA, 1e-3, 7)
    assert (config.num_iterations, config.epsilon_high, config.seed) == (2, 0.28, 7)
    assert (config.num_prompts, config.num_generations) == (2, 4)
    assert parse_entrant("num_generations=8").config(ARENA, 1e-3, 0).num_generations == 8
    assert "cap=4" in found.describe(ARENA) and "num_iterations=2" in found.describe(ARENA)


def names_of(out):
    whole = json.loads((out / "results.json").read_text())
    return [(run["strategy"], run["seed"]) for run in whole["runs"]]


def test_the_command_and_going_on_with_it(tmp_path, capsys, monkeypatch, trainers):
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


def test_settings_of_a_comparison_are_checked():
    with pytest.raises(ConfigError, match="named twice"):
        StrategyArena({}, learning_rates=(1e-3, 1e-3))
    with pytest.raises(ConfigError, match="learning_rates"):
        StrategyArena({}, learning_rates=())
