"""Observations as rows, and the spaces that networks take."""

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from tests.algos.control.shared import OBSERVATIONS
from textenv.algos.control.observations import ObservationEncoder, refuse_action_space
from textenv.errors import ConfigError


def test_a_dict_is_flat_in_the_order_of_its_keys():
    encoder = ObservationEncoder(OBSERVATIONS["dict"])
    assert encoder.size == 4
    row = {"b": np.array([3.0, 4.0]), "a": np.array([[1.0, 2.0]])}
    np.testing.assert_array_equal(encoder(row), [[1, 2, 3, 4]])
    batch = {"b": np.array([[3.0, 4.0], [7.0, 8.0]]), "a": np.array([[[1.0, 2.0]], [[5.0, 6.0]]])}
    np.testing.assert_array_equal(encoder(batch), [[1, 2, 3, 4], [5, 6, 7, 8]])


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_one_observation_a_batch_and_a_list_are_the_same_rows(name):
    space = OBSERVATIONS[name]
    encoder = ObservationEncoder(space)
    several = batch_space(space, 3)
    several.seed(0)
    batch = several.sample()
    if isinstance(batch, dict):
        single = [{key: value[i] for key, value in batch.items()} for i in range(3)]
        plain = np.concatenate([batch[key].reshape(3, -1) for key in sorted(batch)], axis=1)
    else:
        single, plain = list(batch), batch.reshape(3, -1)
    rows = encoder(batch)
    assert rows.dtype == np.float32 and rows.shape == (3, encoder.size)
    np.testing.assert_allclose(rows, plain)
    np.testing.assert_array_equal(encoder.rows(single), rows)
    np.testing.assert_array_equal(np.concatenate([encoder(one) for one in single]), rows)
    assert encoder.is_single(single[0]) and not encoder.is_single(batch)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (spaces.Text(5), "HashedBagOfWords"),
        (spaces.MultiBinary(3), r"got MultiBinary\(3\).*FlattenObservation"),
        (spaces.Dict({"a": spaces.Discrete(3)}), "FlattenObservation"),
    ],
)
def test_the_wrapper_that_helps_is_named(space, said):
    with pytest.raises(ConfigError, match=f"observations must be Box.*{said}"):
        ObservationEncoder(space)


def test_the_wrapper_that_helps_with_actions_is_named():
    error = refuse_action_space(spaces.Tuple([spaces.Discrete(2)]))
    assert isinstance(error, ConfigError)
    assert "actions must be Discrete" in str(error) and "TransformAction" in str(error)
    assert str(refuse_action_space(spaces.Sequence(spaces.Discrete(2)))).endswith(")")  # no hint


def test_an_entry_without_items():
    space = spaces.Dict({"a": spaces.Box(0, 1, (0,)), "b": spaces.Box(0, 1, (2,))})
    encoder = ObservationEncoder(space)
    assert encoder.size == 2
    one = {"a": np.zeros(0), "b": np.array([1.0, 2.0])}
    np.testing.assert_array_equal(encoder(one), [[1, 2]])
    np.testing.assert_array_equal(encoder.rows([one, one]), [[1, 2], [1, 2]])
    batch = {"a": np.zeros((3, 0)), "b": np.ones((3, 2))}
    np.testing.assert_array_equal(encoder(batch), np.ones((3, 2)))
    with pytest.raises(ConfigError, match="must hold one number or more"):
        ObservationEncoder(spaces.Box(0, 1, (3, 0)))
