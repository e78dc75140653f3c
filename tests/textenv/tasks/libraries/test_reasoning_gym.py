"""The datasets of reasoning-gym as tasks."""

import copy
import pickle
import re
import sys
import warnings

import gymnasium as gym
import pytest

from textenv import tasks
from textenv.errors import ConfigError, MissingDependencyError
from textenv.rewards.extract import make_extractor
from textenv.tasks.base import split_of
from textenv.tasks.libraries import reasoning_gym as source

reasoning_gym = pytest.importorskip("reasoning_gym")
NAMES = source.names()
# The library gives no answer, neither in the entry nor in its metadata.
NO_ORACLE = {"boxnet", "rush_hour"}
# The library gives an answer that its own verifier does not always accept.
SOME_ORACLES = {"propositional_logic"}
# The library's own check refuses the settings of its curriculum.
BROKEN_CURRICULA = {"knight_swap"}


def test_all_of_the_librarys_datasets_are_listed():
    registered = set(reasoning_gym.factory.DATASETS) - {"composite"}
    assert {name.removeprefix("reasoning_gym:") for name in NAMES} == registered
    assert len(registered) >= 100
    assert set(NAMES) <= set(tasks.names())


def test_an_episode_by_hand():
    env = gym.make("textenv:TextGen-v0", task="reasoning_gym:chain_sum")
    question, info = env.reset(seed=0)
    assert info["task"] == "reasoning_gym:chain_sum"
    # chain_sum draws only + and -, so that the terms can be added one by one.
    terms = re.search(r": (.*) =$", question).group(1).replace("- ", "+ -").split(" + ")
    answer = str(sum(map(int, terms)))
    _, reward, terminated, truncated, info = env.step(answer)
    assert (reward, terminated, truncated, info["is_correct"]) == (1.0, True, False, True)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(f"{answer}0")
    assert reward < 1.0 and info["is_correct"] is False


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_id_is_an_example(split):
    one, two = (tasks.make("reasoning_gym:basic_arithmetic", split=split) for _ in range(2))
    ids = [0, 1, 2**47, 2**70, 1]
    assert [one.example(i) for i in ids] == [two.example(i) for i in reversed(ids)][::-1]
    assert one.example(1) != one.example(2)
    with pytest.raises(ConfigError, match="-1"):
        one.example(-1)


def test_neighbouring_ids_share_nothing():
    # The library's own seeds 42 and 43 give the same items, shifted by one.
    theirs = [
        reasoning_gym.create_dataset("chain_sum", seed=seed, size=3)[i]["question"]
        for seed, i in ((42, 1), (43, 0))
    ]
    assert theirs[0] == theirs[1]
    task = tasks.make("reasoning_gym:chain_sum", min_digits=5, max_digits=6)
    assert len({task.example(i)["prompt"] for i in range(200)}) == 200


def test_no_question_is_in_both_splits():
    kwargs = {"min_digits": 1, "max_digits": 1, "min_terms": 2, "max_terms": 2}
    train, test = (
        {
            tasks.make("reasoning_gym:chain_sum", split=split, **kwargs).example(i)["prompt"]
            for i in range(300)
        }
        for split in ("train", "test")
    )
    assert train and test and not train & test
    assert {split_of(question) for question in test} == {"test"}


def test_fields_and_levels_set_the_difficulty():
    def longest(**kwargs):
        task = tasks.make("reasoning_gym:chain_sum", **kwargs)
        prompts = [task.example(i)["prompt"] for i in range(50)]
        return max(len(number) for prompt in prompts for number in re.findall(r"\d+", prompt))

    assert longest(min_digits=7, max_digits=7) == 7
    curriculum = reasoning_gym.factory.create_curriculum("chain_sum")
    for level in (0, 2):
        curriculum.set_attr_level("num_digits", level)
        assert longest(level=level) == curriculum.generate_configuration().max_digits
    assert longest(level=0, min_digits=9, max_digits=9) == 9  # the field is kept


def test_every_curriculum_goes_from_its_first_level_to_its_last():
    for dataset in reasoning_gym.factory.CURRICULA:
        if dataset == "composite":
            continue
        attributes = reasoning_gym.factory.create_curriculum(dataset).attributes.values()
        top = max(len(attribute.levels) for attribute in attributes) - 1
        with pytest.raises(ConfigError, match=f"0 to {top}, got {top + 1}"):
            tasks.make(f"reasoning_gym:{dataset}", level=top + 1)
        if dataset in BROKEN_CURRICULA:
            with pytest.raises(ConfigError, match=r"refuses task_kwargs \{'level': 0\}"):
                tasks.make(f"reasoning_gym:{dataset}", level=0)
        elif dataset not in source._COSTLY:
            assert tasks.make(f"reasoning_gym:{dataset}", level=0).name.endswith(dataset)


