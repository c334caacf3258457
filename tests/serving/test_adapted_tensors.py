"""Adapted values as entries of requests, without an export."""

import numpy as np
import pytest
import tensorflow as tf

from maml_tf.serving.adapted_tensors import AdaptedTensors

WHOLE = {"fast": [tf.TensorSpec([3, 2]), tf.TensorSpec([2])], "state": []}
FREE = {"head": tf.TensorSpec([None, 2]), "state": []}
MEMORY = {"keys": tf.TensorSpec([None, 2]), "classes": tf.TensorSpec([None], tf.int32)}


@pytest.mark.parametrize(
    ("spec", "shapes"),
    [
        (WHOLE, {"weights": (8,)}),
        (FREE, {"weights": (5, 2)}),
        # By the names of the parts: classes, keys.
        (MEMORY, {"weights_0": (5,), "weights_1": (5, 2)}),
    ],
    ids=["whole", "free", "memory"],
)
def test_some_are_zeros_that_the_request_takes(spec, shapes):
    tensors = AdaptedTensors(spec)
    some = tensors.some()
    assert {name: part.shape for name, part in some.items()} == shapes
    for name, wanted in tensors.specs().items():
        assert wanted.is_compatible_with(tf.constant(some[name]))
        assert not some[name].any()
    checked = tensors.checked({name: tf.constant(part) for name, part in some.items()})
    back = tensors.unpack(checked)
    tf.nest.assert_same_structure(back, spec)
    for part, wanted in zip(tf.nest.flatten(back), tf.nest.flatten(spec), strict=True):
        assert wanted.is_compatible_with(part)


def test_what_is_packed_comes_back_whatever_its_size():
    value = {"keys": tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])}
    value["classes"] = tf.constant([0, 2, 1])
    tensors = AdaptedTensors(MEMORY)
    back = tensors.unpack(tensors.pack(value))
    assert back.keys() == value.keys()
    for name, part in value.items():
        np.testing.assert_array_equal(back[name], part)
