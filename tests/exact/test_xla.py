import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_tf.exact.pooling import max_pool
from tests.problems import compiled, layers, relative_error, task_batch, traced_meta_gradient


def pooling_network(*pools, shape=(8, 8, 1), convolution=layers.Conv2D):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input(shape),
            convolution(3, 2, activation="tanh"),
            *pools,
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


def overlapping():
    return pooling_network(layers.MaxPooling2D(3, 2, "same"))


def other_operations():
    keras.utils.set_random_seed(0)  # these layers draw their seeds before `pooling_network` does so
    return pooling_network(
        layers.DepthwiseConv2D(2),
        layers.LayerNormalization(),
        layers.Activation("relu6"),
        layers.Conv2DTranspose(2, 3, 2),
        layers.GlobalMaxPooling2D(),
    )


def in_a_nested_function():
    return pooling_network(layers.Lambda(tf.function(lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME"))))


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        pytest.param(overlapping, {}, id="max-overlapping"),
        pytest.param(in_a_nested_function, {"rematerialize": True}, id="max-nested"),
        pytest.param(other_operations, {}, id="other-operations"),
    ],
)
def test_compiled_by_xla_the_meta_gradient_is_the_same(build, settings):
    inputs, query_y = task_batch((8, 8, 1))
    # Nearly constant images: windows whose largest values are close to each other.
    inputs = {k: v if k == "support_y" else 1 + 1e-3 * v for k, v in inputs.items()}
    plain, fast = (
        traced_meta_gradient(compiled(build(), 0.05, jit_compile=jit, **settings), inputs, query_y)
        for jit in (False, True)
    )
    assert relative_error(fast()[1], plain()[1]) < 1e-5


# Captured before anything is replaced, so that no replacement sees it.
RAW = tf.raw_ops.MaxPool


def hidden(x):
    return RAW(input=x, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="SAME")


HIDING = {
    "plain": hidden,
    "function": tf.function(hidden, autograph=False),
    "cond": lambda x: tf.cond(x[0, 0, 0, 0] < 9, lambda: hidden(x), lambda: x[:, :4, :4]),
    "map_fn": lambda x: tf.map_fn(lambda one: hidden(one[tf.newaxis])[0], x),
}


@pytest.mark.parametrize("pool", HIDING.values(), ids=HIDING)
def test_what_escapes_under_xla_is_found_wherever_it_is_hidden(pool):
    model = pooling_network(layers.Lambda(pool, output_shape=(4, 4, 3)))
    inputs, query_y = task_batch((8, 8, 1))
    learner = compiled(model, jit_compile=True)
    before = model.get_weights()
    with pytest.raises(NotImplementedError, match="max-pooling"):
        learner.train_on_batch(inputs, query_y)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("options", [{}, {"jit_compile": True, "first_order": True}], ids=str)
def test_what_escapes_is_left_alone_where_it_is_right(options):
    learner = compiled(pooling_network(layers.Lambda(hidden)), **options)
    # Traced, which refuses nothing.
    traced_meta_gradient(learner, *task_batch((8, 8, 1))).get_concrete_function()


def derivatives(pool, x, upstream, direction):
    """Value, gradient, and the derivative of the gradient along `direction`."""
    with tf.GradientTape() as outer:
        outer.watch(upstream)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = pool(x)
        gradient = inner.gradient(y, x, output_gradients=upstream)
    return y, gradient, outer.gradient(gradient, upstream, output_gradients=direction)


@settings(max_examples=30, deadline=None)
@given(
    size=st.lists(st.integers(1, 6), min_size=2, max_size=3),
    window=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.sampled_from(["SAME", "VALID"]),
    seed=st.integers(0, 99),
)
def test_slices_are_the_max_pooling_of_tensorflow_ties_included(
    size, window, stride, padding, seed
):
    if padding == "VALID":
        window = min(window, *size)
    rank, rng = len(size), np.random.default_rng(seed)
    # On the CPU, TensorFlow pools three dimensions in float32 alone.
    dtype, near = ("float64", 1e-12) if rank == 2 else ("float32", 1e-5)
    if rank == 2:
        # Few different values: the gradient must go to the first of equal ones.
        x = rng.integers(-2, 2, size=(2, *size, 2))
    else:
        # All different: TensorFlow's gradient counts equal ones twice where windows overlap.
        x = rng.permutation(4 * int(np.prod(size))).reshape(2, *size, 2)
    x = tf.constant(x.astype(dtype))
    theirs_of = tf.nn.max_pool2d if rank == 2 else tf.nn.max_pool3d
    shape = theirs_of(x, window, stride, padding).shape
    upstream, direction = (tf.constant(rng.normal(size=s), dtype) for s in (shape, x.shape))
    theirs = derivatives(lambda x: theirs_of(x, window, stride, padding), x, upstream, direction)
    ours = derivatives(
        lambda x: max_pool(x, [window] * rank, [stride] * rank, padding), x, upstream, direction
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=near, atol=near)


def test_xla_still_takes_the_wrong_element_in_the_second_derivative_of_max_pooling():
    """If this fails, XLA has put it right; `exact/pooling.py` and `exact/xla.py` may go."""
    image = tf.reshape(tf.constant([1.0, 1.0001, 1.0002, 1.0003]), [1, 2, 2, 1])

    def second_derivative():
        upstream = tf.ones([1, 1, 1, 1])
        with tf.GradientTape() as outer:
            outer.watch(upstream)
            with tf.GradientTape() as inner:
                inner.watch(image)
                pooled = tf.nn.max_pool2d(image, 2, 2, "VALID")
            gradient = inner.gradient(pooled, image, output_gradients=upstream)
            total = tf.reduce_sum(gradient * tf.reshape([1.0, 2.0, 3.0, 4.0], [1, 2, 2, 1]))
        return outer.gradient(total, upstream)

    right, wrong = (
        tf.function(second_derivative, autograph=False, jit_compile=jit)() for jit in (False, True)
    )
    assert tf.squeeze(right).numpy() == 4.0
    assert tf.squeeze(wrong).numpy() != 4.0
