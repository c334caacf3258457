"""Second-order meta-gradients under Keras' mixed precision policies."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf

# Machine epsilon is 2**-11 and 2**-8: what rounding may do to a gradient through some layers.
POLICIES = {"mixed_float16": 0.02, "mixed_bfloat16": 0.1}


@pytest.fixture
def policy(request):
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(request.param)
    yield request.param
    keras.mixed_precision.set_dtype_policy(before)


def smooth_model():
    """Convolution, normalisation, tanh: no kink that rounding could push a unit across."""
    xavier = [keras.initializers.GlorotUniform(seed=i) for i in range(2)]
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, 2, "same", kernel_initializer=xavier[0]),
            keras.layers.BatchNormalization(scale=False),
            keras.layers.Activation("tanh"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, kernel_initializer=xavier[1]),
        ]
    )


def batch(tasks=4):
    random = np.random.default_rng(0)
    x, query_x = random.random((2, tasks, 6, 8, 8, 1), np.float32)
    y = np.tile(np.arange(6, dtype=np.int32) % 3, (tasks, 1))
    return {"support_x": x, "support_y": y, "query_x": query_x}, y


def learner(**settings):
    made = maml_tf.MAML(smooth_model(), maml_tf.inner_optimizers.SGD(0.5), 2, **settings)
    made.compile(
        keras.optimizers.SGD(0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return made


def meta_gradient(made):
    inputs, query_y = tf.nest.map_structure(tf.constant, batch())
    gradients = tf.function(lambda: made.meta_gradient(inputs, query_y)[1])()
    return np.concatenate([g.numpy().ravel() for g in gradients])


def distance(one, other):
    return np.linalg.norm(one - other) / np.linalg.norm(other)


@pytest.fixture(scope="module")
def exact():
    """The meta-gradients in float32: second order, and first order."""
    return meta_gradient(learner()), meta_gradient(learner(first_order=True))


@pytest.mark.parametrize("policy", POLICIES, indirect=True)
def test_the_meta_gradient_is_the_exact_one_up_to_rounding(exact, policy):
    second, first = exact
    made = learner()
    assert {layer.compute_dtype for layer in made.model.layers} == {policy[len("mixed_") :]}
    if policy == "mixed_float16":
        made.optimizer.build(made.model.trainable_variables)
        made.optimizer.dynamic_scale.assign(1024.0)
    received = meta_gradient(made)
    assert distance(received, second) < POLICIES[policy]
    # The second derivatives are there: without them the gradient would be far from it.
    assert distance(first, second) > 5 * POLICIES[policy]


@pytest.mark.parametrize("policy", POLICIES, indirect=True)
def test_training_in_mixed_precision_learns_and_keeps_float32_weights(policy):
    made = learner()
    inputs, query_y = batch()
    # Scaling of the loss begins too large and halves until nothing overflows.
    history = made.fit(inputs, query_y, batch_size=4, epochs=25, verbose=0).history["loss"]
    assert history[-1] < 0.7 * history[0]
    assert {v.dtype for v in made.model.trainable_variables} == {"float32"}
    assert isinstance(made.optimizer, keras.optimizers.LossScaleOptimizer) == (
        policy == "mixed_float16"
    )
    adapted = made.adapt(inputs["support_x"][0], inputs["support_y"][0])
    assert np.isfinite(adapted.predict(inputs["query_x"][0], verbose=0)).all()
