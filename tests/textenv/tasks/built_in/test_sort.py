"""Numbers in ascending order."""

from collections import Counter
from itertools import pairwise


def test_sort_is_what_was_asked_for(examples):
    found = examples("sort", min_count=2, max_count=5, max_number=12)
    lists = [e["prompt"].removeprefix("sort ").removesuffix("=").split(" ") for e in found]
    assert {len(numbers) for numbers in lists} == {2, 3, 4, 5}
    assert {n for numbers in lists for n in numbers} == set(map(str, range(13)))
    for numbers, answer in zip(lists, [list(map(int, e["answer"].split(" "))) for e in found]):
        assert Counter(map(str, answer)) == Counter(numbers)
        assert all(a <= b for a, b in pairwise(answer))
