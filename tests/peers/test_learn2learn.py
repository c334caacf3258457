"""What learn2learn tests, with its numbers; see README.md beside."""

import string

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import inner_loop
from maml_tf.inner.optimizers import SGD
from maml_tf.tasks import class_index, sampling, streams
from tests.problems import flat, layers, relative_error

# algorithms/maml_test.py: 7 inputs of size 10, three dense layers of 20, a step size of .01, and
# the norm of the outputs, all of them at once, as the loss.


def dense_layers(frozen=None):
    keras.utils.set_random_seed(0)
    parts = [layers.Dense(20, "relu"), layers.Dense(20, "sigmoid"), layers.Dense(20, "softmax")]
    model = keras.Sequential([keras.Input((10,)), *parts])
    if frozen is not None:
        parts[frozen].trainable = False
    return model


def norm(y, y_pred):
    return tf.norm(y_pred)


def norm_learner(model, steps=1, first_order=False):
    learner = maml_tf.MAML(model, 0.01, steps, first_order)
    learner.compile("sgd", loss=norm)
    return learner


X = tf.constant(np.random.default_rng(0).normal(size=(7, 10)), tf.float32)
Y = tf.zeros((7, 20))
ONE_TASK = {"support_x": X[None], "support_y": Y[None], "query_x": X[None]}


@pytest.mark.parametrize("first_order", [False, True])
def test_two_clones_answer_as_the_model(first_order):
    """`test_clone_module`: what no step has been taken with is the model itself."""
    model = dense_layers()
    learner = norm_learner(model, first_order=first_order)
    clones = [learner.adapt(X, Y, inner_steps=0) for _ in range(2)]
    assert clones[0] is not clones[1]
    for clone in clones:
        np.testing.assert_allclose(clone(X), model(X), atol=1e-8)


def test_the_norm_falls_and_every_weight_gets_a_gradient():
    """`test_adaptation`, `test_graph_connection`."""
    for steps in (0, 1):
        learner = norm_learner(dense_layers(), steps)
        loss, gradients, *_ = learner.meta_gradient(ONE_TASK, Y[None])
        assert loss <= norm(None, learner.model(X))
        assert all(np.linalg.norm(g) > 0 for g in gradients)
    assert loss < norm(None, learner.model(X))


def test_weights_that_no_loss_uses_keep_their_values():
    """`test_allow_unused`: the loss is the sum of the norms of every other tensor."""
    model = dense_layers()
    rng = np.random.default_rng(1)
    start = [tf.constant(rng.normal(size=v.shape), tf.float64) for v in model.trainable_variables]

    def norms(weights, state=(), step=None):
        return tf.add_n([tf.norm(w) for w in weights[::2]]), list(state)

    with tf.GradientTape() as tape:
        tape.watch(start)
        adapted = inner_loop.adapt(norms, start, [], SGD(0.01), 1).weights
        loss, _ = norms(adapted)
    gradients = tape.gradient(loss, start)
    assert [g is None for g in gradients] == [False, True] * 3
    for i, (before, after) in enumerate(zip(start, adapted, strict=True)):
        # |w - .01 w / |w|| = |w| - .01, whose gradient is the direction of w still.
        moved = before if i % 2 else before * (1 - 0.01 / tf.norm(before))
        np.testing.assert_allclose(after, moved, rtol=1e-12)
        if i % 2 == 0:
            np.testing.assert_allclose(gradients[i], before / tf.norm(before), rtol=1e-9)


def test_a_frozen_layer_is_neither_adapted_nor_trained():
    """`test_allow_nograd`: the layer in the middle. learn2learn needs `allow_nograd=True`."""
    model = dense_layers(frozen=1)
    learner, middle = norm_learner(model), model.layers[1].kernel
    gradients = learner.meta_gradient(ONE_TASK, Y[None])[1]
    assert [g.shape for g in gradients] == [v.shape for v in model.trainable_variables]
    assert len(gradients) == 4
    adapted = learner.adapt(X, Y)
    np.testing.assert_array_equal(adapted.layers[1].kernel, middle)
    assert np.abs(adapted.layers[0].kernel - model.layers[0].kernel).max() > 0


def test_layers_that_are_held_twice_are_adapted_once():
    """`test_module_shared_params`: a network, and its parts, as attributes of one model."""
    seq = keras.Sequential([layers.Conv2D(4, 3, 2, "same", activation="relu") for _ in range(3)])
    head = keras.Sequential([layers.Conv2D(4, 3, 2, "same", activation="relu"), layers.Flatten()])

    class Twice(keras.Model):
        def __init__(self):
            super().__init__()
            self.seq, self.head = seq, head
            self.net = keras.Sequential([seq, head])

        def call(self, x):
            return self.net(x)

    model = Twice()
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), tf.float32)
    model(x)
    assert len(model.trainable_variables) == 8
    learner = maml_tf.MAML(model, 0.1)
    learner.compile("sgd", loss=norm)
    inputs = {"support_x": x[None], "support_y": tf.zeros((1, 2, 4)), "query_x": x[None]}
    loss, gradients, *_ = learner.meta_gradient(inputs, tf.zeros((1, 2, 4)))
    plain = maml_tf.MAML(model.net, 0.1)
    plain.compile("sgd", loss=norm)
    expected = plain.meta_gradient(inputs, tf.zeros((1, 2, 4)))
    np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
    assert np.linalg.norm(flat(gradients)) > 0
    assert relative_error(gradients, expected[1]) < 1e-6


