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


@pytest.mark.parametrize("policy", POLICIES, indirect=True)
@pytest.mark.parametrize("method", [maml_tf.MAML, maml_tf.Prototypical])
def test_only_networks_compute_in_half_precision(policy, method):
    """What a learner reads of its own, rates, fast weights and a scale, is as precise as it is.

    Keras reads in half whatever a model of a mixed policy reads in `call`: `predict` stepped from
    rounded weights to rounded weights, and what a learner by prototypes adapted did not predict.
    """
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    rates = maml_tf.inner_optimizers.LearnedRates(1e-4)
    settings = {"learned_scale": True} if method is maml_tf.Prototypical else {}
    arguments = (rates, 3) if method is maml_tf.MAML else ()
    made = method(network, *arguments, task_map="loop", **settings)
    read = []

    class Squared(keras.losses.Loss):
        def call(self, y, y_pred):
            return keras.ops.mean((y_pred - keras.ops.one_hot(y, 2)) ** 2, -1)

    ordinary = made.predict_adapted

    def predict_adapted(adapted, query_x, **how):
        own = [v.value for v in made.trainable_variables]
        read.extend(t.dtype.name for t in [*tf.nest.flatten(adapted), *own] if t.dtype.is_floating)
        return ordinary(adapted, query_x, **how)

    made.predict_adapted = predict_adapted
    made.compile("sgd", loss=Squared())
    random = np.random.default_rng(0)
    x, query_x = random.normal(size=(2, 1, 4, 3)).astype("float32")
    inputs = {"support_x": x, "support_y": np.array([[0, 1, 0, 1]]), "query_x": query_x}
    predicted = made.predict_on_batch(inputs)[0]
    assert set(read) == {"float32"}
    adapted = made.adapt(inputs["support_x"][0], inputs["support_y"][0])
    np.testing.assert_array_equal(adapted.predict(query_x[0], verbose=0), predicted)


def test_training_goes_on_from_a_file_where_another_policy_is_set(tmp_path):
    """As in a new process, which lost the scale of the loss and all that the optimizer held."""
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        made = maml_tf.MAML(network, 0.1)
        made.compile("adam", loss="mse")
    finally:
        keras.mixed_precision.set_dtype_policy(before)
    random = np.random.default_rng(0)
    x, query_x = random.normal(size=(2, 1, 4, 3)).astype("float32")
    y = random.normal(size=(1, 4, 2)).astype("float32")
    data = ({"support_x": x, "support_y": y, "query_x": query_x}, y)
    made.optimizer.build(made.trainable_variables)
    made.optimizer.dynamic_scale.assign(8.0)
    made.train_on_batch(*data)
    made.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    assert isinstance(loaded.optimizer, keras.optimizers.LossScaleOptimizer)
    for one_learner in (made, loaded):
        one_learner.train_on_batch(*data)
    for one, other in zip(
        [*made.variables, *made.optimizer.variables],
        [*loaded.variables, *loaded.optimizer.variables],
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
