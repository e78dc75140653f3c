"""What is shown of a training."""

import io
import os

import pytest

from textenv.algos import Buffer, Trajectory
from textenv.algos.cli.shared.display import (
    ControlDisplay,
    OfflineDisplay,
    SFTDisplay,
    Terminal,
    TextDisplay,
    evaluation_line,
    health_line,
    ppo_line,
)


def test_the_display_shows_figures_and_samples():
    from rich.console import Console

    from textenv.algos import Buffer, Trajectory
    from textenv.algos.cli.shared.display import TextDisplay

    console = Console(force_terminal=True, width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    rollout = Buffer([Trajectory(actions=["[4]2"], rewards=[1.0], prompt="40+2=")])
    metrics = {
        **{"step": 1.0, "reward": 0.25, "step_time": 0.5, "frac_reward_zero_std": 0.5, "loss": 0.0},
        **{"groups": 2.0, "completions/mean_length": 3.0, "completions/count": 4.0},
    }
    with TextDisplay(2, console) as display:
        display.on_step(metrics, rollout)
    shown = console.export_text()
    assert "50% of groups without signal" in shown
    for text in ("1/2", "tokens/s", "24", "s/step", "0.50", "0.250", "40+2=", "[4]2"):
        assert text in shown, text


def console(terminal=False):
    from rich.console import Console

    return Console(
        force_terminal=terminal, width=200, record=True, file=io.StringIO(), highlight=False
    )


TEXT = {
    **{"reward": 0.25, "step_time": 0.5, "frac_reward_zero_std": 0.5, "loss": 0.0, "groups": 2.0},
    **{"completions/mean_length": 3.0, "completions/count": 4.0},
}


def test_without_a_terminal_there_is_a_line_for_each_twentieth():
    out = console()
    with TextDisplay(60, out) as display:
        for step in range(1, 61):
            display.on_step(TEXT | {"step": float(step)}, Buffer())
    said, *lines = out.export_text().splitlines()
    assert said == "training; the first step also compiles what is new here"
    assert [line.split()[1] for line in lines] == ["1/60", *(f"{n}/60" for n in range(3, 61, 3))]
    # Tokens a second: 3 x 4 in half a second.
    assert lines[0] == (
        "step 1/60  reward 0.250  mean_length 3.000  24 tokens/s  50% of groups without signal"
    )


def test_the_time_left_is_that_of_the_last_twenty_steps(clock):
    """Steps 1 to 40 take 9 s each, the 20 after them 3 s: the 60 that are left take 180 s."""
    out = console()
    display = TextDisplay(120, out)
    for step in range(1, 61):
        clock(9 if step <= 40 else 3)
        display.on_step(TEXT | {"step": float(step)}, Buffer())
    lines = out.export_text().splitlines()
    assert "left" not in lines[0]
    assert lines[-1].startswith("step 60/120") and lines[-1].endswith("about 3 minutes left")


def test_a_run_that_goes_on_knows_the_time_left_from_its_own_steps(clock):
    out = console()
    display = TextDisplay(100, out)
    for step in (58, 60):  # two optimizer steps a rollout
        clock(12)
        display.on_step(TEXT | {"step": float(step)}, Buffer())
    # 40 steps of 6 s
    assert out.export_text().splitlines()[-1].endswith("about 4 minutes left")


def test_phases_share_the_time_of_all_steps():
    out = console()
    display = TextDisplay(2, out)
    spent = {"time/generate": 3.0, "time/score": 2.0, "time/export": 0.0, "time/update": 1.0}
    display.on_step(TEXT | spent | {"step": 1.0}, Buffer())
    second = {"step": 2.0, "time/update": 5.0, "time/evaluate": 8.0}
    display.on_step(TEXT | spent | second, Buffer())
    # 6, 6 and 8 of 20 s; what rewards take is a part of the generation.
    last = out.export_text().splitlines()[-1]
    assert last == "time: generate 30%, update 30%, evaluate 40%"


@pytest.mark.parametrize(
    ("metrics", "line"),
    [
        ({}, "50% of groups without signal"),
        (
            {"frac_reward_zero_std": 0.375, "completions/clipped_ratio": 0.57},
            "38% of groups without signal, 57% of completions cut off",
        ),
        ({"frac_reward_zero_std": 0.0, "completions/clipped_ratio": 0.0}, ""),
        # Of PPO: each completion is a group of its own, and none is compared.
        ({"groups": 4.0, "frac_reward_zero_std": 1.0}, ""),
    ],
)
def test_what_of_a_rollout_teaches_nothing(metrics, line):
    assert health_line(TEXT | metrics) == line


@pytest.mark.parametrize("width", [1, 20, 80])
def test_a_narrow_terminal_is_not_left(width):
    rollout = Buffer(
        [Trajectory(actions=["\u202e\x1b[2J" + "x" * 500], rewards=[1.0], prompt="p" * 90)]
    )
    out = Terminal(force_terminal=True, width=width, height=40, file=io.StringIO())
    with TextDisplay(100, out) as display:
        display.on_step(TEXT | EVALUATED | {"time/generate": 1.0, "time/update": 1.0}, rollout)
        shown = Terminal(record=True, width=width, file=io.StringIO(), force_terminal=True)
        shown.print(display._live.renderable, soft_wrap=False)
    lines = shown.export_text().splitlines()
    assert max(map(len, lines)) <= width
    printed = out.file.getvalue()
    assert "\u202e" not in printed and "\x1b[2J" not in printed
    if width == 80:
        text = " ".join(" ".join(lines).split())
        assert "time: generate 31%, update 31%, evaluate 38%" in text
        assert "evaluation: accuracy 0.500 at step 7; best: accuracy 0.500 at step 7" in text
    if width == 20:
        assert lines[0].split()[:2] == ["step", "7/100"] and "reward 0.250" in " ".join(lines)


def test_the_last_and_the_best_evaluation_stay_in_sight():
    out = console(terminal=True)
    with TextDisplay(100, out) as display:  # of a run that goes on
        display.on_step(TEXT | EVALUATED | {"eval/best_step": 4.0}, Buffer())
    assert "evaluation: accuracy 0.500 at step 7; best: at step 4" in out.export_text()
    with TextDisplay(100, out) as display:
        later = {"eval/accuracy": 0.75, "step": 8.0, "eval/best_step": 8.0}
        display.on_step(TEXT | EVALUATED | later, Buffer())
        last = {"eval/accuracy": 0.25, "step": 9.0, "eval/best_step": 8.0}
        display.on_step(TEXT | EVALUATED | last, Buffer())
        display.on_step(TEXT | {"step": 10.0}, Buffer())
    shown = out.export_text()
    assert "evaluation: accuracy 0.250 at step 9; best: accuracy 0.750 at step 8" in shown


def test_slow_steps_are_not_silent_for_long(clock):
    """A step of 4 s: a line after 10 s at most, although one in twenty steps comes after 20 s."""
    out = console()
    display = TextDisplay(100, out)
    for step in range(1, 16):
        clock(4)
        display.on_step(TEXT | {"step": float(step)}, Buffer())
    shown = [int(line.split()[1].partition("/")[0]) for line in out.export_text().splitlines()]
    assert shown == [1, 4, 5, 8, 10, 13, 15]


def test_updates_of_whole_rollouts_are_counted_by_their_iterations():
    out = console()
    TextDisplay(2, out, "update").on_step(TEXT | {"step": 9.0, "time/iterations": 1.0}, Buffer())
    assert out.export_text().startswith("update 1/2  ")


EVALUATED = {
    **{"eval/accuracy": 0.5, "eval/accuracy_low": 0.25, "eval/accuracy_high": 0.75},
    **{"eval/reward": 0.75, "eval/mean_length": 3.25, "eval/clipped_ratio": 0.0},
    **{"eval/examples": 8.0, "eval/best_step": 7.0, "time/evaluate": 1.25, "step": 7.0},
}


def test_the_line_of_an_evaluation():
    assert evaluation_line(EVALUATED) == (
        "evaluated on 8 held-out examples: accuracy 0.500 (0.250 to 0.750), reward 0.750, 3.2 "
        "tokens; the best so far (1.2 s)"
    )
    other = {name: value for name, value in EVALUATED.items() if "accuracy" not in name}
    other |= {"eval/clipped_ratio": 0.25, "eval/best_step": 4.0}
    other |= {"eval/rewards/right/mean": 0.5, "eval/rewards/short/mean": 0.25}
    assert evaluation_line(other) == (
        "evaluated on 8 held-out examples: reward 0.750, right 0.500, short 0.250, 3.2 tokens, "
        "25% cut off; the best is optimizer step 4 (1.2 s)"
    )


@pytest.mark.parametrize("terminal", [False, True])
def test_an_evaluation_is_shown_with_its_step(terminal):
    out = console(terminal)
    with TextDisplay(100, out) as display:
        display.on_evaluate(32, 500)
        display.on_step(TEXT | EVALUATED, Buffer())
    shown = out.export_text()
    assert "step 7: evaluated on 8 held-out examples: accuracy 0.500" in shown


def test_the_line_of_an_update_on_control(tmp_path):
    metrics = {
        **{"train/policy_gradient_loss": -0.012345, "train/value_loss": 123456.0},
        **{"time/iterations": 3.0, "time/total_timesteps": 6144.0},
    }
    line = "PPO update 2: policy_loss=-0.01235 value_loss=1.235e+05 total_steps=6144"
    assert ppo_line(metrics, 2048, None) == line
    exported = f"{line}; exported 2048 transitions to rollout_2.json"
    assert ppo_line(metrics, 2048, tmp_path / "rollout_2.json") == exported
    out = console()
    with ControlDisplay(8192, out) as display:
        rollout = Buffer([Trajectory(actions=[0, 1])])
        display.on_step(metrics | {"rollout/ep_rew_mean": 21.0}, rollout, None)
    assert out.export_text().splitlines()[0] == line.replace(" total", " ep_rew_mean=21 total")


SFT = {
    **{"loss": 0.5, "mean_token_accuracy": 0.75, "entropy": 1.25, "grad_norm": 2.0},
    **{"learning_rate": 0.001, "epoch": 0.125},
}


def test_a_supervised_training_has_a_line_for_each_twentieth():
    out = console()
    with SFTDisplay(out) as display:
        for step in range(1, 61):
            display.on_step(SFT | {"step": float(step)}, 60)
    lines = out.export_text().splitlines()
    assert [line.split()[1] for line in lines] == ["1/60", *(f"{n}/60" for n in range(3, 61, 3))]
    assert lines[0] == (
        "step 1/60  epoch 0.12  loss 0.5  mean_token_accuracy 0.75  entropy 1.25  grad_norm 2  "
        "learning_rate 0.001"
    )


@pytest.mark.parametrize(("display", "unit"), [("control", "transitions"), ("sft", "step")])
def test_on_a_terminal_a_bar_counts_below_the_lines(display, unit):
    out = console(terminal=True)
    if display == "control":
        with ControlDisplay(80, out) as shown:
            metrics = {"time/iterations": 1.0, "time/total_timesteps": 20.0}
            shown.on_step(metrics, Buffer([Trajectory(actions=[0])]), None)
    else:
        with SFTDisplay(out) as shown:
            shown.on_step(SFT | {"step": 20.0}, 80)
    *_, last = out.export_text().splitlines()
    assert unit in last and "20/80" in last


@pytest.mark.parametrize(
    ("passes", "shown"),
    [(1, [1]), (5, [1, 2, 3, 4, 5]), (30, [1, *range(3, 31, 3)]), (25, [1, *range(2, 25, 2), 25])],
)
def test_passes_of_an_offline_training_are_shown_now_and_then(passes, shown):
    out = console()
    display = OfflineDisplay(out)
    for epoch in range(1, passes + 1):
        figures = {"epoch": float(epoch), "step": 9.0, "train/loss": 0.5, "learning_rate": 1.0}
        display.on_step(figures, passes)
    assert out.export_text().splitlines() == [f"pass {n}/{passes}  loss 0.5" for n in shown]


def test_samples_are_spread_over_the_rollout_and_codes_are_written_out():
    rollout = Buffer(
        [Trajectory(actions=[f"{i}\x1b[31m"], rewards=[float(i)], prompt=f"p{i}") for i in range(8)]
    )
    out = console(terminal=True)
    with TextDisplay(2, out) as display:
        display.on_step(TEXT | {"step": 1.0}, rollout)
    shown = out.export_text()
    assert [f"p{i}" in shown for i in range(8)] == [True, False] * 4
    assert r"\x1b[31m" in shown


def test_a_terminal_shows_texts_as_they_are_in_tables_too():
    from rich.table import Table

    out = Terminal(force_terminal=True, width=60, file=io.StringIO())
    text = "[red]x[/] :smile: \x1b]0;title\x07"
    out.print(text)
    table = Table("[bold]head", box=None)
    table.add_row(text)
    out.print(table)
    plain = r"[red]x[/] :smile: \x1b]0;title\x07"
    printed = out.file.getvalue()
    assert printed.count(plain) == 2 and "[bold]head" in printed
    assert "\x07" not in printed and "\x1b]" not in printed
