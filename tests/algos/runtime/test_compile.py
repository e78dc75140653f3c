"""Compiled pieces stay compiled while a gradient is traced."""

import re
import subprocess
import sys
import threading
import warnings
from collections import Counter

import mlx.core as mx
import numpy as np
import pytest

from textenv.algos.lm.kernels.attention import KeyBlock, attend
from textenv.algos.lm.kernels.fast_math import swiglu
from textenv.algos.runtime import compile as untraced
from textenv.algos.runtime.compile import compiled, gradients, keeps, piece


@piece
def long(x):
    return ((x * 2.0 + 1.0) * x + 3.0) * x * x


@mx.custom_function
def custom(x):
    return long(x)


@custom.vjp
def custom_vjp(primal, cotangent, output):
    return long(cotangent) + primal


def operations(path, *arrays):
    """Names of the operations that give arrays, as MLX writes them."""
    mx.export_to_dot(str(path), *arrays)
    return Counter(re.findall(r'label\s*=\s*"(\w+)', path.read_text()))


def test_operations_of_a_piece_are_one_within_gradients(tmp_path):
    def graph(name):
        x, c = mx.array([1.0, 2.0]), mx.array([0.5, -1.0])
        outputs, slopes = mx.vjp(custom, [x], [c])
        return operations(tmp_path / name, *outputs, *slopes), outputs + slopes

    traced, expected = graph("traced")
    assert traced["Multiply"] >= 6  # three and more in each direction
    with gradients():
        inside, found = graph("inside")
    assert inside["Multiply"] == 0
    assert sum(inside.values()) < sum(traced.values()) / 2
    for a, b in zip(found, expected):
        assert mx.allclose(a, b, rtol=1e-6).item()


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="only on a CPU")
def test_the_gate_of_a_layer_is_compiled(tmp_path):
    gate, x = mx.array([1.0, -2.0]), mx.array([0.5, 3.0])
    with gradients():
        slopes = mx.vjp(swiglu, [gate, x], [mx.ones(2)])[1]
    assert operations(tmp_path / "graph", *slopes)["Multiply"] == 0


def test_it_ends_with_the_block_and_nests():
    def runs_here():
        seen = []

        @piece
        def where(x):
            seen.append(threading.current_thread())
            return x + 1

        where(mx.array(1.0))
        return seen == [threading.current_thread()]

    assert runs_here()
    with gradients():
        with gradients():
            assert not runs_here()
        assert not runs_here()
    assert runs_here()


def test_what_a_piece_raises_reaches_the_caller():
    @piece
    def wrong(x):
        raise ValueError("three")

    with gradients():
        for _ in range(2):
            with pytest.raises(ValueError, match="three"):
                wrong(mx.array(1.0))
        assert long(mx.array(1.0)).item() == 6


def test_threads_do_not_wait_for_each_other_for_ever():
    results = []

    def work():
        with gradients():
            results.append([long(mx.array(float(i))).item() for i in range(50)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [[((2 * i + 1) * i + 3) * i * i for i in range(50)]] * 4


def test_the_process_ends_cleanly():
    code = (
        "from textenv.algos.runtime.compile import gradients, piece\n"
        "import mlx.core as mx\n"
        "f = piece(lambda x: x * 2 + 1)\n"
        "with gradients():\n"
        "    y = f(mx.ones(3))\n"
        "print(y.tolist())\n"
    )
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "[3.0, 3.0, 3.0]\n", "")


def shared_attention(q, k, v):
    bias = mx.where(mx.arange(3)[:, None] >= mx.arange(3), 0.0, -mx.inf)
    return attend(q, [KeyBlock(k[:, :, :1], v[:, :, :1], None), KeyBlock(k, v, bias)])


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="only on a CPU")
@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (swiglu, [(4, 6)] * 2),
        (shared_attention, [(2, 1, 2, 2, 3, 4), (2, 1, 2, 3, 4), (2, 1, 2, 3, 4)]),
    ],
    ids=["swiglu", "attention"],
)
def test_small_results_are_kept_for_the_backward_and_large_ones_are_not(
    tmp_path, monkeypatch, function, shapes
):
    """Kept or computed again, the gradient is the same; the graph of the first is smaller."""
    keys = mx.random.split(mx.random.key(0), len(shapes))
    arrays = [mx.random.normal(shape, key=key) for shape, key in zip(shapes, keys)]
    cotangent = mx.random.normal(function(*arrays).shape, key=mx.random.key(1))
    mx.eval(arrays, cotangent)

    def graph(name):
        with gradients():
            outputs, slopes = mx.vjp(function, arrays, [cotangent])
        return operations(tmp_path / name, *outputs, *slopes), outputs + slopes

    kept, found = graph("kept")
    assert not keeps(*arrays)  # there is no backward to come here
    monkeypatch.setattr(untraced, "KEPT", 0)
    anew, expected = graph("anew")
    assert sum(anew.values()) > sum(kept.values())
    for a, b in zip(found, expected):
        assert mx.allclose(a, b, rtol=1e-5, atol=1e-6).item()


def twice(x, others):
    return 2 * x + sum(others)


def sizes(function, lengths):
    """Calls with arrays of these lengths; the warnings that came."""
    import mlx.core as mx

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for n in lengths:
            out = function(mx.ones(n), [mx.ones(n), mx.ones(1)])
            assert np.array_equal(np.array(out), np.full(n, 4.0))
    return [str(w.message) for w in caught]


def test_warns_once_of_too_many_shapes():
    function = compiled(twice, "keep batch_size fixed", most=4)
    assert sizes(function, [1, 2, 3, 4]) == []
    (message,) = sizes(function, [5, 6, 7, 8, 1])
    assert "twice" in message and "5 shapes" in message and "keep batch_size fixed" in message
    assert sizes(function, [9, 10]) == []


def test_equal_shapes_count_once():
    assert sizes(compiled(twice, "", most=2), [3, 4] * 10) == []


def test_types_and_structures_count_too():
    import mlx.core as mx

    function = compiled(twice, "", most=2)
    function(mx.ones(2), [])
    function(mx.ones(2), [mx.ones(2)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(mx.ones(2, dtype=mx.int32), [])
    assert len(caught) == 1
