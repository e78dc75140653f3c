"""Control: the rollout loop against environments stepped one by one."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.algos.control_envs import Steps
from textenv.algos import RolloutCoordinator, RolloutRunner, create_strategy
from textenv.algos.offline.data import join_episodes
from textenv.algos.rollouts.metrics import EpisodeStats
from textenv.errors import ConfigError
from textenv.wrappers import DictStep


class Counter(gym.Env):
    """Observes (its number, its episode's seed, its step, its last action); lives 3 to 7 steps."""

    def __init__(self, lane=0):
        self.lane = lane
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.action_space = gym.spaces.Discrete(5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number = int(self.np_random.integers(10**6))
        self.length, self.steps, self.last = 3 + self.number % 5, 0, -1
        return self._observe(), {"number": self.number}

    def step(self, action):
        self.steps, self.last = self.steps + 1, int(action)
        over = self.steps == self.length
        # Odd episodes terminate, even ones are cut off.
        terminated, truncated = over and self.number % 2 == 1, over and self.number % 2 == 0
        reward = 100 * self.lane + 10 * self.steps + self.last
        return self._observe(), reward, terminated, truncated, {"steps": self.steps}

    def _observe(self):
        return np.array([self.lane, self.number, self.steps, self.last], np.float64)


class Policy:
    """Actions of its own generator, and what it was shown."""

    def __init__(self, batch=None):
        self.rng, self.batch, self.seen = np.random.default_rng(0), batch, []

    def __call__(self, observation, deterministic=False):
        self.seen.append(np.array(observation))
        actions = self.rng.integers(5, size=self.batch)
        extras = {"value": observation[..., 2] * 1.0, "logprob": actions / 10 - 1}
        return actions, extras


def assert_contiguous(trajectories):
    """Within each trajectory a transition starts where the one before ended."""
    for trajectory in trajectories:
        transitions = trajectory.transitions
        assert len(transitions) == len(trajectory) > 0
        for one, next_one in itertools.pairwise(transitions):
            np.testing.assert_array_equal(one.next_observation, next_one.observation)
            assert not one.terminated and not one.truncated


def test_cartpole_gives_exactly_max_steps():
    env = gym.make("CartPole-v1")
    runner = RolloutRunner(env, lambda obs: (int(obs[2] > 0), {}), max_steps=100, seed=3)
    first, second = runner.collect(), runner.collect()
    assert first.num_transitions == second.num_transitions == 100
    trajectories = [*first, *second]
    assert_contiguous(trajectories)
    # The cut episode goes on in the second rollout.
    cut, rest = first.trajectories[-1], second.trajectories[0]
    assert not cut.terminated and not cut.truncated
    np.testing.assert_array_equal(cut.final_observation, rest.observations[0])
    assert (first.trajectories[0].seed, rest.seed) == (first.trajectories[0].seed, None)
    assert [t.terminated for t in first][:-1] == [True] * (len(first) - 1)

    alone = gym.make("CartPole-v1")
    observation, _ = alone.reset(seed=first.trajectories[0].seed)
    for transition in (t for trajectory in trajectories for t in trajectory.transitions):
        np.testing.assert_array_equal(transition.observation, observation)
        assert transition.action == int(observation[2] > 0)
        observation, reward, terminated, truncated, _ = alone.step(transition.action)
        np.testing.assert_array_equal(transition.next_observation, observation)
        assert transition.reward == reward
        assert (transition.terminated, transition.truncated) == (terminated, truncated)
        if terminated or truncated:
            observation, _ = alone.reset()


def test_a_time_limit_truncates():
    runner = RolloutRunner(
        gym.make("CartPole-v1", max_episode_steps=5), lambda obs: (0, {}), max_steps=12
    )
    flags = [(len(t), t.terminated, t.truncated) for t in runner.collect()]
    assert flags == [(5, False, True), (5, False, True), (2, False, False)]


def replay(lane, trajectories, seed):
    """Step a `Counter` of this lane by itself with the recorded actions; everything must agree."""
    env = Counter(lane)
    observation, info = env.reset(seed=seed)
    fresh, last_info = True, info
    for trajectory in trajectories:
        if fresh:
            assert trajectory.reset_info["number"] == info["number"]
        for t, transition in enumerate(trajectory.transitions):
            np.testing.assert_array_equal(transition.observation, observation)
            observation, reward, terminated, truncated, last_info = env.step(transition.action)
            np.testing.assert_array_equal(transition.next_observation, observation)
            assert transition[2] == reward
            assert (transition.terminated, transition.truncated) == (terminated, truncated)
            assert transition.info["steps"] == last_info["steps"]
            assert trajectory.values[t] == transition.observation[2]
            assert trajectory.logprobs[t] == pytest.approx(transition.action / 10 - 1)
            fresh = terminated or truncated
            if fresh:
                observation, info = env.reset()


MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


@pytest.mark.parametrize("copy", [True, False])  # False: one array for all observations
@pytest.mark.parametrize("mode", MODES, ids=[mode.name for mode in MODES])
def test_vector_rollouts_are_those_of_single_environments(mode, copy):
    makers = [lambda lane=lane: Counter(lane) for lane in range(3)]
    env = SyncVectorEnv(makers, copy=copy, autoreset_mode=mode)
    policy = Policy(batch=3)
    runner = RolloutRunner(env, policy, max_steps=150, seed=1)
    rollout = runner.collect()
    assert rollout.num_transitions == 150
    assert_contiguous(rollout)
    lanes = {lane: [] for lane in range(3)}
    for trajectory in rollout:
        lanes[int(trajectory.observations[0][0])].append(trajectory)
    first_seed = lanes[0][0].seed
    for lane, trajectories in lanes.items():
        played = sum(map(len, trajectories))
        if mode == AutoresetMode.NEXT_STEP:  # a lane has what it played; the last step may be over
            resets = sum(t.terminated or t.truncated for t in trajectories)
            assert len(policy.seen) - played in (resets - 1, resets, resets + 1)
        else:
            assert played == 50  # its exact share
        assert trajectories[0].seed == first_seed + lane
        replay(lane, trajectories, first_seed + lane)
        lengths = [(len(t), 3 + t.reset_info["number"] % 5) for t in trajectories[:-1]]
        assert all(ours == expected for ours, expected in lengths)
    assert all(seen.shape == (3, 4) for seen in policy.seen)
    # Only where a reset takes a step are there more calls than transitions of a lane.
    assert (len(policy.seen) > 50) == (mode == AutoresetMode.NEXT_STEP)


@pytest.mark.parametrize("mode", MODES[1:], ids=[mode.name for mode in MODES[1:]])
def test_vector_episodes_go_on_in_the_next_rollout(mode):
    env = SyncVectorEnv([lambda lane=lane: Counter(lane) for lane in range(2)], autoreset_mode=mode)
    runner = RolloutRunner(env, Policy(batch=2), max_steps=8, seed=1)
    rollouts = [runner.collect() for _ in range(6)]
    assert [r.num_transitions for r in rollouts] == [8] * 6
    for lane in range(2):
        trajectories = [t for r in rollouts for t in r if t.observations[0][0] == lane]
        replay(lane, trajectories, trajectories[0].seed)


def test_next_step_rollouts_start_where_the_environment_is():
    env = SyncVectorEnv([lambda lane=lane: Counter(lane) for lane in range(3)])
    runner = RolloutRunner(env, Policy(batch=3), max_steps=12, seed=1)
    for _ in range(8):
        rollout = runner.collect()
        assert rollout.num_transitions == 12
        assert_contiguous(rollout)
        for t in rollout:  # no step of another episode, and none that only reset
            assert len({tuple(o[:2]) for o in [*t.observations, t.final_observation]}) == 1
            steps = [int(o[2]) for o in t.observations]
            assert steps == list(range(steps[0], steps[0] + len(steps)))
            assert [int(r) % 100 // 10 for r in t.rewards] == [s + 1 for s in steps]


def test_max_steps_that_do_not_divide():
    env = SyncVectorEnv([Counter] * 3)
    with pytest.raises(ValueError, match=r"max_steps=100.*num_envs=3"):
        RolloutRunner(env, Policy(batch=3), max_steps=100)


def test_episode_start_and_infos_go_to_policies_that_declare_them():
    calls = []

    def policy(obs, episode_start, infos):
        calls.append((episode_start, infos))
        return 0, {}

    RolloutRunner(Counter(), policy, max_steps=20).collect()
    starts = [start for start, _ in calls]
    assert starts == ["number" in info for _, info in calls]  # only a reset's info has it
    assert starts[0] is True and 1 < sum(starts) < 10

    vector_calls = []

    def vector_policy(obs, infos=None, episode_start=None):
        vector_calls.append((episode_start, infos, obs))
        return np.zeros(2, int), {}

    makers = [lambda lane=lane: Counter(lane) for lane in range(2)]
    env = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    RolloutRunner(env, vector_policy, max_steps=40).collect()
    for start, infos, obs in vector_calls:
        assert start.tolist() == (obs[:, 2] == 0).tolist()
        assert [set(info) for info in infos] == [{"number"} if s else {"steps"} for s in start]


def test_dict_observations_and_array_actions():
    class Boxes(Counter):
        def __init__(self, lane=0):
            super().__init__(lane)
            self.observation_space = gym.spaces.Dict({"all": self.observation_space})
            self.action_space = gym.spaces.Box(-9, 9, (2,), np.float32)

        def _observe(self):
            return {"all": super()._observe()}

        def step(self, action):
            assert action.shape == (2,)
            return super().step(action[0])

    def policy(obs):
        shape = np.shape(obs["all"])[:-1]
        return np.full((*shape, 2), 3, np.float32), {}

    makers = [lambda lane=lane: Boxes(lane) for lane in range(2)]
    for env, size in [(Boxes(), 1), (SyncVectorEnv(makers), 2)]:
        rollout = RolloutRunner(env, policy, max_steps=20 * size).collect()
        for t in rollout:
            assert all(a.tolist() == [3, 3] for a in t.actions)
            assert [o["all"][2] for o in t.observations] == list(range(len(t)))


def test_equal_seeds_give_equal_rollouts():
    def collect(seed):
        env = SyncVectorEnv([lambda lane=lane: Counter(lane) for lane in range(3)])
        coordinator = RolloutCoordinator(
            lambda: env, lambda: Policy(batch=3), algorithm="ppo", max_steps=60, seed=seed
        )
        return coordinator.collect()

    assert collect(1) == collect(1)
    assert collect(1) != collect(2)


class Tuples:
    """Not a Gymnasium environment, and steps in tuples."""

    def reset(self, **_):
        return {"observation": 0, "info": {}}

    def step(self, action):
        return 0, 1.0, False, False, {}


class Dicts(Tuples):
    missing = None

    def step(self, action):
        step = {"observation": 0, "reward": 1.0, "terminated": True, "truncated": False, "info": {}}
        step.pop(self.missing, None)
        return step


def test_steps_of_other_shapes_are_refused():
    def policy(obs):
        return 0, {}

    with pytest.raises(TypeError, match=r"step must return a dict.*tuple"):
        RolloutRunner(Tuples(), policy, max_steps=4).collect()
    with pytest.raises(TypeError, match=r"reset must return a dict.*tuple"):
        env = Dicts()
        env.reset = lambda **_: (0, {})
        RolloutRunner(env, policy, max_steps=4).collect()
    for key in ("observation", "reward", "terminated", "truncated", "info"):
        env = Dicts()
        env.missing = key
        with pytest.raises(KeyError, match=f"no '{key}'"):
            RolloutRunner(env, policy, max_steps=4).collect()
    assert RolloutRunner(Dicts(), policy, max_steps=4).collect().num_transitions == 4
    wrapped = DictStep(Counter())
    assert RolloutRunner(wrapped, policy, max_steps=4).collect().num_transitions == 4


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"env": object()}, TypeError, "object"),
        ({"policy": "policy"}, TypeError, "policy must be callable, got str"),
        ({"max_steps": 0}, ValueError, "max_steps must be an integer >= 1, got 0"),
        ({"max_steps": 2.5}, ValueError, "max_steps"),
    ],
)
def test_bad_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        RolloutRunner(**{"env": Counter(), "policy": Policy()} | arguments)


