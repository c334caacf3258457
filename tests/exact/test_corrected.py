"""What TensorFlow and Keras still get wrong, and what is put in its place."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import exact
from tests.exact.test_ops import SPECIAL, Case, deviations
from tests.problems import (
    compiled,
    layers,
    relative_error,
    task_batch,
    traced_meta_gradient,
)

pytestmark = pytest.mark.usefixtures("float64")


def soft_labels(x):
    return tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(x), x**2)


CORRECTED = {
    "soft-labels": Case(soft_labels, np.array([[0.3, -0.7, 1.1], [-0.4, 0.9, 0.55]])),
    **{
        name: SPECIAL[name]
        for name in ("cumprod-one-zero", "prod-one-zero", "i0-zero", "logaddexp-equal")
        + ("logaddexp2-equal", "hypot-axis", "pinv-identity", "lstsq-identity")
    },
}


@pytest.mark.parametrize("traced", [False, True], ids=["eager", "traced"])
@pytest.mark.parametrize("case", CORRECTED.values(), ids=CORRECTED)
def test_it_is_right(case, traced):
    assert max(deviations(case._replace(traced=traced))) < 1e-6


@pytest.mark.parametrize("case", CORRECTED.values(), ids=CORRECTED)
def test_it_is_still_wrong_without(case, monkeypatch):
    """If this fails, TensorFlow or Keras has put it right: its entry may go."""
    monkeypatch.setattr(exact, "operations", contextlib.nullcontext)
    monkeypatch.setattr(exact, "refusals", contextlib.nullcontext)
    assert not max(deviations(case)) < 1e-3


def test_a_cumulative_product_of_unknown_length_is_differentiated():
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float64)], autograph=False)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(tf.math.cumprod(x, 1))
        with exact.refusals():
            return tape.gradient(y, x)

    # y = a + ab + abc
    np.testing.assert_allclose(gradient([[2.0, 0.0, 3.0]]), [[1.0, 8.0, 0.0]])


INFINITE = [-np.inf, -1e300, -800.0, 0.0, 1.0, 1e300, np.inf]


@pytest.mark.parametrize("name", ["logaddexp", "logaddexp2", "hypot"])
def test_replaced_functions_have_the_values_of_keras(name):
    a, b = (x.ravel() for x in np.meshgrid(INFINITE, INFINITE))
    if name == "hypot":
        a, b = a[np.isfinite(a * b)], b[np.isfinite(a * b)]
    function = getattr(keras.ops, name)
    with exact.operations():
        received = function(a, b)
        integers = function(tf.constant([3, 0]), tf.constant([4, 0]))
        single = function(tf.constant([3.0]), 4)
    np.testing.assert_allclose(received, function(a, b), rtol=1e-14)
    np.testing.assert_allclose(integers, function(tf.constant([3, 0]), tf.constant([4, 0])))
    assert single.dtype == function(tf.constant([3.0]), 4).dtype


def test_the_share_of_infinite_summands_is_finite():
    x = tf.constant([-np.inf, np.inf, -np.inf], tf.float64)
    y = tf.constant([-np.inf, np.inf, 2.0], tf.float64)
    with exact.operations(), tf.GradientTape() as tape:
        tape.watch([x, y])
        z = keras.ops.logaddexp(x, y)
    np.testing.assert_array_equal(tape.gradient(z, [x, y]), [[0.5, 0.5, 0], [0.5, 0.5, 1]])


def test_least_squares_keep_their_cutoff_and_their_errors():
    a, b = np.diag([1.0, 1e-3]), np.ones(2)
    with exact.operations():
        received = keras.ops.lstsq(a, b, rcond=0.1)
        with pytest.raises(ValueError, match="Leading dimensions"):
            keras.ops.lstsq(a, np.ones(3))
    np.testing.assert_allclose(received, [1.0, 0.0])


def test_small_convolutions_are_differentiated_eagerly():
    """They were laid out by a convolution that did not name its data format."""
    model = keras.Sequential(
        [keras.Input((5, 5, 1)), layers.Conv2D(1, 1), layers.Conv2D(2, 3), layers.Flatten()]
        + [layers.Dense(2)]
    )
    tasks, learner = task_batch((5, 5, 1)), compiled(model, run_eagerly=True)
    eager = learner.meta_gradient(*tasks)
    assert relative_error(eager[1], traced_meta_gradient(learner, *tasks)()[1]) < 1e-12
