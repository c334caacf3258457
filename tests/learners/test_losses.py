"""One loss everywhere: the one that is trained is the one that is evaluated and reported."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import evaluation
from tests.problems import compiled, dense_model, layers, task_batch

REGULARIZED = {"kernel_regularizer": keras.regularizers.L2(0.5)}


def penalised():
    """Dense layers with a weight penalty, an activity penalty and a loss that `call` adds."""

    @keras.saving.register_keras_serializable("test_losses")
    class Adds(layers.Layer):
        def call(self, inputs):
            self.add_loss(0.3 * keras.ops.mean(inputs**2))
            return inputs

    glorot = [keras.initializers.GlorotNormal(seed=i) for i in range(2)]
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, "tanh", kernel_initializer=glorot[0], **REGULARIZED),
            Adds(),
            layers.Dense(2, kernel_initializer=glorot[1], activity_regularizer="l2"),
        ]
    )


def penalised_loss(weights, x, y):
    kernel, bias, last_kernel, last_bias = weights
    hidden = tf.tanh(x @ kernel + bias)
    y_pred = hidden @ last_kernel + last_bias
    activity = 0.01 * tf.reduce_sum(y_pred**2) / len(x)
    added = 0.3 * tf.reduce_mean(hidden**2)
    return tf.reduce_mean((y - y_pred) ** 2) + 0.5 * tf.reduce_sum(kernel**2) + added + activity


def adapted_by_hand(model, inputs, task, rate=0.1, steps=2):
    """The weights before each step and after the last one."""
    weights = [tf.constant(v.numpy()) for v in model.trainable_variables]
    path = [weights]
    for _ in range(steps):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = penalised_loss(weights, inputs["support_x"][task], inputs["support_y"][task])
        gradients = tape.gradient(loss, weights)
        weights = [w - rate * g for w, g in zip(weights, gradients, strict=True)]
        path.append(weights)
    return path


@pytest.fixture(scope="module")
def penalties():
    """A learner that training leaves as it is, a task batch, its losses by hand `[T, k+1]`."""
    learner = maml_tf.MAML(penalised(), 0.1, inner_steps=2)
    learner.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    inputs, query_y = task_batch(tasks=3)
    losses = [
        [
            penalised_loss(weights, inputs["query_x"][task], query_y[task])
            for weights in adapted_by_hand(learner.model, inputs, task)
        ]
        for task in range(3)
    ]
    return learner, inputs, query_y, np.array(losses)


def test_losses_of_the_model_are_trained_and_evaluated_at_the_adapted_weights(penalties):
    learner, inputs, query_y, losses = penalties
    history = learner.fit(
        inputs, query_y, validation_data=(inputs, query_y), batch_size=2, verbose=0
    ).history
    expected = {"loss": losses[:, -1].mean(), "loss_before": losses[:, 0].mean()}
    assert expected["loss"] < 0.9 * expected["loss_before"]
    for name, value in expected.items():
        for key in (name, f"val_{name}"):
            np.testing.assert_allclose(history[key], [value], rtol=1e-5, err_msg=key)


def test_the_evaluation_of_a_learner_reports_the_same_loss(penalties):
    learner, inputs, query_y, losses = penalties
    tasks = tf.data.Dataset.from_tensors((inputs, query_y))
    result = evaluation.evaluate(learner, tasks, 3, metric="loss")
    np.testing.assert_allclose(result.values, losses, rtol=1e-5)


# Weights of queries.

WEIGHT = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [1, 2, 0, 0]], "float32")


@pytest.fixture(scope="module")
def weighted():
    """A learner that does not move, tasks whose queries have weights, squared errors `[T, Q]`."""
    learner = maml_tf.MAML(dense_model(), 0.1, inner_steps=0)
    learner.compile(keras.optimizers.SGD(0.0), "mse", weighted_metrics=["mae"])
    inputs, query_y = task_batch(tasks=3, query=4)
    errors = np.mean((learner.predict(inputs, verbose=0) - query_y) ** 2, -1)
    return learner, inputs, query_y, errors


def everywhere(learner, inputs, query_y, sample_weight):
    """What training, its validation and evaluation report of one task batch."""
    data = (inputs, query_y, sample_weight)
    keywords = {"sample_weight": sample_weight, "verbose": 0}
    history = learner.fit(inputs, query_y, validation_data=data, **keywords)
    logs = {name: values[0] for name, values in history.history.items()}
    return {
        "fit": logs,
        "validation": {n[4:]: v for n, v in logs.items() if n.startswith("val_")},
        "evaluate": learner.evaluate(inputs, query_y, return_dict=True, **keywords),
        "train_on_batch": learner.train_on_batch(*data, return_dict=True),
        "test_on_batch": learner.test_on_batch(*data, return_dict=True),
    }


@pytest.mark.parametrize(
    ("weight", "of_queries"),
    [(WEIGHT, WEIGHT), (np.array([1, 2, 0], "float32"), np.outer([1, 2, 0], np.ones(4)))],
    ids=["queries", "tasks"],
)
def test_without_steps_before_and_after_are_one_loss_however_queries_weigh(
    weighted, weight, of_queries
):
    learner, inputs, query_y, errors = weighted
    expected = np.mean(of_queries * errors)
    for place, logs in everywhere(learner, inputs, query_y, weight).items():
        for name in ("loss", "loss_before"):
            np.testing.assert_allclose(logs[name], expected, rtol=1e-5, err_msg=place)
        np.testing.assert_allclose(logs["mae"], logs["mae_before"], rtol=1e-6, err_msg=place)


def test_tasks_of_unequal_numbers_of_labelled_queries_count_the_same():
    """The mean over tasks, not over examples, wherever a loss is reported."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=2)
    model = dense_model()
    inputs, _ = task_batch(tasks=2, query=3)
    inputs["support_y"] = tf.constant([[0, 1, 0, 1]] * 2)
    query_y = tf.constant([[0, 1, 0], [1, 2, 2]])
    learner = maml_tf.MAML(model, 0.1, inner_steps=0)
    learner.compile(keras.optimizers.SGD(0.0), loss)
    logits = learner.predict_on_batch(inputs)
    per_task = [float(loss(y, z)) for y, z in zip(query_y, logits, strict=True)]
    assert abs(np.mean(per_task) - float(loss(query_y, logits))) > 0.01
    logs = learner.test_on_batch(inputs, query_y, return_dict=True)
    logs |= {
        f"fit_{k}": v for k, v in learner.train_on_batch(inputs, query_y, return_dict=True).items()
    }
    for name in ("loss", "loss_before", "fit_loss", "fit_loss_before"):
        np.testing.assert_allclose(logs[name], np.mean(per_task), rtol=1e-5, err_msg=name)


LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def labelled():
    inputs, _ = task_batch(tasks=3, query=4)
    inputs["support_y"] = tf.constant([[0, 1, 0, 1]] * 3)
    return inputs, tf.constant([[0, 1, 1, 1], [0, 0, 0, 1], [1, 1, 0, 1]])


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("way", ["arrays", "data set", "train_on_batch"])
def test_class_weights_weigh_the_queries_of_the_outer_loss(way, one_hot):
    inputs, query_y = labelled()
    loss = LOGITS
    y = query_y
    if one_hot:
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        inputs["support_y"] = tf.one_hot(inputs["support_y"], 2)
        y = tf.one_hot(query_y, 2)
    learner = maml_tf.MAML(dense_model(), 0.1, task_map="loop")
    learner.compile(keras.optimizers.SGD(0.0), loss)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        query_y, learner.predict_on_batch(inputs)
    )
    expected = np.mean(np.where(query_y == 1, 3.0, 1.0) * losses)
    weights = {1: 3.0}

    def run(class_weight):
        if way == "train_on_batch":
            return learner.train_on_batch(inputs, y, class_weight=class_weight, return_dict=True)
        data = (inputs, y) if way == "arrays" else (tf.data.Dataset.from_tensors((inputs, y)),)
        history = learner.fit(*data, class_weight=class_weight, verbose=0).history
        return {name: values[0] for name, values in history.items()}

    np.testing.assert_allclose(run(weights)["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(run(None)["loss"], np.mean(losses), rtol=1e-5)


# Masks.


def masked_model():
    """Classifies each step of a sequence; steps of 0 are padding."""
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(
                8, 4, mask_zero=True, embeddings_initializer=keras.initializers.RandomNormal(seed=0)
            ),
            layers.Dense(3, kernel_initializer=keras.initializers.GlorotNormal(seed=1)),
        ]
    )


def sequences(tasks=3, support=4, query=6):
    random = np.random.default_rng(0)

    def examples(number):
        x = random.integers(1, 8, (tasks, number, 5)).astype("int32")
        x[np.arange(5) >= random.integers(1, 6, (tasks, number, 1))] = 0
        return x, random.integers(0, 3, x.shape).astype("int32")

    (support_x, support_y), (query_x, query_y) = examples(support), examples(query)
    return {"support_x": support_x, "support_y": support_y, "query_x": query_x}, query_y