# data/metadataset_test.py: which examples there are of which class. 1500 rows of 10 features in
# five classes, by number or by text; and 26 rows, one a letter.


@pytest.mark.parametrize("as_text", [False, True])
def test_rows_are_found_by_their_class(as_text):
    """`test_data_length`, `test_data_labels_length`, `test_data_labels_values`."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 1500)
    names = labels.astype(str) if as_text else labels
    classes = sampling.index_by_class(rng.normal(size=(1500, 10)), names)
    assert classes.examples.shape == (1500, 10)
    assert classes.labels.tolist() == (list("01234") if as_text else [0, 1, 2, 3, 4])
    assert classes.sizes.tolist() == np.bincount(labels).tolist()
    for c in range(5):
        rows = classes.order[classes.offsets[c] :][: classes.sizes[c]]
        np.testing.assert_array_equal(rows, np.flatnonzero(labels == c))


def test_letters_are_found_by_their_name():
    """`test_get_item`, `test_labels_to_indices`: row i is ten times i and called chr(97 + i)."""
    rows = np.repeat(np.arange(26), 10).reshape(26, 10)
    order = np.random.default_rng(0).permutation(26)
    letters = np.array(list(string.ascii_lowercase))
    classes = sampling.index_by_class(rows[order], letters[order])
    assert classes.labels.tolist() == list(string.ascii_lowercase)
    assert classes.sizes.tolist() == [1] * 26
    for i in range(26):
        row = classes.order[classes.offsets[i]]
        np.testing.assert_array_equal(classes.examples[row], [i] * 10)


# data/transforms_test.py: 512 rows of 16 features in ten classes.


def ten_classes():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 512)
    rows = np.concatenate([labels[:, None], rng.integers(0, 99, (512, 15))], 1)
    return sampling.index_by_class(rows, labels)


def draw(classes, ways, shots, queries, tasks=128):
    key = streams.batch_seed(0, streams.TRAIN, 0)
    inputs, query_y = sampling.sample_episodes(classes, key, ways, shots, queries, tasks)
    support_x, support_y, query_x = (inputs[k] for k in ("support_x", "support_y", "query_x"))
    return [t.numpy() for t in (support_x, support_y, query_x, query_y)]


def test_so_many_classes_a_task_as_asked_for():
    """`test_n_ways`, `test_remap_labels`: 1 to 9 ways, 128 tasks each."""
    classes = ten_classes()
    for ways in range(1, 10):
        support_x, support_y, _, query_y = draw(classes, ways, 2, 1)
        for x, y, of_queries in zip(support_x, support_y, query_y, strict=True):
            assert len(set(x[:, 0])) == ways
            assert set(y) == set(of_queries) == set(range(ways))


def test_so_many_examples_a_class_as_asked_for():
    """`test_k_shots`: 1 to 9 of all ten classes, 128 tasks each."""
    classes = ten_classes()
    for shots in range(1, 10):
        support_x, support_y, *_ = draw(classes, 10, shots, 1)
        for x, y in zip(support_x, support_y, strict=True):
            assert np.bincount(x[:, 0]).tolist() == [shots] * 10
            assert np.bincount(y).tolist() == [shots] * 10


def test_tasks_are_of_the_chosen_classes_only():
    """`test_filter_labels`: five of ten classes, whose numbers become 0 to 4."""
    chosen = np.random.default_rng(1).choice(10, 5, replace=False)
    classes = class_index.select(ten_classes(), chosen)
    support_x, support_y, query_x, _ = draw(classes, 5, 3, 2)
    assert set(support_x[..., 0].flat) == set(query_x[..., 0].flat) == set(chosen)
    assert set(support_y.flat) == set(range(5))


def test_what_is_not_for_support_is_for_queries():
    """data/utils_test.py, `test_partition_task`: 1 to 19 of the 20 examples of one class."""
    classes = sampling.index_by_class(np.arange(20)[None, :, None])
    for shots in range(1, 20):
        support_x, support_y, query_x, query_y = draw(classes, 1, shots, 20 - shots, tasks=1)
        assert support_x.shape == (1, shots, 1)
        assert query_x.shape == (1, 20 - shots, 1)
        assert sorted([*support_x.flat, *query_x.flat]) == list(range(20))
        assert not support_y.any()
        assert not query_y.any()


# data/task_dataset_test.py: 128 rows of 16 features in ten classes, ten tasks of five rows each.


def of_128_rows(**settings):
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(128, 16)), np.arange(128) % 10
    return sampling.episodes(rows, labels, ways=5, shots=1, queries=1, meta_batch=2, **settings)


def test_ten_tasks_are_ten_and_stay_the_same():
    """`test_instanciation`, `test_task_caching`, `test_task_transforms`."""
    dataset = of_128_rows(tasks=10)
    passes = [[(inputs["support_x"].numpy(), inputs["support_y"].numpy()) for inputs, _ in dataset]]
    passes.append([(i["support_x"].numpy(), i["support_y"].numpy()) for i, _ in dataset])
    assert len(passes[0]) == 5
    for (x, y), (again_x, again_y) in zip(*passes, strict=True):
        np.testing.assert_array_equal(x, again_x)
        np.testing.assert_array_equal(y, again_y)
        assert x.shape == (2, 5, 16)
        assert set(y.flat) == set(range(5))


def test_tasks_without_end_differ_from_one_to_the_next():
    """`test_infinite_tasks`; a batch in a row is the one of `test_dataloader`."""
    dataset = of_128_rows()
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    tasks = [task for inputs, _ in dataset.take(3) for task in inputs["support_x"].numpy()]
    assert len(tasks) == 6
    for one, other in zip(tasks[:-1], tasks[1:], strict=True):
        assert np.sum((one - other) ** 2) > 1e-6


# algorithms/metasgd_test.py, algorithms/gbml_test.py (whose transform of a gradient is its product
# with learned numbers): the same layers, a step size of .1 for every number, learned.


def meta_sgd(steps=1, first_order=False):
    rates = maml_tf.inner_optimizers.LearnedRates(0.1)
    learner = maml_tf.MAML(dense_layers(), rates, steps, first_order)
    learner.compile("sgd", loss=norm)
    return learner, rates


@pytest.mark.parametrize("first_order", [False, True])
def test_two_clones_with_learned_rates_answer_as_the_model(first_order):
    """`test_clone_module` of both."""
    learner, _ = meta_sgd(first_order=first_order)
    for _ in range(2):
        clone = learner.adapt(X, Y, inner_steps=0)
        np.testing.assert_allclose(clone(X), learner.model(X), atol=1e-8)


def test_there_are_as_many_rates_as_weights():
    """`test_meta_lr`: twice the parameters, the second half of them .1."""
    learner, rates = meta_sgd()
    assert learner.model.count_params() == 220 + 420 + 420
    assert sum(np.size(v) for v in learner.trainable_variables) == 2 * (220 + 420 + 420)
    for rate in rates.trainable_variables:
        np.testing.assert_allclose(rate, np.full(rate.shape, 0.1), atol=1e-8)


def test_the_norm_falls_and_every_rate_gets_a_gradient():
    """`test_adaptation`, `test_graph_connection` of both; a rate's gradient is by hand."""
    learner, _ = meta_sgd()
    loss, gradients, *_ = learner.meta_gradient(ONE_TASK, Y[None])
    assert len(gradients) == 12
    assert loss < norm(None, learner.model(X))
    assert all(np.linalg.norm(g) > 0 for g in gradients)
    with tf.GradientTape() as tape:
        before = norm(None, learner.model(X))
    slopes = tape.gradient(before, [v.value for v in learner.model.trainable_variables])
    adapted = learner.adapt(X, Y)
    with tf.GradientTape() as tape:
        after = norm(None, adapted(X))
    of_query = tape.gradient(after, [v.value for v in adapted.trainable_variables])
    expected = [-g * q for g, q in zip(slopes, of_query, strict=True)]
    assert relative_error(gradients[6:], expected) < 1e-4
    start = learner.get_weights()
    learner.train_on_batch(ONE_TASK, Y[None])
    assert all(np.any(a != b) for a, b in zip(learner.get_weights(), start, strict=True))


@pytest.mark.parametrize("distance", ["squared_euclidean", "cosine"])
def test_prototypes_know_their_own_examples(distance):
    """nn/protonet_test.py, `test_simple`: five times the same picture of each of five classes."""
    pictures = np.random.default_rng(0).normal(size=(5, 28, 28, 1)).astype("float32")
    x, y = np.repeat(pictures, 5, 0), np.repeat(range(5), 5)
    body = [layers.Flatten(), layers.Dense(784, use_bias=False, kernel_initializer="identity")]
    model = keras.Sequential([keras.Input((28, 28, 1)), *body])
    learner = maml_tf.Prototypical(model, distance=distance)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learner.compile("sgd", loss, metrics=["accuracy"])
    inputs = {"support_x": x[None], "support_y": y[None], "query_x": x[None]}
    assert learner.test_on_batch(inputs, y[None], return_dict=True)["accuracy"] == 1
    scores = learner.predict_on_batch(inputs)[0]
    np.testing.assert_allclose(scores[range(25), y], 0, atol=1e-5)  # of 784, or of 1
