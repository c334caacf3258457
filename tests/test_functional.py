import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_tf import functional
from tests.problems import compiled, layers, relative_error, task_batch, traced_meta_gradient

X = tf.constant(np.random.default_rng(0).normal(2.0, 3.0, [8, 2]), tf.float32)


def values(model):
    return (
        [tf.convert_to_tensor(v) for v in model.trainable_variables],
        [tf.convert_to_tensor(v) for v in model.non_trainable_variables],
    )


def normalised(x, mean, variance):
    return (x - mean) / np.sqrt(variance + 1e-3)


def dropout_and_batch_norm():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.5)),
            layers.BatchNormalization(momentum=0.9),
            layers.Dropout(0.5, seed=1),
        ]
    )


@pytest.mark.parametrize("training", [False, True])
def test_without_a_mode_it_is_stateless_call_on_other_weights(training):
    model = dropout_and_batch_norm()
    weights, state = ([v + 1 for v in part] for part in values(model))
    before = [v.numpy() for v in model.variables]
    y, after = functional.call(model, weights, state, X, training=training)
    expected, kept = model.stateless_call(weights, state, X, training=training)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    for one, other in zip(after, kept, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", ["batch", "store", "moving", None])
def test_what_batch_norm_normalises_with_and_what_it_keeps(mode, training):
    model = keras.Sequential([keras.Input((2,)), layers.BatchNormalization(momentum=0.75)])
    moving = np.array([1.0, -1.0], "float32"), np.array([4.0, 9.0], "float32")
    own = np.mean(X, 0), np.var(X, 0)
    kept = {
        "batch": moving,
        "keras": tuple(0.75 * m + 0.25 * o for m, o in zip(moving, own, strict=True)),
        "store": own,
        "moving": moving,
    }
    weights, _ = values(model)
    y, state = functional.call(model, weights, list(moving), X, training=training, batch_norm=mode)
    if mode is None:
        mode = "keras" if training else "moving"
    expected = normalised(X, *(moving if mode == "moving" else own))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(state, kept[mode], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("mode", ["batch", "store", "moving", None])
def test_the_mode_leaves_dropout_to_training(mode):
    model = keras.Sequential(
        [keras.Input((2,)), layers.BatchNormalization(), layers.Dropout(0.5, seed=1)]
    )
    weights, state = values(model)
    for training, dropped in ((True, True), (False, False)):
        y, _ = functional.call(model, weights, state, X, training=training, batch_norm=mode)
        assert np.any(np.asarray(y) == 0) == dropped


@pytest.mark.parametrize("mode", ["batch", "store", "moving", None])
def test_frozen_batch_norm_keeps_to_its_moving_averages(mode):
    frozen = layers.BatchNormalization(trainable=False)
    model = keras.Sequential([keras.Input((2,)), frozen, layers.Dense(1)])
    weights, _ = values(model)
    state = [tf.zeros(2), tf.ones(2), tf.constant([1.0, -1.0]), tf.constant([4.0, 9.0])]
    names = [v.name for v in model.non_trainable_variables]
    assert names == ["gamma", "beta", "moving_mean", "moving_variance"]
    state[0], state[1] = tf.ones(2), tf.zeros(2)
    y, after = functional.call(model, weights, state, X, training=True, batch_norm=mode)
    expected = normalised(X, state[2], state[3]) @ weights[0] + weights[1]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert all(a is b for a, b in zip(after, state, strict=True))


def test_nested_and_shared_batch_norm_follow_the_mode():
    shared = layers.BatchNormalization()
    nested = keras.Sequential([keras.Input((2,)), keras.Sequential([layers.BatchNormalization()])])
    x = keras.Input((2,))
    model = keras.Model(x, shared(nested(shared(x))))
    weights, state = values(model)
    assert len(functional.batch_norm_layers(model)) == 2
    y, _ = functional.call(model, weights, state, X, training=True, batch_norm="moving")
    np.testing.assert_allclose(y, X / (1 + 1e-3) ** 1.5, rtol=1e-5)


def test_losses_are_those_of_the_given_weights():
    model = dropout_and_batch_norm()
    weights, state = values(model)
    weights[0] = tf.ones_like(weights[0])
    loss, _ = functional.call(
        model, weights, state, X, training=False, then=lambda y: tf.add_n(model.losses)
    )
    assert loss.numpy() == 0.5 * 6


class BoomError(Exception):
    pass


def boom(y):
    raise BoomError


@pytest.mark.parametrize("mode", ["batch", "store", "moving", None])
@pytest.mark.parametrize("then", [boom, lambda y: y], ids=["error", "success"])
def test_everything_is_put_back_after_a_call_even_after_an_error(mode, then):
    model, original = dropout_and_batch_norm(), tf.nn.moments
    weights, state = values(model)
    try:
        functional.call(model, weights, state, X, training=True, batch_norm=mode, then=then)
    except BoomError:
        assert then is boom
    else:
        assert then is not boom
    assert tf.nn.moments is original
    (layer,) = functional.batch_norm_layers(model)
    assert "call" not in vars(layer)
    assert layer.momentum == 0.9
    assert not keras.src.backend.in_stateless_scope()


def test_two_threads_do_not_interleave():
    model = dropout_and_batch_norm()
    arguments = (model, *values(model), X)
    entered = threading.Event()

    def enter(y):
        entered.set()
        return y

    other = threading.Thread(
        target=functional.call, args=arguments, kwargs={"training": True, "then": enter}
    )

    def inside(y):
        other.start()
        assert not entered.wait(0.3)
        return y

    functional.call(*arguments, training=True, then=inside)
    other.join()
    assert entered.is_set()


def test_a_wrong_number_of_weights_is_refused():
    model = dropout_and_batch_norm()
    weights, state = values(model)
    with pytest.raises(ValueError, match="shorter"):
        functional.call(model, weights[:-1], state, X, training=False)


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    keepdims=st.booleans(),
    dtype=st.sampled_from(["float16", "bfloat16", "float32", "float64"]),
)
def test_moments_have_the_values_of_tensorflow(data, shape, keepdims, dtype):
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1).map(sorted))
    x = tf.cast(tf.random.stateless_normal(shape, [0, len(shape)], 3.0, 2.0), dtype)
    received = functional.moments(x, axes, keepdims=keepdims)
    expected = tf.nn.moments(x, axes, keepdims=keepdims)
    for one, other in zip(received, expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(
            tf.cast(one, tf.float64), tf.cast(other, tf.float64), rtol=1e-6, atol=1e-6
        )


def test_the_second_derivative_of_the_variance_is_exact_and_that_of_tensorflow_is_not():
    n = 5
    x = tf.constant(np.random.default_rng(1).normal(size=n))

    def hessian(moments):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                variance = moments(x, [0])[1]
            gradient = inner.gradient(variance, x)
        return outer.jacobian(gradient, x)

    exact = 2 / n * (np.eye(n) - np.ones((n, n)) / n)
    np.testing.assert_allclose(hessian(functional.moments), exact, atol=1e-12)
    # If this fails, TensorFlow has put it right and `functional.moments` may go.
    np.testing.assert_allclose(hessian(tf.nn.moments), 2 / n * np.eye(n), atol=1e-12)


def test_seeds_differ_from_task_to_task_and_nothing_else_does():
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dropout(0.5, seed=1),
            layers.BatchNormalization(),
            layers.GaussianNoise(0.5, seed=2),
        ]
    )
    _, state = values(model)
    tasks = [functional.distinct_seeds(model, state, tf.constant(i)) for i in range(64)]
    for first, value in zip(tasks[0], state, strict=True):
        np.testing.assert_array_equal(first, value)
    for variable, of_tasks in zip(
        model.non_trainable_variables, zip(*tasks, strict=True), strict=True
    ):
        distinct = {tuple(np.asarray(value)) for value in of_tasks}
        assert len(distinct) == (64 if "seed" in variable.path else 1)


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


