"""Rows of prompts and answers: what they are read as, and the one line for each that is refused."""

from __future__ import annotations

import json

import pytest

from tests.algos.lm.generation.shared import FAMILIES, chat_tokenizer, family
from textenv.algos.lm.generation.chat import ChatFormat
from textenv.algos.offline.sft_rows import (
    Limits,
    Rows,
    conversation_of,
    encode,
    encode_rows,
    read_rows,
)
from textenv.conversation import Opening
from textenv.errors import ConfigTypeError, DataError
from textenv.tasks.dataset_files import from_path


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [user("Hi"), assistant("Ho"), user("What is 1+1?"), assistant("2")]


def said(row):
    """(messages, answers, prompt) with the messages as role and content."""
    messages, answers, prompt, _ = conversation_of(row, "r")
    return [(m["role"][0], m["content"]) for m in messages], answers, prompt


@pytest.mark.parametrize(
    ("row", "messages", "answers", "prompt"),
    [
        ({"prompt": "a", "answer": "b"}, [("u", "a"), ("a", "b")], [1], "a"),
        ({"prompt": "a", "completion": " b"}, [("u", "a"), ("a", " b")], [1], "a"),
        ({"prompt": "a", "completion": "b", "answer": "c"}, [("u", "a"), ("a", "b")], [1], "a"),
        ({"prompt": "a", "solution": "b", "answer": "c"}, [("u", "a"), ("a", "b")], [1], "a"),
        ({"prompt": "a", "answer": 42.0}, [("u", "a"), ("a", "42")], [1], "a"),
        (
            {"prompt": "a", "completion": [assistant("b"), user("c"), assistant("d")]},
            [("u", "a"), ("a", "b"), ("u", "c"), ("a", "d")],
            [1, 3],
            "a",
        ),
        (
            {"prompt": [SYSTEM, *TALK[:3]], "completion": [assistant("2")]},
            [("s", "Be brief."), ("u", "Hi"), ("a", "Ho"), ("u", "What is 1+1?"), ("a", "2")],
            [4],  # what the prompt holds is not trained on
            None,
        ),
        (
            {"messages": TALK},
            [("u", "Hi"), ("a", "Ho"), ("u", "What is 1+1?"), ("a", "2")],
            [1, 3],
            None,
        ),
        (
            {"messages": TALK[:3], "answer": "3"},
            [("u", "Hi"), ("a", "Ho"), ("u", "What is 1+1?"), ("a", "3")],
            [3],
            None,
        ),
    ],
)
def test_kinds_of_rows(row, messages, answers, prompt):
    assert said(row) == (messages, answers, prompt)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (3, "r: expected an object with a prompt, got int"),
        ({}, "r: key 'prompt' or 'messages' is missing; the row has no keys"),
        ({"question": "a"}, "'prompt' or 'messages' is missing; the row has 'question'"),
        ({"prompt": "a"}, "r: there is no answer: .*'completion' or 'answer'.*has 'prompt'"),
        ({"prompt": "a", "answer": None}, "r: there is no answer"),
        ({"prompt": "a", "answer": " "}, "r: 'answer' is missing: it is ' '"),
        ({"prompt": "a", "answer": float("nan")}, "r: 'answer' is missing: it is nan"),
        ({"prompt": "a", "completion": ""}, "r: 'completion' is missing: it is ''"),
        ({"prompt": "a", "answer": {"x": 1}}, "'answer' must be text or a number, got dict"),
        ({"prompt": 3, "answer": "b"}, r"r, 'prompt': expected a list of messages, got int"),
        ({"prompt": "\ud800", "answer": "b"}, "r: 'prompt' holds a lone surrogate"),
        ({"prompt": "a", "answer": "\ud800"}, "r: 'answer' holds a lone surrogate"),
        ({"messages": []}, "r, 'messages': an empty list"),
        ({"messages": ["Hi"]}, "r, 'messages', message 0: expected an object with 'role'"),
        ({"messages": [user("a"), {"role": "assistant"}]}, "message 1: key 'content' is missing"),
        (
            {"prompt": "a", "answer": "b", "tools": "c"},
            "'tools' must be a list of schemas",
        ),
        ({"messages": [user("a")]}, "r: there is no answer"),
        ({"messages": [assistant("a")]}, "r: the conversation begins with an answer"),
        ({"prompt": [user("a"), assistant("b")], "answer": "c"}, "'prompt' ends with an answer"),
        (
            {"prompt": "a", "completion": [user("b"), assistant("c")]},
            "'completion' must begin and end with the assistant's message.*'user' there",
        ),
    ],
)
def test_rows_that_are_refused(row, message):
    with pytest.raises(DataError, match=message):
        conversation_of(row, "r")