def test_bad_strategies():
    with pytest.raises(ValueError, match="unknown strategy 'gpro'"):
        create_strategy("gpro")
    with pytest.raises(ValueError, match="num_generations must be an integer >= 1, got 0"):
        create_strategy("grpo", num_generations=0)
    with pytest.raises(ValueError, match="num_generation"):
        create_strategy("grpo", num_generation=4)


@pytest.mark.parametrize("answer", [0, (0,), "ab", (0, 1), (0, {}, {})])
def test_a_policy_that_answers_otherwise_is_refused(answer):
    with pytest.raises(TypeError, match="policy must return"):
        RolloutRunner(Counter(), lambda obs: answer, max_steps=4).collect()


def steps_env(mode, lengths, **more):
    """One environment if there is no mode, else a vector environment."""
    if mode is None:
        return Steps(lengths[0], **more)
    return SyncVectorEnv([lambda n=n: Steps(n, **more) for n in lengths], autoreset_mode=mode)


@pytest.mark.parametrize("mode", [None, *MODES])
def test_what_is_recorded_does_not_change_afterwards(mode):
    """An environment that gives out one array, list and dict, and changes the actions too."""
    lengths = [5, 3]
    width = 1 if mode is None else 2
    env = steps_env(mode, lengths, own=True)
    own = np.ones((2, 2), np.int8)[:width]  # the policy's own array, which it fills again

    def policy(observation, infos):
        own[:] = 1
        action = own[0] if mode is None else own
        observation[:] = -1
        for info in [infos] if mode is None else infos:
            info["list"].clear()
            info["nested"].clear()
        return action, {"unclipped_action": action}

    rollout = RolloutRunner(env, policy, max_steps=13 * width).collect()
    assert {t.env_index for t in rollout} == set(range(width))
    for trajectory in rollout:
        count = list(range(len(trajectory) + 1))
        after, n = count[1:], lengths[trajectory.env_index]
        seen = [*trajectory.observations, trajectory.final_observation]
        assert [o.tolist() for o in seen] == [[t] for t in count]
        assert [i["list"] for i in trajectory.infos] == [[t] for t in after]
        assert [i["nested"] for i in trajectory.infos] == [{"t": [t]} for t in after]
        assert trajectory.reset_info["list"] == [0] == trajectory.reset_info["nested"]["t"]
        assert [a.tolist() for a in trajectory.actions] == [[1, 1]] * len(after)
        assert [a.tolist() for a in trajectory.unclipped_actions] == [[1, 1]] * len(after)
        assert trajectory.terminated == (len(trajectory) == n)


