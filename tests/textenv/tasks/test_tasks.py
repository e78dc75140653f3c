"""What holds for every built-in task, and the registry of tasks."""

import dataclasses
import inspect
import re

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv import register_task, tasks
from textenv.errors import ConfigError
from textenv.rewards.extract import make_extractor
from textenv.tasks import GeneratedTask, Task
from textenv.tasks.built_in.sort import Sort

TASKS = ["arithmetic", "countdown", "reverse", "sort"]
SPLITS = ["train", "test"]
VARIANTS = [
    ("arithmetic", {"digits": 1}),
    ("arithmetic", {"digits": 3, "operands": 4, "operations": "+-*"}),
    ("countdown", {"numbers": 2, "max_number": 20}),
    ("countdown", {"numbers": 4, "max_number": 50, "max_target": 500}),
    ("reverse", {"min_length": 2, "max_length": 9, "alphabet": "aé🙂日b"}),
    ("sort", {"min_count": 2, "max_count": 9, "max_number": 999}),
    *((name, {}) for name in TASKS),
]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("name", "kwargs"), VARIANTS)
def test_the_oracle_scores_full_marks(name, kwargs, split, examples):
    task = tasks.make(name, split=split, **kwargs)
    for example in examples(name, split=split, **kwargs):
        answer = task.oracle(example)
        assert [task.score(example, text) for text in (answer, f" {answer}\n")] == [1.0, 1.0]


@pytest.mark.parametrize("name", TASKS)
@given(data=st.data())
def test_an_altered_answer_scores_nothing(name, data):
    task = tasks.make(name, split=data.draw(st.sampled_from(SPLITS)))
    example = task.example(data.draw(st.integers(0, 10**6)))
    answer = task.oracle(example)
    at = data.draw(st.integers(0, len(answer) - 1))
    added = data.draw(st.sampled_from("0123456789xyz=.,;#_\u0663\uff15"))
    longer = answer[:at] + added + answer[at:]
    cut = answer[:at] + answer[at + 1 :]
    # Two texts are the same answer in countdown if their numbers are (brackets may be redundant).
    same = {"countdown": lambda text: re.findall(r"\d+", text), "sort": str.split}
    meaning = same.get(name, str.strip)
    for wrong in (longer, cut, answer + "=", answer + " " + answer, "", " ", example["prompt"]):
        if meaning(wrong) != meaning(answer):
            assert task.score(example, wrong) == 0.0


@pytest.mark.parametrize(
    ("name", "prompt", "answer", "wrong"),
    [
        (
            "arithmetic",
            "12+30=",
            "42",
            ["042", "+42", "42.0", "4 2", "42.", "=42", "\uff14\uff12", "24"],
        ),
        ("reverse", "reverse abcd=", "dcba", ["abcd", "DCBA", "d c b a", "dcbaa", "dcb"]),
        ("sort", "sort 52 7 31=", "7 31 52", ["52 31 7", "7,31,52", "73152", "7 31", "7 7 31 52"]),
    ],
)
def test_scores_by_hand(name, prompt, answer, wrong):
    example = {"prompt": prompt, "answer": answer}
    score = tasks.make(name).score
    assert score(example, answer) == 1.0
    assert [score(example, text) for text in wrong] == [0.0] * len(wrong)


@pytest.mark.parametrize(
    ("name", "kwargs", "says"),
    [
        ("arithmetic", {"digits": 13}, "digits.*1 to 12.*13"),
        ("arithmetic", {"operands": 1}, "operands.*2 to 8.*1"),
        ("arithmetic", {"operations": "+/"}, r"operations.*'\+/'"),
        ("arithmetic", {"operations": ""}, "operations.*''"),
        ("arithmetic", {"digits": 2.0}, "digits.*2.0"),
        ("arithmetic", {"digits": True}, "digits.*True"),
        ("countdown", {"numbers": 7}, "numbers.*2 to 5.*7"),
        ("countdown", {"max_number": 1}, "max_number.*1"),
        ("countdown", {"max_target": 0}, "max_target.*0"),
        ("reverse", {"max_length": 3}, "max_length.*4 to.*3"),
        ("reverse", {"alphabet": "a b"}, "alphabet.*'a b'"),
        ("reverse", {"alphabet": ""}, "alphabet.*''"),
        ("sort", {"min_count": 5}, "max_count.*5 to.*4"),
        ("sort", {"max_number": -1}, "max_number.*-1"),
        ("sort", {"split": None}, "train, test.*None"),
        ("sort", {"digits": 2}, "sort.*digits"),
        ("srot", {}, "'srot'.*'sort'"),
    ],
)
def test_bad_parameters_are_named(name, kwargs, says):
    with pytest.raises(ConfigError, match=says):
        tasks.make(name, **kwargs)


