"""What templates do not take is shown in other words; all else is passed on unchanged."""

import pytest

from textenv.chat_templates import ChatTemplate
from textenv.errors import DataError, MissingDependencyError
from textenv.tools.calls import described

TOOLS = [{"type": "function", "function": {"name": "add"}}]
CALLED = {
    "role": "assistant",
    "content": "So:",
    "tool_calls": [{"id": "call00000", "function": {"name": "add", "arguments": {"a": 1}}}],
}
CALL = 'So:\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def message(role, content):
    return {"role": role, "content": content}


class Renders:
    """A template that shows some roles, and perhaps tools and calls, and keeps what it is given."""

    def __init__(self, roles, shows=(), silent=False):
        self._roles, self._shows, self._silent = roles, shows, silent
        self.given = []

    def __call__(self, messages, add_generation_prompt, **settings):
        self.given.append((messages, add_generation_prompt, settings))
        text = str(settings.get("tools", "")) if "tools" in self._shows else ""
        for each in messages:
            if each["role"] not in self._roles and not self._silent:
                raise ValueError(f"no role {each['role']}")
            if each["role"] in self._roles:
                calls = each.get("tool_calls", "") if "calls" in self._shows else ""
                text += f"[{each['role']}]{each['content']}{calls}"
        return text


ALL = ("system", "user", "assistant", "tool")


def test_a_template_that_shows_all_is_given_all_unchanged():
    renders = Renders(ALL, ["tools", "calls"])
    messages = [message("system", "s"), message("user", "a"), CALLED, message("tool", "2")]
    text = ChatTemplate(renders)(messages, False, tools=TOOLS, enable_thinking=True)
    assert renders.given[-1] == (messages, False, {"tools": TOOLS, "enable_thinking": True})
    assert text.startswith(str(TOOLS)) and text.endswith("[tool]2")


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "leaves out"])
def test_a_system_message_goes_before_the_users(silent):
    template = ChatTemplate(Renders(("user", "assistant"), silent=silent))
    assert template([message("system", "s"), message("user", "a")]) == "[user]s\n\na"
    said = [message("system", "s"), message("assistant", "b"), message("user", "a")]
    assert template(said) == "[user]s[assistant]b[user]a"
    assert template([message("user", "a")]) == "[user]a"


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "leaves out"])
def test_calls_and_results_are_text(silent):
    renders = Renders(("system", "user", "assistant"), silent=silent)
    said = [message("user", "a"), CALLED, message("tool", "2"), message("tool", "3"), CALLED]
    results = "<tool_response>\n2\n</tool_response>\n<tool_response>\n3\n</tool_response>"
    shown = f"[user]a[assistant]{CALL}[user]{results}[assistant]{CALL}"
    assert ChatTemplate(renders)(said) == shown
    words = f"[system]{described(TOOLS)}"
    assert ChatTemplate(renders)(said, tools=TOOLS) == words + shown
    assert "tools" not in renders.given[-1][2]
    both = [message("system", "s"), *said]
    assert ChatTemplate(renders)(both, tools=TOOLS).startswith(f"[system]s\n\n{described(TOOLS)}")


def test_what_a_template_takes_is_found_out_once():
    renders = Renders(("user", "assistant"))
    template = ChatTemplate(renders)
    for _ in range(3):
        template([message("system", "s"), message("user", "a")], tools=TOOLS)
    assert len(renders.given) == 3 + 2  # tools, system


def test_what_cannot_be_shown_is_refused_with_the_reason_in_one_line():
    with pytest.raises(DataError, match=r"take messages of the roles user, odd: no role odd$"):
        ChatTemplate(Renders(ALL))([message("user", "a"), message("odd", "b")])

    def missing(*args, **settings):
        raise MissingDependencyError("transformers", "tokenizers", "a chat template")

    with pytest.raises(MissingDependencyError):
        ChatTemplate(missing)([message("system", "s"), message("user", "a")])


def test_the_callers_messages_stay_as_they_were():
    messages = [message("system", "s"), message("user", "a"), {**CALLED}, message("tool", "2")]
    before = [dict(each) for each in messages]
    ChatTemplate(Renders(("user", "assistant")))(messages, tools=TOOLS)
    assert messages == before
