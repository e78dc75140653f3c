"""The token environment, one token per step."""

import functools
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from hypothesis import given
from hypothesis import strategies as st

import textenv
from textenv.errors import ConfigError, ConfigTypeError
from textenv.tokenizers import load_tokenizer

EOS, PAD = 1, 0
TASKS = ["arithmetic", "calculator", "countdown", "guess_number", "reverse", "sort"]


class Letters:
    """A user's tokenizer: EOS is 0, and a letter is its place in the alphabet."""

    vocab_size, eos_token_id = 27, 0

    def encode(self, text):
        return [ord(letter) - 96 for letter in text]

    def decode(self, ids):
        return "".join(chr(96 + i) for i in ids)


def make(**kwargs):
    return gym.make("TextGenTokens-v0", **kwargs)


def letters(prompts=("ab",), **kwargs):
    kwargs = {"reward_fn": "length", "max_tokens": 3, "max_length": 6, **kwargs}
    return make(prompts=list(prompts), tokenizer=Letters(), **kwargs)


def write(env, text):
    """The steps of an action and its EOS, until the episode ends."""
    steps = []
    for token in [*env.unwrapped.tokenizer.encode(text), EOS]:
        steps.append(env.step(token))
        if steps[-1][2] or steps[-1][3]:
            break
    return steps


def test_the_documented_call_needs_no_import():
    env = make(tokenizer="tiny-lm", max_tokens=16)
    observation, info = env.reset(seed=0)
    assert isinstance(env.action_space, gym.spaces.Discrete)
    assert set(observation) == {"ids", "mask"}
    assert observation in env.observation_space
    assert info["action_mask"].shape == (env.action_space.n,)


def scripts(env):
    """Texts to play, turn by turn: right, wrong, empty."""
    answer = str(env.unwrapped.example.get("answer", "1"))
    return [[answer], ["12", "7", "", "not it", answer], ["calc(2*3)", answer], [""] * 9]


@pytest.mark.parametrize("task", TASKS)
def test_the_same_text_earns_what_it_earns_in_the_text_environment(task):
    tokens, text = make(task=task, max_tokens=40), gym.make("TextGen-v0", task=task)
    for seed in range(10):
        for which in range(4):
            prompt, start = text.reset(seed=seed)
            observation, info = tokens.reset(seed=seed)
            assert {k: v for k, v in info.items() if k != "action_mask"} == start
            assert decoded(tokens, observation) == prompt
            assert tokens.unwrapped.example == text.unwrapped.example
            for action in scripts(tokens)[which]:
                *between, last = write(tokens, action)
                expected = text.step(action)
                assert all(step[1:4] == (0.0, False, False) for step in between)
                assert all(step[4].keys() == {"action_mask"} for step in between)
                assert last[1:4] == expected[1:4]
                assert {k: v for k, v in last[4].items() if k != "action_mask"} == expected[4]
                assert decoded(tokens, last[0]) == expected[0]
                if last[2] or last[3]:
                    break


def decoded(env, observation):
    """The text of an observation, without EOS and padding."""
    ids = [int(i) for i in observation["ids"][observation["mask"] == 1]]
    assert len(ids) < len(observation["ids"]), "the transcript does not fit"
    return env.unwrapped.tokenizer.decode([i for i in ids if i != EOS])


def test_the_same_examples_by_id_and_without_a_seed():
    tokens, text = make(), gym.make("TextGen-v0")
    tokens.reset(seed=4), text.reset(seed=4)
    for options in (None, {"example_id": 9}, None, {}):
        one, two = tokens.reset(options=options)[1], text.reset(options=options)[1]
        assert one["example_id"] == two["example_id"]


def test_observations_are_padded_on_the_left_and_keep_the_newest_tokens():
    env = letters(max_tokens=9)
    observation, _ = env.reset()
    seen = [observation, *(env.step(token)[0] for token in (3, 4, 5, 6, 7))]
    assert [list(o["ids"]) for o in seen] == [
        [0, 0, 0, 0, 1, 2],
        [0, 0, 0, 1, 2, 3],
        [0, 0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4, 5],
        [1, 2, 3, 4, 5, 6],
        [2, 3, 4, 5, 6, 7],
    ]
    assert [int(o["mask"].sum()) for o in seen] == [2, 3, 4, 5, 6, 6]
    assert all(list(o["mask"]) == sorted(o["mask"]) for o in seen)
    assert all(o in env.observation_space for o in seen)


