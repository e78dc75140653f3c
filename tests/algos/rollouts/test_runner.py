"""Text: groups from one prompt, episodes of one turn and of many."""

from __future__ import annotations

import gymnasium as gym
import pytest
from gymnasium.vector import AutoresetMode

from tests.algos.shared import SUMS, length, make_env
from textenv import TextGenerationEnv
from textenv.algos import (
    RolloutCoordinator,
    RolloutRunner,
    Trainer,
    create_policy,
    create_strategy,
    grpo,
)
from textenv.algos.rollouts.metrics import rollout_metrics
from textenv.errors import ConfigError, RewardError
from textenv.spaces import UnicodeText

GROUPS_OF_4 = create_strategy("grpo", num_generations=4)


class Echo:
    """Answers with a count of its own, and keeps what it was asked."""

    def __init__(self, batched):
        self.batched, self.asked, self.count = batched, [], 0

    def __call__(self, observation, deterministic=False):
        self.asked.append(observation)
        if not self.batched:
            return self.answer(observation), {"value": 1.0}
        answers = [self.answer(o) for o in observation]
        return answers, {"value": [float(len(a)) for a in answers]}

    def answer(self, observation):
        self.count += 1
        return "x" * self.count


def assert_groups(rollout, size):
    """Whole groups, each of one prompt; every action scored for its own prompt."""
    groups = {}
    for t in rollout:
        groups.setdefault(t.group_id, []).append(t)
        assert t.prompt == t.observations[0] == t.reset_info["prompt"]
        assert t.infos[0]["completion"] == t.actions[0]
        assert t.rewards == [len(t.actions[0])]
        assert t.terminated and not t.truncated
        assert t.final_observation == t.prompt + t.actions[0]
    assert [len(group) for group in groups.values()] == [size] * len(groups)
    for group in groups.values():
        assert len({t.prompt for t in group}) == len({t.seed for t in group}) == 1
    return groups


@pytest.mark.parametrize("batched", [False, True])
def test_groups(batched):
    policy = Echo(batched)
    env = gym.make("textenv:TextGen-v0", prompts=SUMS, reward_fn=length)
    runner = RolloutRunner(env, policy, GROUPS_OF_4, max_steps=23)
    first, second = runner.collect(), runner.collect()
    assert len(first) == first.num_transitions == 20  # at most 23, in whole groups
    assert list(assert_groups(first, 4)) == [0, 1, 2, 3, 4]
    assert list(assert_groups(second, 4)) == [5, 6, 7, 8, 9]
    assert len({t.prompt for t in [*first, *second]}) > 5
    if batched:
        assert [len(asked) for asked in policy.asked] == [20, 20]  # one call for all of a rollout
        assert policy.asked[0] == [t.prompt for t in first]
    else:
        assert policy.asked == [t.prompt for t in [*first, *second]]
    assert [len(t.actions[0]) for t in first] == list(range(1, 21))
    assert first.trajectories[3].values == [4.0 if batched else 1.0]


def test_fewer_than_a_group():
    env = make_env(length, SUMS)
    with pytest.raises(ValueError, match=r"max_steps=3 is fewer than one group: num_generations=4"):
        RolloutRunner(env, Echo(True), GROUPS_OF_4, max_steps=3)
    assert len(RolloutRunner(env, Echo(True), GROUPS_OF_4, max_steps=4).collect()) == 4


def test_a_size_that_is_not_given_is_small_for_text_and_whole_groups():
    policy = Echo(batched=True)
    assert len(RolloutRunner(make_env(prompts=SUMS), policy).collect()) == 32
    for size, turns, expected in ((8, 1, 32), (50, 1, 50), (100, 1, 100), (8, 20, 160)):
        env = gym.make("TextGen-v0", task="guess_number", task_kwargs={"max_turns": turns})
        runner = RolloutRunner(env, policy, create_strategy("grpo", num_generations=size))
        assert runner.num_groups * size * turns == expected
    control = RolloutRunner(gym.make("CartPole-v1"), lambda observation: (0, {}))
    assert control.collect().num_transitions == 2048


def test_generated_tasks_have_one_prompt_a_group():
    env = gym.make("textenv:TextGen-v0", task="arithmetic")
    rollout = RolloutRunner(env, Echo(True), GROUPS_OF_4, max_steps=40).collect()
    prompts = [t.prompt for t in rollout]
    assert [prompts[i : i + 4] for i in range(0, 40, 4)] == [[p] * 4 for p in prompts[::4]]
    assert len(set(prompts)) > 5


MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


