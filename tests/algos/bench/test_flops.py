"""Operations and bytes, against figures worked by hand."""

from tests.algos.bench.shared import BY_HAND
from textenv.algos.bench.flops import Amount, decode_bytes, generate_flops, update_flops


def test_operations_by_hand():
    amount = Amount(1, prompt_tokens=3, completions=2, completion_tokens=3, decode_steps=2)
    # The layers see 3 tokens of the prompt and two of each completion; attention's pairs are
    # 1 + 2 + 3 in the prompt, and 4 + 5 in each completion; 4 heads of 16.
    body = 2 * 49_152 * 7 + 4 * 64 * (6 + 2 * 9)
    assert body == 694_272
    # The head: once for the prompt, whose last state gives all first tokens, and 2 x 2 times.
    assert generate_flops(BY_HAND, amount) == body + 2 * 6_400 * 5
    assert update_flops(BY_HAND, amount) == 3 * (body + 2 * 6_400 * 6)
    # Two decode steps read all matrices and the prompt's 3 keys and values; the completions
    # read 1 + 2 of their own each. A key and a value have 2 x 2 x 16 figures.
    assert decode_bytes(BY_HAND, amount) == 4 * (2 * 55_552 + 64 * (2 * 3 + 2 * 3))