def test_max_tokens_truncates_and_scores_what_there_is():
    env = letters(max_tokens=3)
    for tokens, flags, reward in [
        ([5, 0], (True, False), 1.0),
        ([5, 5, 0], (True, False), 2.0),
        ([5, 5, 5], (False, True), 3.0),
        ([0], (True, False), 0.0),
    ]:
        env.reset()
        steps = [env.step(token) for token in tokens]
        assert [step[1:4] for step in steps[:-1]] == [(0.0, False, False)] * (len(tokens) - 1)
        assert steps[-1][1:4] == (reward, *flags)
        assert steps[-1][4]["completion"] == "e" * int(reward)


def test_turns_keep_the_tokens_that_were_written():
    env = make(task="guess_number", max_tokens=4, max_length=64)
    observation, _ = env.reset(options={"example_id": 3})
    ids = list(observation["ids"][observation["mask"] == 1])
    unfamiliar = PAD  # no text is encoded to this id
    for token in (unfamiliar, EOS):
        observation, *_, info = env.step(token)
        ids.append(token)
    ids += env.unwrapped.tokenizer.encode(info["turn"])
    assert list(observation["ids"][observation["mask"] == 1]) == ids
    assert info["completion"] == "<pad>"
    for _ in range(4):  # each action has max_tokens of its own
        observation, _, terminated, truncated, _ = env.step(20)
    assert (terminated, truncated) == (False, True)


def test_the_mask_is_for_sampling_and_leaves_out_padding():
    env = make()
    _, info = env.reset(seed=0)
    mask = info["action_mask"]
    assert mask.dtype == np.int8
    assert np.flatnonzero(mask == 0).tolist() == [PAD]
    env.action_space.seed(0)
    assert PAD not in {env.action_space.sample(mask) for _ in range(2000)}
    mask[:] = 0  # the array belongs to the caller
    assert env.step(5)[4]["action_mask"].sum() == 97
    assert letters().reset()[1]["action_mask"].all()  # it pads with its EOS


def test_rendering_shows_the_tokens_so_far():
    env = letters(render_mode="ansi")
    env.reset()
    assert env.render() == "ab"
    env.step(3)
    assert env.render() == "abc"
    env.step(0)
    assert env.render() == "abc"


@pytest.mark.parametrize("action", [-1, 27, 1.0, "a", None, [1], np.array([1, 2])])
def test_an_action_that_is_no_token_is_refused_and_costs_nothing(action):
    env = letters().unwrapped
    env.reset()
    with pytest.raises(InvalidAction, match="0 to 26, got"):
        env.step(action)
    assert env.step(np.int64(5))[0]["mask"].sum() == 3


def test_steps_out_of_order_are_refused():
    env = letters().unwrapped
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(0)
    env.reset()
    env.step(0)
    with pytest.raises(ResetNeeded, match="ended"):
        env.step(0)


class Endless(Letters):
    eos_token_id = None


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"max_tokens": 0}, ConfigError, "max_tokens.*0"),
        ({"max_length": 0}, ConfigError, "max_length.*0"),
        ({"max_length": 2.5}, ConfigError, "max_length.*2.5"),
        ({"tokenizer": Endless()}, ConfigError, "no EOS"),
        ({"tokenizer": 7}, ConfigTypeError, "int"),
        ({"tokenizer": "no-such-lm"}, FileNotFoundError, "no-such-lm"),
        ({"task": "nope"}, ConfigError, "nope"),
    ],
)
def test_bad_settings_name_what_came(kwargs, error, says):
    with pytest.raises(error, match=says):
        make(**kwargs)
    with pytest.raises(TypeError, match="tsak"):
        make(tsak="sort")


def test_made_again_from_its_spec():
    direct = textenv.TokenGenerationEnv(["ab"], "length", 2, Letters(), max_length=4)
    for env in (direct, make(task="sort", max_tokens=3, max_length=40)):
        twin = gym.make(env.spec)
        one, two = env.reset(seed=3), twin.reset(seed=3)
        assert one[0]["ids"].tolist() == two[0]["ids"].tolist()
        assert one[1]["example_id"] == two[1]["example_id"]
        assert env.step(2)[0]["ids"].tolist() == twin.step(2)[0]["ids"].tolist()


