"""Control: what is played is what was pressed or typed, and the policy plays the same episode."""

import gymnasium as gym
import numpy as np
import pytest

from tests.algos.cli.playing.shared import play
from textenv.algos import load_rollout
from textenv.algos.cli import main
from textenv.algos.cli.playing.control import drawing
from textenv.algos.control.mlp_policy import MLPPolicy
from textenv.algos.control.random_policy import RandomPolicy

CART = "CartPole-v1"


class Doors(gym.Env):
    """Three doors, 5 to 7; the middle one is locked, and the last one ends the episode."""

    observation_space = gym.spaces.Discrete(2)
    action_space = gym.spaces.Discrete(3, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, self._info()

    def step(self, action):
        assert self.action_space.contains(action) and action != 6
        return 1, 2.5 * (action == 7), action == 7, False, self._info()

    def get_action_meanings(self):
        return ["back", "locked", "o\x1but"]

    def _info(self):
        return {"action_mask": np.array([1, 0, 1], np.int8)}


@pytest.fixture
def doors():
    gym.register("Doors-v0", Doors)
    yield "Doors-v0"
    del gym.registry["Doors-v0"]


def by_hand(actions, seed):
    """The observations of a cart, the first one included, and whether the episode is over."""
    env = gym.make(CART)
    seen, over = [env.reset(seed=seed)[0]], False
    for action in actions:
        observation, _, terminated, truncated, _ = env.step(action)
        seen.append(observation)
        over = terminated or truncated
    return seen, over


def episode_by_policy(seed):
    """The actions of the random policy in one episode from this seed."""
    env, policy, taken = gym.make(CART), RandomPolicy(gym.make(CART).action_space, 0), []
    observation, over = env.reset(seed=seed)[0], False
    while not over:
        taken.append(int(policy(observation)[0]))
        observation, _, terminated, truncated, _ = env.step(taken[-1])
        over = terminated or truncated
    return taken


def numbers(printed):
    """The observations that were printed."""
    return [
        [float(x) for x in line.lstrip("> ")[1:-1].split()]
        for line in printed.splitlines()
        if line.lstrip("> ").startswith("[")
    ]


def test_a_key_is_an_action(monkeypatch, capsys, tmp_path):
    actions = [1] * 30
    seen, _ = by_hand(actions[:1], 4)
    while not by_hand(actions[: len(seen)], 4)[1]:
        seen, _ = by_hand(actions[: len(seen)], 4)
    length = len(seen)
    seen, over = by_hand(actions[:length], 4)
    assert over
    argv = ("--env", CART, "--episodes", "1", "--seed", "4", "--record", str(tmp_path))
    printed = play(monkeypatch, capsys, ["1"] * length, *argv)
    assert np.allclose(numbers(printed), seen, atol=1e-4)
    assert f"terminated after {length} steps, total reward {length}\n" in printed
    [trajectory] = load_rollout(tmp_path / "transcript_0.jsonl")
    assert trajectory.actions == [1] * length and trajectory.seed == 4
    again = play(monkeypatch, capsys, [], "--replay", str(tmp_path / "transcript_0.jsonl"))
    assert numbers(again) == numbers(printed)


def test_other_keys_are_asked_again_and_take_no_step(monkeypatch, capsys, tmp_path):
    typed = ["x", "2", "-1", "", "²", "?", "\x1b[C", "--1", "-", "9" * 5000, "0"]
    argv = ("--env", CART, "--episodes", "1", "--record", str(tmp_path))
    printed = play(monkeypatch, capsys, typed, *argv)
    assert printed.count("expected an action from 0 to 1, got ") == 10
    assert "\x1b" not in printed
    assert load_rollout(tmp_path / "transcript_0.jsonl").trajectories[0].actions == [0]


def test_numbers_masks_and_meanings(monkeypatch, capsys, doors):
    printed = play(monkeypatch, capsys, ["0", "6", "5", "7"], "--env", doors, "--episodes", "1")
    assert "actions: 5 to 7\n5: back\n6: locked\n7: o\\x1but\n" in printed
    assert "expected an action from 5 to 7, got 0" in printed
    assert "action 6 is not allowed here; allowed: 5, 7" in printed
    assert "reward 2.5, 2.5 so far" in printed
    assert "terminated after 2 steps, total reward 2.5\n" in printed


def test_the_policy_plays_when_it_is_let(monkeypatch, capsys, tmp_path):
    taken = episode_by_policy(3)
    typed = ["!"] * len(taken)
    argv = ("--env", CART, "--policy", "random", "--seed", "3", "--episodes", "1")
    # The random policy's seed is that of the command too.
    policy = RandomPolicy(gym.make(CART).action_space, 3)
    printed = play(monkeypatch, capsys, typed, *argv, "--record", str(tmp_path))
    assert printed.count("policy> ") >= 1
    actions = load_rollout(tmp_path / "transcript_0.jsonl").trajectories[0].actions
    assert actions == [policy(None)[0] for _ in actions]


def test_asking_takes_no_step(monkeypatch, capsys, tmp_path):
    argv = ("--env", CART, "--policy", "random", "--episodes", "1", "--record", str(tmp_path))
    printed = play(monkeypatch, capsys, ["?", "?", "1"], *argv)
    assert printed.count("policy> ") == 2
    assert load_rollout(tmp_path / "transcript_0.jsonl").trajectories[0].actions == [1]


def test_against_a_policy_both_play_the_same_episodes(monkeypatch, capsys):
    argv = ("--env", CART, "--policy", "random", "--against", "--episodes", "2")
    printed = play(monkeypatch, capsys, ["1"] * 60, *argv)
    seeds = [int(line.rpartition(" ")[2]) for line in printed.splitlines() if "== episode" in line]
    assert seeds[0] == 0 and len(seeds) == 2
    policy, env = RandomPolicy(gym.make(CART).action_space, 0), gym.make(CART)
    totals = []
    for seed in seeds:
        observation, steps, over = env.reset(seed=seed)[0], 0, False
        while not over:
            _, _, terminated, truncated, _ = env.step(policy(observation)[0])
            steps, over = steps + 1, terminated or truncated
        totals.append(steps)
        assert f"policy: total reward {steps} after {steps} steps\n" in printed
    assert printed.endswith(f", that of the policy {sum(totals)}\n")


def test_numbers_are_typed_where_an_action_is_no_key(monkeypatch, capsys, tmp_path):
    """Pendulum's reward is a closed form of the angle, its speed and the torque that was typed."""
    torques = [0.5, -2.0, 1.25]
    typed = ["0.5", "1 0", "2.1", "nan", "x", "", "-2", "+1.25"]
    argv = ("--env", "Pendulum-v1", "--episodes", "1", "--seed", "4", "--record", str(tmp_path))
    printed = play(monkeypatch, capsys, typed, *argv)
    assert "\nactions: a number from -2 to 2, then Enter\n" in printed
    assert printed.count("expected 1 number, got ") == 2
    for wrong in ("2.1", "'nan'", "'x'"):
        assert f"expected a number from -2 to 2, got {wrong}\n" in printed
    [trajectory] = load_rollout(tmp_path / "transcript_0.jsonl")
    assert [action.tolist() for action in trajectory.actions] == [[torque] for torque in torques]
    assert all(action.dtype == np.float32 for action in trajectory.actions)
    for (x, y, speed), torque, reward in zip(
        trajectory.observations, torques, trajectory.rewards, strict=True
    ):
        cost = np.arctan2(y, x) ** 2 + 0.1 * speed**2 + 0.001 * torque**2
        assert reward == pytest.approx(-cost, abs=1e-5)


def test_a_policy_acts_where_numbers_are_typed(monkeypatch, capsys, tmp_path):
    env = gym.make("Pendulum-v1")
    policy = MLPPolicy(env.observation_space, env.action_space, (4,), seed=1)
    policy.save(tmp_path / "policy")
    argv = ("--env", "Pendulum-v1", "--policy", str(tmp_path / "policy"), "--episodes", "1")
    argv = (*argv, "--seed", "2", "--against", "--record", str(tmp_path / "games"))
    printed = play(monkeypatch, capsys, ["?", "1", *["!"] * 199], *argv)
    assert "then Enter; ? asks the policy, ! lets it act\n" in printed
    actions = load_rollout(tmp_path / "games" / "transcript_0.jsonl").trajectories[0].actions
    observation, total = env.reset(seed=2)[0], 0.0
    for number in range(200):
        best = policy(observation, deterministic=True)[0] if number else np.float32([1])
        assert np.allclose(actions[number], best, atol=1e-6)
        observation, reward, *_ = env.step(actions[number])
        total += reward
    assert f"truncated after 200 steps, total reward {total:g}\n" in printed
    observation, total = env.reset(seed=2)[0], 0.0
    for _ in range(200):
        observation, reward, *_ = env.step(policy(observation, deterministic=True)[0])
        total += reward
    assert f"policy: total reward {total:g} after 200 steps\n" in printed


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Dict(move=gym.spaces.Discrete(2), turn=gym.spaces.Box(-1, 1, (2,))),
        gym.spaces.Tuple([gym.spaces.Discrete(2), gym.spaces.Discrete(3)]),
    ],
)
def test_actions_of_several_parts_are_refused(monkeypatch, capsys, space):
    monkeypatch.setattr(Doors, "action_space", space)
    gym.register("Parts-v0", Doors)
    try:
        assert main(["play", "--env", "Parts-v0"]) == 2
    finally:
        del gym.registry["Parts-v0"]
    error = capsys.readouterr().err
    assert f"Parts-v0 has {space}" in error and error.count("\n") == 1
    assert "Discrete, MultiDiscrete, MultiBinary and Box" in error and "TransformAction" in error


