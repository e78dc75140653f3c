"""The TRL wrapper, by itself and in TRL's own trainer."""

import asyncio
import copy
import functools
import inspect
import pickle

import gymnasium as gym
import pytest

from textenv.errors import ConfigError
from textenv.rewards.calls import takes_batch
from textenv.tokenizers import load_tokenizer
from textenv.wrappers import trl as ours

HI = [{"role": "user", "content": "Hi"}]


def said(text):
    return [{"role": "assistant", "content": text}]


def test_a_completion_is_the_action_of_a_single_turn():
    made = ours.environment_factory("TextGen-v0", task="arithmetic")
    first, second = made(), made()
    prompt = first.reset(prompt=HI, example_id=3)
    assert (
        second.reset(example_id=3)
        == prompt
        == gym.make("TextGen-v0").reset(options={"example_id": 3})[0]
    )
    answer = first._env.unwrapped.task.oracle(first._env.unwrapped.example)
    logged = {}
    for _ in range(2):  # a second call scores nothing again
        rewards = ours.environment_reward(
            prompts=[HI, HI],
            completions=[said(answer), said("no")],
            environments=[first, second],
            log_metric=logged.__setitem__,
            trainer_state=None,
            example_id=[3, 3],
        )
        assert rewards == [1.0, 0.0]
    assert logged == {"components/correct": 0.5}


def test_a_tool_plays_the_turns_and_the_last_words_count():
    made = ours.environment_factory("TextGen-v0", task="guess_number")
    tools = [name for name, _ in inspect.getmembers(made, inspect.isfunction) if name[0] != "_"]
    assert tools == ["act", "reset"]
    env = made()
    env.reset(example_id=5)
    number = int(env._env.unwrapped.example["answer"])
    assert env.act("0").strip() == "higher"
    assert env.act("100").strip() == "lower"
    score = ours.environment_reward([HI], [said(str(number))], environments=[env])
    assert score == [1.0]
    assert env.act(str(number)) == "The episode is over."
    env.reset(example_id=5)
    assert env.act(str(number)).strip() == "right"
    assert ours.environment_reward([HI], [said("done")], environments=[env]) == [1.0]


def test_the_tool_is_one_that_transformers_can_describe():
    chat = pytest.importorskip("transformers.utils.chat_template_utils")
    env = ours.environment_factory("TextGen-v0", task="guess_number")()
    schema = chat.get_json_schema(env.act)["function"]
    assert (schema["name"], list(schema["parameters"]["properties"])) == ("act", ["text"])


def test_rows_are_the_environments_own_examples():
    made = ours.rows("TextGen-v0", 4, seed=7, prompt="Sum: ", task="arithmetic")
    assert made == ours.rows("TextGen-v0", 4, seed=7, prompt="Sum: ", task="arithmetic")
    env = gym.make("TextGen-v0")
    ids = [env.reset(seed=7)[1]["example_id"], *(env.reset()[1]["example_id"] for _ in range(3))]
    assert [row["example_id"] for row in made] == ids
    assert made[0]["prompt"] == [{"role": "user", "content": "Sum: "}]


def test_a_row_without_an_example_is_refused():
    env = ours.environment_factory("TextGen-v0")()
    with pytest.raises(ValueError, match="example_id"):
        env.reset(prompt=HI)


def test_an_environment_without_text_is_refused():
    with pytest.raises(TypeError, match="text"):
        ours.environment_factory("CartPole-v1")


def halves(prompt, completion, example):
    return {"first": 1.0, "length": len(completion)}


@pytest.mark.parametrize("wrap", [lambda text: text, said])
def test_rewards_of_here_score_columns(wrap):
    score = ours.reward_function("exact_match")
    assert score.__name__ == "exact_match"
    got = score(
        prompts=[wrap("2+2"), wrap("3")],
        completions=[wrap(" 4"), wrap("4")],
        answer=["4", 3],
        trainer_state=object(),
        log_extra=None,
        completion_ids=[[1], [2]],
    )
    assert got == [1.0, 0.0]


def test_components_are_weighted_and_logged():
    logged = {}
    score = ours.reward_function([halves, "exact_match"], {"length": 0.5})
    assert score.__name__ == "halves+exact_match"
    got = score(prompts=["a", "b"], completions=["x", "yyy"], answer=["x", "x"],
                log_metric=logged.__setitem__)  # fmt: skip
    assert got == [1 + 0.5 + 1, 1 + 1.5 + 0]
    assert logged == {
        "components/first": 1.0,
        "components/length": 2.0,
        "components/exact_match": 0.5,
    }


@pytest.fixture
def model_and_tokenizer():
    torch = pytest.importorskip("torch")
    pytest.importorskip("trl")
    import transformers
    from trl.chat_template_utils import qwen3_chat_template

    from textenv.hub import ASSETS

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(ASSETS / "tiny-lm"))
    tokenizer.add_tokens(["\n", "<tool_call>", "</tool_call>"])
    tokenizer.chat_template = qwen3_chat_template
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return transformers.Qwen3ForCausalLM(config), tokenizer


