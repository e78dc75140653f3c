"""Agents of Stable-Baselines3 trained from our loop are equal to those that train themselves."""

import csv
import sys

import gymnasium as gym
import numpy as np
import pytest

from textenv.algos import SB3Trainer
from textenv.errors import ConfigError, ConfigTypeError, MissingDependencyError

sb3 = pytest.importorskip("stable_baselines3")
contrib = pytest.importorskip("sb3_contrib")
torch = pytest.importorskip("torch")

from stable_baselines3.common.callbacks import (  # noqa: E402
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
CARTPOLE, PENDULUM = "CartPole-v1", "Pendulum-v1"


class OneWay(gym.Wrapper):
    """A cart that cannot be pushed towards where the pole leans far."""

    def action_masks(self):
        lean = self.unwrapped.state[2]
        return np.array([lean > -0.05, lean < 0.05])


class Parts(gym.ObservationWrapper):
    """The observation as a dict."""

    def __init__(self, env):
        super().__init__(env)
        box = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = gym.spaces.Dict(cart=box, pole=box)

    def observation(self, observation):
        return {"cart": observation[:2], "pole": observation[2:]}


def build(
    name="PPO", env=CARTPOLE, num_envs=4, limit=30, normalize=False, wrapper=None, vec=None, **kw
):
    """An agent with a tiny network, the same one at every call."""
    algorithm = getattr(sb3, name, None) or getattr(contrib, name)
    venv = make_vec_env(
        lambda: gym.make(env, max_episode_steps=limit),
        num_envs,
        seed=3,
        wrapper_class=wrapper,
        vec_env_cls=vec,
    )
    if normalize:
        venv = VecNormalize(venv, gamma=0.98)
    policy, network = "MlpPolicy", {"net_arch": [8]}
    if wrapper is Parts:
        policy = "MultiInputPolicy"
    if name == "RecurrentPPO":
        policy, network["lstm_hidden_size"] = "MlpLstmPolicy", 6
    if name != "A2C":
        kw = {"n_steps": 64, "batch_size": 64} | kw
    if "PPO" in name:
        kw = {"n_epochs": 1 if name == "RecurrentPPO" else 3} | kw
    return algorithm(policy, venv, seed=5, device="cpu", gamma=0.98, policy_kwargs=network, **kw)


def weights(model):
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def difference(one, two):
    one, two = (m if isinstance(m, dict) else weights(m) for m in (one, two))
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def trained_both_ways(steps, callbacks=lambda who: None, **settings):
    """One agent by its own learn(), one by ours. Both draw from torch's one generator."""
    theirs = build(**settings)
    theirs.learn(steps, callbacks("theirs"))
    ours = build(**settings)
    trainer = SB3Trainer(ours, steps, callbacks("ours"))
    trainer.train()
    return theirs, trainer


class CountTruncations(BaseCallback):
    def __init__(self):
        super().__init__()
        self.middle, self.first_weights = 0, None

    def _on_training_start(self):
        self.first_weights = weights(self.model)

    def _on_step(self):
        cut = sum(info["TimeLimit.truncated"] for info in self.locals["infos"])
        self.middle += cut * (self.locals["n_steps"] + 1 < self.model.n_steps)
        return True


CASES = {
    "PPO": {},
    "PPO, one environment": {"num_envs": 1, "limit": 9},
    "PPO, VecNormalize": {"normalize": True},
    "PPO, schedules and KL stop": {
        "learning_rate": lambda left: 1e-2 * left,
        "clip_range": lambda left: 0.2 * left,
        "target_kl": 0.001,
    },
    "PPO, Box": {"env": PENDULUM},
    "PPO, Box, VecNormalize": {"env": PENDULUM, "normalize": True},
    "PPO, Box, gSDE": {"env": PENDULUM, "use_sde": True, "sde_sample_freq": 4},
    "PPO, processes": {"vec": SubprocVecEnv, "num_envs": 1},
    "PPO, Dict": {"wrapper": Parts},
    "A2C": {"limit": 7},
    "A2C, Box, one environment": {"env": PENDULUM, "num_envs": 1, "limit": 7},
    "TRPO": {},
    "TRPO, Box": {"env": PENDULUM},
    "MaskablePPO": {"wrapper": OneWay},
    "MaskablePPO, VecNormalize": {"wrapper": OneWay, "normalize": True},
    "RecurrentPPO": {},
    "RecurrentPPO, Box": {"env": PENDULUM, "num_envs": 2},
}


@pytest.mark.parametrize("case", CASES)
def test_parameters_are_equal_to_those_of_learn(case):
    settings = {"name": case.split(",")[0]} | CASES[case]
    steps = 300 if settings["name"] == "A2C" else 600
    counts = CountTruncations()

    def callbacks(who):
        return counts if who == "theirs" else None

    theirs, trainer = trained_both_ways(steps, callbacks, **settings)
    ours = trainer.model
    assert counts.middle > 0  # episodes cut by a time limit in the middle of a rollout
    assert counts.first_weights and difference(theirs, counts.first_weights) > 1e-4
    assert difference(theirs, ours) == 0.0
    assert theirs.num_timesteps == ours.num_timesteps >= steps
    per_rollout = ours.n_steps * ours.n_envs
    assert len(trainer.history) == ours.num_timesteps // per_rollout
    np.testing.assert_equal(theirs._last_obs, ours._last_obs)
    untimed = [[(e["r"], e["l"]) for e in model.ep_info_buffer] for model in (theirs, ours)]
    assert untimed[0] == untimed[1]
    for name in ("actions", "rewards", "returns", "advantages", "values", "log_probs"):
        expected, filled = (getattr(m.rollout_buffer, name) for m in (theirs, ours))
        np.testing.assert_array_equal(filled, expected)
        assert filled.dtype == expected.dtype
    for model in (theirs, ours):
        model.env.close()


@pytest.mark.parametrize("name", ["PPO", "RecurrentPPO"])
def test_training_goes_on_where_it_ended_whoever_goes_on(name):
    models = []
    for way in ["learn learn learn", "learn ours learn", "ours ours ours"]:
        models.append(model := build(name, env=PENDULUM, num_envs=2))
        for seed, who in enumerate(way.split()):
            torch.manual_seed(seed)
            if who == "ours":
                SB3Trainer(model, 200, reset_num_timesteps=seed == 0).train()
            else:
                model.learn(200, reset_num_timesteps=seed == 0)
    assert difference(models[0], models[1]) == difference(models[0], models[2]) == 0.0
    assert [model.num_timesteps for model in models] == [768] * 3  # 256 in a rollout


def test_a_truncated_episode_is_worth_what_its_last_state_is():
    model = build(env=PENDULUM, num_envs=2)
    gamma, kept = model.gamma, {}

    class Keep(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            kept["rewards"] = self.model.rollout_buffer.rewards.copy()
            kept["starts"] = self.model.rollout_buffer.episode_starts.copy()
            kept["weights"] = {k: v.clone() for k, v in model.policy.state_dict().items()}

    rollouts = []
    SB3Trainer(model, 128, Keep(), on_step=lambda metrics, r: rollouts.append(r)).train()
    model.policy.load_state_dict(kept["weights"])
    expected, starts = np.zeros((64, 2)), np.zeros((64, 2))
    for i in range(2):
        lane = [t for t in rollouts[0] if t.env_index == i]
        assert [len(t) for t in lane] == [30, 30, 4]
        assert [t.truncated for t in lane] == [True, True, False]
        expected[:, i] = [reward for t in lane for reward in t.rewards]
        for t, end in zip(lane, (29, 59)):
            with torch.no_grad():
                value = model.policy.predict_values(torch.as_tensor(t.final_observation[None]))
            expected[end, i] += gamma * value.item()
        starts[[0, 30, 60], i] = 1
    np.testing.assert_allclose(kept["rewards"], expected, rtol=1e-6)
    np.testing.assert_array_equal(kept["starts"], starts)


# --- callbacks, Monitor, logs -------------------------------------------------------------------


NAMES = ("actions", "clipped_actions", "new_obs", "rewards", "dones", "values", "log_probs")


class Diary(BaseCallback):
    """What a callback is told, and what it finds among the locals."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.calls, self.stop_after, self.pages = [], stop_after, []

    def _on_training_start(self):
        self.calls.append(("training start", self.locals["total_timesteps"]))

    def _on_rollout_start(self):
        self.calls.append(("rollout start", self.num_timesteps))

    def _on_step(self):
        here = self.locals
        self.calls.append(("step", self.num_timesteps, self.n_calls, here["n_steps"]))
        self.pages.append(
            {name: np.asarray(here[name]).copy() for name in NAMES}
            | {"infos": [dict(info, episode=None) for info in here["infos"]]}
        )
        assert here["self"] is self.model and here["env"] is self.training_env
        assert here["rollout_buffer"] is self.model.rollout_buffer
        return self.n_calls != self.stop_after

    def _on_rollout_end(self):
        assert self.model.rollout_buffer.full
        self.calls.append(("rollout end", float(self.locals["values"].sum())))

    def _on_training_end(self):
        self.calls.append(("training end", self.num_timesteps))


@pytest.mark.parametrize("stop_after", [None, 70, 128])
def test_callbacks_are_told_the_same_at_the_same_places(stop_after):
    diaries = {"theirs": Diary(stop_after), "ours": Diary(stop_after)}
    theirs, trainer = trained_both_ways(300, diaries.get, env=PENDULUM, num_envs=2)
    ours = trainer.model
    assert diaries["theirs"].calls == diaries["ours"].calls
    assert len(diaries["ours"].pages) == (stop_after or 192)
    for expected, page in zip(diaries["theirs"].pages, diaries["ours"].pages):
        np.testing.assert_equal(page, expected)
    assert len(trainer.history) == {None: 3, 70: 1, 128: 1}[stop_after]
    assert difference(theirs, ours) == 0.0
    assert theirs.num_timesteps == ours.num_timesteps


def test_the_callbacks_that_ship_with_it_work(tmp_path):
    def callbacks(who):
        folder = tmp_path / who
        stop = StopTrainingOnRewardThreshold(reward_threshold=1.0)
        evaluate = EvalCallback(
            make_vec_env(CARTPOLE, 1, seed=9),
            callback_on_new_best=stop,
            eval_freq=100,
            n_eval_episodes=2,
            log_path=str(folder),
            best_model_save_path=str(folder),
            verbose=0,
        )
        return [CheckpointCallback(50, str(folder)), evaluate]

    theirs, trainer = trained_both_ways(2000, callbacks)
    ours = trainer.model
    names = [sorted(p.name for p in (tmp_path / who).iterdir()) for who in ("theirs", "ours")]
    assert names[0] == names[1]
    assert "rl_model_200_steps.zip" in names[1] and "best_model.zip" in names[1]
    # any return is above 1, so the first evaluation stops the training
    assert theirs.num_timesteps == ours.num_timesteps == 400
    results = [np.load(tmp_path / who / "evaluations.npz") for who in ("theirs", "ours")]
    np.testing.assert_array_equal(results[0]["results"], results[1]["results"])
    assert difference(theirs, ours) == 0.0


def test_a_callback_that_counts_episodes_stops():
    theirs, trainer = trained_both_ways(2000, lambda who: StopTrainingOnMaxEpisodes(3))
    assert theirs.num_timesteps == trainer.model.num_timesteps < 600


def test_a_function_is_a_callback_too():
    seen = []
    SB3Trainer(build(), 256, lambda names, _: seen.append(names["n_steps"]) or True).train()
    assert seen == list(range(64))


def test_monitor_files_hold_the_episodes(tmp_path):
    rows = {}
    for who in ("theirs", "ours"):
        venv = make_vec_env(CARTPOLE, 2, seed=0, monitor_dir=str(tmp_path / who))
        network = {"net_arch": [8]}
        model = sb3.PPO("MlpPolicy", venv, 64, 64, seed=0, device="cpu", policy_kwargs=network)
        if who == "ours":
            SB3Trainer(model, 256).train()
        else:
            model.learn(256)
        venv.close()
        rows[who] = []
        for i in range(2):
            with open(tmp_path / who / f"{i}.monitor.csv", newline="") as file:
                next(file)
                rows[who].append([(r["r"], r["l"]) for r in csv.DictReader(file)])
    assert rows["theirs"] == rows["ours"]
    assert min(map(len, rows["ours"])) > 2


def test_the_models_logger_and_the_history_say_the_same(tmp_path):
    from stable_baselines3.common.logger import configure

    logs, seen = [], []
    for ours in (False, True):
        model = build(stats_window_size=5)
        folder = tmp_path / str(ours)
        model.set_logger(configure(str(folder), ["csv"]))
        if ours:
            trainer = SB3Trainer(model, 768, on_step=lambda _, rollout: seen.append(rollout))
            history = trainer.train()
        else:
            model.learn(768)
        model.logger.close()
        with open(folder / "progress.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        logs.append([{k: v for k, v in r.items() if k not in TIMES} for r in rows])
    assert logs[0] == logs[1] and len(logs[1]) == 3
    # The logger writes a rollout's returns with the update before it, history with its own.
    for before, metrics in zip(logs[1][1:], history):
        assert float(before["train/value_loss"]) == pytest.approx(metrics["train/value_loss"])
    for row, metrics in zip(logs[1], history):
        assert float(row["rollout/ep_rew_mean"]) == pytest.approx(metrics["rollout/ep_rew_mean"])
    assert [m["time/total_timesteps"] for m in history] == [256, 512, 768]
    for part in ("environment", "policy", "update"):
        assert all(m[f"time/{part}"] > 0 for m in history)
    assert [r.num_transitions for r in seen] == [256] * 3
    assert [{t.policy_version for t in r} for r in seen] == [{0}, {1}, {2}]


TIMES = ("time/fps", "time/time_elapsed")


def test_a_saved_model_is_the_trained_one(tmp_path):
    model = build()
    trainer = SB3Trainer(model, 256)
    trainer.train()
    path = trainer.save(tmp_path / "new")
    assert difference(sb3.PPO.load(path, device="cpu"), model) == 0.0
    observation = np.ones(4, np.float32)
    action, extras = trainer.policy(observation, deterministic=True)
    assert action == model.predict(observation, deterministic=True)[0] and "value" in extras


def test_a_model_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    trainer = SB3Trainer(build(), 256)
    path = trainer.save(tmp_path)
    before = path.read_bytes()

    def half(path, *_, **__):
        path.write_bytes(b"half")
        raise OSError("no room on the disk")

    monkeypatch.setattr(trainer.model, "save", half)
    with pytest.raises(OSError, match="no room"):
        trainer.save(tmp_path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.zip"]


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DQN", "SAC"])
def test_off_policy_agents_are_sent_to_learn(name):
    env = CARTPOLE if name == "DQN" else PENDULUM
    model = getattr(sb3, name)("MlpPolicy", env, policy_kwargs={"net_arch": [4]}, buffer_size=10)
    with pytest.raises(ConfigTypeError, match=rf"got {name}; train it with {name}\.learn\(\)"):
        SB3Trainer(model, 100)


def test_other_arguments_are_refused():
    with pytest.raises(ConfigTypeError, match="got str"):
        SB3Trainer("PPO", 100)
    model = build()
    for steps, error in [(0, ConfigError), (True, ConfigTypeError), (1e4, ConfigTypeError)]:
        with pytest.raises(error, match="total_timesteps must be an integer"):
            SB3Trainer(model, steps)
    model.env = None
    with pytest.raises(ConfigError, match=r"model\.set_env"):
        SB3Trainer(model, 100)


def test_a_mask_must_be_there_to_be_used():
    with pytest.raises(ConfigError, match=r"action_masks\(\).*ActionMask"):
        SB3Trainer(build("MaskablePPO"), 100).train()


def test_a_missing_extra_is_named(monkeypatch):
    model = build()
    monkeypatch.setitem(sys.modules, "stable_baselines3.common.on_policy_algorithm", None)
    with pytest.raises(MissingDependencyError, match=r"pip install -e '\.\[sb3\]'"):
        SB3Trainer(model, 100)