# --- tokens ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "thinking"])
def test_a_conversation_is_the_tokenizers_rendering_with_the_answers_under_the_mask(name):
    tokenizer = family(name)
    t = encode(conversation_of({"messages": TALK}, "r"), ChatFormat(tokenizer))
    whole = tokenizer.apply_chat_template(TALK, add_generation_prompt=False)
    ids = [*t.prompt_ids, *t.token_ids]
    assert ids == list(whole[: len(ids)])
    assert tokenizer.decode(whole[len(ids) :]).strip() == ""
    assert t.prompt_ids == list(tokenizer.apply_chat_template(TALK[:1], add_generation_prompt=True))
    runs = "".join("x" if own else " " for own in t.token_mask).split()
    own = [i for i, mask in zip(t.token_ids, t.token_mask) if mask]
    end = tokenizer.decode([tokenizer.eos_token_id])
    assert len(runs) == 2 and tokenizer.decode(own).replace(" ", "") == f"Ho{end}2{end}"


def test_a_system_message_and_earlier_answers_are_read_and_not_learnt():
    tokenizer = family("chatml")
    row = {"prompt": [SYSTEM, *TALK[:3]], "answer": "3"}
    t = encode(conversation_of(row, "r"), ChatFormat(tokenizer))
    shown = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)
    assert t.prompt_ids == list(shown)
    assert tokenizer.decode(t.token_ids) == "3<|im_end|>" and set(t.token_mask) == {1}


def test_what_comes_before_each_row_is_read_and_not_learnt():
    tokenizer, chat = family("chatml"), ChatFormat(family("chatml"))
    opening = Opening("Count.", [{"prompt": "1+1", "answer": "2"}])
    before = [{"role": "system", "content": "Count."}, user("1+1"), assistant("2")]
    for row in ({"prompt": "2+2", "answer": "4"}, {"messages": [user("2+2"), assistant("4")]}):
        t = encode(conversation_of(row, "r", opening), chat)
        shown = tokenizer.apply_chat_template([*before, user("2+2")], add_generation_prompt=True)
        assert t.prompt_ids == list(shown)
        assert tokenizer.decode(t.token_ids) == "4<|im_end|>" and set(t.token_mask) == {1}
    row = {"messages": [SYSTEM, *TALK]}
    t = encode(conversation_of(row, "r", opening), chat)
    assert "system\nCount.\n\nBe brief.<|im_end|>" in tokenizer.decode(t.prompt_ids)
    assert sum(t.token_mask) == len("Ho") + len("2") + 2


def test_tools_are_shown_and_calls_are_learnt():
    """In the words that the environment has for a template that knows no tools."""
    schema = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    call = {"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    row = {
        "messages": [
            user("1+2"),
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "name": "add", "content": "3"},
            assistant("It is 3."),
        ],
        "tools": [schema],
    }
    for tokenizer in (family("chatml"), chat_tokenizer(None)):
        t = encode(conversation_of(row, "r"), ChatFormat(tokenizer))
        assert '"name": "add"' in tokenizer.decode(t.prompt_ids).replace("\\", "")
        own = tokenizer.decode([i for i, mask in zip(t.token_ids, t.token_mask) if mask])
        assert '"add"' in own and "It is 3." in own and own.count(tokenizer.eos_token) == 2
        between = tokenizer.decode([i for i, mask in zip(t.token_ids, t.token_mask) if not mask])
        assert "3" in between and "add" not in between.replace("name", "")


def test_without_a_template_a_conversation_is_what_an_environment_shows():
    from textenv import TextGenerationEnv

    tokenizer = chat_tokenizer(None)
    chat = ChatFormat(tokenizer)
    prompt = [SYSTEM, *TALK[:3]]
    env = TextGenerationEnv([prompt], lambda **_: 0.0)
    shown, info = env.reset(seed=0)
    t = encode(conversation_of({"prompt": prompt, "answer": "2"}, "r"), chat)
    assert t.prompt == shown and t.prompt_ids == chat.begin(shown, info["messages"])
    assert tokenizer.decode(t.token_ids) == "2<eos>"
    # Over turns, as an environment's transcript goes on.
    t = encode(conversation_of({"messages": TALK}, "r"), chat)
    text = tokenizer.decode([*t.prompt_ids, *t.token_ids])
    assert text.replace("<eos>", "") == "HiHo\n\nUser:\nWhat is 1+1?\n\nAssistant:\n2"
    own = tokenizer.decode([i for i, mask in zip(t.token_ids, t.token_mask) if mask])
    assert own == "Ho<eos>2<eos>"


