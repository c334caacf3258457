"""Keras treats its private names as the library takes for granted."""

import keras
import numpy as np
import tensorflow as tf

from maml_tf.exact import keras_internals


def test_the_mask_of_predictions_is_where_losses_and_metrics_look():
    layer = keras.layers.Embedding(4, 2, mask_zero=True)
    y = layer(np.array([[1, 2, 0]]))
    np.testing.assert_array_equal(keras_internals.mask_of(y), [[True, True, False]])
    assert keras_internals.mask_of(tf.identity(y)) is None
    carried = keras_internals.with_mask(tf.identity(y), tf.constant([[True, False, False]]))
    accuracy = keras.metrics.MeanSquaredError()
    accuracy.update_state(carried * 0 + 1, carried)
    loss = keras.losses.MeanSquaredError()
    np.testing.assert_allclose(
        loss(carried * 0, carried), np.mean(np.square(carried[:, 0])), rtol=1e-6
    )


def test_layers_without_a_seed_draw_from_the_generator_that_is_set():
    class Always:
        def next(self, ordered=True):
            return tf.constant([1, 2], tf.int64)

    before = keras_internals.global_seed_generator()
    keras_internals.set_global_seed_generator(Always())
    try:
        one, other = (keras.random.normal((3,)) for _ in range(2))
    finally:
        keras_internals.set_global_seed_generator(before)
    np.testing.assert_array_equal(one, other)
    assert np.abs(one - keras.random.normal((3,))).max() > 1e-3


def test_layers_run_in_the_mode_that_is_set():
    drop, x = keras.layers.Dropout(0.5, seed=0), np.ones((1, 100), np.float32)
    with keras_internals.calling(True):
        assert np.any(drop(x) == 0)
        with keras_internals.calling(False):
            assert np.all(drop(x) == 1)
        assert np.any(drop(x) == 0)
    assert np.all(drop(x) == 1)


def test_a_model_of_a_mixed_policy_reads_its_variables_in_half_unless_told_otherwise():
    class Reading(keras.Model):
        def __init__(self):
            super().__init__(dtype="mixed_float16", autocast=False)
            self.inner = keras.layers.Dense(1, dtype="mixed_float16")
            self.own = self.add_weight(shape=(), name="own")
            self.wide = self.add_weight(shape=(), name="wide", dtype="float64")

        def call(self, x):
            read = [self.own.value.dtype]
            with keras_internals.own_precision():
                read += [self.own.value.dtype, tf.as_dtype(self.wide.dtype), self.inner(x).dtype]
            return tf.constant([dtype.name for dtype in read])

    # The first of them is why this is needed: `autocast=False` does not do it.
    read = Reading()(tf.ones([2, 3])).numpy().tolist()
    assert read == [b"float16", b"float32", b"float64", b"float16"]


def test_a_function_of_specs_makes_variables_and_changes_none():
    old, new = keras.metrics.Sum(), []

    def function(x):
        new.append(keras.metrics.Sum())
        new[0].update_state(x)
        old.update_state(x)
        return tf.reduce_sum(x, 0)

    spec = keras_internals.compute_output_spec(function, keras.KerasTensor((None, 3)))
    assert spec.shape == (3,)
    assert [float(m.result()) for m in (old, *new)] == [0, 0]
    new[0].update_state([1.0, 2.0])
    assert float(new[0].result()) == 3
