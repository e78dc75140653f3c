"""The measurements of this package: products are counted, and are hardly more than are needed."""

import time

import pytest

from textenv.algos.bench import ours
from textenv.algos.bench.flops import Amount, generate_flops, update_flops
from textenv.algos.bench.workload import MODEL_SIZES, Work, make_model
from textenv.algos.runtime import blas


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    make_model(MODEL_SIZES["small"], folder)
    return str(folder)


@pytest.fixture
def counted():
    if blas.count_products() is None:
        pytest.skip("products are counted where this package's BLAS computes them")


def test_a_step_multiplies_hardly_more_than_it_has_to(small, counted):
    """A slower step is seen without a clock: the closed form is the fewest operations."""
    work = Work(4, 8, 40, 40, 24, timed=2)
    found = ours.train(small, work, seed=0, started=time.time())
    size = MODEL_SIZES["small"]
    amount = Amount(4, 40.0, 32, found["tokens"], 23)
    for phase, fewest, most in (
        ("generate", generate_flops(size, amount), 1.3),  # rows that have ended, for some steps
        ("update", update_flops(size, amount), 1.2),
    ):
        products = found["products"][phase]
        assert 0.99 < products["operations"] / fewest < most, phase
        assert 0 < products["seconds"] < found["phases"][phase], phase


def test_the_first_step_is_timed_if_no_other_is(small):
    work = Work(2, 4, 8, 8, 4, timed=0, micro_batch=2)
    found = ours.train(small, work, seed=0, started=time.time())
    assert found["samples"] == [pytest.approx(found["first_s"])]


def test_products_of_generation_are_those_of_the_batches_that_are_timed(small, counted):
    work = Work(16, max_new=16, timed=2)
    found = ours.generate(small, work, seed=0, started=time.time())
    amount = Amount(16, found["prompt_tokens"], 16, found["tokens"], 15)
    fewest = generate_flops(MODEL_SIZES["small"], amount)
    assert 0.99 < found["products"]["generate"]["operations"] / fewest < 1.5