class Echo(Task):
    name = "echo"
    size = 3

    def __init__(self, split, loud=False):
        self.split, self.loud = split, loud

    def example(self, example_id):
        return {"prompt": f"{self.split} {example_id}{'!' * self.loud}"}

    def score(self, example, completion):
        return float(completion == example["prompt"])


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(tasks, "_factories", dict(tasks._factories))


def test_a_registered_task_is_made_by_name(registry):
    register_task("echo", Echo)
    assert "echo" in tasks.names()
    env = gym.make("TextGen-v0", task="echo", split="test", task_kwargs={"loud": True})
    starts = {env.reset(seed=seed)[0] for seed in range(50)}
    assert starts == {"test 0!", "test 1!", "test 2!"}
    prompt, info = env.reset()
    assert info["task"] == "echo"
    assert env.step(prompt)[1] == 1.0
    assert gym.make("TextGen-v0", task="echo").reset(options={"example_id": 2})[0] == "train 2"
    with pytest.raises(NotImplementedError, match="'echo' has no oracle"):
        tasks.make("echo", split="test").oracle({})


def test_a_name_is_taken_once(registry):
    register_task("echo", Echo)
    for taken in ("echo", "sort"):
        with pytest.raises(ConfigError, match=f"{taken!r} is registered already"):
            register_task(taken, lambda split: Echo("train"))
    assert tasks.make("sort").name == "sort"


def test_tasks_are_described_without_being_made():
    for name in TASKS:
        assert tasks.describe(name) == type(tasks.make(name)).__doc__.split("\n")[0]
    with pytest.raises(ConfigError, match="did you mean 'sort'"):
        tasks.describe("sord")


def test_tasks_of_other_libraries_are_described_by_these():
    pytest.importorskip("reasoning_gym")
    assert tasks.describe("reasoning_gym:sudoku").startswith("games: ")
    with pytest.raises(ConfigError, match="did you mean 'sudoku'"):
        tasks.describe("reasoning_gym:sudoko")


SECTIONS = (
    *("Description", "Action Space", "Observation Space", "Rewards", "Starting State"),
    *("Episode End", "Arguments", "Version History"),
)


@pytest.mark.parametrize("made_by", tasks.BUILT_IN, ids=lambda task: task.name)
def test_docstrings_have_gymnasiums_sections(made_by):
    told = inspect.getdoc(made_by)
    assert tuple(re.findall("^## (.*)$", told, re.MULTILINE)) == SECTIONS
    arguments = told.partition("## Arguments")[2].partition("##")[0]
    named = set(re.findall("``(.*?)``", arguments)) - {"task_kwargs"}
    assert named == {field.name for field in dataclasses.fields(made_by)}


@pytest.mark.parametrize("made_by", tasks.BUILT_IN, ids=lambda task: task.name)
def test_what_a_docstring_says_is_answered_so(made_by):
    told = " ".join(inspect.getdoc(made_by).split())
    pairs = re.findall(r"``([^`]*)`` is answered by ``([^`]*)``", told)
    assert pairs or made_by is tasks.make("guess_number").__class__
    for prompt, answer in pairs:
        example = {"prompt": prompt, "answer": answer}
        if made_by.name == "countdown":
            target, *numbers = map(int, re.findall(r"\d+", prompt))
            example |= {"target": target, "numbers": numbers}
        assert made_by().score(example, answer) == 1
        # The prompt has the words and numbers of a generated prompt, in the same places.
        shape = [re.sub(r"\d+|\b[a-j]{4,6}\b", "N", text).strip() for text in
                 (prompt, *(made_by().example(i)["prompt"] for i in range(40)))]  # fmt: skip
        assert shape[0] in shape[1:]


def test_an_unknown_task_names_the_sources_without_importing_them():
    with pytest.raises(ConfigError, match=r"arithmetic.*reasoning_gym:NAME, textarena:NAME"):
        tasks.make("gym:chain_sum")


def asked(name, style, **kwargs):
    return tasks.make(name, style, **kwargs)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("name", "kwargs"), [*VARIANTS, ("guess_number", {})])