@pytest.mark.parametrize("mode", MODES, ids=[mode.name for mode in MODES])
@pytest.mark.parametrize("batched", [False, True])
def test_vector_environments(batched, mode):
    env = gym.make_vec(
        "textenv:TextGen-v0",
        num_envs=8,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        prompts=SUMS,
        reward_fn=length,
    )
    policy = Echo(batched)
    rollout = RolloutRunner(env, policy, GROUPS_OF_4, max_steps=20).collect()
    assert len(rollout) == 20  # two batches of 8 and one of 4
    assert len(assert_groups(rollout, 4)) == 5
    sizes = [8, 8, 4] if batched else [1] * 20
    assert [len(asked) if batched else 1 for asked in policy.asked] == sizes


class Bare(gym.Env):
    """Text, made directly: it has no spec."""

    def __init__(self):
        self.observation_space = self.action_space = UnicodeText(100)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        prompt = str(self.np_random.integers(1000))
        return prompt, {"prompt": prompt}

    def step(self, action):
        return "", float(len(action)), True, False, {"completion": action}


class Dicts:
    """Text that steps in dicts, and no Gymnasium environment."""

    def __init__(self):
        self.inner = Bare()
        self.action_space = self.inner.action_space

    def reset(self, *, seed=None, options=None):
        return dict(zip(("observation", "info"), self.inner.reset(seed=seed)))

    def step(self, action):
        keys = ("observation", "reward", "terminated", "truncated", "info")
        return dict(zip(keys, self.inner.step(action)))


class Unrecorded(gym.Wrapper):
    """A wrapper that does not record its arguments: Gymnasium cannot make it again."""


@pytest.mark.parametrize(
    "env",
    [Bare(), Dicts(), Unrecorded(make_env(length, SUMS))],
    ids=["no spec", "dicts", "unrecorded wrapper"],
)
def test_what_cannot_be_copied_is_played_one_after_another(env):
    runner = RolloutRunner(env, Echo(True), GROUPS_OF_4, max_steps=8)
    with pytest.warns(UserWarning, match="one after another"):
        rollout = runner.collect()
    assert [t.group_id for t in rollout] == [0] * 4 + [1] * 4
    for group in (rollout.trajectories[:4], rollout.trajectories[4:]):
        assert len({t.prompt for t in group}) == 1
        assert len({t.actions[0] for t in group}) == 4


def test_wrappers_are_copied_too():
    env = gym.wrappers.TransformReward(make_env(length, SUMS), lambda r: -r)
    rollout = RolloutRunner(env, Echo(True), GROUPS_OF_4, max_steps=8).collect()
    assert [t.rewards for t in rollout] == [[-float(i)] for i in range(1, 9)]


def test_many_turns_need_room():
    env = gym.make("textenv:TextGen-v0", task="guess_number", task_kwargs={"max_turns": 3})
    with pytest.raises(ValueError, match=r"max_steps=11 .*num_generations=4 .*3 step"):
        RolloutRunner(env, Echo(True), GROUPS_OF_4, max_steps=11)


# --- with a language model --------------------------------------------------------------------


def test_equal_seeds_give_equal_rollouts(tiny):
    def collect(seed):
        coordinator = RolloutCoordinator(
            lambda: make_env(length, SUMS),
            lambda: create_policy(*tiny, {"max_tokens": 5, "top_p": 0.9}),
            algorithm="grpo",
            num_workers=0,
            max_steps=40,
            seed=seed,
        )
        return coordinator.collect()

    assert collect(0) == collect(0)
    assert [t.prompt for t in collect(0)] != [t.prompt for t in collect(1)]


def test_from_the_environment_to_an_update(fresh):
    model, tokenizer = fresh
    policy = create_policy(model, tokenizer, {"max_tokens": 5})
    coordinator = RolloutCoordinator(
        lambda: TextGenerationEnv(SUMS[:2], length, tokenizer=tokenizer),
        lambda: policy,
        algorithm="grpo",
        num_workers=0,
        max_steps=100,
    )
    buffer = coordinator.collect()
    assert len(buffer) == 96  # groups of 8
    for t in buffer:
        ids = t.token_ids if t.completion_truncated else t.token_ids[:-1]
        assert tokenizer.decode(ids) == t.actions[0]
        assert len(t.token_mask) == len(t.token_logprobs) == len(t.token_ids)
    trainer = Trainer(
        model=model,
        advantage_fn=grpo.compute_advantages,
        loss_fn=grpo.policy_loss,
        optimizer=None,
        buffer=buffer,
    )
    metrics = trainer.train()
    assert metrics["updates"] == 1 and metrics["sampling/logprob_difference/max"] < 1e-4
    assert len(buffer) == 0