@pytest.mark.parametrize("form", ["sync", "async"])
def test_tokens_in_a_vector(form):
    env = gym.make_vec("TextGenTokens-v0", num_envs=2, vectorization_mode=form)
    singles = [make() for _ in range(2)]
    starts = [single.reset(seed=5 + i)[0]["ids"].tolist() for i, single in enumerate(singles)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        observations, infos = env.reset(seed=5)
        assert observations["ids"].tolist() == starts
        observations, rewards, *_ = env.step(np.array([20, EOS]))
        assert infos["action_mask"].shape == (2, 98)
    assert observations["ids"][:, -1].tolist() == [20, EOS]
    assert rewards.tolist() == [0.0, 0.0]
    env.close()


@functools.cache
def played(name):
    """An environment of tokens and one of text, of the same task."""
    return make(task=name, max_tokens=6), gym.make("TextGen-v0", task=name).unwrapped


@pytest.mark.parametrize("name", TASKS)
@given(seed=st.integers(0, 2**31), data=st.data())
def test_any_tokens_earn_what_their_text_earns(name, seed, data):
    env, text = played(name)
    observation, info = env.reset(seed=seed)
    expected, _ = text.reset(seed=seed)
    assert info["prompt"] == expected
    total, over = 0.0, False
    tokenizer = env.unwrapped.tokenizer
    picked = []
    for _ in range(80):
        allowed = np.flatnonzero(info["action_mask"])
        token = int(allowed[data.draw(st.integers(0, len(allowed) - 1))])
        picked.append(token)
        observation, reward, terminated, truncated, info = env.step(token)
        assert observation in env.observation_space
        total += reward
        if "completion" in info:
            said = [token for token in picked if token not in tokenizer.eos_token_ids]
            assert info["completion"] == tokenizer.decode(said)
            cut = picked[-1] not in tokenizer.eos_token_ids
            _, reward, *ends, _ = text.step(info["completion"], cut=cut)
            assert (reward, ends) == (total, [terminated, truncated])
            total, picked = 0.0, []
        if over := terminated or truncated:
            break
    assert over


def test_the_prompt_has_one_bos_and_no_eos_and_ids_without_a_token_are_masked():
    """Of a tokenizer that puts both around a text, and has a hole among its ids."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"<s>": 0, "</s>": 1, "a": 2, "b": 5}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="a"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    backend.add_special_tokens(["<s>", "</s>"])
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer = load_tokenizer(backend)
    tokenizer.eos_token_ids = (1,)
    for prompt in ("ab", "<s>ab"):
        env = make(prompts=[prompt], reward_fn="length", tokenizer=tokenizer, task=None)
        observation, info = env.reset()
        assert observation["ids"][observation["mask"] == 1].tolist() == [0, 2, 5]
        assert np.flatnonzero(info["action_mask"]).tolist() == [1, 2, 5]


# -- conversations

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2="}]


def half(number: int) -> float:
    """Halve a number."""
    return number / 2


@pytest.fixture
def chat_tokenizer():
    pytest.importorskip("transformers")
    pytest.importorskip("mlx_lm")
    from tests.algos.lm.generation.shared import family

    return family("chatml")


def test_a_conversation_is_encoded_as_the_chat_template_has_it(chat_tokenizer):
    """Over turns, up to the answer that is next; the agent's tokens stay as it chose them."""
    given = {"prompts": [CHAT], "reward_fn": "length", "tools": [half], "tool_timeout": None}
    env = make(tokenizer=chat_tokenizer, max_tokens=80, max_length=4096, **given)
    observation, info = env.reset()

    def shown():
        return list(observation["ids"][observation["mask"] == 1])

    def rendered(messages):
        # The template does not show tools: they are described in the system message.
        return chat_tokenizer.encode(
            load_tokenizer(chat_tokenizer).render_chat(messages, tools=info["tools"]),
            add_special_tokens=False,
        )

    assert shown() == rendered(CHAT)
    call = '<tool_call>\n{"name": "half", "arguments": {"number": 4}}\n</tool_call>'
    tokens = [*chat_tokenizer.encode(call, add_special_tokens=False), chat_tokenizer.eos_token_id]
    for token in tokens:
        observation, *_, step = env.step(token)
    assert step["messages"][-1]["content"] == "2.0"
    assert shown() == rendered(step["messages"])
    for token in chat_tokenizer.encode("ab", add_special_tokens=False):
        observation, *_ = env.step(token)
    observation, reward, terminated, *_, step = env.step(chat_tokenizer.eos_token_id)
    assert (reward, terminated) == (2.0, True)
    assert step["messages"][-1] == {"role": "assistant", "content": "ab"}


def test_plain_prompts_and_tokenizers_without_a_template_are_read_as_before(chat_tokenizer):
    env = make(tokenizer=chat_tokenizer, prompts=["ab"], reward_fn="length", max_length=64)
    observation, _ = env.reset()
    ids = observation["ids"][observation["mask"] == 1]
    assert chat_tokenizer.decode(list(ids)) == "ab"
    env = make(prompts=[CHAT], reward_fn="length", max_length=64)
    observation, info = env.reset()
    ids = observation["ids"][observation["mask"] == 1]
    assert list(ids) == env.unwrapped.tokenizer.encode_prompt(info["prompt"])