def test_both_styles_have_the_same_problems_and_the_oracle_passes_in_both(name, kwargs, split):
    plain, chat = (tasks.make(name, style, split=split, **kwargs) for style in tasks.styles(name))
    extract = make_extractor(chat.extract)
    ids = range(100)
    assert plain.extract is None
    for one, two in zip(plain.examples(ids), chat.examples(ids)):
        assert {**one, "prompt": 0} == {**two, "prompt": 0} and one["prompt"] != two["prompt"]
        answer = chat.oracle(two)
        assert answer == plain.oracle(one)
        for said in (answer, f"<think>0</think>\n{answer}\n"):
            assert chat.score(two, extract(said)) == 1.0
        assert extract(f"<think>{answer}") is None
    assert chat.example(7) == chat.examples([7])[0]
    if chat.levels:
        assert chat.at_level(chat.levels[1]).style == "chat"


@pytest.mark.parametrize(
    ("name", "example", "prompt", "said"),
    [
        (
            "arithmetic",
            {"prompt": "12-30=", "answer": "-18"},
            "What is 12-30? Reply with the number only.",
            {"-18": 1, "12 - 30 = -18.": 1, "18": 0, "12-30": 0, "-18 or -19": 0, "minus": None},
        ),
        (
            "countdown",
            {"prompt": "make 24 from 3 5 3=", "numbers": [3, 5, 3], "target": 24},
            "Use each of the numbers 3, 5 and 3 exactly once, with + - * / and brackets, to make "
            "24. Write the expression alone on the last line.",
            {
                "3*(5+3)": 1,
                "I try.\n3*(5+3) = 24.": 1,
                "(3+5)*3\n": 1,
                "24 = (3+5)*3": 1,
                "24 = 24": 0,
                "3*(5+3) = 24 = 24": 0,
                "3*(5+3) = 25": 0,
                "3*8 = 24": 0,
                "3*(5+3)\ndone": 0,
                "24": 0,
                "": None,
            },
        ),
        (
            "guess_number",
            {"prompt": "", "answer": "7", "low": 1, "high": 20},
            "Guess my whole number from 1 to 20. I reply higher if it is higher than your guess, "
            "and lower if it is lower. Reply with one number only.",
            {"7": 1, "I guess 7.": 1, "7 or 8": 0, "seven": None},
        ),
        (
            "reverse",
            {"prompt": "reverse abcd=", "answer": "dcba"},
            "Write the word abcd backwards. Reply with the word only.",
            {"dcba": 1, "It is **dcba**.": 1, '"dcba"': 1, "abcd": 0, "dcba a": 0, "DCBA": None},
        ),
        (
            "sort",
            {"prompt": "sort 52 7 31=", "answer": "7 31 52"},
            "Sort these numbers in ascending order: 52, 7, 31. Reply with the sorted numbers "
            "only, separated by spaces.",
            {
                "7 31 52": 1,
                "Sorted: 7, 31, 52.": 1,
                "52, 7, 31 becomes [7,31,52]": 1,
                "7 31": 0,
                "52 31 7": 0,
                "7 31 -52": 0,
                "none": None,
            },
        ),
    ],
)
def test_answers_in_style_chat_by_hand(name, example, prompt, said):
    task = asked(name, "chat")
    assert task.chat_prompt(example) == prompt
    extract = make_extractor(task.extract)
    for completion, expected in said.items():
        answer = extract(completion)
        score = None if answer is None else task.score(example, answer)
        assert score == expected, (completion, answer)


def test_styles_that_a_task_has():
    assert tasks.styles("arithmetic") == ("plain", "chat")
    assert tasks.styles("reasoning_gym:chain_sum") == ("plain", "chat")
    with pytest.raises(ConfigError, match="unknown task 'sorting'"):
        tasks.styles("sorting")
    with pytest.raises(ConfigError, match=r"'sort' has no style 'loud'; .*: plain, chat"):
        asked("sort", "loud")
    with pytest.raises(ConfigError, match="style must be one of plain, chat, got 'loud'"):
        Sort(style="loud")


def test_a_task_of_one_style_has_no_chat_prompt():
    class Plain(GeneratedTask):
        name = "one_style"

        def generate(self, rng):
            return {"prompt": "a"}

    task = Plain()
    assert (task.style, task.extract, task.is_answer("x"), task.no_answer) == (
        *("plain", None, True, None),
    )
    with pytest.raises(NotImplementedError, match="'one_style' has no style 'chat'"):
        task.chat_prompt({"prompt": "a"})
