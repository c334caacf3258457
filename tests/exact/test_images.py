"""Values are TensorFlow's; derivatives of both orders are in `test_layers.py`."""

import numpy as np
import pytest
import tensorflow as tf

from maml_tf import exact
from tests.exact.test_ops import Case, deviations

SIZES = [((5, 4), (7, 9)), ((6, 6), (3, 2)), ((1, 3), (4, 3))]
IMAGES = np.random.default_rng(0).uniform(size=(2, 6, 6, 3))


@pytest.mark.parametrize(("old", "new"), SIZES, ids=str)
@pytest.mark.parametrize("method", ["bilinear", "area", "bicubic", "nearest", "lanczos3"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_resizing_gives_what_it_gives_in_tensorflow(old, new, method, dtype):
    x = tf.cast(255 * np.random.default_rng(1).uniform(size=(2, *old, 3)), dtype)
    expected = tf.image.resize(x, new, method)
    with exact.operations():
        received = tf.image.resize(x, new, method)
    assert (received.dtype, received.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-4)


WITHIN = {
    "function": lambda resize, x: tf.function(resize)(x),
    "cond": lambda resize, x: tf.cond(
        tf.reduce_sum(x) > 0, lambda: resize(x), lambda: 2 * resize(x)
    ),
    "map": lambda resize, x: tf.map_fn(lambda i: resize(i[tf.newaxis])[0], x),
}


@pytest.mark.parametrize("within", WITHIN.values(), ids=WITHIN)
def test_bilinear_resizing_within_another_graph_has_both_derivatives(within):
    def resize(x):
        return tf.image.resize(x, (7, 9))

    image = np.random.default_rng(0).uniform(0.05, 0.95, size=(1, 5, 4, 3))
    case = Case(lambda x: within(resize, 1.01 * x), image, single=True, traced=True)
    first, second = deviations(case)
    assert first < 2e-3
    assert second < 2e-3


@pytest.mark.parametrize("option", ["align_corners", "half_pixel_centers"])
def test_bilinear_resizing_keeps_its_options(option):
    options = {option: True}
    expected = tf.raw_ops.ResizeBilinear(images=IMAGES, size=(4, 9), **options)
    with exact.operations():
        received = tf.raw_ops.ResizeBilinear(images=IMAGES, size=(4, 9), **options)
    np.testing.assert_array_equal(received, expected)


def test_area_resizing_of_unknown_size():
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
    def resized(x):
        with exact.operations():
            return tf.image.resize(x, (4, 3), "area")

    np.testing.assert_allclose(resized(IMAGES), tf.image.resize(IMAGES, (4, 3), "area"), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hsv_to_rgb_gives_what_it_gives_in_tensorflow(dtype):
    hues, others = np.linspace(0, 1, 25), [0.0, 0.3, 1.0]
    x = tf.cast(np.stack(np.meshgrid(hues, others, others), -1), dtype)
    expected = tf.image.hsv_to_rgb(x)
    with exact.operations():
        received = tf.image.hsv_to_rgb(x)
    np.testing.assert_allclose(received, expected, atol=1e-6)


def test_tensorflow_still_has_no_second_derivative_of_bilinear_resizing():
    """If this fails, `_resize_bilinear` may go."""
    x, g = tf.constant(IMAGES), tf.ones([2, 4, 9, 3])
    with tf.GradientTape() as outer:
        outer.watch(g)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = tf.image.resize(x, (4, 9))
        gradient = inner.gradient(y, x, output_gradients=g)
    assert outer.gradient(gradient, g) is None


def test_tensorflow_still_has_no_derivative_of_area_resizing():
    """If this fails, `_resize_area` may go."""
    x = tf.constant(IMAGES)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.image.resize(x, (4, 9), "area")
    with pytest.raises(LookupError, match="ResizeArea"):
        tape.gradient(y, x)


def test_tensorflow_still_has_no_derivative_of_hsv_to_rgb():
    """If this fails, `_hsv_to_rgb` may go."""
    x = tf.constant(IMAGES)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.image.hsv_to_rgb(x)
    assert tape.gradient(y, x) is None
