"""Calls in the formats of mlx-lm's parsers, and whole rollouts with tools."""

from __future__ import annotations

import importlib
import re

import gymnasium as gym
import pytest

from tests.algos.lm.generation.shared import CHATML, chat_tokenizer, config_for
from tests.algos.lm.generation.test_chat import TOOLS, written
from tests.algos.lm.generation.tool_templates import FAMILIES
from textenv.algos import RolloutRunner, create_policy, create_strategy, load_rollout
from textenv.algos.lm.generation.completions import Completion
from textenv.algos.lm.generation.tool_calls import CallFormat
from textenv.algos.offline.text_data import check_tokens
from textenv.algos.rollouts.metrics import rollout_metrics
from textenv.tools.calls import Call, read_calls


class Speaks:
    """What mlx-lm's tokenizer wrapper says of the format of a model's calls."""

    def __init__(self, parser):
        module = importlib.import_module(f"mlx_lm.tool_parsers.{parser}")
        self.tool_parser = module.parse_tool_call
        self.tool_call_start = module.tool_call_start
        self.tool_call_end = module.tool_call_end


ADD = Call("add", {"a": 4})
FORMATS = {
    "json_tools": '<tool_call>\n{"name": "add", "arguments": {"a": 4}}\n</tool_call>',
    "mistral": '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 4}, "id": "call00000"}]',
    "pythonic": "<|tool_call_start|>[add(a=4)]<|tool_call_end|>",
    "qwen3_coder": "<tool_call>\n<function=add>\n<parameter=a>\n4\n</parameter>\n</function>\n"
    "</tool_call>",
    "glm47": "<tool_call>add<arg_key>a</arg_key><arg_value>4</arg_value></tool_call>",
    "function_gemma": "<start_function_call>call:add{a:4}<end_function_call>",
    "minimax_m2": '<minimax:tool_call><invoke name="add"><parameter name="a">4</parameter></invoke>'
    "</minimax:tool_call>",
}


@pytest.mark.parametrize("parser", FORMATS)
def test_each_format_becomes_the_one_that_environments_read(parser):
    text = CallFormat(Speaks(parser)).plain(f"So: {FORMATS[parser]}", TOOLS)
    assert read_calls(text) == [ADD]
    assert text.startswith("So: <tool_call>")
    assert CallFormat(Speaks(parser)).plain("42", TOOLS) == "42"


@pytest.mark.parametrize(
    ("answer", "is_call"),
    [
        ('{"name": "add", "parameters": {"a": 4}}', True),
        (' <|python_tag|>{"name": "add", "parameters": {"a": 4}}\n', True),
        ('{"name": "sub", "parameters": {"a": 4}}', False),
        ('{"name": ["add"], "parameters": {}}', False),
        ('So: {"name": "add", "parameters": {"a": 4}}', False),
        ('{"name": "add"}', False),
        ("[4]", False),
        ("4", False),
    ],
)
def test_an_answer_that_is_nothing_but_a_call_of_llama_3_is_one(answer, is_call):
    text = CallFormat(object()).plain(answer, TOOLS)
    assert (read_calls(text) == [ADD]) if is_call else text == answer


def test_json_in_the_same_marks_stays_as_it_was_written_right_or_wrong():
    for text in (FORMATS["json_tools"], "<tool_call>{}", "<tool_call>add</tool_call>"):
        assert CallFormat(Speaks("json_tools")).plain(text, TOOLS) == text
        assert CallFormat(object()).plain(text, TOOLS) == text


def test_several_calls_and_the_text_between_them():
    say = CallFormat(Speaks("pythonic"))
    one, two = "<|tool_call_start|>", "<|tool_call_end|>"
    text = say.plain(f"a{one}[add(a=1), add(a=2)]{two}b{one}[add(a=3)]{two}c", TOOLS)
    assert [call.arguments["a"] for call in read_calls(text)] == [1, 2, 3]
    assert text[0] == "a" and text[-1] == "c" and "</tool_call>b<tool_call>" in text


@pytest.mark.parametrize(
    ("parser", "text", "says"),
    [
        ("pythonic", "<|tool_call_start|>add 4<|tool_call_end|>", "No function provided"),
        ("pythonic", "<|tool_call_start|>[add(a=4)]", "is not closed by <|tool_call_end|>"),
        ("mistral", "[TOOL_CALLS] add(4)", "Could not parse tool call from: add\\(4\\)"),
        ("mistral", '[TOOL_CALLS] [{"name": "add", "arguments": 4}]', "Could not parse"),
        ("qwen3_coder", "<tool_call>4</tool_call>", "."),
    ],
)
def test_what_the_format_does_not_allow_says_what_is_wrong(parser, text, says):
    (call,) = read_calls(CallFormat(Speaks(parser)).plain(text, TOOLS))
    assert re.search(says.replace("|", r"\|"), call.error), call.error