@pytest.mark.parametrize(
    ("name", "kwargs", "says"),
    [
        ("chain_sums", {}, "'chain_sums'; did you mean 'chain_sum'"),
        ("", {}, "unknown reasoning-gym dataset ''"),
        ("chain_sum", {"min_term": 2}, "'min_term'; did you mean 'min_terms'"),
        ("chain_sum", {"seed": 2}, "unknown parameter of reasoning_gym:chain_sum 'seed'"),
        ("chain_sum", {"min_terms": -1}, "refuses.*min_terms must be positive"),
        ("chain_sum", {"min_terms": "two"}, "refuses task_kwargs {'min_terms': 'two'}"),
        ("chain_sum", {"level": -1}, "level of reasoning_gym:chain_sum .* got -1"),
        ("chain_sum", {"level": True}, "got True"),
        ("chain_sum", {"split": "dev"}, "'dev'"),
        ("composite", {}, "refuses.*at least one dataset"),
        ("composite", {"level": 0}, "level"),
    ],
)
def test_what_cannot_be_made_says_so(name, kwargs, says):
    with pytest.raises(ConfigError, match=says):
        tasks.make(f"reasoning_gym:{name}", **kwargs)


def test_a_library_that_is_not_there_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingDependencyError, match=r"reasoning-gym.*textenv\[tasks\]"):
        tasks.make("reasoning_gym:chain_sum")


def test_a_dataset_that_is_not_made_anew_for_an_example_gives_what_a_new_one_gives():
    for dataset in source._COSTLY:
        made = reasoning_gym.create_dataset(dataset, seed=1, size=1)
        for seed in (3, 2**32 - 2):
            again = copy.copy(made)
            again.seed = seed
            new = reasoning_gym.create_dataset(dataset, seed=seed, size=1)
            assert again[0] == new[0], dataset


NOT_ANSWERS = ["", "x", "[1,", "{}", '{"a": 1}', "[[1]]", "(", "1" * 50, " 42\n", "🙂", "1/0"]


@pytest.mark.slow
def test_every_dataset_plays_three_episodes_and_its_oracle_scores_full_marks(states, code):
    before = states()
    for name in NAMES:
        task = tasks.make(name)
        env = gym.make("TextGen-v0", task=task)
        for seed in range(3):
            question, _ = env.reset(seed=seed)
            assert question == env.unwrapped.example["prompt"] and question
            for text in [*NOT_ANSWERS, *code]:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # from NumPy, for a text that is not a matrix
                    score = task.score(env.unwrapped.example, text)
                assert type(score) is float and 0 <= score <= 1, (name, text)
            dataset = name.removeprefix("reasoning_gym:")
            try:
                answer = task.oracle(env.unwrapped.example)
            except NotImplementedError as error:
                assert dataset in {*NO_ORACLE, *SOME_ORACLES} and dataset in str(error)
                env.step("")
                continue
            assert dataset not in NO_ORACLE
            _, reward, terminated, _, info = env.step(answer)
            assert (reward, terminated, info["is_correct"]) == (1.0, True, True), name
        assert states() == before, name
        assert "ran_a_completion" not in sys.modules, name


def test_the_levels_of_reasoning_gym_are_its_curricula():
    pytest.importorskip("reasoning_gym")
    task = tasks.make("reasoning_gym:chain_sum", min_terms=2, max_terms=2)
    assert task.level is None
    at = task.at_level(2)
    same = tasks.make("reasoning_gym:chain_sum", level=2, min_terms=2, max_terms=2)
    assert (task.levels, at.level) == (same.levels, 2)
    assert [at.example(i) for i in range(9)] == [same.example(i) for i in range(9)]
    assert task.at_level(2) is at
    assert at.at_level(0).example(1) != at.example(1)
    with pytest.raises(ConfigError, match=r"level of reasoning_gym:chain_sum .* got 99"):
        task.at_level(99)
    copy = pickle.loads(pickle.dumps(at))
    assert (copy.example(1), copy.level) == (at.example(1), 2)


