"""Words written backwards."""


def test_reverse_is_what_was_asked_for(examples):
    found = examples("reverse", min_length=2, max_length=5, alphabet="xyz")
    words = [e["prompt"].removeprefix("reverse ").removesuffix("=") for e in found]
    assert {len(word) for word in words} == {2, 3, 4, 5}
    assert set("".join(words)) == set("xyz")
    assert [e["answer"] for e in found] == ["".join(reversed(word)) for word in words]