def test_without_a_template():
    tokenizer = chat_tokenizer(None)
    t = encode(conversation_of({"prompt": "12+30=", "answer": 42}, "r"), ChatFormat(tokenizer))
    assert tokenizer.decode(t.prompt_ids) == "12+30="
    assert tokenizer.decode(t.token_ids) == "42<eos>"
    assert t.token_mask == [1, 1, 1] and t.prompt == "12+30="


# --- lengths -----------------------------------------------------------------------------------

ROWS = [
    {"prompt": "1234", "answer": "567"},  # 4 and 4 tokens
    {"prompt": "1", "answer": "2"},
    {"prompt": "12345", "answer": "6"},
]


def lengths(limits, rows=ROWS):
    encoded = encode_rows(Rows.of(rows, "rows"), ChatFormat(chat_tokenizer(None)), limits)
    return [
        None if t is None else (len(t.prompt_ids), t.token_mask, t.completion_truncated)
        for t in encoded
    ]


def test_nothing_is_cut_unless_it_is_asked_for():
    assert lengths(Limits(None, 8)) == [
        (4, [1] * 4, False),
        (1, [1] * 2, False),
        (5, [1, 1], False),
    ]
    assert lengths(Limits(None, None)) == lengths(Limits(None, 8)) == lengths(Limits(8, 8))
    with pytest.raises(DataError, match="rows, row 0: a prompt of 4 tokens and an answer of 4 exc"):
        lengths(Limits(None, 7))


def test_what_is_longer_is_cut_as_trl_cuts_it():
    assert lengths(Limits(5, 8)) == [(4, [1], True), (1, [1, 1], False), None]
    assert lengths(Limits(3, 8)) == [None, (1, [1, 1], False), None]
    # What stands between two answers is no end.
    tokenizer = family("chatml")
    chat = ChatFormat(tokenizer)
    t = encode(conversation_of({"messages": TALK}, "r"), chat)
    first = t.token_mask.index(0)
    for more in (0, 1, 5):
        limits = Limits(len(t.prompt_ids) + first + more, None)
        (cut,) = encode_rows(Rows.of([{"messages": TALK}], "rows"), chat, limits)
        assert cut.token_ids == t.token_ids[:first] and cut.token_mask == [1] * first
        assert len(cut.token_logprobs) == first and cut.completion_truncated


# --- files and splits --------------------------------------------------------------------------


def test_a_file_is_read_as_it_is_and_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "a", "answer": "b"}, {"messages": TALK}, {"prompt": "c"}]
    path.write_text("\ufeff" + "".join(json.dumps(row) + "\n" for row in rows))
    read = read_rows(path)
    assert list(read.rows) == rows and len(read) == 3 and len(read_rows(path, limit=2)) == 2
    with pytest.raises(DataError, match=r"rows\.jsonl, row 3: there is no answer"):
        encode_rows(read, ChatFormat(family("chatml")), Limits(None, None))
    csv = tmp_path / "rows.csv"
    csv.write_text("prompt,completion\na,b\n")
    assert said(read_rows(csv).rows[0]) == ([("u", "a"), ("a", "b")], [1], "a")
    with pytest.raises(ConfigTypeError, match="rows must be a file or a list, got dict"):
        Rows.of({"prompt": "a"}, "rows")


def test_held_out_rows_are_those_that_other_trainings_hold_out(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(100)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, held_out = read_rows(path).split()
    for side, name in ((train, "train"), (held_out, "test")):
        assert [rows.index(row) for row in side.rows] == from_path(path, name).ids
    first = rows.index(held_out.rows[0])
    assert held_out.places[0] == f"{path}, row {first + 1}"
    assert 0 < len(held_out) < 20


def test_conversations_are_split_as_other_trainings_split_them(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"messages": [user(f"{i}"), assistant("a"), user("b"), assistant("c")]} for i in range(40)
    ]
    rows += [{"prompt": [SYSTEM, user(f"{i}")], "answer": "c"} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for side, name in zip(read_rows(path).split(), ("train", "test")):
        assert [rows.index(row) for row in side.rows] == from_path(path, name).ids


def test_rows_of_gsm8k_are_trained_on_with_their_reasoning(tmp_path):
    path = tmp_path / "gsm8k.jsonl"
    reasoning = "6 + 1,000 is 1,006.\n#### 1,006"
    path.write_text(json.dumps({"question": "What is 6 + 1000?", "answer": reasoning}) + "\n")
    (row,) = read_rows(path).rows
    assert said(row) == ([("u", "What is 6 + 1000?"), ("a", reasoning)], [1], "What is 6 + 1000?")
    renamed = tmp_path / "renamed.jsonl"
    renamed.write_text(json.dumps({"q": "a", "gold": "b"}) + "\n")
    (row,) = read_rows(renamed, {"q": "prompt", "gold": "answer"}).rows
    assert said(row) == ([("u", "a"), ("a", "b")], [1], "a")
