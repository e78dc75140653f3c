"""TorchRL's environments and collector on text environments: with text, words and tokens.

The collected actions are taken again by hand with the same seed.
"""

import re

import gymnasium as gym
import numpy as np
import pytest

from tests.wrappers.shared import COLOURS, TOKENS, bandit
from textenv.tokenizers import load_tokenizer
from textenv.wrappers import ActionMask, HashedBagOfWords

torch = pytest.importorskip("torch")
pytest.importorskip("torchrl")

from torchrl.envs import GymEnv, GymWrapper, TransformedEnv, check_env_specs  # noqa: E402
from torchrl.envs import transforms as torchrl_transforms  # noqa: E402


def by_hand(env, seed, actions):
    """The steps that a TorchRL environment makes after ``set_seed(seed)``, which resets once."""
    env.reset(seed=seed)
    observation, _ = env.reset()
    steps = []
    for action in actions:
        after, reward, terminated, truncated, _ = env.step(action)
        steps.append((observation, after, reward, terminated, truncated))
        observation = env.reset()[0] if terminated or truncated else after
    return steps


def assert_same(rollout, steps, read):
    """Rewards, flags and observations, before each step and after it."""
    columns = list(zip(*steps))
    for column, key in zip(columns[2:], ("reward", "terminated", "truncated")):
        assert rollout["next", key].ravel().tolist() == list(column), key
    assert [read(rollout[i]) for i in range(len(steps))] == list(map(plain, columns[0]))
    assert [read(rollout[i]["next"]) for i in range(len(steps))] == list(map(plain, columns[1]))


def plain(observation):
    if isinstance(observation, dict):
        return {key: plain(value) for key, value in observation.items()}
    return observation.tolist() if isinstance(observation, np.ndarray) else observation


def text(rollout):
    return rollout["observation"]


def test_text_is_observation_and_action():
    seen = []

    def every_other_right(td):
        a, b = re.fullmatch(r"(\d+)\+(\d+)=", td["observation"]).groups()
        seen.append(str(int(a) + int(b) + len(seen) % 2))
        return td.set_non_tensor("action", seen[-1])

    env = GymEnv("textenv:TextGen-v0", task="arithmetic")
    env.set_seed(11)
    rollout = env.rollout(20, policy=every_other_right, break_when_any_done=False)
    assert list(rollout["action"]) == seen
    assert rollout["next", "reward"].ravel().tolist() == [1.0, 0.0] * 10
    assert_same(rollout, by_hand(gym.make("TextGen-v0"), 11, seen), text)


def test_a_policy_of_many_turns_reads_the_transcript():
    def halve(td):
        low, high = map(int, re.search(r"from (\d+) to (\d+):", td["observation"]).groups())
        for guess, said in re.findall(r"(\d+)\n(higher|lower)", td["observation"]):
            low, high = (
                (max(low, int(guess) + 1), high)
                if said == "higher"
                else (low, min(high, int(guess) - 1))
            )
        return td.set_non_tensor("action", str((low + high) // 2))

    env = GymEnv("TextGen-v0", task="guess_number")
    env.set_seed(0)
    rollout = env.rollout(30, policy=halve, break_when_any_done=False)
    done = rollout["next", "done"].ravel()
    # Binary search among 20 numbers takes at most five turns, so the turns are never used up.
    assert done.sum() >= 6 and not rollout["next", "truncated"].any()
    assert (rollout["next", "reward"].ravel() == done).all()
    steps = by_hand(gym.make("TextGen-v0", task="guess_number"), 0, rollout["action"])
    assert_same(rollout, steps, text)


def test_words_and_choices_with_random_actions():
    env = GymWrapper(bandit())
    env.set_seed(5)
    torch.manual_seed(0)
    rollout = env.rollout(60, break_when_any_done=False)
    actions = rollout["action"].argmax(-1).tolist()
    assert set(actions) == {0, 1, 2, 3}
    assert set(rollout["next", "reward"].ravel().tolist()) == {0.0, 1.0}
    assert_same(rollout, by_hand(bandit(), 5, actions), lambda r: r["observation"].tolist())


def tokens(rollout):
    return {key: rollout[key].tolist() for key in ("ids", "mask")}


def test_an_answer_token_by_token():
    tokenizer = load_tokenizer("tiny-lm")
    (eos,) = tokenizer.eos_token_ids

    def right(td):
        """Type the next token of the sum, or EOS after the last one."""
        shown = tokenizer.decode(td["ids"][td["mask"].bool()].tolist())
        a, b, said = re.fullmatch(r"(\d+)\+(\d+)=(\d*)", shown).groups()
        answer = [*tokenizer.encode(str(int(a) + int(b))), eos]
        action = torch.tensor(answer[len(said)])
        return td.set("action", torch.nn.functional.one_hot(action, tokenizer.vocab_size))

    env = GymEnv("TextGenTokens-v0", **TOKENS)
    env.set_seed(2)
    rollout = env.rollout(40, policy=right, break_when_any_done=False)
    done = rollout["next", "done"].ravel()
    assert done.sum() >= 10 and not rollout["next", "truncated"].any()
    # Every answer is right, and only its end has a reward.
    assert (rollout["next", "reward"].ravel() == done).all()
    actions = rollout["action"].argmax(-1).tolist()
    assert_same(rollout, by_hand(gym.make("TextGenTokens-v0", **TOKENS), 2, actions), tokens)


def test_torchrls_mask_keeps_to_the_environments():
    # ActionMask raises if an action is masked, and the padding token always is.
    env = TransformedEnv(
        GymWrapper(ActionMask(gym.make("TextGenTokens-v0", **TOKENS), in_observation=True)),
        torchrl_transforms.ActionMask(),
    )
    env.set_seed(0)
    torch.manual_seed(0)
    actions = env.rollout(400, break_when_any_done=False)["action"].argmax(-1)
    pad = load_tokenizer("tiny-lm").pad_token_id
    assert pad not in actions and len(set(actions.tolist())) > 50


@pytest.mark.parametrize(
    "make", [lambda: GymEnv("TextGenTokens-v0", **TOKENS), lambda: GymWrapper(bandit())]
)
def test_torchrls_check_has_nothing_to_say(make):
    check_env_specs(make())


def test_a_collector_gathers_batches():
    from torchrl.collectors import Collector

    collector = Collector(
        lambda: GymWrapper(bandit()),
        None,
        frames_per_batch=16,
        total_frames=48,
        init_random_frames=48,
    )
    asked = {
        tuple(HashedBagOfWords(gym.make("TextGen-v0")).observation(f"Which colour has {thing}?")): i
        for i, thing in enumerate(COLOURS)
    }
    right, rewards = [], []
    for batch in collector:
        assert len(batch) == 16
        for observation, action in zip(batch["observation"], batch["action"].argmax(-1)):
            right.append(float(asked[tuple(observation.tolist())] == action))
        rewards += batch["next", "reward"].ravel().tolist()
    collector.shutdown()
    assert len(asked) == 4 and len(rewards) == 48 and rewards == right and set(right) == {0.0, 1.0}
