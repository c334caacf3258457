"""Prototypical networks against NumPy in float64, and what is theirs alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.learners.base.task import Support
from tests.problems import conv_model, dense_model, relative_error

RANDOM = np.random.default_rng(0)
WAYS, SHOTS, QUERIES, TASKS = 3, 2, 4, 2


def task_batch(shape=(3,), ways=WAYS, shots=SHOTS, seed=0, tasks=TASKS):
    random = np.random.default_rng(seed)
    dtype = keras.config.floatx()
    y = np.stack([random.permutation(np.repeat(np.arange(ways), shots)) for _ in range(tasks)])
    inputs = {
        "support_x": random.normal(size=(tasks, ways * shots, *shape)).astype(dtype),
        "support_y": y.astype("int32"),
        "query_x": random.normal(size=(tasks, QUERIES, *shape)).astype(dtype),
    }
    query_y = random.integers(0, ways, (tasks, QUERIES)).astype("int32")
    return tf.nest.map_structure(tf.constant, (inputs, query_y))


def ready(learner):
    # Made here: a loss keeps the precision that there was when it was made.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learner.compile(keras.optimizers.SGD(0.1), loss=loss, metrics=["accuracy"])
    return learner


def embedded(model, x):
    """What `dense_model` gives, in NumPy."""
    kernel, bias, last, last_bias = [np.asarray(v, np.float64) for v in model.trainable_variables]
    return np.tanh(np.asarray(x, np.float64) @ kernel + bias) @ last + last_bias


def logits_by_hand(support_z, y, query_z, distance, scale=1.0, weight=None):
    """Equations 1 and 2 of the paper, class by class and query by query."""
    weight = np.ones(len(y)) if weight is None else weight
    means = [
        np.average(support_z[y == n], axis=0, weights=weight[y == n]) for n in range(y.max() + 1)
    ]

    def cosine(a, b):
        return 1 - a @ b / np.sqrt((a @ a) * (b @ b))

    def squared(a, b):
        return (a - b) @ (a - b)

    d = {"cosine": cosine, "squared_euclidean": squared}[distance]
    return np.array([[-scale * d(z, c) for c in means] for z in query_z]), np.array(means)


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


DISTANCES = ["squared_euclidean", "cosine"]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("distance", DISTANCES)
def test_prototypes_are_class_means_and_logits_negative_distances(distance):
    learner = maml_tf.Prototypical(dense_model(), distance=distance)
    inputs, _ = task_batch()
    received = learner.predict(inputs, verbose=0)
    for task in range(TASKS):
        x, y, query_x = (np.asarray(t[task]) for t in inputs.values())
        z = embedded(learner.model, x)
        expected, means = logits_by_hand(z, y, embedded(learner.model, query_x), distance)
        np.testing.assert_allclose(received[task], expected, rtol=1e-12, atol=1e-15)
        with learner.with_values(*learner.initial_values()):
            adapted = learner.adapt_task(
                Support(inputs["support_x"][task], inputs["support_y"][task]),
                steps=None,
                mode=learner.mode(training=False),
            )
        np.testing.assert_allclose(adapted["head"], means, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_weights_of_support_examples_weigh_the_means():
    learner = maml_tf.Prototypical(dense_model())
    z, query_z = RANDOM.normal(size=(6, 5)), RANDOM.normal(size=(4, 5))
    y, weight = np.array([0, 2, 1, 1, 0, 2]), np.array([1.0, 3.0, 0.5, 2.0, 0.0, 1.0])
    support = Support(None, tf.constant(y), tf.constant(weight))
    head = learner.fit_head(tf.constant(z), support)
    expected, means = logits_by_hand(z, y, query_z, "squared_euclidean", weight=weight)
    np.testing.assert_allclose(head, means, rtol=1e-12)
    np.testing.assert_allclose(learner.apply_head(head, tf.constant(query_z)), expected, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_a_scale_multiplies_the_logits_and_learns():
    learner = ready(maml_tf.Prototypical(dense_model(), distance="cosine", learned_scale=True))
    inputs, query_y = task_batch()
    one = learner.predict(inputs, verbose=0)
    learner.scale.assign(7.0)
    np.testing.assert_allclose(learner.predict(inputs, verbose=0), 7 * one, rtol=1e-12)
    _, gradients, *_ = learner.meta_gradient(inputs, query_y)
    place = [v is learner.scale for v in learner.trainable_variables].index(True)
    # d/ds of -log softmax(s a)_y is sum_n softmax(s a)_n a_n - a_y.
    chosen = np.take_along_axis(one, query_y.numpy()[..., None], -1)[..., 0]
    expected = np.sum(np.exp(log_softmax(7 * one)) * one, -1) - chosen
    np.testing.assert_allclose(gradients[place], expected.mean(), rtol=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("distance", DISTANCES)
def test_the_meta_gradient_agrees_with_central_differences(distance):
    learner = ready(
        maml_tf.Prototypical(
            dense_model(), distance=distance, learned_scale=True, task_map="vectorized"
        )
    )
    inputs, query_y = task_batch()
    loss, gradients, *_ = learner.meta_gradient(inputs, query_y)

    def by_hand():
        """The outer loss, in NumPy."""
        scale, losses = float(learner.scale), []
        for task in range(TASKS):
            x, y, query_x = (np.asarray(t[task]) for t in inputs.values())
            z, query_z = embedded(learner.model, x), embedded(learner.model, query_x)
            logits, _ = logits_by_hand(z, y, query_z, distance, scale)
            losses.append(-np.mean(log_softmax(logits)[np.arange(QUERIES), query_y[task]]))
        return np.mean(losses)

    np.testing.assert_allclose(loss, by_hand(), rtol=1e-12)
    differences = []
    for variable in learner.trainable_variables:
        value, slope = variable.numpy(), np.zeros(variable.shape)
        for index in np.ndindex(value.shape):
            terms = []
            for change in (-2e-4, -1e-4, 1e-4, 2e-4):
                moved = np.array(value)
                moved[index] += change
                variable.assign(moved)
                terms.append(by_hand())
            far, near, nearer, farther = terms
            slope[index] = (far - 8 * near + 8 * nearer - farther) / 12e-4
        variable.assign(value)
        differences.append(slope)
    assert relative_error([np.asarray(g) for g in gradients], differences) < 1e-8


@pytest.mark.parametrize("distance", DISTANCES)
def test_other_ways_and_shots_than_trained_with(distance):
    learner = ready(maml_tf.Prototypical(dense_model(), distance=distance))
    learner.fit(*task_batch(), batch_size=TASKS, verbose=0)
    for ways, shots in ((2, 1), (7, 3)):
        inputs, query_y = task_batch(ways=ways, shots=shots)
        received = learner.predict(inputs, verbose=0)
        assert received.shape == (TASKS, QUERIES, ways)
        x, y, query_x = (np.asarray(t[1]) for t in inputs.values())
        z, query_z = embedded(learner.model, x), embedded(learner.model, query_x)
        expected, _ = logits_by_hand(z, y, query_z, distance)
        np.testing.assert_allclose(received[1], expected, rtol=1e-3, atol=1e-4)
        logs = learner.evaluate(inputs, query_y, return_dict=True, verbose=0)
        accuracy = np.mean(np.argmax(received, -1) == query_y)
        np.testing.assert_allclose(logs["accuracy"], accuracy, rtol=1e-6)


def test_it_predicts_and_adapts_before_it_is_compiled():
    learner = maml_tf.Prototypical(dense_model())
    inputs, query_y = task_batch()
    expected = learner.predict(inputs, verbose=0)
    adapted = learner.adapt(inputs["support_x"][0], inputs["support_y"][0])
    np.testing.assert_allclose(adapted(inputs["query_x"][0]), expected[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="compile"):
        learner.fit(inputs, query_y, verbose=0)


def gap(y):
    """Labels 0, 1, 2 as 0, 1, 3."""
    return np.where(np.asarray(y) == 2, 3, y).astype("int32")


def test_labels_with_a_gap_are_refused_in_words(tmp_path):
    learner = ready(maml_tf.Prototypical(dense_model()))
    inputs, query_y = task_batch()
    bad = {**inputs, "support_y": gap(inputs["support_y"])}
    match = r"every class of a task among its support labels. Received: 'support_y' with .*0 to 3"
    with pytest.raises(ValueError, match=match):
        learner.fit(bad, query_y, verbose=0)
    with pytest.raises(ValueError, match=match):
        learner.predict(bad, verbose=0)
    with pytest.raises(ValueError, match=match):
        learner.adapt(bad["support_x"][0], bad["support_y"][0])
    with pytest.raises(ValueError, match=r"'query_y' with labels"):
        learner.fit(inputs, gap(query_y), verbose=0)
    # In a later batch, too: its step assigns nothing.
    pairs = (inputs, query_y), (bad, query_y)
    batches = tf.nest.map_structure(lambda *t: tf.stack(t), *pairs)
    with pytest.raises(ValueError, match=match):
        learner.fit(tf.data.Dataset.from_tensor_slices(batches), verbose=0)
    assert int(learner.optimizer.iterations) == 1

    path = maml_tf.serving.export(learner, tmp_path / "model", warm_up=False)
    exported = tf.saved_model.load(str(path))
    adapt = exported.signatures["adapt"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="(?i)class"):
        adapt(support_x=inputs["support_x"][0], support_y=tf.constant(gap(inputs["support_y"][0])))
    good = adapt(support_x=inputs["support_x"][0], support_y=inputs["support_y"][0])
    assert all(np.isfinite(t).all() for t in good.values())


PROBABILITIES = {
    "name": "sparse_categorical_crossentropy",
    "object": keras.losses.SparseCategoricalCrossentropy(),
    "function": keras.losses.sparse_categorical_crossentropy,
}


@pytest.mark.parametrize("loss", PROBABILITIES.values(), ids=PROBABILITIES)
def test_a_loss_of_probabilities_is_refused(loss):
    learner = maml_tf.Prototypical(dense_model())
    with pytest.raises(ValueError, match=r"Expected a loss of logits.*from_logits=True"):
        learner.compile(loss=loss)


def test_wrong_settings_are_refused():
    cases = [
        ({"distance": "euclidean"}, ValueError, "`distance` to be one of .*squared_euclidean"),
        ({"ways": 0}, ValueError, "at least 1"),
        ({"ways": True}, TypeError, "`ways` to be an integer"),
        ({"learned_scale": 1}, TypeError, "`learned_scale` to be True or False"),
    ]
    for settings, error, match in cases:
        with pytest.raises(error, match=match):
            maml_tf.Prototypical(dense_model(), **settings)


def test_settings_that_every_learner_has_are_kept_and_restored():
    settings = {"batch_norm": "support", "task_map": "loop", "parallel_tasks": 2, "name": "mine"}
    learner = maml_tf.Prototypical(dense_model(), **settings)
    for one in (learner, maml_tf.Prototypical.from_config(learner.get_config())):
        assert {name: getattr(one, name) for name in settings} == settings


def test_given_ways_refuse_more_classes():
    learner = maml_tf.Prototypical(dense_model(), ways=2)
    inputs, _ = task_batch()
    with pytest.raises(ValueError, match=r"of the support set, 2\)"):
        learner.adapt(inputs["support_x"][0], inputs["support_y"][0])


@pytest.mark.parametrize("ways", [WAYS, None])
def test_given_ways_are_known_before_the_task_is(ways):
    """XLA compiles nothing whose size only the labels tell."""
    learner = maml_tf.Prototypical(dense_model(), ways=ways)

    @tf.function(autograph=False)
    def logits(z, y):
        return learner.apply_head(learner.fit_head(z, Support(None, y)), z)

    z, y = tf.TensorSpec([8, 2]), tf.TensorSpec([8], tf.int32)
    assert logits.get_concrete_function(z, y).output_shapes.as_list() == [8, ways]
    assert learner.output_spec(keras.KerasTensor((8, 3))).shape == (8, ways)


def network_with(layer, mean, variance, x):
    """`conv_model` by hand, normalised by these; `layer` is its batch normalisation."""
    kernel, bias, gamma, beta, last, last_bias = [np.asarray(v) for v in layer.trainable_variables]
    z = tf.nn.conv2d(x, kernel, 2, "SAME") + bias
    if mean is None:
        mean, variance = tf.nn.moments(z, [0, 1, 2])
    y = tf.math.softplus((z - mean) / tf.sqrt(variance + 1e-3) * gamma + beta)
    return tf.reshape(y, [y.shape[0], -1]) @ last + last_bias, (mean, variance)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("mode", ["moving", "support", "transductive"])
def test_what_batch_normalisation_uses(mode):
    learner = ready(maml_tf.Prototypical(conv_model(), batch_norm=mode))
    inputs, query_y = task_batch((6, 6, 1))
    moving = [v for v in learner.model.non_trainable_variables if "moving" in v.path]
    for variable, value in zip(moving, (0.3, 2.0), strict=True):
        variable.assign(np.full(variable.shape, value))
    kept = [v.numpy() for v in moving]

    def by_hand(task, training):
        x, y, query_x = (t[task] for t in inputs.values())
        given = tuple(kept) if mode == "moving" and not training else (None, None)
        z, seen = network_with(learner.model, *given, x)
        query_z, _ = network_with(learner.model, *(seen if mode == "support" else given), query_x)
        z, query_z = np.asarray(z), np.asarray(query_z)
        return logits_by_hand(z, y.numpy(), query_z, "squared_euclidean")[0]

    received = learner.predict(inputs, verbose=0)
    expected = [by_hand(task, training=False) for task in range(TASKS)]
    np.testing.assert_allclose(received, expected, rtol=1e-9)
    _, _, state, y_pred, _ = learner.meta_gradient(inputs, query_y)
    expected = [by_hand(task, training=True) for task in range(TASKS)]
    np.testing.assert_allclose(y_pred, expected, rtol=1e-9)
    changed = [np.abs(s - k).max() > 1e-3 for s, k in zip(state, kept, strict=True)]
    if mode != "support":
        # Keras' own way keeps moving averages; what is normalised by itself leaves none.
        assert changed == [mode == "moving"] * 2


@keras.saving.register_keras_serializable("tests")
class WithLayersOfItsOwn(maml_tf.Prototypical):
    def __init__(self, model, **settings):
        super().__init__(model, **settings)
        self.normal = keras.layers.BatchNormalization(momentum=0.0, epsilon=0.0)
        self.normal.build((None, 2))
        self.drop = keras.layers.Dropout(0.5, seed=0)

    def fit_head(self, z, support):
        return super().fit_head(self.drop(self.normal(z)), support)


def test_layers_beside_the_network_hear_of_training():
    learner = ready(WithLayersOfItsOwn(dense_model()))
    learner.optimizer.learning_rate = 0.0
    inputs, query_y = task_batch(tasks=1)
    losses = {float(learner.train_on_batch(inputs, query_y)[0]) for _ in range(3)}
    assert len(losses) > 1  # dropout
    z = embedded(learner.model, inputs["support_x"][0])
    np.testing.assert_allclose(learner.normal.moving_mean, z.mean(0), rtol=1e-4, atol=1e-5)
    before = learner.predict(inputs, verbose=0)
    np.testing.assert_array_equal(before, learner.predict(inputs, verbose=0))


@pytest.mark.parametrize("ways", [None, 3])
def test_a_class_without_an_example_is_refused(ways):
    """Its prototype would be 0 / 0; an example that is padding is none."""
    made = maml_tf.Prototypical(dense_model(), ways=ways)
    x, y = np.ones([4, 3], np.float32), np.array([0, 2, 2, 0])
    for labels, weight in ((y, None), (np.array([0, 1, 2, 2]), np.array([1, 0, 1, 1], np.float32))):
        inputs = {"support_x": x[None], "support_y": labels[None], "query_x": x[None]}
        if weight is not None:
            inputs["support_weight"] = weight[None]
        calls = (
            lambda: made.adapt(x, labels, support_weight=weight),  # noqa: B023
            lambda: made.predict(inputs, verbose=0),  # noqa: B023
            lambda: made(inputs),  # noqa: B023
        )
        for call in calls:
            with pytest.raises(ValueError, match="leave none out"):
                call()


def test_xla_needs_the_number_of_classes():
    made = maml_tf.Prototypical(dense_model())
    with pytest.raises(ValueError, match=r"Received: ways=None and jit_compile=True"):
        made.compile("sgd", jit_compile=True)


def test_tasks_of_different_ways_in_a_batch_are_refused_in_words():
    """Their predictions could be no tensor; TensorFlow said so in names of its own."""
    learner = ready(maml_tf.Prototypical(dense_model()))
    inputs, query_y = task_batch()
    two = tf.concat([inputs["support_y"][:1] % 2, inputs["support_y"][1:]], 0)
    query_y = query_y % 2
    bad = {**inputs, "support_y": two}
    match = r"all name the same number of classes.*classes = \[2\] \[3\]"
    for method, arguments in (
        (learner.fit, (bad, query_y)),
        (learner.evaluate, (bad, query_y)),
        (learner.predict, (bad,)),
        (learner.predict_on_batch, (bad,)),
    ):
        with pytest.raises(ValueError, match=match):
            method(*arguments)
    batches = tf.data.Dataset.from_tensors((inputs, query_y))
    with pytest.raises(ValueError, match=match):
        learner.fit(batches.concatenate(tf.data.Dataset.from_tensors((bad, query_y))), verbose=0)
    # From batch to batch they may differ.
    both = {**inputs, "support_y": tf.concat([two[:1], two[:1]], 0)}
    learner.fit(batches.concatenate(tf.data.Dataset.from_tensors((both, query_y))), verbose=0)


def test_labels_that_are_no_numbers_of_classes_are_refused_in_words():
    learner = ready(maml_tf.Prototypical(dense_model()))
    inputs, query_y = task_batch()
    one_hot, named = tf.one_hot(inputs["support_y"], WAYS), {"class": inputs["support_y"]}
    for support_y, match in (
        (one_hot, rf"{WAYS}\), which one-hot labels have.*argmax"),
        (named, r"Received: a structure, \{'class'"),
    ):
        with pytest.raises(ValueError, match=match):
            learner.train_on_batch({**inputs, "support_y": support_y}, query_y)
        with pytest.raises(ValueError, match=match):
            learner.adapt(inputs["support_x"][0], tf.nest.map_structure(lambda t: t[0], support_y))


def test_distances_are_taken_in_float32_where_the_network_computes_in_half_precision():
    """In float16 a square ends at 65504: embeddings 256 apart were infinitely far."""
    network = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, dtype="mixed_float16")], name="half"
    )
    network.layers[0].kernel.assign(400 * tf.eye(3, 2))
    learner = ready(maml_tf.Prototypical(network))
    x = np.eye(3, dtype="float32")[[0, 1]]
    adapted = learner.adapt(x, np.array([0, 1]))
    far = -2 * 400.0**2
    np.testing.assert_array_equal(adapted(x), [[0, far], [far, 0]])
    assert adapted.predict(x, verbose=0).dtype == "float32"
    spec = learner.output_spec(keras.KerasTensor((4, 3), "float32"))
    assert (spec.shape, spec.dtype) == ((4, None), "float32")
