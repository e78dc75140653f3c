"""The random generator that is fast to seed, against SplitMix64's reference."""

import copy
import random

import numpy as np
import pytest

from textenv.tasks.example_random import ExampleRandom, mix


def reference(state):
    """SplitMix64 as its paper has it, in arithmetic modulo 2**64."""
    z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z // 2**30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z // 2**27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z // 2**31)


def test_mixing_is_split_mix():
    assert mix(0) == 0xE220A8397B1DCDAF  # the first output of the published code for seed 0
    for state in [*range(100), 2**48 - 1, 2**63 + 5]:
        assert mix(state) == reference(state)
    assert 0 <= mix(2**200) < 2**64


@pytest.mark.parametrize("n", [2, 7, 90, 7286])
def test_the_first_numbers_of_neighbouring_seeds_are_uniform(n, chi_square):
    picks = [mix(seed) * n >> 64 for seed in range(50 * n)]
    counts = np.bincount(picks, minlength=n)
    assert chi_square(counts, 50) < 1 + 5 * (2 / max(n - 1, 1)) ** 0.5


def test_successive_numbers_are_uniform_together(chi_square):
    rng, cells = ExampleRandom(), []
    for seed in range(30_000):
        rng.seed(seed)
        cells.append(
            rng.randrange(10) * 30 + rng.randint(0, 9) * 3 + "abc".index(rng.choice("abc"))
        )
    assert chi_square(np.bincount(cells, minlength=300), 100) < 1.4


def test_it_is_a_random_of_the_standard_library():
    rng = ExampleRandom(5)
    again = ExampleRandom(5)
    draws = [
        lambda r: r.random(),
        lambda r: r.sample(range(100), 5),
        lambda r: r.gauss(0, 1),
        lambda r: r.getrandbits(1000),
        lambda r: r.randrange(2**70, 2**71),
        lambda r: r.uniform(2, 3),
    ]
    assert isinstance(rng, random.Random)
    assert [draw(rng) for draw in draws] == [draw(again) for draw in draws]
    state = rng.getstate()
    later = [rng.random() for _ in range(3)]
    rng.setstate(state)
    assert [rng.random() for _ in range(3)] == later
    assert copy.deepcopy(again).random() == again.random()
    with pytest.raises(ValueError, match="5 to 4"):
        rng.randint(5, 4)
