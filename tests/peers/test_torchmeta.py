"""What torchmeta (tristandeleu/pytorch-meta) tests, with its numbers; see README.md beside."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import functional, inner_loop
from maml_tf.inner.optimizers import SGD
from maml_tf.tasks import sampling, streams
from tests.problems import layers

# utils/test_gradient_based.py: a linear model w x of w = [2, 3, 5] and the loss (w x)^2 / 2.

W = [2.0, 3.0, 5.0]
A, B = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]


def half_square(y, y_pred):
    return tf.reduce_sum(y_pred**2, -1) / 2


def output(y, y_pred):
    return tf.reduce_sum(y_pred, -1)


# Of each test of theirs: the settings, the losses before each inner step, the adapted weights, the
# outer loss, and its gradient in w. All are whole or half numbers, which float32 holds exactly.
BY_HAND = {
    "test_update_parameters": (
        {"support": A, "query": B, "rate": 0.5, "outer": half_square},
        [264.5],
        [-9.5, -20.0, -29.5],
        49612.5,
        [3780.0, 8505.0, 13230.0],
    ),
    "test_update_parameters_first_order": (
        {"support": B, "query": A, "rate": 0.5, "outer": half_square, "first_order": True},
        [1404.5],
        [-104.0, -129.5, -154.0],
        340312.5,
        [-825.0, -1650.0, -2475.0],
    ),
    "test_multiple_update_parameters": (
        {"support": A, "query": B, "rate": 1.0, "outer": output, "steps": 3},
        [264.5, 44700.5, 7554384.5],
        [-3609.0, -7219.0, -10828.0],
        -115499.0,
        [-5020.0, -10043.0, -15066.0],
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_meta_gradients_by_hand(name):
    settings, losses, adapted, loss, gradient = BY_HAND[name]
    settings = {"first_order": False, "steps": 1, **settings}
    outer, steps, first_order = (settings[k] for k in ("outer", "steps", "first_order"))

    def objective(weights, state, step):
        return half_square(None, tf.constant([settings["support"]]) @ weights[0])[0], state

    start = [tf.constant(W)[:, None]]
    with tf.GradientTape() as tape:
        tape.watch(start)
        result = inner_loop.adapt(
            objective, start, [], SGD(settings["rate"]), steps, first_order=first_order
        )
        query = outer(None, tf.constant([settings["query"]]) @ result.weights[0])[0]
    np.testing.assert_array_equal(result.losses, losses)
    np.testing.assert_array_equal(result.weights[0][:, 0], adapted)
    assert query.numpy() == loss
    np.testing.assert_array_equal(tape.gradient(query, start)[0][:, 0], gradient)

    model = keras.Sequential([keras.Input((3,)), layers.Dense(1, use_bias=False)])
    model.set_weights([start[0]])
    learner = maml_tf.MAML(model, settings["rate"], steps, first_order)
    learner.compile("sgd", loss=outer, inner_loss=half_square)
    inputs = {
        "support_x": tf.constant([[settings["support"]]]),
        "support_y": tf.zeros([1, 1, 1]),
        "query_x": tf.constant([[settings["query"]]]),
    }
    received, (of_learner,), *_ = learner.meta_gradient(inputs, tf.zeros([1, 1, 1]))
    assert received.numpy() == loss
    np.testing.assert_array_equal(of_learner[:, 0], gradient)


# modules/test_{linear,conv,container,sparse,activation}.py: a layer called with weights from
# outside gives to the bit what the same layer gives that holds them. Sizes are theirs.

MODULES = {
    "test_metalinear_params": (lambda bias: layers.Dense(3, use_bias=bias), (5, 2)),
    "test_metaconv1d_params": (lambda bias: layers.Conv1D(3, 5, use_bias=bias), (7, 11, 2)),
    "test_metaconv2d_params": (
        lambda bias: layers.Conv2D(3, (5, 7), use_bias=bias),
        (11, 13, 17, 2),
    ),
    "test_metaconv3d_params": (
        lambda bias: layers.Conv3D(3, (5, 7, 11), use_bias=bias),
        (13, 17, 23, 29, 2),
    ),
    "test_metasequential_params": (
        lambda bias: keras.Sequential(
            [layers.Dense(3), layers.ReLU(), layers.Dense(5, use_bias=bias)]
        ),
        (5, 2),
    ),
    "test_metamultiheadattention_params": (lambda bias: Attention(bias), (17, 13 + 19, 15)),
}


class Attention(layers.Layer):
    """Of the first 13 places to the 19 others, by 3 heads of 5."""

    def __init__(self, bias):
        super().__init__()
        self.attention = layers.MultiHeadAttention(3, 5, use_bias=bias)

    def call(self, x):
        return self.attention(x[:, :13], x[:, 13:])


def functional_and_assigned(model, x):
    """What a model gives when called with random weights, and when it holds them."""
    rng = np.random.default_rng(1)
    weights = [tf.constant(rng.normal(size=v.shape), v.dtype) for v in model.trainable_variables]
    before = [v.numpy() for v in model.trainable_variables]
    received, _ = functional.call(model, weights, [], x, training=False)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        variable.assign(value)
    return received, model(x)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", MODULES)
def test_a_layer_called_with_weights_is_the_layer_that_holds_them(name, bias):
    make, shape = MODULES[name]
    model = keras.Sequential([keras.Input(shape[1:]), make(bias)])
    x = tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)
    np.testing.assert_array_equal(*functional_and_assigned(model, x))


def test_an_embedding_called_with_weights_is_the_one_that_holds_them():
    """`test_metaembedding_params`."""
    model = keras.Sequential([keras.Input((7,), dtype="int32"), layers.Embedding(5, 3)])
    x = tf.constant(np.random.default_rng(0).integers(0, 5, (2, 7)), tf.int32)
    np.testing.assert_array_equal(*functional_and_assigned(model, x))


# toy/test_toy.py and utils/test_dataloaders.py: sines in batches of 4 tasks, 1000 in all.


def test_a_thousand_sines_are_250_batches_of_5_and_15_points():
    """`test_toy_helpers`, `test_toy_sample`, `test_batch_meta_dataloader(_splitter)`."""
    _, _, test = maml_tf.tasks.sinusoid(support=5, test_query=15, meta_batch=4, test_tasks=1000)
    batches = list(test)
    assert len(batches) == 250
    for inputs, query_y in batches:
        assert inputs["support_x"].shape == inputs["support_y"].shape == (4, 5, 1)
        assert inputs["query_x"].shape == query_y.shape == (4, 15, 1)
    assert inputs["query_x"].dtype == query_y.dtype == tf.float32


def draw(classes, ways, shots, queries, meta_batch, index=0):
    key = streams.batch_seed(0, streams.TRAIN, index)
    inputs, query_y = sampling.sample_episodes(classes, key, ways, shots, queries, meta_batch)
    return [
        t.numpy() for t in (*(inputs[k] for k in ("support_x", "support_y", "query_x")), query_y)
    ]


def test_ten_splits_of_ten_examples_do_not_overlap():
    """`test_class_splitter_for_fold_overlaps`: 5 and 5 of the numbers 0 to 9."""
    classes = sampling.index_by_class(np.arange(10)[None, :, None])
    supports = set()
    for index in range(10):
        support, _, query, _ = draw(classes, 1, 5, 5, 1, index)
        assert sorted([*support.flat, *query.flat]) == list(range(10))
        supports.add(tuple(sorted(support.flat)))
    assert len(supports) > 5  # and they are not the same split


@pytest.mark.parametrize("shots", [1, 5])
def test_five_ways_have_15_queries_each(shots):
    """`test_datasets_helpers(_dataloader)`, on classes of pictures that carry their numbers."""
    classes = sampling.index_by_class(np.arange(400).reshape(20, 20, 1, 1, 1))
    support_x, support_y, query_x, query_y = draw(classes, 5, shots, 15, 4)
    assert support_x.shape == (4, 5 * shots, 1, 1, 1)
    assert query_x.shape == (4, 75, 1, 1, 1)
    for x, y, number in ((support_x, support_y, shots), (query_x, query_y, 15)):
        assert all((np.bincount(labels) == number).all() for labels in y)
        assert x.shape[:2] == y.shape


def test_more_combinations_than_a_number_holds():
    """`test_overflow_length_dataloader`: 20 of 4112 classes are more tasks than 2**63."""
    classes = sampling.index_by_class(np.arange(4112 * 6).reshape(4112, 6, 1))
    support_x, support_y, query_x, query_y = draw(classes, 20, 1, 5, 4)
    assert support_x.shape == (4, 20, 1)
    assert query_x.shape == (4, 100, 1)
    support, query = (x[..., 0] // 6 for x in (support_x, query_x))
    for task in range(4):
        names = dict(zip(support[task], support_y[task], strict=True))
        assert len(names) == 20
        assert [names[c] for c in query[task]] == query_y[task].tolist()


# utils/test_prototype.py: two tasks of five examples with seven features, of three classes.


def test_prototypes_are_means_of_classes():
    """`test_get_prototypes`, `test_get_num_samples`: scores of queries, by loops of NumPy."""
    rng = np.random.default_rng(0)
    z, queries = (rng.uniform(size=(2, n, 7)).astype("float32") for n in (5, 4))
    y = np.stack([rng.permutation([0, 0, 1, 1, 2]), rng.permutation([0, 1, 2, 2, 2])])
    model = keras.Sequential([keras.Input((7,)), layers.Dense(7, use_bias=False)])
    model.set_weights([np.eye(7)])  # a model must have something to train
    learner = maml_tf.Prototypical(model)
    learner.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    received = learner.predict_on_batch({"support_x": z, "support_y": y, "query_x": queries})
    assert received.shape == (2, 4, 3)
    for task in range(2):
        for c in range(3):
            prototype, number = np.zeros(7), 0
            for example in range(5):
                if y[task, example] == c:
                    prototype, number = prototype + z[task, example], number + 1
            for query in range(4):
                distance = np.sum((queries[task, query] - prototype / number) ** 2)
                np.testing.assert_allclose(received[task, query, c], -distance, rtol=1e-5)
