"""Tools: results, errors, and functions that hang, raise or cannot be called."""

import threading
import time

import pytest

from textenv.errors import ConfigError, ConfigTypeError
from textenv.tools import Result, Tools
from textenv.tools.calls import write_call


def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


def divide(a: int, b: int) -> float:
    """Divide."""
    return a / b


def hang(seconds: float) -> str:
    """Sleep."""
    time.sleep(seconds)
    return "woke up"


def tower() -> str:
    """Compute without end, in a way that no signal and no thread can stop."""
    return str(9**9**9**9)


def odd() -> object:
    """Return what is no text."""
    return threading.Lock()


def many_lines() -> str:
    """Raise an error of several lines."""
    raise ValueError("one\ntwo")


def give_up() -> str:
    """End the program."""
    raise SystemExit(3)


async def later(a: str) -> str:
    """Answer later."""
    return a.upper()


def lists() -> dict:
    """JSON."""
    return {"é": [1, None]}


def run(tools, name, **arguments):
    (call,) = tools.read(write_call(name, arguments))
    return tools.run(call)


@pytest.mark.parametrize("timeout", [30.0, None])
def test_results_are_text_and_errors_say_what_happened(timeout):
    tools = Tools([add, divide, odd, many_lines, later, lists], timeout)
    assert run(tools, "add", a=2) == Result("3")
    assert run(tools, "divide", a=1, b=2) == Result("0.5")
    assert run(tools, "later", a="x") == Result("X")
    assert run(tools, "lists") == Result('{"é": [1, null]}')
    failed = run(tools, "divide", a=1, b=0)
    assert failed == Result("error: divide raised ZeroDivisionError: division by zero", failed=True)
    assert run(tools, "many_lines").text == "error: many_lines raised ValueError: one two"
    assert run(tools, "odd").text.startswith("error: odd returned a lock; a tool returns text")
    assert run(tools, "odd").failed


def test_a_tool_that_hangs_is_stopped_and_the_next_call_is_answered():
    tools = Tools([hang, tower, add, give_up], 0.3)
    began = time.perf_counter()
    assert run(tools, "hang", seconds=60) == Result(
        "error: hang took longer than 0.3 s, and was stopped", failed=True
    )
    assert "took longer than 0.3 s" in run(tools, "tower").text
    assert "ended its process" in run(tools, "give_up").text
    assert run(tools, "add", a=1) == Result("2")
    assert time.perf_counter() - began < 50


def test_a_lambda_with_a_name_and_a_closure_run_in_the_process_too():
    secret = "é"

    def reveal(times: int) -> str:
        return secret * times

    assert run(Tools([reveal]), "reveal", times=2) == Result("éé")


def test_what_a_tool_changes_stays_in_its_process_unless_it_has_no_limit():
    seen = []

    def note(what: str) -> str:
        seen.append(what)
        return "noted"

    run(Tools([note]), "note", what="a")
    assert seen == []
    run(Tools([note], timeout=None), "note", what="b")
    run(Tools([], trusted=[note]), "note", what="c")
    assert seen == ["b", "c"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (write_call("sub", {}), "there is no tool 'sub'; the tools: add, divide"),
        (write_call("add", {"c": 1}), "add: it has no argument 'c'; its arguments: a, b"),
        (write_call("add", {"a": "1"}), "add: the argument 'a' must be of type integer, got '1'"),
        ("<tool_call>add(1)</tool_call>", "it is not JSON: Expecting value"),
    ],
)
def test_a_malformed_call_says_what_is_wrong_and_runs_nothing(answer, says):
    tools = Tools([add, divide])
    (call,) = tools.read(answer)
    result = tools.run(call)
    assert result.malformed and not result.failed
    assert result.text.startswith(f"error: the tool call cannot be read: {says}")
    assert "\n" not in result.text


def no_hint(a):
    return a


def test_tools_that_cannot_be_called_are_refused():
    with pytest.raises(ConfigError, match="argument 'a' of tool 'no_hint' has no type hint"):
        Tools([no_hint])
    with pytest.raises(ConfigError, match="two tools are called 'add'"):
        Tools([add, add])
    with pytest.raises(ConfigTypeError, match="tools must be a list of functions, got <function"):
        Tools(add)
    with pytest.raises(ConfigTypeError, match="a tool must be a function, got 'add'"):
        Tools(["add"])
    lock = threading.Lock()

    def locked() -> str:
        return str(lock)

    with pytest.raises(ConfigError, match=r"'locked' cannot be sent.*tool_timeout=None"):
        Tools([locked])
    for timeout in (0, -1.0, True, "1", float("nan"), float("inf"), 1e7, 10**400):
        with pytest.raises(ConfigError, match="tool_timeout must be a number of seconds above 0"):
            Tools([add], timeout)
