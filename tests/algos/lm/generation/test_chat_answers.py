"""Given answers as token ids, against the tokenizer's own rendering of the whole conversation."""

from __future__ import annotations

import pytest

from tests.algos.lm.generation.shared import (
    CHATML,
    FAMILIES,
    byte_pair_tokenizer,
    chat_tokenizer,
    family,
)
from textenv.algos.lm.generation.chat import ChatFormat
from textenv.errors import DataError

ASKED = {"role": "user", "content": "What is 1+1?"}
ANSWER = {"role": "assistant", "content": "It is 2."}


def whole(tokenizer, messages, **settings):
    return tokenizer.apply_chat_template(messages, add_generation_prompt=False, **settings)


def plain(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def up_to_the_end(tokenizer, ids):
    """Ids up to the last token that ends an answer, which a template may put something after."""
    last = max(i for i, token in enumerate(ids) if token == tokenizer.eos_token_id)
    return list(ids[: last + 1])


@pytest.mark.parametrize("settings", [{}, {"enable_thinking": False}], ids=["default", "off"])
@pytest.mark.parametrize("name", FAMILIES)
def test_prompt_and_answer_are_what_the_template_makes_of_them(name, settings):
    tokenizer = family(name)
    chat = ChatFormat(tokenizer, settings=settings)
    expected = up_to_the_end(tokenizer, whole(tokenizer, [ASKED, ANSWER], **settings))
    for messages in (None, [ASKED]):
        before = chat.begin(ASKED["content"], messages)
        answer = chat.answer(ANSWER, ASKED["content"], messages)
        assert [*before, *answer] == expected
        assert answer[-1] in chat.ends and "It is 2." in tokenizer.decode(answer)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_is_one_that_the_policy_could_have_written(name):
    """It has no end before its last token, and goes on as the policy's own would."""
    tokenizer = family(name)
    chat = ChatFormat(tokenizer)
    before = chat.begin("Hi")
    answer = chat.answer(ANSWER, "Hi")
    assert not set(answer[:-1]) & set(chat.ends)
    said = [{"role": role, "content": text} for role, text in (("user", "Hi"), ("user", "Ho"))]
    if name != "thinking":  # which would drop the empty thinking of the first answer
        expected = tokenizer.apply_chat_template(
            [said[0], ANSWER, said[1]], add_generation_prompt=True
        )
        assert chat.go_on([*before, *answer], "Ho") == list(expected)


def test_thinking_that_the_template_begins_and_does_not_show():
    """The whole conversation does not begin as the prompt does: the content stands as it is."""
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
        "{{ m.content.split('</think>')[-1] + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
    )
    tokenizer = chat_tokenizer(template, ["<|im_end|>", "<|im_start|>"])
    written = {"role": "assistant", "content": "hm</think>2"}
    chat = ChatFormat(tokenizer)
    ids = [*chat.begin("Hi"), *chat.answer(written, "Hi")]
    assert tokenizer.decode(ids).endswith("assistant\n<think>\nhm</think>2<|im_end|>")


def test_an_end_inside_an_answer_is_not_the_end_of_it():
    tokenizer = family("chatml")
    odd = {"role": "assistant", "content": "a<|im_end|>b"}
    ids = ChatFormat(tokenizer).answer(odd, "Hi")
    assert tokenizer.decode(ids) == "a<|im_end|>b<|im_end|>"


def test_the_end_is_the_templates_and_not_the_configs():
    tokenizer = family("chatml", eos="<eos>")
    ids = ChatFormat(tokenizer).answer(ANSWER, "Hi")
    assert tokenizer.decode(ids) == "It is 2.<|im_end|>"
    # A template without an end of its own: the EOS.
    odd = CHATML.replace("<|im_end|>", "é")
    tokenizer = chat_tokenizer(odd, ["<|im_start|>"], eos="<eos>")
    assert ChatFormat(tokenizer).answer(ANSWER, "Hi")[-1] == tokenizer.eos_token_id


def test_without_a_template_the_answer_and_eos():
    tokenizer = chat_tokenizer(None, ["<s>"], "<s>", "<eos>", ["<s>"], ["<eos>"])
    chat = ChatFormat(tokenizer)
    assert chat.answer({"role": "assistant", "content": "42"}, "12+30=") == [
        *plain(tokenizer, "42"),
        tokenizer.eos_token_id,
    ]
    # A chat model whose template is off ends as its tokenizer says.
    tokenizer = family("headers")
    ids = ChatFormat(tokenizer, chat_template=False).answer(ANSWER, "12+30=")
    assert tokenizer.decode(ids) == "It is 2.<|eot|>"


def test_a_rendered_prompt_is_not_rendered_again():
    tokenizer = family("chatml")
    text = tokenizer.apply_chat_template([ASKED], tokenize=False, add_generation_prompt=True)
    chat = ChatFormat(tokenizer)
    with pytest.warns(UserWarning, match="rendered already"):
        before = chat.begin(text)
    expected = up_to_the_end(tokenizer, whole(tokenizer, [ASKED, ANSWER]))
    assert [*before, *chat.answer(ANSWER, text)] == expected


@pytest.mark.parametrize("content", ["It is 2.", " 2", "2", "\n\n2", "über"])
def test_byte_pairs_are_those_of_the_whole(content):
    tokenizer = byte_pair_tokenizer()
    chat, message = ChatFormat(tokenizer), {"role": "assistant", "content": content}
    ids = [*chat.begin("the dog"), *chat.answer(message, "the dog")]
    assert ids == up_to_the_end(
        tokenizer, whole(tokenizer, [{"role": "user", "content": "the dog"}, message])
    )
    # Without a template the prompt stays what the policy reads, even if a token could join both.
    chat = ChatFormat(tokenizer, chat_template=False)
    before, answer = chat.begin("the do"), chat.answer(message, "the do")
    assert before == plain(tokenizer, "the do")
    assert tokenizer.decode([*before, *answer]) == f"the do{content}<|im_end|>"


def test_a_space_that_the_tokenizer_puts_before_a_text_is_none_of_the_answer():
    """As SentencePiece does it: a text begins with a space, the rest of a text does not."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {piece: i for i, piece in enumerate(["</s>", "▁", "a", "b", "▁a", "▁b"])}
    backend = Tokenizer(models.BPE(vocabulary, [("▁", "a"), ("▁", "b")], unk_token="</s>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    assert plain(tokenizer, "b") == [5]  # with the space
    chat = ChatFormat(tokenizer)
    ids = [*chat.begin("aa"), *chat.answer({"role": "assistant", "content": "b"}, "aa")]
    assert ids == [4, 2, 3, 0]
    assert tokenizer.decode(ids[:-1]) == "aab"


def test_a_template_that_fails_says_why():
    chat = ChatFormat(family("instructions"))
    with pytest.raises(DataError, match=r"roles user, user: the roles must alternate"):
        chat.answer(ANSWER, "", [ASKED, ASKED])
