"""What an episode leaves: steps, and the tokens of its turns."""

import numpy as np
import pytest

from textenv.algos.episodes.episode import LARGEST_REWARD, Lane, PlayedTurn, replay
from textenv.errors import ConfigError, RewardError


def begin(observation="ask", **kwargs):
    return Lane({"observation": observation, "info": {"number": 1}}, 4, **kwargs)


def step(observation, reward=1.0, terminated=False, truncated=False, **info):
    return {
        "observation": observation,
        "reward": reward,
        "terminated": terminated,
        "truncated": truncated,
        "info": info,
    }


def tokens(prompt_ids, token_ids, support=None, **more):
    count = len(token_ids)
    return {
        "prompt_ids": prompt_ids,
        "token_ids": token_ids,
        "token_logprobs": [-0.5] * count,
        "token_entropies": [0.25] * count,
        "support": support,
        "truncated": False,
        "temperature": 0.7,
    } | more


def test_a_lane_begins_with_what_is_known_of_its_reset():
    lane = begin(seed=3, env_index=2, noise=100, group_id=9)
    t = lane.trajectory
    assert (t.seed, t.env_index, t.group_id, t.policy_version) == (3, 2, 9, 4)
    assert t.reset_info == {"number": 1} and t.prompt == t.final_observation == "ask"
    assert lane.starts and not lane.ended and lane.context is None and lane.noise == 100
    assert begin(np.zeros(2)).trajectory.prompt is None


def test_steps_are_recorded_with_what_the_policy_said_beside_them():
    lane = begin(np.float32([1]))
    lane.record(0, {"value": np.float32(0.5), "logprob": -1}, step(np.float32([2]), number=2))
    assert not lane.starts and lane.info == {"number": 2} and not lane.ended
    drawn = np.float32([3.0])
    lane.record(1, {"value": 0.25, "unclipped_action": drawn}, step("end", 3, truncated=True))
    t = lane.trajectory
    assert t.actions == [0, 1] and t.rewards == [1.0, 3.0] and t.infos == [{"number": 2}, {}]
    assert [float(o[0]) for o in t.observations] == [1, 2] and t.final_observation == "end"
    assert t.values == [0.5, 0.25] and t.logprobs == [-1.0] and t.unclipped_actions[0] is drawn
    assert lane.ended and t.truncated and not t.terminated


@pytest.mark.parametrize("reward", [np.nan, np.inf, -np.inf, 1e308, -1.1e15, np.float32(np.nan)])
def test_a_reward_that_cannot_be_trained_on_is_refused(reward):
    lane = begin()
    lane.record("a", {}, step("b", 1e15))
    with pytest.raises(RewardError, match=r"^step 2 of the environment .* at most 1e\+15"):
        lane.record("a", {}, step("b", reward))
    assert lane.trajectory.rewards == [1e15]


def test_the_largest_reward_leaves_room_for_squares_in_float32():
    assert np.isfinite(np.full(10**6, np.float32(LARGEST_REWARD) ** 2, np.float32).sum())


def test_tokens_of_turns_stand_one_after_another_and_what_was_said_between_is_masked():
    lane = begin(noise=100)
    kept = np.array([7, 8])
    lane.record("a", tokens([1, 2], [3, 4], [kept, kept]), step("ask a more"))
    assert lane.context == [1, 2, 3, 4] and lane.noise == 101
    extras = tokens([1, 2, 3, 4, 5, 6, 6], [7], [kept], truncated=True)
    lane.record("b", extras, step("", terminated=True))
    t = lane.trajectory
    assert t.prompt_ids == [1, 2] and t.token_ids == [3, 4, 5, 6, 6, 7]
    assert t.token_mask == [1, 1, 0, 0, 0, 1]
    assert t.token_logprobs == [-0.5, -0.5, 0, 0, 0, -0.5]
    assert t.token_entropies == [0.25, 0.25, 0, 0, 0, 0.25]
    # What the environment said could be nothing else.
    assert [ids.tolist() for ids in t.support] == [[7, 8], [7, 8], [5], [6], [6], [7, 8]]
    assert t.completion_truncated is True and t.temperature == 0.7


@pytest.mark.parametrize(
    ("cuts", "whole"),
    [([True, False], True), ([False, True], True), ([False, False], False), ([None, None], None),
     ([None, True], True), ([False, None], False)],
)  # fmt: skip
def test_a_conversation_counts_as_cut_if_any_turn_of_it_was(cuts, whole):
    lane, ids = begin(), [1, 2]
    for cut in cuts:
        lane.record("a", tokens(ids, [3], truncated=cut), step("ask a more"))
        ids = [*ids, 3, 4]
    assert lane.trajectory.completion_truncated is whole


def test_a_policy_that_tokenizes_its_turns_anew_is_refused():
    lane = begin()
    lane.record("a", tokens([1, 2], [3, 4]), step("ask a more"))
    with pytest.raises(ValueError, match="got other tokens"):
        lane.record("b", tokens([1, 2, 34, 5], [7]), step(""))


def test_the_rest_of_an_episode_has_a_trajectory_of_its_own():
    lane = begin("a", env_index=1, seed=5)
    lane.record(0, {}, step("b", number=2))
    rest = lane.cut(policy_version=9)
    assert (rest.observation, rest.info, rest.starts) == ("b", {"number": 2}, False)
    assert len(rest.trajectory) == 0 and len(lane.trajectory) == 1
    assert (rest.trajectory.env_index, rest.trajectory.policy_version) == (1, 9)
    assert rest.trajectory.seed is None  # it was not reset
    assert begin("a").cut(0).starts


def told(asked, answer):
    """A function that steps: what each lane is asked is written down, and answered so."""

    def step_all(actions):
        asked.append(dict(actions))
        return {i: answer(i, action) for i, action in actions.items()}

    return step_all


def test_turns_are_played_again_side_by_side():
    lanes, asked = [begin(), begin(), begin()], []
    turns = [
        [PlayedTurn("a", {"value": 1}, "0 a"), PlayedTurn("b", {"value": 2}, "0 b")],
        [],
        [PlayedTurn("c", {"value": 3}, "2 c")],
    ]
    replay(lanes, turns, told(asked, lambda i, action: step(f"{i} {action}")))
    assert asked == [{0: "a", 2: "c"}, {0: "b"}]
    assert [lane.trajectory.actions for lane in lanes] == [["a", "b"], [], ["c"]]
    assert lanes[0].trajectory.values == [1, 2] and lanes[0].observation == "0 b"


@pytest.mark.parametrize("answer", [step("other"), step("0 a", terminated=True)])
def test_an_environment_that_answers_otherwise_is_refused(answer):
    turns = [[PlayedTurn("a", {}, "0 a")]]
    with pytest.raises(ConfigError, match="turn 1 was played again"):
        replay([begin()], turns, told([], lambda i, action: answer))