def train(tmp_path, model_and_tokenizer, monkeypatch, says=None, **kwargs):
    """Two steps of TRL's trainer; ``says`` replaces the model's completions."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    import datasets
    import trl

    rows = kwargs.pop("rows")
    model, tokenizer = model_and_tokenizer
    before = [p.clone() for p in model.parameters()]
    args = trl.GRPOConfig(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, num_generations=4,
        max_completion_length=200 if says else 8, use_cpu=True, bf16=False, logging_steps=1,
        report_to=[], save_strategy="no", learning_rate=1e-2, disable_tqdm=True, beta=0.0,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model, args=args, train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer, **kwargs,
    )  # fmt: skip
    if says:
        turn = iter(says * 1000)

        def speak(prompt_ids, *args, **kwargs):
            ids = [[*tokenizer.encode(next(turn)), 1] for _ in prompt_ids]
            return ids, None

        monkeypatch.setattr(trainer, "_generate_single_turn", speak)
    trainer.train()
    changed = any((a != b).any() for a, b in zip(before, model.parameters()))
    return trainer, changed


def test_trl_trains_on_an_environment_of_one_turn(tmp_path, model_and_tokenizer, monkeypatch):
    def letters(prompt, completion, example):
        return float(len(completion))

    spec = {"prompts": ["a", "b"], "reward_fn": letters}
    trainer, changed = train(
        tmp_path,
        model_and_tokenizer,
        monkeypatch,
        environment_factory=ours.environment_factory("TextGen-v0", **spec),
        reward_funcs=ours.environment_reward,
        rows=ours.rows("TextGen-v0", 4, **spec),
    )
    logs = trainer.state.log_history[0]
    assert logs["rewards/environment_reward/mean"] == logs["reward"]
    assert logs["components/letters"] == pytest.approx(logs["reward"])
    assert changed == any(log.get("reward_std", 0) > 0 for log in trainer.state.log_history)
    assert logs["reward"] > 0


def test_trl_calls_the_tool_of_an_environment_of_many_turns(
    tmp_path, model_and_tokenizer, monkeypatch
):
    call = '<tool_call>\n{"name": "act", "arguments": {"text": "calc(2+3)"}}\n</tool_call>'
    made = ours.environment_factory("TextGen-v0", task="calculator")
    trainer, _ = train(
        tmp_path,
        model_and_tokenizer,
        monkeypatch,
        says=[call] * 4 + ["5"] * 4,
        environment_factory=made,
        reward_funcs=ours.environment_reward,
        rows=ours.rows("TextGen-v0", 4, task="calculator"),
    )
    logs = trainer.state.log_history[0]
    assert (logs["tools/call_frequency"], logs["tools/failure_frequency"]) == (1.0, 0.0)
    for environment in trainer.environments:
        assert environment._env.unwrapped._transcript.endswith("calc(2+3)\n5\n5")


def test_trl_takes_a_reward_function_of_here(tmp_path, model_and_tokenizer, monkeypatch):
    trainer, _ = train(
        tmp_path,
        model_and_tokenizer,
        monkeypatch,
        reward_funcs=[ours.reward_function("length"), ours.reward_function("exact_match")],
        rows=[{"prompt": "2+2=", "answer": "4"}, {"prompt": "1+2=", "answer": "3"}] * 2,
    )
    logs = trainer.state.log_history[0]
    total = logs["rewards/length/mean"] + logs["rewards/exact_match/mean"]
    assert logs["reward"] == pytest.approx(total)
    assert logs["rewards/length/mean"] > 0


def test_a_reward_that_abstains_is_none_there_too():
    score = ours.reward_function(lambda prompt, completion, example: None)
    assert score(["p"], ["c"]) == [None]


CHAT = [{"role": "system", "content": "Add."}, {"role": "user", "content": "2+2?"}]


def remembering(calls, rewards):
    """A reward function of TRL's that keeps what it is called with."""

    def remembered(completions, **kwargs):
        calls.append({"completions": completions, **kwargs})
        return rewards

    return remembered


def test_a_reward_of_trl_is_called_as_trl_calls_it():
    calls = []
    reward = ours.from_trl_reward(remembering(calls, [0.5, None]))
    assert (reward.__name__, takes_batch(reward)) == ("remembered", True)
    examples = [
        {"prompt": "a", "answer": "4", "level": 1},
        {"prompt": "b", "answer": "5", "completion": "not for it"},
    ]
    assert reward(["a", "b"], ["x", "y"], examples) == [0.5, None]
    [call] = calls
    call["log_extra"]("column", [1, 2])
    call["log_metric"]("name", 0.5)
    assert {key: call[key] for key in call if not key.startswith("log_")} == {
        "prompts": ["a", "b"],
        "completions": ["x", "y"],
        "answer": ["4", "5"],
        "level": [1, None],
        "trainer_state": None,
    }


