"""A model's weights as arrays, and how two states are told apart."""

from __future__ import annotations

import numpy as np
import pytest

from tests.algos.shared import make_policy, same_weights, weights_of
from textenv.algos.lm.models.weights import (
    WeightsStamp,
    as_numpy,
    fingerprint,
    from_numpy,
    set_weights,
)


def test_weights_of_another_model_are_refused(tiny_folder):
    policy = make_policy(tiny_folder)
    tensors = policy.tensors()
    name = next(iter(tensors))
    for wrong in ({**tensors, name: np.zeros(3)}, {**tensors, "more": np.zeros(3)}):
        with pytest.raises(ValueError, match="another model"):
            policy.set_tensors(wrong)


def test_half_precision_weights_arrive_as_they_are(tiny_folder):
    import mlx.core as mx
    from mlx.utils import tree_map

    one, other = make_policy(tiny_folder, top_p=0.9), make_policy(tiny_folder, top_p=0.9)
    one.model.update(tree_map(lambda w: (2 * w).astype(mx.bfloat16), one.model.parameters()))
    other.model.update(tree_map(lambda w: w.astype(mx.bfloat16), other.model.parameters()))
    assert one.fingerprint() != other.fingerprint()
    other.set_tensors(one.tensors())
    assert one.fingerprint() == other.fingerprint()


def test_arrays_arrive_to_the_bit_whatever_their_type():
    import mlx.core as mx

    tree = {"a": [mx.array([1.5, -2.0]), mx.array([3])], "b": mx.array([1 / 3], mx.bfloat16)}
    arrays = as_numpy(tree)
    assert arrays.keys() == {"a.0", "a.1", "b"}
    assert arrays["b"].dtype == np.uint16  # NumPy has no bfloat16: these are its bits
    for name, value in (("a.0", tree["a"][0]), ("a.1", tree["a"][1]), ("b", tree["b"])):
        again = from_numpy(arrays[name].copy(), value.dtype)
        assert again.dtype == value.dtype and mx.array_equal(again, value)


def test_weights_that_are_set_are_those(fresh, random_model, tiny_config):
    other = random_model(**tiny_config)
    weights = {name: 2 * value for name, value in as_numpy(other.parameters()).items()}
    set_weights(fresh[0], weights)
    assert same_weights(weights_of(fresh[0]), weights)


def test_a_fingerprint_is_of_names_types_shapes_and_numbers():
    import mlx.core as mx
    import mlx.nn as nn

    def model(**arrays):
        made = nn.Module()
        made.update({})
        for name, value in arrays.items():
            setattr(made, name, value)
        return made

    x = mx.array([[1.0, 2.0], [3.0, 4.0]])
    same = fingerprint(model(a=x, b=x[0]))
    assert same == fingerprint(model(b=mx.array([1.0, 2.0]), a=x + 0)) and len(same) == 64
    others = [
        model(a=x, c=x[0]),
        model(a=x, b=x[0] + 1e-6),
        model(a=x.reshape(-1), b=x[0]),
        model(a=x.view(mx.int32), b=x[0]),
        model(a=x),
    ]
    assert len({same, *map(fingerprint, others)}) == 6


def test_a_stamp_knows_the_weights_that_it_was_made_of(fresh):
    import mlx.core as mx

    model = fresh[0]
    stamp = WeightsStamp(model)
    assert stamp.is_of(model) and WeightsStamp(model).is_of(model)
    layer = model.model.layers[0].mlp.down_proj
    was = layer.weight
    layer.weight = was + 0  # the same numbers in another array
    assert not stamp.is_of(model)
    layer.weight = was
    assert stamp.is_of(model)
    was[0, 0] = was[0, 0] + 1  # another number in the same array
    assert layer.weight is was and not stamp.is_of(model)
    stamp = WeightsStamp(model)
    layer.bias = mx.zeros(3)  # a name more
    assert not stamp.is_of(model)
