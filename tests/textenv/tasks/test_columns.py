"""Rows as examples: names of columns, GSM8K's answers, conversations."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv.errors import DataError
from textenv.tasks.columns import as_example


@pytest.mark.parametrize(
    ("answer", "final"),
    [
        ("She sold 48/2 = <<48/2=24>>24.\n#### 72", "72"),
        ("#### 5", "5"),
        ("a\n#### 1,234,567", "1234567"),
        ("a\n#### -1,234.50 \n", "-1234.50"),
        ("a\n####18", "18"),
        ("a\r\n  #### 7\r\n", "7"),
        ("a\n#### 3 apples, 4 pears", "3 apples, 4 pears"),
        ("a\n#### 12,34", "12,34"),  # no separator of thousands
        ("#### 1\nb\n#### 2", "2"),
    ],
)
def test_an_answer_of_gsm8k_is_what_its_last_line_says(answer, final):
    row = {"question": "How many?", "answer": answer}
    assert as_example(row) == {"prompt": "How many?", "answer": final, "solution": answer}
    assert as_example({**row, "solution": "theirs"})["solution"] == "theirs"
    assert row == {"question": "How many?", "answer": answer}


@pytest.mark.parametrize(
    "answer",
    ["42", "", 42, None, "a #### 3", "#### 4\nand more", "a\n####", "a\n#### ", ["#### 1"]],
)
def test_other_answers_stay_as_they_are(answer):
    assert as_example({"prompt": "p", "answer": answer}) == {"prompt": "p", "answer": answer}


def test_a_question_is_the_prompt_if_there_is_no_other():
    both = {"question": "q", "prompt": "p"}
    assert as_example(both) == both
    chat = {"question": "q", "messages": [{"role": "user", "content": "p"}]}
    assert as_example(chat) == chat
    assert as_example({"question": "q", "gold": 1}, {"gold": "answer"}) == {
        "prompt": "q",
        "answer": 1,
    }


def test_columns_rename_and_may_swap():
    row = {"a": 1, "b": 2, "c": 3}
    assert as_example(row, {"a": "b", "b": "a"}) == {"b": 1, "a": 2, "c": 3}
    assert as_example(row, {"a": "a"}) == row
    with pytest.raises(DataError, match="'a' the name 'c', which another column has"):
        as_example(row, {"a": "c"})
    with pytest.raises(DataError, match=r"no column 'd'.*the row has 'a', 'b', 'c'"):
        as_example(row, {"a": "b", "b": "a", "d": "e"})
    with pytest.raises(DataError, match="the row has no columns"):
        as_example({}, {"d": "e"})


names = st.text(max_size=3)


@given(st.dictionaries(names, st.integers(), max_size=6), st.data())
def test_renaming_keeps_all_values_and_the_way_back_restores_the_row(row, data):
    chosen = data.draw(st.lists(st.sampled_from(sorted(row)), unique=True)) if row else []
    columns = dict(zip(chosen, data.draw(st.permutations(chosen))))
    renamed = as_example(row, columns)
    assert sorted(renamed.values()) == sorted(row.values())
    if not {"question", "prompt"} & row.keys():
        assert as_example(renamed, {new: old for old, new in columns.items()}) == row


def test_the_assistants_last_message_is_an_answer_too():
    messages = [
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": "2+2 = 4\n#### 4"},
    ]
    for key in ("messages", "prompt"):
        example = as_example({key: messages})
        assert (example["answer"], example["solution"]) == ("4", "2+2 = 4\n#### 4")
        assert as_example({key: messages, "answer": "5"}) == {key: messages, "answer": "5"}
        assert as_example({key: messages[:1]}) == {key: messages[:1]}


def test_a_conversation_in_a_cell_of_csv_is_json():
    messages = [{"role": "user", "content": 'say "a"'}]
    for key in ("messages", "prompt"):
        row = {key: json.dumps(messages)}
        assert as_example(row, all_text=True) == {key: messages}
        assert as_example(row) == row
    for text in ("[1, 2] sorted", "[1, 2]", "[]", "[", "plain", '[{"a": 1}]', "[" * 10_000):
        assert as_example({"prompt": text}, all_text=True) == {"prompt": text}


def test_an_empty_cell_of_a_table_is_no_prompt():
    chat = [{"role": "user", "content": "a"}]
    assert as_example({"prompt": None, "messages": chat}) == {"messages": chat}
    assert as_example({"messages": None, "question": "q"}) == {"prompt": "q"}
    assert as_example({"prompt": None}) == {"prompt": None}