@pytest.mark.parametrize("answer", ["42", ("42", None), ("42", "43")])
def test_answers_of_other_shapes_are_refused(answer):
    runner = RolloutRunner(make_env(length, SUMS), lambda obs: answer, max_steps=4)
    with pytest.raises(TypeError, match="policy must return"):
        runner.collect()


def test_a_batch_has_an_answer_for_each_prompt():
    def policy_of_one(obs):
        return ["1"], {"value": [1.0]}

    policy_of_one.batched = True
    runner = RolloutRunner(make_env(length, SUMS), policy_of_one, max_steps=4)
    with pytest.raises(ValueError, match="1 actions for 4 prompts"):
        runner.collect()


def test_a_prompt_that_an_empty_completion_left_as_it_was_begins_anew(tiny):
    policy = create_policy(*tiny, {"max_tokens": 4, "temperature": 3.0})
    answers, _ = policy(["9-1="] * 64, seeds=list(range(64)), context=[None] * 64)
    assert "" in answers  # its transcript is the prompt itself
    expected = [policy.encode("9-1=")] * 2
    assert policy(["9-1="] * 2, context=[None] * 2)[1]["prompt_ids"] == expected
    policy(["9-1="] * 64, seeds=list(range(64)))
    assert policy(["9-1="] * 2)[1]["prompt_ids"] == expected
    # A prompt that goes on as an earlier transcript did is none of its turns.
    first, _ = policy(["9-1="], context=[None])
    longer = "9-1=" + first[0] + "b"
    assert policy([longer], context=[None])[1]["prompt_ids"] == [policy.encode(longer)]


# --- reward functions that fail ------------------------------------------------------------------


def fail_at_third(prompt, completion, example):
    """Fails for one completion of each four of `Echo`."""
    if len(completion) % 4 == 3 and prompt == SUMS[2]:
        raise ValueError("no reward")
    return float(len(completion))


@pytest.mark.parametrize("batched", [False, True])
def test_a_group_in_which_a_reward_fails_is_skipped(batched):
    def collect(on_reward_error):
        env = make_env(fail_at_third, SUMS)
        runner = RolloutRunner(env, Echo(batched), GROUPS_OF_4, 40, on_reward_error=on_reward_error)
        return runner.collect(), runner.collect()

    for rollout in collect("skip"):
        assert len(rollout.played) == 40 and len(rollout) == 36
        assert {t.prompt for t in rollout} == {*SUMS} - {SUMS[2]}
        left = [t for t in rollout.played if t.prompt == SUMS[2]]
        assert sorted(t.is_scored for t in left) == [False, True, True, True]
        assert rollout.counts.groups == 10 and rollout.counts.groups_missing == 1
        metrics = rollout_metrics(rollout.played)
        assert metrics["reward_errors"] == 1
        assert metrics["completions/unscored_ratio"] == pytest.approx(1 / 40)
    for rollout in collect(-3):
        assert len(rollout) == 40
        failed = [t for t in rollout if t.rewards == [-3.0]]
        assert len(failed) == 1 and failed[0].prompt == SUMS[2] and failed[0].is_scored
        assert "raised ValueError: no reward" in failed[0].infos[0]["reward_error"]
        assert rollout_metrics(rollout.played)["reward_errors"] == 1
    with pytest.raises(RewardError, match="no reward") as caught:
        collect("fail")
    assert caught.value.details["prompt"] == SUMS[2]
    assert len(caught.value.details["completion"]) % 4 == 3


def test_a_trajectory_without_a_group_stays_unscored():
    env = make_env(fail_at_third, SUMS)
    runner = RolloutRunner(env, Echo(True), None, 40, on_reward_error="skip")
    rollout = runner.collect()
    failed = [t for t in rollout if not t.is_scored]
    assert len(rollout) == 40 and len(failed) == sum(
        t.prompt == SUMS[2] and len(t.actions[0]) % 4 == 3 for t in rollout
    )


def test_where_rewards_cannot_be_handled_one_by_one():
    envs = gym.make_vec("textenv:TextGen-v0", num_envs=2, prompts=SUMS, reward_fn=length)
    with pytest.raises(ConfigError, match="on_reward_error='skip' needs a single environment"):
        RolloutRunner(envs, Echo(True), GROUPS_OF_4, 8, on_reward_error="skip")
    envs.close()
    with pytest.raises(ConfigError, match=r"on_reward_error=0\.0 is for text"):
        RolloutRunner(gym.make("CartPole-v1"), lambda o: (0, {}), on_reward_error=0.0)
    with pytest.raises(ConfigError, match="on_reward_error must be"):
        RolloutRunner(make_env(), Echo(True), on_reward_error="ignore")
