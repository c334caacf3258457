import keras
import numpy as np
import pytest
import tensorflow as tf

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