@pytest.mark.parametrize("inner_loss", [None, "sparse_categorical_crossentropy_of_logits"])
@pytest.mark.parametrize("task_map", ["loop", "vectorized"])
def test_padding_counts_in_no_metric(task_map, inner_loss):
    if inner_loss is not None:
        inner_loss = lambda y, z: keras.losses.sparse_categorical_crossentropy(  # noqa: E731
            y, z, from_logits=True
        )
    learner = maml_tf.MAML(masked_model(), 0.5, task_map=task_map)
    learner.compile(keras.optimizers.SGD(0.0), LOGITS, inner_loss=inner_loss, metrics=["accuracy"])
    inputs, query_y = sequences()
    counted = inputs["query_x"] != 0
    weights = [tf.constant(v.numpy()) for v in learner.model.trainable_variables]

    def logits(weights, x):
        table, kernel, bias = weights
        return tf.gather(table, x) @ kernel + bias

    right = []
    for task in range(3):
        x, y = inputs["support_x"][task], inputs["support_y"][task]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits(weights, x))
            loss = tf.reduce_mean(tf.boolean_mask(losses, x != 0))
        gradients = tape.gradient(loss, weights)
        fast = [w - 0.5 * tf.convert_to_tensor(g) for w, g in zip(weights, gradients, strict=True)]
        answers = [np.argmax(logits(w, inputs["query_x"][task]), -1) for w in (weights, fast)]
        right.append([a == query_y[task] for a in answers])
    right = np.array(right)  # [T, 2, Q, steps]
    before, after = (right[:, i][counted].mean() for i in range(2))
    assert abs(after - right[:, 1].mean()) > 0.01
    for logs in (
        learner.evaluate(inputs, query_y, verbose=0, return_dict=True),
        learner.train_on_batch(inputs, query_y, return_dict=True),
    ):
        np.testing.assert_allclose(logs["accuracy"], after, rtol=1e-6)
        np.testing.assert_allclose(logs["accuracy_before"], before, rtol=1e-6)
    tasks = tf.data.Dataset.from_tensors((inputs, query_y))
    result = evaluation.evaluate(learner, tasks, 3)
    by_task = [[right[t, i][counted[t]].mean() for i in range(2)] for t in range(3)]
    np.testing.assert_allclose(result.values, by_task, rtol=1e-6)
    loss = evaluation.evaluate(learner, tasks, 3, metric="loss").mean[-1]
    np.testing.assert_allclose(loss, logs["loss"], rtol=1e-5)


# Losses that are no number.


@pytest.mark.parametrize("name", ["loss", "inner_loss"])
def test_a_loss_of_each_example_is_refused_in_both_places(name):
    vector = keras.losses.MeanSquaredError(reduction="none")
    learner = maml_tf.MAML(dense_model(), 0.1)
    learner.compile("sgd", **{"loss": "mse", name: vector})
    with pytest.raises(ValueError, match=rf"Expected `{name}` to be one number.*shape \([34],\)"):
        learner.train_on_batch(*task_batch())


@pytest.mark.parametrize("reduction", ["sum", "sum_over_batch_size"])
def test_a_loss_takes_the_same_inner_step_as_loss_and_as_inner_loss(reduction):
    loss = keras.losses.MeanSquaredError(reduction=reduction)
    inputs, _ = task_batch()
    one, other = compiled(dense_model(), loss=loss), maml_tf.MAML(dense_model(), 0.1)
    other.compile("sgd", "mae", inner_loss=loss)
    np.testing.assert_array_equal(one.predict_on_batch(inputs), other.predict_on_batch(inputs))


@pytest.mark.parametrize("method", [maml_tf.MAML, maml_tf.Reptile])
def test_a_loss_of_ones_own_is_told_whether_it_is_for_training(method):
    told = []

    class Telling(method):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            told.append(training)
            return super().compute_loss(x, y, y_pred, sample_weight, training)

    learner = Telling(dense_model(), 0.1, 2)
    learner.compile("sgd", "mse")
    inputs, query_y = task_batch(tasks=1)
    learner.meta_gradient(inputs, query_y)
    # Two inner steps and the queries train; the queries before them are only seen.
    counts = told.count(True), told.count(False)
    assert counts[0] >= 3
    assert told == [True] * counts[0] + [False] * counts[1]
    for way in (
        lambda: learner(inputs),
        lambda: learner.predict_path(inputs, 1),
        lambda: learner.loss_path(inputs, query_y, 1),
        lambda: learner.adapt(inputs["support_x"][0], inputs["support_y"][0]),
    ):
        told.clear()
        way()
        assert told
        assert told == [False] * len(told)


@pytest.mark.parametrize("queries", [4, 5])
def test_a_weight_of_a_query_weighs_its_labels_of_every_step(queries):
    """With as many queries as steps it was taken for a weight of a step, and else refused."""
    steps = 5
    network = keras.Sequential([keras.Input((steps, 3)), layers.Dense(2)])
    learner = compiled(network, 0.1, loss="mse")
    inputs, query_y = task_batch((steps, 3), (steps, 2), query=queries)
    weight = np.array([[0.5], [2.0]]) * np.linspace(0, 1, queries)
    each = np.broadcast_to(weight[..., np.newaxis], (2, queries, steps)).astype("float32")
    expected = learner.test_on_batch(inputs, query_y, each)
    received = learner.test_on_batch(inputs, query_y, weight.astype("float32"))
    np.testing.assert_allclose(received, expected, rtol=1e-6)
    y_pred = learner.predict_on_batch(inputs)
    by_hand = np.mean(each * np.mean((y_pred - query_y) ** 2, -1))
    np.testing.assert_allclose(received[0], by_hand, rtol=1e-5)
    # A weight for each task is one of all of its queries.
    received = learner.test_on_batch(inputs, query_y, np.array([1.0, 3.0], "float32"))
    each = np.broadcast_to(np.array([1.0, 3.0])[:, None, None], (2, queries, steps))
    by_hand = np.mean(each * np.mean((y_pred - query_y) ** 2, -1))
    np.testing.assert_allclose(received[0], by_hand, rtol=1e-5)
