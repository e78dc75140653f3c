"""Messages: what is refused, and how a conversation looks as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv.errors import DataError
from textenv.messages import ROLES, check, replies, transcript, with_messages

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


def message(role, content):
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ("Hi", "row 1: expected a list of messages, got str"),
        ({"role": "user", "content": "Hi"}, "row 1: expected a list of messages, got dict"),
        ([], "row 1: an empty list"),
        (["Hi"], "row 1, message 0: expected an object .* got str"),
        ([message("user", "a"), {"content": "b"}], "message 1: 'role' must be one of .* no role"),
        ([message("bot", "a")], "message 0: 'role' must be one of system, user.* got 'bot'"),
        ([{"role": "user"}], "message 0: key 'content' is missing; the message has 'role'"),
        ([message("user", None)], "key 'content' is missing"),
        ([message("user", 7)], "'content' must be text, got int"),
        ([message("user", "\ud800")], "lone surrogate"),
        ([message("user", [{"type": "image", "url": "x"}])], "part 0 of 'content' is 'image'"),
        ([message("user", [{"type": "text", "text": "a"}, "b"])], "part 1 of 'content' is 'str'"),
        ([{**message("user", "a"), "tool_calls": [CALL]}], "belong to the assistant.*'user'"),
        ([{**message("assistant", "a"), "tool_calls": "add"}], "'tool_calls' must be a list"),
        ([{**message("assistant", "a"), "tool_calls": [{"name": "add"}]}], "has a 'name'"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(messages, says):
    with pytest.raises(DataError, match=says) as caught:
        check(messages, "row 1")
    assert str(caught.value).startswith("row 1") and "\n" not in str(caught.value)


def test_right_messages_are_copied_and_text_parts_joined():
    given_ = [
        {
            "role": "system",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        },
        {"role": "user", "content": "c", "name": None},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "2", "name": "add"},
        {"role": "assistant", "content": "2", "tool_calls": []},
    ]
    checked = check(given_, "here")
    assert checked == [
        message("system", "ab"),
        message("user", "c"),
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "2", "name": "add"},
        message("assistant", "2"),
    ]
    checked[1]["content"] = "changed"
    assert given_[1]["content"] == "c"


def test_a_row_with_two_conversations_or_the_answer_alone_is_refused():
    asked = [message("user", "a")]
    with pytest.raises(DataError, match="'messages' and 'prompt' both hold"):
        with_messages({"prompt": asked, "messages": asked}, "row 1")
    with pytest.raises(DataError, match="row 1, 'messages': only the assistant's message"):
        with_messages({"messages": [message("assistant", "a")]}, "row 1")


def test_a_conversation_as_text():
    assert transcript([message("user", " Hi\n")]) == " Hi\n"
    turns = [message("user", "a"), message("assistant", "b"), message("user", "c")]
    assert transcript(turns) == "User:\na\n\nAssistant:\nb\n\nUser:\nc\n\nAssistant:\n"
    called = {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]}
    text = transcript([message("user", "a"), called, {"role": "tool", "content": "2"}])
    assert text == (
        'User:\na\n\nAssistant:\nLet me see.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n'
        "</tool_call>\n\nTool:\n2\n\nAssistant:\n"
    )


@given(st.lists(st.tuples(st.sampled_from(ROLES), st.text(max_size=5)), min_size=2, max_size=6))
def test_a_transcript_grows_by_the_answer_and_the_replies(turns):
    """The text of a longer conversation is that of the shorter one, an answer, and the replies."""
    before = [message(*turn) for turn in turns]
    answer, said = message("assistant", "x"), [message("user", "y")]
    whole = transcript([*before, answer, *said])
    assert whole == transcript(before) + "x" + replies(said, over=False)
    assert whole.startswith(transcript(before) + "x" + replies(said, over=True))
