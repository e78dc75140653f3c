"""The measurements: what is counted against figures worked by hand, the turns, the tables."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from textenv.algos import load_model
from textenv.algos.bench import plan, runs
from textenv.algos.bench.flops import Amount, decode_bytes, generate_flops, update_flops
from textenv.algos.bench.plan import OURS, Row, Side, make_plan
from textenv.algos.bench.report import best_ratios, limit_shares, to_json, to_markdown
from textenv.algos.bench.results import Measurement, Results
from textenv.algos.bench.workload import (
    MODEL_SIZES,
    ModelSize,
    Work,
    batches,
    digits,
    make_model,
    random_prompts,
)
from textenv.algos.lm.models.properties import count_parameters
from textenv.errors import ConfigError

BY_HAND = ModelSize(hidden=64, layers=1, vocabulary=100)  # 4 heads of 16, 2 of keys, 192 wide
WORK = Work(2, 4, 8, 12, 4, timed=2)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "tiny"
    make_model(MODEL_SIZES["tiny"], folder, seed=0)
    return folder


# --- models and work --------------------------------------------------------------------------


def test_parameters_by_hand():
    # Queries and output 64 x 64 each, keys and values 64 x 32 each, three matrices of 64 x 192.
    assert BY_HAND.layer_matrices == 2 * 4096 + 2 * 2048 + 3 * 12_288 == 49_152
    # The embedding, the layer, its two norms of 64 and two of 16, the last norm.
    assert BY_HAND.parameters == 6_400 + 49_152 + 2 * 64 + 2 * 16 + 64
    assert MODEL_SIZES["small"].parameters == 800_640
    assert round(MODEL_SIZES["medium"].parameters / 1e6) == 27


def test_the_model_that_is_made_loads_and_has_these_parameters(tiny_folder):
    model, tokenizer = load_model(tiny_folder)
    assert count_parameters(model) == MODEL_SIZES["tiny"].parameters
    text = "a 1+2=\n~"
    assert (
        len(tokenizer.encode(text)) == len(text)
        and tokenizer.decode(tokenizer.encode(text)) == text
    )
    assert tokenizer.eos_token_ids == {1}


def test_torch_reads_the_same_model(tiny_folder):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    import mlx.core as mx

    model, _ = load_model(tiny_folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder)
    ids = tokenizer.encode("12+30=ab")
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits.numpy()
    found = np.array(model(mx.array([ids])))
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_seed_makes_one_model(tmp_path, tiny_folder):
    for name, seed in (("again", 0), ("other", 1)):
        make_model(MODEL_SIZES["tiny"], tmp_path / name, seed)
    weights = [
        (folder / "model.safetensors").read_bytes()
        for folder in (tiny_folder, tmp_path / "again", tmp_path / "other")
    ]
    assert weights[0] == weights[1] != weights[2]


def test_prompts_and_reward():
    prompts = random_prompts(WORK, 200, seed=3)
    assert {len(p) for p in prompts} == set(range(8, 13))
    assert prompts == random_prompts(WORK, 200, seed=3) != random_prompts(WORK, 200, seed=4)
    found = batches(WORK, seed=3)  # one that is not timed, and two that are, of 2 x 4
    assert [len(batch) for batch in found] == [8, 8, 8]
    assert len({prompt for batch in found for prompt in batch}) == 24
    assert digits("a1b2") == 0.5 and digits("") == 0.0


# --- what is counted --------------------------------------------------------------------------


def test_operations_by_hand():
    amount = Amount(1, prompt_tokens=3, completions=2, completion_tokens=3, decode_steps=2)
    # The layers see 3 tokens of the prompt and two of each completion; attention's pairs are
    # 1 + 2 + 3 in the prompt, and 4 + 5 in each completion; 4 heads of 16.
    body = 2 * 49_152 * 7 + 4 * 64 * (6 + 2 * 9)
    assert body == 694_272
    # The head: once for the prompt, whose last state gives all first tokens, and 2 x 2 times.
    assert generate_flops(BY_HAND, amount) == body + 2 * 6_400 * 5
    assert update_flops(BY_HAND, amount) == 3 * (body + 2 * 6_400 * 6)
    # Two decode steps read all matrices and the prompt's 3 keys and values; the completions
    # read 1 + 2 of their own each. A key and a value have 2 x 2 x 16 figures.
    assert decode_bytes(BY_HAND, amount) == 4 * (2 * 55_552 + 64 * (2 * 3 + 2 * 3))


def test_peak_memory_is_the_process_own(tmp_path):
    program = (
        "import numpy as np, subprocess, sys\n"
        "from textenv.algos.bench.process import peak_megabytes\n"
        "before = peak_megabytes()\n"
        "held = np.ones(300_000_000 // 8)\n"
        "code = 'from textenv.algos.bench.process import peak_megabytes; print(peak_megabytes())'\n"
        "child = float(subprocess.check_output([sys.executable, '-c', code]))\n"
        "print(before, peak_megabytes(), child)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    before, after, child = map(float, done.stdout.split())
    assert 290 < after - before < 320
    assert child < 200  # it was started by a process that held 300 MB more


# --- the plan and the turns -------------------------------------------------------------------


def models():
    return {name: f"/models/{name}" for name in MODEL_SIZES}


def test_a_plan_has_what_was_asked_for():
    rows = make_plan(["groups", "step"], ["medium", "vocabulary"], ["trl"], models())
    assert [row.part for row in rows] == ["step", "step", "groups"]
    ours, *workers, trl = rows[0].sides
    assert (ours.name, trl.name) == (OURS, "trl")
    assert [side.arguments["workers"] for side in workers] in ([], [2])  # by the processor
    assert rows[0].work[:5] == (4, 8, 128, 128, 48) and rows[1].work[:5] == (4, 16, 400, 400, 24)
    groups = rows[2].sides
    assert [s.arguments["work"].completions for s in groups] == [4, 8, 16, 32]
    assert {s.arguments["work"].longest for s in groups} == {1024}
    (alone,) = make_plan(["memory"], ["vocabulary"], [], models())
    assert [s.name for s in alone.sides] == [OURS]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((["speed"], ["small"], []), "unknown part 'speed'; known: step, memory, generate"),
        ((["step"], ["smal"], []), "did you mean 'small'? Known: tiny, small, medium, vocabulary"),
        ((["step"], ["small"], ["tlr"]), "unknown peer 'tlr'; did you mean 'trl'"),
        ((["memory"], ["small"], []), "memory: nothing to measure with models small"),
    ],
)
def test_a_plan_that_cannot_be_made(given, said):
    with pytest.raises(ConfigError) as caught:
        make_plan(*given, models())
    assert said in str(caught.value)


def two_sides(warm=False):
    sides = (
        Side(OURS, "train", 1.0, {"work": WORK}),
        Side("trl", "trl-train", 4.0, {"work": WORK}, peer="trl"),
    )
    return Row("step", "tiny", WORK, sides, warm)


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(runs, "missing", lambda peer: "")


class Recorder(runs.Watcher):
    def __init__(self):
        self.seen, self.left = [], []

    def on_start(self, planned, number, total, left):
        self.left.append(left)

    def on_end(self, planned, number, total, measurement):
        self.seen.append((*planned.key, planned.round, number, total, measurement.error))


def test_sides_take_turns(monkeypatch, installed, tmp_path):
    monkeypatch.setattr(runs, "measure", lambda side, folder, seed: {"seconds": 2.0})
    rows, watcher = [two_sides(), two_sides(warm=True)], Recorder()
    results = Results(rows, seed=0)
    assert runs.estimate(rows, rounds=2) == 2 * 5 + 3 * 5
    runs.run_plan(results, rows, 2, tmp_path, watcher)
    assert [seen[:3] for seen in watcher.seen] == [
        *((0, name, n) for n in (1, 2) for name in (OURS, "trl")),
        *((1, name, n) for n in (0, 1, 2) for name in (OURS, "trl")),
    ]
    assert [seen[3:5] for seen in watcher.seen] == [(i, 10) for i in range(1, 11)]
    assert watcher.left[0] == 25 and watcher.left[1] == pytest.approx(24 - 1, abs=0.1)
    # The round that warms up is not among the results.
    assert [o.round for o in results.measurements(1, OURS)] == [1, 2]


def test_a_side_that_fails_is_left_out_and_the_rest_goes_on(monkeypatch, installed, tmp_path):
    def measure(side, folder, seed):
        if side.peer:
            raise runs.ProbeError("RuntimeError: no room")
        return {"seconds": 2.0}

    monkeypatch.setattr(runs, "measure", measure)
    rows, watcher = [two_sides()], Recorder()
    results = Results(rows, seed=0)
    runs.run_plan(results, rows, 3, tmp_path, watcher)
    assert [(name, number, total) for _, name, _, number, total, _ in watcher.seen] == [
        (OURS, 1, 6),
        ("trl", 2, 4),
        (OURS, 3, 4),
        (OURS, 4, 4),
    ]
    assert results.failed(0, "trl") == "RuntimeError: no room"
    text = to_markdown(results)
    assert (
        "- GRPO step, tiny, 2 prompts of 8 to 12 tokens, 4 x 4, trl: RuntimeError: no room" in text
    )


def test_a_peer_that_is_not_installed_is_reported(monkeypatch, tmp_path):
    found = plan.importlib.util.find_spec
    hidden = {"trl", "torch"}
    monkeypatch.setattr(
        plan.importlib.util, "find_spec", lambda name: None if name in hidden else found(name)
    )
    monkeypatch.setattr(runs, "measure", lambda side, folder, seed: {"seconds": 2.0})
    rows, watcher = [two_sides()], Recorder()
    results = Results(rows, seed=0)
    runs.run_plan(results, rows, 1, tmp_path, watcher)
    assert [name for _, name, *_ in watcher.seen] == [OURS]
    assert runs.estimate(rows, 1) == 1.0
    assert "| not installed: pip install 'textenv[trl]' |" in to_markdown(results)


def test_the_last_line_of_a_process_that_failed(tmp_path):
    with pytest.raises(runs.ProbeError, match=r"^KeyError: 'no-such-probe'$"):
        runs.run_probe("no-such-probe", {}, tmp_path)


# --- results and tables -----------------------------------------------------------------------


def results_of(rows, found):
    """Results whose runs are ``found[row, side]``, one a round."""
    results = Results(rows, seed=0, settings={"command": "textenv bench", "rounds": 3})
    for (row, side), figures in found.items():
        for number, run in enumerate(figures, 1):
            results.add(row, side, Measurement(number, run))
    return results


def run_of(seconds, memory, **more):
    return {"seconds": seconds, "memory_mb": memory} | more


def test_medians_and_ratios():
    results = results_of(
        [two_sides()],
        {
            (0, OURS): [run_of(1.0, 100, inner={"a": x}) for x in (1, 5, 3)],
            (0, "trl"): [run_of(3.0, 250), run_of(2.0, 200)],
        },
    )
    assert results.median(0, OURS, "inner", "a") == 3
    assert results.median(0, OURS, "inner", "b") is None
    assert results.median(0, "trl", "seconds") == 2.5
    assert results.ratios(0, "trl", OURS, "seconds") == {1: 3.0, 2: 2.0}  # no third round
    assert results.runs == 5


def test_the_table_beside_peers():
    ours = {"tokens": 4.0, "equal_groups": 0.0, "phases": {"generate": 0.5, "update": 1.25}}
    results = results_of(
        [two_sides(), replace(two_sides(), part="generate")],
        {
            (0, OURS): [
                run_of(2.0, 100, environment_s=0.1, **ours),
                run_of(2.0, 300, environment_s=0.1, **ours),
            ],
            (0, "trl"): [run_of(6.0, 400, tokens=3.5), run_of(8.0, 300, tokens=3.5)],
            (1, OURS): [run_of(0.001, 100, tokens=4.0)],
            (1, "trl"): [run_of(0.004, 100, tokens=4.0)],
        },
    )
    text = to_markdown(results)
    work = "2 prompts of 8 to 12 tokens, 4 x 4"
    step = (
        f"| GRPO step | tiny | {work} | 2.000 s | trl | 7.000 s | 3.50 (3.00, 4.00) | 200 | 350 "
        "| 2.50 (4.00, 1.00) | 4.0 / 3.5 | 0.00 / - |"
    )
    rate = (
        f"| generation | tiny | {work} | 1,000 tokens/s | trl | 250 tokens/s | 4.00 (4.00) | 100 "
        "| 100 | 1.00 (1.00) | 4.0 / 4.0 | - / - |"
    )
    # Of 2 s .5 and 1.25 are known; limits were not measured.
    phases = f"| GRPO step | tiny | {work} | 2.000 | 25% | 62% | 12% | 5.0% | - | - | - |"
    for line in (step, rate, phases):
        assert line in text.splitlines()

    whole = json.loads(to_json(results))
    assert whole["rows"][0]["sides"][OURS]["memory_mb"] == 200
    assert whole["rows"][0]["ratios"]["trl / textenv"]["seconds"] == {"1": 3.0, "2": 4.0}


def test_shares_of_the_limits():
    rows = [two_sides(), *make_plan(["hardware"], ["tiny"], [], models())]
    size, amount = MODEL_SIZES["tiny"], Amount(2, 10.0, 8, 4.0, 3)
    rates = run_of(1.0, 0, gflops={"square": 100.0, "other": 60.0}, gb_per_s=8.0)
    again = run_of(1.0, 0, gflops={"square": 50.0, "other": 60.0}, gb_per_s=10.0)
    seconds = {
        "generate": generate_flops(size, amount) / 100e9 / 0.25,
        "update": update_flops(size, amount) / 100e9 / 0.5,
    }
    step = run_of(1.0, 0, prompt_tokens=10.0, tokens=4.0, phases=seconds)
    results = results_of(rows, {(0, OURS): [step], (1, OURS): [rates, again]})
    bandwidth = decode_bytes(size, amount) / seconds["generate"] / 10e9
    expected = {"generate": 0.25, "update": 0.5, "bandwidth": bandwidth}
    assert limit_shares(results, 0) == pytest.approx(expected)
    assert limit_shares(results_of(rows, {(0, OURS): [step]}), 0) == {}


def test_workers_are_compared_with_the_better_single_process():
    (row,) = make_plan(["workers"], ["tiny"], [], models())
    *single, many = (side.name for side in row.sides)
    found = {(0, many): [run_of(0.1, 0), run_of(0.1, 0)]}
    for i, name in enumerate(single):
        found[0, name] = [run_of((0.2, 0.3)[i], 0), run_of((0.4, 0.15)[i], 0)]
    expected = {1: 2.0, 2: 1.5 if len(single) > 1 else 4.0}
    results = results_of([row], found)
    assert best_ratios(results, 0) == pytest.approx(expected)
    assert f"| tiny | {row.title} |" in to_markdown(results)


def test_groups_and_the_first_step():
    rows = make_plan(["groups", "start"], ["tiny"], [], models())
    prompt = {"prompt_generate_s": 0.1, "prompt_update_s": 0.3}
    found = {
        (0, str(g)): [run_of(0.6 + 0.1 * g, 10 * g, phases={}, **prompt)] for g in (4, 8, 16, 32)
    }
    found[1, OURS] = [run_of(0.25, 0, import_s=1.0, make_s=0.5, first_s=0.75)]
    text = to_markdown(results_of(rows, found))
    assert "| 4 | 1.000 | - | - | 40 | 0.100 | 0.300 | 40% | 1.600 |" in text
    assert "3.8 times as long, 0.100 s for each further completion" in text
    assert "| 1.00 | 0.50 | 0.50 | 2.00 |" in text