def test_a_drawing_takes_the_place_of_numbers(monkeypatch, capsys):
    printed = play(monkeypatch, capsys, ["1"], "--env", "FrozenLake-v1", "--episodes", "1")
    assert "[S]FFF\nFHFH\nFFFH\nHFFG\n" in printed


@pytest.mark.parametrize(
    ("text", "coloured", "plain"),
    [
        ("S\x1b[41mF\x1b[0mH", "S\x1b[41mF\x1b[0mH", "S[F]H"),
        ("\x1b[34;1mR\x1b[0m|\x1b[43m \x1b[0m", "\x1b[34;1mR\x1b[0m|\x1b[43m \x1b[0m", "[R]|[ ]"),
        ("\x1b[43m\x1b[34mY\x1b[0m\x1b[0mZ", "\x1b[43m\x1b[34mY\x1b[0m\x1b[0mZ", "[Y]Z"),
        ("a\x1b[43mb", "a\x1b[43mb", "a[b]"),
        ("a\x1b[2Jb", "a\\x1b[2Jb", "a\\x1b[2Jb"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07", "\\x1b]0;title\\x07"),
        ("\x1b[41m\x1b[2J\x1b[0m", "\x1b[41m\\x1b[2J\x1b[0m", "[\\x1b[2J]"),
        ("a\u202eb", "a\\u202eb", "a\\u202eb"),
    ],
)
def test_a_drawing_has_colours_and_no_other_codes(text, coloured, plain):
    assert drawing(text, colours=True) == coloured
    assert drawing(text, colours=False) == plain