@pytest.mark.parametrize("mode", [None, *MODES])
@pytest.mark.parametrize("own", [True, False])
def test_a_policy_only_sees_masks_of_what_goes_on(mode, own):
    env = steps_env(mode, [2, 7, 1], masked=True, own=own)

    def policy(observation, infos):
        infos = [infos] if mode is None else infos
        masks = np.array([info["action_mask"] for info in infos])
        assert masks.sum(axis=1).tolist() == [1] * len(infos)
        actions = masks.argmax(axis=1)  # `Steps` refuses all but the allowed one
        return (actions[0] if mode is None else actions), {}

    width = 1 if mode is None else 3
    for trajectory in RolloutRunner(env, policy, max_steps=20 * width).collect():
        shown = [trajectory.reset_info, *trajectory.infos]
        masks = [info["action_mask"].tolist() for info in shown]
        assert [m.index(1) for m in masks[: len(trajectory)]] == trajectory.actions
        assert trajectory.actions == [t % 3 for t in range(len(trajectory))]
        assert sum(masks[-1]) == (not trajectory.terminated)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_that_is_played_is_lost(mode):
    """Lanes of 2, 7 and 1 steps an episode: the rollouts are the plain loop of each lane."""
    lengths, count = [2, 7, 1], 12
    calls = []

    def policy(observation):
        calls.append(0)
        return np.zeros((3, 2), np.int8), {"value": observation[:, 0], "logprob": np.zeros(3)}

    runner = RolloutRunner(steps_env(mode, lengths), policy, max_steps=count, seed=1)
    rollouts = []
    for version in range(12):
        runner.policy_version = version
        rollouts.append(runner.collect())
        played = sum(map(sum, (map(len, r) for r in rollouts)))
        assert len(rollouts[-1].trajectories) and rollouts[-1].num_transitions == count
        assert played == count * (version + 1)
        assert max(t.policy_version for t in rollouts[-1]) == version
        assert min(t.policy_version for t in rollouts[-1]) >= version - 1
    for lane, n in enumerate(lengths):
        parts = [t for r in rollouts for t in r if t.env_index == lane]
        found = [
            (t.episode, t.first_step + i, t.observations[i][0], t.terminated and i == len(t) - 1)
            for t in parts
            for i in range(len(t))
        ]
        plain = [(k // n, k % n, k % n, k % n == n - 1) for k in range(len(found))]
        assert found == plain
        resets = 0 if mode != AutoresetMode.NEXT_STEP else found[-1][0] + found[-1][3]
        # All that was played, but for the surplus of the last step.
        assert len(calls) - resets - len(found) in (-1, 0, 1)
        assert [t.values for t in parts] == [[o[0] for o in t.observations] for t in parts]
    whole = [e.trajectory.total_reward for e in join_episodes(rollouts) if e.whole]
    assert set(whole) == {1, 2, 7}
    stats = EpisodeStats()
    for rollout in rollouts:
        stats.add(rollout)
    assert (
        stats.metrics()["rollout/ep_rew_mean"]
        == np.mean(whole)
        == pytest.approx(stats.metrics()["rollout/ep_len_mean"])
    )


def test_actions_are_counted():
    env = steps_env(AutoresetMode.SAME_STEP, [2, 3])
    with pytest.raises(ConfigError, match="gave 3 actions for 2 environments"):
        RolloutRunner(env, lambda o: (np.zeros((3, 2)), {}), max_steps=4).collect()


@pytest.mark.parametrize("answer", [1, None, np.int64(1)])
def test_one_action_for_a_vector_is_refused(answer):
    env = steps_env(AutoresetMode.SAME_STEP, [2, 3])
    with pytest.raises(ConfigError, match="a batch of 2 actions, one for each environment, got"):
        RolloutRunner(env, lambda o: (answer, {}), max_steps=4).collect()


def test_extras_of_a_vector_have_an_entry_for_each_environment():
    env = steps_env(AutoresetMode.SAME_STEP, [2, 3])
    for values in (0.5, [0.5]):
        policy = lambda o, values=values: (np.zeros(2, int), {"value": values})  # noqa: E731
        with pytest.raises(ConfigError, match="one entry for each of the 2 environments, got"):
            RolloutRunner(env, policy, max_steps=4).collect()