POOLS = [
    pytest.param(lambda: pooling_network(layers.MaxPooling2D(2)), (8, 8, 1), id="2d"),
    pytest.param(lambda: pooling_network(layers.MaxPooling2D(3, 2)), (8, 8, 1), id="overlapping"),
    pytest.param(
        lambda: pooling_network(layers.MaxPooling1D(2), shape=(8, 1), convolution=layers.Conv1D),
        (8, 1),
        id="1d",
    ),
    pytest.param(
        lambda: pooling_network(
            layers.MaxPooling3D(2), shape=(5, 5, 5, 1), convolution=layers.Conv3D
        ),
        (5, 5, 5, 1),
        id="3d",
    ),
]


@pytest.mark.parametrize(("build", "shape"), POOLS)
@pytest.mark.parametrize("settings", [{}, {"rematerialize": True}], ids=str)
def test_training_second_order_through_max_pooling_under_xla_is_refused(build, shape, settings):
    model = build()
    learner = compiled(model, jit_compile=True, **settings)
    before = model.get_weights()
    dataset = tf.data.Dataset.from_tensors(task_batch(shape))
    with pytest.raises(NotImplementedError, match="max-pooling"):
        learner.fit(dataset, verbose=0)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        pytest.param(POOLS[1].values[0], {"first_order": True}, id="max-first-order"),
        pytest.param(POOLS[1].values[0], {"inner_steps": 0}, id="max-no-steps"),
        pytest.param(
            lambda: pooling_network(layers.AveragePooling2D(2), layers.AveragePooling2D(2, 1)),
            {},
            id="average",
        ),
        pytest.param(
            lambda: pooling_network(
                layers.DepthwiseConv2D(2),
                layers.LayerNormalization(),
                layers.Activation("relu6"),
                layers.Conv2DTranspose(2, 3, 2),
                layers.GlobalMaxPooling2D(),
            ),
            {},
            id="other-operations",
        ),
    ],
)
def test_where_xla_is_allowed_it_gives_the_same_meta_gradient(build, settings):
    inputs, query_y = task_batch((8, 8, 1))
    # Nearly constant images: windows whose largest values are close to each other.
    inputs = {k: v if k == "support_y" else 1 + 1e-3 * v for k, v in inputs.items()}
    plain, fast = (
        traced_meta_gradient(compiled(build(), 0.05, jit_compile=jit, **settings), inputs, query_y)
        for jit in (False, True)
    )
    assert relative_error(fast()[1], plain()[1]) < 1e-5


def test_xla_still_takes_the_wrong_element_in_the_second_derivative_of_max_pooling():
    """Why it is refused. If this fails, XLA has put it right and `refuse_wrong_xla` may go."""
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
