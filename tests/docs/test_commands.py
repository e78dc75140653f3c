"""Each ``textenv COMMAND`` and ``--option`` that a page names exists; what is not run parses."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import tyro

from textenv.algos.cli import COMMANDS, main


@pytest.fixture(scope="session")
def rollouts(tmp_path_factory):
    """A folder of rollouts of each kind, which ``--from-rollouts`` reads before it parses."""
    folder = tmp_path_factory.mktemp("rollouts")
    size = ["--n-steps", "8", "--num-envs", "1"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["rollout", *size, "--out", str(folder / "control")]) == 0
        assert main(["rollout", "--task", "reverse", *size, "--out", str(folder / "text")]) == 0
    return folder


def calls(code: str) -> Iterator[list[str]]:
    """The arguments of each call of textenv in a piece of shell."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&"):
                yield from _arguments(words)
                words = []
            else:
                words.append(word)


def _arguments(words: list[str]) -> Iterator[list[str]]:
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    program, given = words[0].rpartition("/")[2] if words else "", None
    if program == "textenv":
        given = words[1:]
    elif program.startswith("python") and words[1:3] == ["-m", "textenv"]:
        given = words[3:]
    if given is None:
        return
    if given[:1] == ["launch"] and "train" in given:  # what it starts is a call too
        inner = given.index("train")
        yield given[inner:]
        given = given[: inner + 1]
    yield given


def read_calls(page, code: str) -> list[list[str]]:
    try:
        return list(calls(code)) if "textenv" in code else []
    except ValueError as error:
        pytest.fail(f"{page.name}: {error} in {code}", pytrace=False)


