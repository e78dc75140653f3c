"""Conversations against the tokenizer's own rendering of the whole of them."""

from __future__ import annotations

import warnings
from itertools import groupby

import gymnasium as gym
import pytest

from tests.algos.lm.generation.shared import (
    CHATML,
    FAMILIES,
    THINKING,
    chat_tokenizer,
    config_for,
    family,
)
from tests.algos.lm.generation.tool_templates import FAMILIES as WITH_TOOLS
from textenv.algos import RolloutRunner, create_policy, create_strategy
from textenv.algos.lm.generation.chat import ChatFormat
from textenv.errors import ConfigError, DataError
from textenv.tools.calls import described
from textenv.wrappers import ChatHistory

SAID = ["What is 1+1?", "Wrong. Again!", "And 2+2?"]
ANSWERS = ["3", "two", "4"]


def message(role, content):
    return {"role": role, "content": content}


def conversation(said=SAID, answers=ANSWERS):
    """A user's messages and the answers to them, the last of which is still to come."""
    pairs = zip(said, answers)
    messages = [m for u, a in pairs for m in (message("user", u), message("assistant", a))]
    return messages[:-1]


def rendered(tokenizer, messages, **settings):
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, **settings)


def plain(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("cut", [False, True], ids=["ended", "cut"])
@pytest.mark.parametrize("with_messages", [False, True], ids=["turns", "messages"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_conversation_is_what_the_template_makes_of_it(name, with_messages, cut):
    tokenizer, settings = family(name), {"enable_thinking": True}
    chat, end = ChatFormat(tokenizer, settings=settings), [] if cut else [tokenizer.eos_token_id]
    ids = chat.begin(SAID[0])
    assert ids == rendered(tokenizer, [message("user", SAID[0])], **settings)
    for turn in (1, 2):
        space = " " if name == "instructions" else ""  # which the policy writes there
        ids = [*ids, *plain(tokenizer, space + ANSWERS[turn - 1]), *end]
        messages = conversation()[: 2 * turn + 1]
        ids = chat.go_on(ids, f"\n{SAID[turn]}\n", messages if with_messages else None)
        assert ids == rendered(tokenizer, messages, **settings)


def test_a_system_message_is_in_it_and_in_the_users_if_the_template_refuses_one():
    for name in FAMILIES:
        tokenizer, settings = family(name), {"enable_thinking": True}
        chat = ChatFormat(tokenizer, settings=settings)
        messages = shown = [message("system", "Be brief."), *conversation()]
        if name in ("no system", "instructions"):  # they refuse it: it is in the user's message
            shown = [message("user", f"Be brief.\n\n{SAID[0]}"), *messages[2:]]
        ids = chat.begin("", messages[:2])
        assert ids == rendered(tokenizer, shown[: len(shown) - 4], **settings)
        ids = [*ids, *plain(tokenizer, (" " if name == "instructions" else "") + ANSWERS[0])]
        ids = chat.go_on(ids, "", messages[:4])
        assert ids == rendered(tokenizer, shown[: len(shown) - 2], **settings)


def test_messages_that_no_template_takes_are_refused_with_its_reason():
    with pytest.raises(DataError, match=r"roles user, user: the roles must alternate"):
        ChatFormat(family("instructions")).begin("", [message("user", "a")] * 2)


def test_what_was_sampled_stays_though_the_template_would_change_it():
    tokenizer = family("thinking")
    chat = ChatFormat(tokenizer, settings={"enable_thinking": True})
    thought = "<think>\nhm\n</think>\n\n2"
    before = chat.begin(SAID[0])
    ids = chat.go_on([*before, *plain(tokenizer, thought), tokenizer.eos_token_id], SAID[1])
    whole = rendered(tokenizer, conversation(answers=["2", ""])[:3], enable_thinking=True)
    assert tokenizer.decode(ids) == tokenizer.decode(whole).replace(
        "assistant\n2", f"assistant\n{thought}"
    )
    # The template shows the last answer with empty thinking, and the turns go on without.
    assert "<think>" in tokenizer.apply_chat_template(conversation()[:2], tokenize=False)
    assert tokenizer.decode(ids).count("<think>") == 1


def test_what_was_read_before_an_answer_stays_too():
    """With thinking off, the template begins an answer with empty thinking, and drops it later."""
    tokenizer, off = family("thinking"), {"enable_thinking": False}
    chat = ChatFormat(tokenizer, settings=off)
    ids = chat.go_on([*chat.begin(SAID[0]), *plain(tokenizer, "3")], SAID[1])
    whole = tokenizer.decode(rendered(tokenizer, conversation()[:3], **off))
    assert tokenizer.decode(ids) == whole.replace("\n3", "\n<think>\n\n</think>\n\n3")


def test_settings_reach_the_template():
    tokenizer = family("thinking")
    for on in (True, False):
        chat = ChatFormat(tokenizer, settings={"enable_thinking": on})
        ends = chat.begin("Hi"), chat.go_on([*chat.begin("Hi"), 9], "Ho")
        assert [tokenizer.decode(ids).endswith("</think>\n\n") for ids in ends] == [not on] * 2
    with pytest.raises(ConfigError, match="no chat template"):
        ChatFormat(chat_tokenizer(None), settings={"enable_thinking": True})


@pytest.mark.parametrize(
    ("template", "times"),
    [("{% for m in messages %}{{ m.role }}{% endfor %}", 0),
     ("{% for m in messages %}{{ m.content }} {{ m.content }}{% endfor %}", 2)],
)  # fmt: skip
def test_a_template_that_does_not_show_an_answer_once_is_refused(template, times):
    with pytest.raises(DataError, match=rf"answer {times} times .* once.*chat_template=False"):
        ChatFormat(chat_tokenizer(template))
    with pytest.warns(UserWarning, match="only the EOS tokens"):
        assert ChatFormat(chat_tokenizer(template), chat_template=False).ends == [1]


def test_a_conversation_may_hold_any_text():
    tokenizer = family("chatml")
    said = ["answer0", "answer00", "x"]
    messages = conversation(said=said, answers=["b", "answer000"])[:3]
    ids = [*ChatFormat(tokenizer).begin("answer0"), *plain(tokenizer, "b")]
    assert ChatFormat(tokenizer).go_on(ids, said[1], messages) == rendered(tokenizer, messages)


# -- a prompt that was rendered already, BOS and EOS


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("templated", [None, False])
def test_a_rendered_prompt_is_read_as_it_is(name, templated):
    bos = FAMILIES[name][2]
    tokenizer = family(name, before=[bos] if bos else [], after=FAMILIES[name][1][:1])
    messages = [message("user", "Hi")]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    chat = ChatFormat(tokenizer, templated)
    if templated is None:
        with pytest.warns(UserWarning, match="rendered already"):
            chat.begin(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chat.begin(text) == rendered(tokenizer, messages)  # neither BOS nor EOS is added


def test_a_rendered_prompt_is_known_by_its_end_if_the_markers_are_plain_text():
    template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    chat = ChatFormat(chat_tokenizer(template))
    once = chat.begin("Hi")
    for text in ("user: Hi\nassistant:", "system: Be brief.\nuser: Hi\nassistant:"):
        with pytest.warns(UserWarning, match="rendered already"):
            again = ChatFormat(chat_tokenizer(template)).begin(text)
        assert chat_tokenizer(template).decode(again) == text
    assert again[-len(once) :] == once


def test_a_plain_prompt_has_one_bos_and_no_eos():
    tokenizer = chat_tokenizer(None, ["<s>"], "<s>", "<eos>", ["<s>"], ["<eos>"])
    s, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert tokenizer.encode("ab") == [s, *plain(tokenizer, "ab"), eos]
    chat = ChatFormat(tokenizer)
    assert chat.begin("ab") == chat.begin("<s>ab") == [s, *plain(tokenizer, "ab")]
    assert chat.begin("") == [s]
    assert chat.go_on([s, 5], "ab") == [s, 5, *plain(tokenizer, "ab")]


def test_a_marker_inside_a_prompt_is_no_rendering():
    tokenizer = family("chatml")
    prompt = "What is <|im_end|>?"
    assert ChatFormat(tokenizer).begin(prompt) == rendered(tokenizer, [message("user", prompt)])


# -- what ends an answer


def test_the_end_of_an_answer_is_found_in_the_template():
    tokenizer = family("chatml", eos="<eos>")  # as a config that names <|endoftext|> alone
    assert tokenizer.eos_token_ids == {1}
    end = plain(tokenizer, "<|im_end|>")[0]
    assert ChatFormat(tokenizer).ends == ChatFormat(tokenizer, False).ends == [1, end]
    assert ChatFormat(chat_tokenizer(None)).ends == [1]
    # An unknown character, or plain text, is no end.
    odd = CHATML.replace("<|im_end|>", "é")
    assert ChatFormat(chat_tokenizer(odd, ["<|im_start|>"], eos="<eos>")).ends == [1]


def test_another_end_than_the_templates_stays_and_the_turn_is_closed():
    tokenizer = family("chatml", eos="<eos>")
    chat = ChatFormat(tokenizer)
    ids = chat.go_on([*chat.begin(SAID[0]), *plain(tokenizer, "3"), 1], SAID[1])
    text = tokenizer.decode(rendered(tokenizer, conversation()[:3]))
    assert tokenizer.decode(ids) == text.replace("3<|im_end|>", "3<eos><|im_end|>")


def test_completions_end_where_the_template_ends_an_answer(random_model):
    tokenizer = family("chatml", eos="<eos>")
    end = plain(tokenizer, "<|im_end|>")[0]
    policy = create_policy(random_model(**config_for(tokenizer)), tokenizer, {"max_tokens": 40})
    texts, extras = policy(["a"] * 64)
    ended = [ids for ids, cut in zip(extras["token_ids"], extras["truncated"]) if not cut]
    assert {ids[-1] for ids in ended} == {1, end}
    assert not any({1, end} & set(ids[:-1]) for ids in extras["token_ids"])
    assert not any(text.endswith("<|im_end|>") for text in texts)


# -- whole rollouts


@pytest.mark.parametrize("templated", [None, False])
def test_a_chat_history_is_read_as_the_template_has_it(random_model, templated):
    """A system prompt and several turns, some cut off and some ended."""
    tokenizer = family("chatml")
    env = ChatHistory(gym.make("TextGen-v0", task="guess_number"), tokenizer, system="Guess.")
    model = random_model(**config_for(tokenizer))
    policy = create_policy(model, tokenizer, {"max_tokens": 3, "chat_template": templated})
    runner = RolloutRunner(env, policy, create_strategy("grpo", num_generations=8), 8 * 20)
    turns = []
    for t in runner.collect().trajectories:
        messages = t.infos[-1]["messages"]
        while messages[-1]["role"] == "user":
            messages.pop()
        assert messages[0] == message("system", "Guess.")
        assert [m["content"] for m in messages[2::2]] == t.actions
        text = tokenizer.apply_chat_template(
            messages[:-1], tokenize=False, add_generation_prompt=True
        )
        text += messages[-1]["content"]
        assert tokenizer.decode([*t.prompt_ids, *t.token_ids]).removesuffix("<|im_end|>") == text
        runs = [(own, len(list(run))) for own, run in groupby(t.token_mask)]
        turns += [length for own, length in runs if own]
    assert len(turns) > 40
    assert {2, 3} <= set(turns)  # 2: they ended by themselves


def test_a_loop_that_passes_observations_alone_reads_a_chat_history_too(random_model):
    tokenizer = family("chatml")
    env = ChatHistory(gym.make("TextGen-v0", task="guess_number"), tokenizer, system="Guess.")
    model = random_model(**config_for(tokenizer))
    policy = create_policy(model, tokenizer, {"max_tokens": 3, "chat_template": False})
    observation, _ = env.reset(seed=1)
    for _ in range(4):
        action, extras = policy(observation)
        assert tokenizer.decode(extras["prompt_ids"]) == observation
        observation = env.step(action)[0]


# -- tools

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add.",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
        },
    }
]


def called(*numbers, content="", first=0):
    """The assistant's message that calls the tool with these numbers, and the results."""
    ids = [f"call{first + i:05d}" for i in range(len(numbers))]
    calls = [
        {"id": i, "type": "function", "function": {"name": "add", "arguments": {"a": n}}}
        for i, n in zip(ids, numbers)
    ]
    results = [
        {"role": "tool", "name": "add", "tool_call_id": i, "content": str(n + 1)}
        for i, n in zip(ids, numbers)
    ]
    return [{**message("assistant", content), "tool_calls": calls}, *results]


def written(name, *numbers, first=0):
    """A call as a model of the family writes it."""
    if name == "llama":
        return f'{{"name": "add", "parameters": {{"a": {numbers[0]}}}}}'
    if name == "mistral":
        calls = [
            f'{{"name": "add", "arguments": {{"a": {n}}}, "id": "call{first + i:05d}"}}'
            for i, n in enumerate(numbers)
        ]
        return f"[TOOL_CALLS] [{', '.join(calls)}]"
    calls = [f'{{"name": "add", "arguments": {{"a": {n}}}}}' for n in numbers]
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


@pytest.mark.parametrize("cut", [False, True], ids=["ended", "cut"])
@pytest.mark.parametrize("name", WITH_TOOLS)
def test_calls_and_results_are_what_the_template_makes_of_them(name, cut):
    tokenizer = chat_tokenizer(*WITH_TOOLS[name])
    settings, end = {"enable_thinking": True}, [] if cut else [tokenizer.eos_token_id]
    chat = ChatFormat(tokenizer, settings=settings)
    messages = [message("user", SAID[0])]
    if name != "mistral":
        messages.insert(0, message("system", "Be brief."))
    ids = chat.begin("", messages, TOOLS)
    assert ids == rendered(tokenizer, messages, tools=TOOLS, **settings)
    assert '"Add."' in tokenizer.decode(ids)
    several = () if name == "llama" else (8,)
    for turn, numbers in enumerate([(4, *several), (5,)]):
        first = turn * (1 + len(several))
        ids = [*ids, *plain(tokenizer, written(name, *numbers, first=first)), *end]
        messages += called(*numbers, first=first)
        ids = chat.go_on(ids, "", messages, tools=TOOLS)
        assert ids == rendered(tokenizer, messages, tools=TOOLS, **settings)


@pytest.mark.parametrize("name", FAMILIES)
def test_tools_that_a_template_does_not_show_are_told_in_words(name):
    """In five families without tools: in the system message, as text, and as the user's."""
    tokenizer, settings = family(name), {"enable_thinking": True}
    chat, words = ChatFormat(tokenizer, settings=settings), described(TOOLS)
    if name in ("no system", "instructions"):
        shown = [message("user", f"{words}\n\n{SAID[0]}")]
    else:
        shown = [message("system", words), message("user", SAID[0])]
    messages = [message("user", SAID[0])]
    ids = chat.begin("", messages, TOOLS)
    assert ids == rendered(tokenizer, shown, **settings)
    space = " " if name == "instructions" else ""
    call = written("qwen", 4, 8)
    ids = [*ids, *plain(tokenizer, space + call), tokenizer.eos_token_id]
    messages += called(4, 8)
    results = "\n".join(f"<tool_response>\n{n}\n</tool_response>" for n in (5, 9))
    shown += [message("assistant", call), message("user", results)]
    ids = chat.go_on(ids, "", messages, tools=TOOLS)
    assert ids == rendered(tokenizer, shown, **settings)


def test_a_malformed_call_does_not_stop_a_template_of_strict_turns():
    tokenizer = chat_tokenizer(*WITH_TOOLS["mistral"])
    chat = ChatFormat(tokenizer)
    messages = [message("user", "a"), message("assistant", "<tool_call>"),
                {"role": "tool", "content": "error"}]  # fmt: skip
    ids = chat.go_on([*chat.begin("", messages[:1]), 7], "", messages)
    said = "[INST] <tool_response>\nerror\n</tool_response>[/INST]"
    assert tokenizer.decode(ids).endswith(f"</s>{said}")
    messages += called(4)
    ids = chat.go_on([*ids, 7], "", messages)
    assert tokenizer.decode(ids).endswith(said.replace("error", "5"))


# -- thinking that the template begins

OPENS = CHATML.replace("assistant\\n'", "assistant\\n<think>\\n'")


def test_what_the_template_opens_begins_the_answer(random_model):
    tokenizer = chat_tokenizer(OPENS, ["<|im_end|>", "<|im_start|>"])
    policy = create_policy(random_model(**config_for(tokenizer)), tokenizer, {"max_tokens": 3})
    text, extras = policy("Hi")
    assert tokenizer.decode(extras["prompt_ids"]).endswith("<|im_start|>assistant\n<think>\n")
    sampled = tokenizer.decode(extras["token_ids"]).removesuffix("<|im_end|>")
    assert text == "<think>\n" + sampled
    rendered_text = tokenizer.apply_chat_template(
        [message("user", "Hi")], add_generation_prompt=True, tokenize=False
    )
    with pytest.warns(UserWarning, match="rendered already"):
        text, extras = policy(rendered_text)  # which shows the beginning already
    assert not text.startswith("<think>")
    plain_policy = policy.with_params(chat_template=False)
    assert not plain_policy("Hi")[0].startswith("<think>")
    closed = chat_tokenizer(THINKING, ["<|im_end|>", "<|im_start|>"])
    assert ChatFormat(closed, settings={"enable_thinking": False}).opened("Hi") == ""