def test_conversations_are_lists_of_messages():
    calls = []
    reward = ours.from_trl_reward(remembering(calls, [1, 2]))
    example = {"prompt": "a transcript", "messages": CHAT, "answer": "4"}
    assert reward(["a transcript", "p"], ["4", "5"], [example, {"prompt": "p"}]) == [1.0, 2.0]
    assert calls[0]["prompts"] == [CHAT, "p"]
    assert calls[0]["completions"] == [said("4"), "5"]
    ours.from_trl_reward(remembering(calls, [1]), conversational=True)(["p"], ["5"], [{}])
    assert calls[1]["prompts"] == [[{"role": "user", "content": "p"}]]
    assert calls[1]["completions"] == [said("5")]
    ours.from_trl_reward(remembering(calls, [1]), conversational=False)(["p"], ["5"], [example])
    assert (calls[2]["prompts"], calls[2]["completions"]) == (["p"], ["5"])


def short(completions, limit, **kwargs):
    """Written for TRL: 1 for a completion within its row's limit; none without a limit."""
    return [None if n is None else float(len(c) <= n) for c, n in zip(completions, limit)]


async def short_later(completions, limit, **kwargs):
    await asyncio.sleep(0)
    return short(completions, limit, **kwargs)


@pytest.mark.parametrize("function", [short, short_later, functools.partial(short, more=1)])
def test_an_environment_takes_it(function):
    made = {
        "prompts": ["a", "b", "c"],
        "examples": [{"limit": 2}, {"limit": 3}, {"limit": None}],
        "reward_fn": [ours.from_trl_reward(function, verifies=True), "length"],
    }
    name = getattr(function, "__name__", "short")
    env = gym.make("textenv:TextGen-v0", **made)
    for i, expected in enumerate(({name: 0.0, "length": 3.0}, {name: 1.0, "length": 3.0})):
        env.reset(options={"example_id": i})
        _, reward, _, _, info = env.step("xyz")
        assert (info["rewards"], reward) == (expected, sum(expected.values()))
        assert info["is_correct"] is (expected[name] == 1.0)
    env.reset(options={"example_id": 2})
    assert env.step("xyz")[4]["rewards"] == {"length": 3.0}  # it abstains
    envs = gym.make_vec("TextGen-v0", num_envs=3, **made)
    infos = envs.reset(seed=4)[1]
    limits = [made["examples"][i]["limit"] for i in infos["example_id"]]
    expected = [3.0 + (limit == 3) for limit in limits]
    assert envs.step(["xyz"] * 3)[1].tolist() == expected


def test_a_batch_is_one_call():
    calls = []
    reward = ours.from_trl_reward(remembering(calls, [1.0] * 4))
    envs = gym.make_vec("TextGen-v0", num_envs=4, prompts=["a"], reward_fn=reward)
    envs.reset(seed=0)
    envs.step(["x"] * 4)
    assert len(calls) == 1 and calls[0]["completions"] == ["x"] * 4


def test_token_ids_need_a_tokenizer():
    def tokens(completion_ids, **kwargs):
        return [len(ids) for ids in completion_ids]

    with pytest.raises(ConfigError, match=r"tokens reads completion_ids.*tokenizer"):
        ours.from_trl_reward(tokens)
    reward = ours.from_trl_reward(tokens, tokenizer="tiny-lm")
    encode = load_tokenizer("tiny-lm").encode
    expected = [float(len(encode(text, add_special_tokens=False))) for text in ("12", "a+b=3")]
    assert reward(["p"] * 2, ["12", "a+b=3"], [{}] * 2) == expected
    with pytest.raises(TypeError, match="takes a function"):
        ours.from_trl_reward("exact_match")


def test_nan_abstains_and_a_wrong_number_of_rewards_is_an_error():
    assert ours.from_trl_reward(remembering([], [float("nan"), 2]))(
        ["p"] * 2, ["c"] * 2, [{}] * 2
    ) == [
        None,
        2.0,
    ]
    env = gym.make(
        "TextGen-v0", prompts=["p"], reward_fn=ours.from_trl_reward(remembering([], [1, 2]))
    )
    env.reset()
    with pytest.raises(ValueError, match=r"'remembered'.*a list of 1 rewards, got 2"):
        env.step("c")


def test_it_is_pickled_and_copied_as_a_function_is():
    reward = ours.from_trl_reward(short, verifies=True)
    again = pickle.loads(pickle.dumps(reward))
    assert again(["p"], ["c"], [{"limit": 1}]) == [1.0] and again.verifies
    assert copy.deepcopy(reward) is reward


def test_rewards_that_ship_with_trl():
    rewards = pytest.importorskip("trl.rewards")
    reward = ours.from_trl_reward(rewards.think_format_reward, conversational=True)
    said = ["<think>a</think>b", "b"]
    assert reward(["p"] * 2, said, [{}] * 2) == [1.0, 0.0]
    repeats = rewards.get_repetition_penalty_reward(ngram_size=1)
    reward = ours.from_trl_reward(repeats, tokenizer="tiny-lm")
    assert reward.__name__ == "repetition_penalty_reward"
    assert reward(["p"] * 2, ["12", "11"], [{}] * 2) == [0.0, -0.5]