@functools.cache
def options(form: tuple[str, ...]) -> frozenset[str]:
    """The options of a form of a command, as its help has them."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as left:
            main([*form, "--help"])
    assert left.value.code == 0, form
    lines = re.findall(r"^[│ ] ((?:-h, )?--\S.*?)(?: {2}|│|$)", out.getvalue(), re.M)
    found = frozenset(re.findall(r"--[a-z][a-z0-9-]*", " ".join(lines)))
    assert "--help" in found and len(found) > 1, form
    return found


def forms_of(arguments: Sequence[str], rollouts: Path) -> list[tuple[str, ...]]:
    """The forms of its command that a call may be of; each form has options of its own."""
    given = {word.partition("=")[0] for word in arguments}
    ppo = ("--algo", "ppo") if "--algo" in given and "ppo" in arguments else ()
    if arguments[0] == "train" and "--from-rollouts" in given:
        kinds = ("control",) if ppo else ("control", "text")
        return [("train", "--from-rollouts", str(rollouts / kind), *ppo) for kind in kinds]
    if arguments[0] == "train":
        sft = ("--algo", "sft") if "--algo" in given and "sft" in arguments else ()
        return [("train", *ppo, *sft)]
    if arguments[0] == "compare" and "--strategies" in given:
        return [("compare", "--strategies", "plain")]
    return [(arguments[0],)]


def all_options(rollouts: Path) -> frozenset[str]:
    offline = ["train", "--from-rollouts"]
    calls = [["train", "--algo", algo] for algo in ("ppo", "sft")]
    calls += [["compare", "--strategies"], offline]
    calls += [[*offline, "--algo", "ppo"], *([command] for command in COMMANDS)]
    return frozenset().union(*(options(f) for call in calls for f in forms_of(call, rollouts)))


def unknown(page, rollouts: Path) -> Iterator[str]:
    """Commands and options that a page names, and that there are not."""
    shell = [block.code for block in page.blocks if block.language == "bash"]
    code = [*shell, *page.indented, *page.spans]
    for arguments in (call for piece in code for call in read_calls(page, piece)):
        if not arguments or not re.match(r"[a-z]", arguments[0]):  # `textenv COMMAND`
            continue
        line = " ".join(["textenv", *arguments])
        if arguments[0] not in COMMANDS:
            yield f"{page.name}: no such command: {line}"
            continue
        known = frozenset().union(*map(options, forms_of(arguments, rollouts)))
        for option in (word.partition("=")[0] for word in arguments if word.startswith("--")):
            if option not in known:
                yield f"{page.name}: no option {option}: {line}"
    for option in (found[0] for span in page.spans if (found := re.match(r"--[\w-]+", span))):
        if option not in all_options(rollouts):
            yield f"{page.name}: no command has the option {option}"


def test_commands_and_options_exist(page, rollouts):
    assert list(unknown(page, rollouts)) == []


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("`textenv`, `textenv COMMAND --help`, `textenv train --max-steps=3`, `--num-workers`", 0),
        ("`textenv train --algo\nppo --size fast`, `python -m textenv eval --episodes 3`", 0),
        ("```bash\nX=1 .venv/bin/textenv compare --strategies plain --tokens 5  # --none\n```", 0),
        ("`textenv train --from-rollouts DIR --method awr`, `pip install --no-deps x`", 0),
        ("`textenv nothing`", 1),
        ("`textenv train --nothing 3`", 1),
        ("`--nothing`", 1),
        ("`textenv train --gamma 1`, `textenv train --algo ppo --gamma 1`", 1),  # PPO's alone
        ("`textenv train --max-length 9`, `textenv train --algo sft --max-length 9`", 1),
        ("`textenv compare --tokens 5`", 1),  # of --strategies alone
        ("```bash\ntrue && textenv view \\\n  --nothing\n```", 1),
        ("```bash\necho x | python -m textenv nothing\n```", 1),
        ("    textenv bench --nothing", 1),
        ("`textenv launch -n 2 --restarts 1 train --out run`", 0),
        ("`textenv launch --nothing train --seed 3`, `textenv launch train --nothing`", 2),
    ],
)
def test_the_check_finds_what_is_not_there(text, bad, make_page, rollouts):
    assert len(list(unknown(make_page(text), rollouts))) == bad


def not_parsed(page, rollouts: Path) -> Iterator[str]:
    """Of blocks that are marked as not run: what does not compile or parse."""
    for block in page.blocks:
        if block.reason is None:
            continue
        if block.language == "python":
            try:
                compile(block.code, page.name, "exec")
            except SyntaxError as error:
                yield f"{page.name}:{block.line}: {error}"
        for arguments in read_calls(page, block.code) if block.language == "bash" else ():
            if not any(_parses(given) for given in _with_rollouts(arguments, rollouts)):
                yield f"{page.name}:{block.line}: textenv {' '.join(arguments)}"


def _with_rollouts(arguments: list[str], rollouts: Path) -> Iterator[list[str]]:
    """The arguments, with rollouts that exist for those that they name."""
    if "--from-rollouts" not in arguments:
        yield arguments
        return
    place = arguments.index("--from-rollouts") + 1
    for kind in ("control", "text"):
        yield [*arguments[:place], str(rollouts / kind), *arguments[place + 1 :]]


def _parses(arguments: list[str]) -> bool:
    """Whether a command takes the arguments; it is not run."""
    name, *rest = arguments or ["--help"]
    if name not in COMMANDS:
        return name == "--help"
    command = importlib.import_module(f"textenv.algos.cli.{name}")
    silent = io.StringIO()
    with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        try:
            if hasattr(command, "parse"):
                command.parse(rest)
            else:
                tyro.cli(command.Args, args=rest)
        except SystemExit as left:
            return not left.code
        except (ValueError, TypeError, OSError):
            return False
    return True


def test_what_is_not_run_compiles_and_parses(page, rollouts):
    assert list(not_parsed(page, rollouts)) == []


@pytest.mark.parametrize(
    ("language", "code", "bad"),
    [
        ("python", "x = 1", 0),
        ("python", "x =", 1),
        ("bash", "pip install anything --at-all", 0),
        ("bash", "textenv train --max-steps 3 && textenv train --algo ppo --env CartPole-v1", 0),
        ("bash", "textenv train --from-rollouts mine --method rft", 0),
        ("bash", "textenv train --from-rollouts mine --method bc", 0),
        ("bash", "textenv train --from-rollouts mine --method nothing", 1),
        ("bash", "textenv train --max-steps three", 1),
        ("bash", "textenv launch -n 2 train --max-steps 3", 0),
        ("bash", "textenv launch -n 2 train --max-steps three", 1),
        ("bash", "textenv launch -n two train", 1),
        ("bash", "textenv train --algo nothing", 1),
        ("bash", "textenv nothing", 1),
        ("bash", "textenv rollout --format nothing\ntextenv bench stray", 2),
    ],
)
def test_the_check_finds_what_does_not_parse(language, code, bad, make_page, rollouts):
    page = make_page(f"<!-- not run: a test -->\n```{language}\n{code}\n```\n")
    assert len(list(not_parsed(page, rollouts))) == bad
