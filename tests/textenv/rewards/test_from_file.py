"""Reward functions of a file that is named on a command line."""

import copy
import pickle

import pytest

from textenv.errors import ConfigError, MissingFileError
from textenv.rewards import Reward
from textenv.rewards.from_file import load

CODE = """
number = 3

def mine(prompt, completion, example):
    return float(completion == example["answer"])

mine.requires, mine.verifies = ["answer"], True

async def later(prompt, completion, example):
    return 2.0

class Counted:
    def __init__(self, letter):
        self.letter = letter
    def __call__(self, prompt, completion, example):
        return float(completion.count(self.letter))

letters, lines = Counted("a"), lambda prompt, completion, example: 4.0
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "own_file.py").write_text(CODE)
    return str(tmp_path / "own_file.py")


def test_it_is_the_function_with_what_was_declared_of_it(path):
    mine = load(path, "mine")
    scored = Reward(mine)
    assert (scored.requires, list(scored("p", "4", {"answer": "4"})[1])) == (["answer"], ["mine"])
    assert scored("p", "4", {"answer": "4"})[2] is True
    assert copy.deepcopy(mine) is mine
    assert Reward(load(path, "later"))("p", "c", {})[0] == 2.0


def test_another_process_loads_it_again(path, made):
    plain = path.replace("own_file", "plain_file")
    with open(plain, "w") as file:
        file.write("def half(prompt, completion, example):\n    return 0.5\n")
    assert made(load(plain, "half"), process=True)("p", "c", {})[0] == 0.5
    assert pickle.loads(pickle.dumps(load(plain, "half")))("p", "c", {}) == 0.5


def test_an_object_and_a_lambda_have_the_names_of_the_file(path):
    scored = Reward([load(path, "letters"), load(path, "lines")])
    assert scored("p", "banana", {})[1] == {"letters": 3.0, "lines": 4.0}
    again = pickle.loads(pickle.dumps(load(path, "lines")))
    assert again("p", "c", {}) == 4.0


def test_what_is_not_there_is_named(path, tmp_path):
    for name in ("number", "other"):
        with pytest.raises(ConfigError, match=f"has no function '{name}'"):
            load(path, name)
    with pytest.raises(MissingFileError, match="is not a file"):
        load(str(tmp_path / "none.py"), "mine")