# -- whole rollouts


class Scripted:
    """A generator of given completions, each by the number of its turn."""

    def __init__(self, tokenizer, turns):
        self._tokenizer, self._turns = tokenizer, turns
        self._turn = 0

    def generate(self, prompts, *args, **kwargs):
        on_completion = next(arg for arg in args if callable(arg))
        text = self._turns[self._turn % len(self._turns)]
        self._turn += 1
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        for row in range(len(prompts)):
            token_ids = [*ids, self._tokenizer.eos_token_id]
            n = len(token_ids)
            on_completion(row, Completion(token_ids, [-1.0] * n, [1.0] * n, None, False))

    def forget(self):
        """Nothing is kept."""


def add(a: int) -> str:
    """Add one."""
    return str(a + 1)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_rollout_with_tools_reads_what_the_template_makes_of_its_messages(
    name, random_model, tmp_path
):
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    inner = chat_tokenizer(*FAMILIES[name])._tokenizer
    parser = {"mistral": "mistral", "qwen": "json_tools"}.get(name)
    said = vars(Speaks(parser)) if parser else {}
    tokenizer = TokenizerWrapper(inner, **said)
    call = written(name, 4)
    answer = " 5" if name == "mistral" else "5"
    policy = create_policy(
        random_model(**config_for(tokenizer, max_position_embeddings=4096)),
        tokenizer,
        {"max_tokens": 64, "chat_template_kwargs": {"enable_thinking": True}},
    )
    policy._generator = Scripted(tokenizer, [call, answer])
    asked = {"role": "user", "content": "What is 4+1?"}
    env = gym.make(
        "TextGen-v0",
        prompts=[[asked]],
        examples=[{"answer": "5"}],
        reward_fn="exact_match",
        tools=[add],
        tool_timeout=None,
        max_turns=3,
    )
    runner = RolloutRunner(env, policy, create_strategy("grpo", num_generations=2), 2 * 3)
    rollout = runner.collect()
    for t in rollout.trajectories:
        assert t.actions == [f"<tool_call>\n{written('qwen', 4)[12:]}", answer]
        assert t.rewards == [0.0, 1.0] and t.is_correct
        messages = t.infos[-1]["messages"]
        assert [m["role"] for m in messages] == ["user", "assistant", "tool", "assistant"]
        assert messages[2]["content"] == "5"
        ids = tokenizer.apply_chat_template(
            messages[:-1],
            tools=t.infos[-1]["tools"],
            add_generation_prompt=True,
            enable_thinking=True,
        )
        after = tokenizer.encode(answer, add_special_tokens=False)
        assert [*t.prompt_ids, *t.token_ids] == [*ids, *after, tokenizer.eos_token_id]
        own = [token for token, mine in zip(t.token_ids, t.token_mask) if mine]
        sampled = tokenizer.encode(call, add_special_tokens=False)
        assert own == [*sampled, tokenizer.eos_token_id, *after, tokenizer.eos_token_id]
    metrics = rollout_metrics(rollout.trajectories)
    assert metrics["tools/call_frequency"] == 1.0
    assert metrics["tools/failure_frequency"] == metrics["tools/malformed_frequency"] == 0.0
    assert metrics["rewards/exact_match/mean"] == metrics["accuracy"] == 1.0
    path = rollout.save(tmp_path / "rollout.json")
    loaded = load_rollout(path).trajectories
    assert loaded == rollout.trajectories
    check_tokens(loaded, policy)  # the messages are encoded as they were


def test_malformed_calls_are_in_the_metrics(random_model):
    tokenizer = chat_tokenizer(CHATML, ["<|im_end|>", "<|im_start|>"])
    model = random_model(**config_for(tokenizer, max_position_embeddings=4096))
    policy = create_policy(model, tokenizer, {"max_tokens": 64})
    policy._generator = Scripted(tokenizer, ["<tool_call>add</tool_call>"])
    env = gym.make("TextGen-v0", prompts=["a"], reward_fn="length", tools=[add], max_turns=2)
    runner = RolloutRunner(env, policy, create_strategy("grpo", num_generations=2), 2 * 2)
    metrics = rollout_metrics(runner.collect().trajectories)
    assert metrics["tools/call_frequency"] == 2.0
    assert metrics["tools/malformed_frequency"] == 1.0
    assert metrics["tools/failure_frequency"] == 0.0