def test_a_dataset_without_a_curriculum_has_no_levels():
    pytest.importorskip("reasoning_gym")
    task = tasks.make("reasoning_gym:list_functions")
    assert task.levels is None
    with pytest.raises(ConfigError, match="list_functions' has no levels"):
        task.at_level(0)


@pytest.mark.parametrize(
    "dataset", ["power_function", "sentence_reordering", "chain_sum", "tsumego"]
)
def test_a_consolation_is_paid_only_if_it_is_asked_for(dataset):
    name = f"reasoning_gym:{dataset}"
    strict, paying = tasks.make(name), tasks.make(name, partial_credit=True)
    paid = 0
    for i in range(5):
        example = strict.example(i)
        assert example == paying.example(i)
        theirs = {**example, "question": example["prompt"]}
        for text in ("hello", f"It is {example['answer']}, I think", strict.oracle(example)):
            score = paying._dataset.score_answer(text, theirs)
            assert paying.score(example, text) == score
            assert strict.score(example, text) == (1.0 if score >= 1 else 0.0)
            paid += 0 < score < 1
    assert paid >= 5


def test_partial_credit_stays_at_other_levels_and_must_be_a_bool():
    task = tasks.make("reasoning_gym:chain_sum", style="chat", partial_credit=True)
    for other in (task.at_level(1), task.with_timeout(5.0)):
        example = other.example(0)
        assert 0 < other.score(example, f"so {example['answer']}") < 1
        assert other.style == "chat"
    with pytest.raises(ConfigError, match="partial_credit must be true or false, got 1"):
        tasks.make("reasoning_gym:chain_sum", partial_credit=1)


def test_a_verifier_that_pays_any_text_does_not_pay_here():
    task = tasks.make("reasoning_gym:game_of_life_halting", partial_credit=True)
    example = task.example(0)
    theirs = {**example, "question": example["prompt"]}
    assert task._dataset.score_answer("hello", theirs) == 1.0  # what is wrong with the library
    wrong = "False" if example["answer"] == "True" else "True"
    scores = [task.score(example, text) for text in ("hello", wrong, f" {example['answer']}\n")]
    assert scores == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("text", ["nan", "NaN", "-nan", "nanj", "(1+nani)"])
def test_what_is_no_number_is_no_answer(text):
    task = tasks.make("reasoning_gym:complex_arithmetic", partial_credit=True)
    example = task.example(0)
    theirs = {**example, "question": example["prompt"]}
    assert task._dataset.score_answer(text, theirs) == 1.0  # what is wrong with the library
    assert task.score(example, text) == 0.0
    assert task.score(example, task.oracle(example)) == 1.0


@pytest.mark.parametrize(
    ("dataset", "how"),
    [
        ("chain_sum", "\nReply with the number only."),
        ("puzzle24", "\nWrite your final answer as <answer>...</answer>."),
    ],
)
def test_a_chat_question_says_how_to_answer(dataset, how):
    name = f"reasoning_gym:{dataset}"
    plain, chat = tasks.make(name), tasks.make(name, "chat")
    for i in range(5):
        assert chat.example(i)["prompt"] == plain.example(i)["prompt"] + how
    env = gym.make("textenv:TextGen-v0", task=name, style="chat")
    env.reset(seed=0)
    answer = env.unwrapped.task.oracle(env.unwrapped.example)
    bare = answer.removeprefix("<answer>").removesuffix("</answer>")
    assert (bare == answer) is (dataset == "chain_sum")
    _, reward, _, _, info = env.step(f"<think>1</think>So it is {answer}")
    assert (reward, info["answer"], info["is_correct"]) == (1.0, bare, True)


@pytest.mark.slow
def test_the_oracle_passes_in_style_chat_and_numbers_are_numbers():
    for name in NAMES:
        dataset = name.removeprefix("reasoning_gym:")
        if dataset in NO_ORACLE:
            continue
        plain, chat = tasks.make(name), tasks.make(name, "chat")
        extract = make_extractor(chat.extract)
        example = chat.example(1)
        assert example["prompt"].startswith(plain.example(1)["prompt"]), name
        try:
            answer = chat.oracle(example)
        except NotImplementedError:
            assert dataset in SOME_ORACLES
            continue
        assert chat.score(example, extract(f"So: {answer}")) == 1.0, name
        if dataset in source.NUMBERS:
            float(answer)  # raises for anything else
