"""Weights of support examples: padding changes nothing, a weight of two is an example twice."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from tests.problems import conv_model, dense_model, layers, task_batch, traced_meta_gradient

WEIGHTS = np.array([[1, 2, 1], [3, 1, 1], [1, 1, 2]], np.float32)


def normalising():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((3,)), layers.Dense(5), layers.BatchNormalization(), layers.Dense(2)]
    )


LEARNERS = {
    "maml": (lambda: maml_tf.MAML(dense_model(), 0.1, 2), (3,)),
    "transductive": (lambda: maml_tf.MAML(conv_model(), 0.1, 2, rematerialize=True), (6, 6, 1)),
    "support-norm": (lambda: maml_tf.MAML(normalising(), 0.1, batch_norm="support"), (3,)),
    "prototypical": (lambda: maml_tf.Prototypical(normalising()), (3,)),
    "prototypical-support": (
        lambda: maml_tf.Prototypical(normalising(), batch_norm="support"),
        (3,),
    ),
}


def compiled(learner, **settings):
    embeds = isinstance(learner, maml_tf.Prototypical)
    logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learner.compile("sgd", logits if embeds else "mse", **settings)
    return learner


def problem(learner, shape):
    """A task batch of three support examples a task, and the same with padding of any kind."""
    inputs, query_y = task_batch(shape, tasks=3)
    inputs = {name: part.numpy() for name, part in inputs.items()}
    inputs = {n: p[:, :3] if n.startswith("support") else p for n, p in inputs.items()}
    if isinstance(learner, maml_tf.Prototypical):
        inputs["support_y"] = np.tile(np.array([0, 1, 1]), (3, 1))
        query_y = np.tile(np.arange(query_y.shape[1]) % 2, (3, 1))
    x, y = inputs["support_x"], inputs["support_y"]
    padded = {
        **inputs,
        "support_x": np.concatenate([x, np.full_like(x, 9)], 1),
        "support_y": np.concatenate([y, np.zeros_like(y)], 1),
        "support_weight": np.repeat(np.array([[0.5, 0]], np.float32), 3, 1).repeat(3, 0),
    }
    return *(tf.nest.map_structure(tf.constant, part) for part in (inputs, padded)), query_y


@pytest.mark.parametrize(("build", "shape"), LEARNERS.values(), ids=LEARNERS)
def test_padding_changes_nothing(build, shape):
    learner = compiled(build())
    inputs, padded, query_y = problem(learner, shape)
    expected = traced_meta_gradient(learner, inputs, query_y)()
    received = traced_meta_gradient(learner, padded, query_y)()
    pairs = zip(tf.nest.flatten(expected), tf.nest.flatten(received), strict=True)
    for one, other in [pair for pair in pairs if pair[0] is not None]:
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(learner(inputs), learner(padded), rtol=2e-4, atol=2e-6)
    x, y, w = (padded[n][0] for n in ("support_x", "support_y", "support_weight"))
    mine = learner.adapt(inputs["support_x"][0], inputs["support_y"][0])
    same = learner.adapt(x, y, support_weight=w)
    query_x = inputs["query_x"][0]
    np.testing.assert_allclose(mine(query_x), same(query_x), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("inner_loss", [None, "mae", lambda y, p: tf.reduce_mean((y - p) ** 4, -1)])
def test_a_weight_of_two_is_an_example_twice(inner_loss):
    learner = compiled(maml_tf.MAML(dense_model(), 0.1, 2), inner_loss=inner_loss)
    inputs, _, _ = problem(learner, (3,))
    for task, weight in enumerate(WEIGHTS):
        x, y = inputs["support_x"][task], inputs["support_y"][task]
        twice = [np.repeat(part, weight.astype(int), 0) for part in (x, y)]
        received = learner.adapt(x, y, support_weight=weight)
        expected = learner.adapt(*twice)
        for one, other in zip(received.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
        assert np.abs(received.get_weights()[0] - learner.adapt(x, y).get_weights()[0]).max() > 1e-5


def test_a_loss_that_adds_up_takes_the_weights_as_they_are():
    """y = w x, sum of weight (y - w x)^2 at w = 0: one step to 2 alpha sum(weight x y)."""
    model = keras.Sequential(
        [keras.Input((1,)), layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
    )
    learner = maml_tf.MAML(model, 0.1)
    learner.compile("sgd", keras.losses.MeanSquaredError(reduction="sum"))
    x, y = np.array([[1.0], [2.0]], np.float32), np.array([[3.0], [1.0]], np.float32)
    adapted = learner.adapt(x, y, support_weight=np.array([1.0, 0.5], np.float32))
    np.testing.assert_allclose(adapted.get_weights()[0], [[2 * 0.1 * (3 + 0.5 * 2)]], rtol=1e-6)


def test_weights_are_used_by_every_way_in():
    learner = compiled(maml_tf.MAML(dense_model(), 0.1, 2), metrics=["mae"])
    inputs, _, query_y = problem(learner, (3,))
    weighted = {**inputs, "support_weight": tf.constant(WEIGHTS)}
    for answer in (
        lambda x: learner.predict(x, verbose=0),
        lambda x: learner.predict_path(x, 2)[:, 1:],
        lambda x: learner.loss_path(x, query_y, 2)[:, 1:],
        lambda x: np.array(learner.evaluate(x, query_y, verbose=0))[:2],
        lambda x: learner.meta_gradient(x, query_y)[1][0],
        lambda x: learner.test_on_batch(x, query_y)[0],
    ):
        assert np.abs(np.asarray(answer(weighted)) - np.asarray(answer(inputs))).max() > 1e-5
    data = tf.data.Dataset.from_tensors((weighted, query_y))
    assert learner.fit(data, verbose=0).history["loss"]
    assert maml_tf.evaluation.evaluate(learner, data, 3).values.shape == (3, 3)


@pytest.mark.parametrize(
    ("weight", "error", "match"),
    [
        (np.ones([3, 2], np.float32), ValueError, r"a number for each support example.*\(3, 2\)"),
        (np.ones([3, 3], int), TypeError, "floating numbers. Received.*int64"),
        (np.zeros([3, 3], np.float32), ValueError, "above 0 for one example"),
        (np.full([3, 3], np.nan, np.float32), ValueError, "finite"),
        (np.array([[1, 1, -1]] * 3, np.float32), ValueError, "at least 0.*from -1.0 to 1.0"),
        ([[1.0, 1.0, 1.0]] * 3, TypeError, "an array or a tensor"),
    ],
    ids=["shape", "integers", "zeros", "nan", "negative", "list"],
)
def test_weights_that_make_no_sense_are_refused(weight, error, match):
    learner = compiled(maml_tf.MAML(dense_model(), 0.1))
    inputs, _, query_y = problem(learner, (3,))
    with pytest.raises(error, match=match):
        learner.fit({**inputs, "support_weight": weight}, query_y, verbose=0)
    one = weight[0] if isinstance(weight, list) else weight[0]
    with pytest.raises(error, match=match.split(r"\(")[0]):
        learner.adapt(inputs["support_x"][0], inputs["support_y"][0], support_weight=one)


def test_channels_first_are_refused_beside_weights():
    model = keras.Sequential(
        [keras.Input((4, 3)), layers.BatchNormalization(axis=1), layers.Flatten(), layers.Dense(2)]
    )
    learner = compiled(maml_tf.MAML(model, 0.1))
    x, y = np.ones([2, 4, 3], np.float32), np.ones([2, 2], np.float32)
    with pytest.raises(NotImplementedError, match="channels last.*axis=1"):
        learner.adapt(x, y, support_weight=np.ones([2], np.float32))


@pytest.mark.parametrize("name", ["maml", "prototypical"])
def test_an_export_takes_padded_support_sets(name, tmp_path):
    build, shape = LEARNERS[name]
    learner = compiled(build())
    inputs, padded, _ = problem(learner, shape)
    learner.predict(inputs, verbose=0)
    path = maml_tf.serving.export(learner, tmp_path, support_weight=True)
    ask = tf.saved_model.load(str(path)).signatures
    steps = {} if learner.inner_steps is None else {"inner_steps": tf.constant(2)}
    names = ("support_x", "support_y", "support_weight")
    task = {n: tf.constant(padded[n][0]) for n in names}
    weights = ask["adapt_weighted"](**task, **steps)
    query_x = tf.constant(inputs["query_x"][0])
    received = ask["predict_with"](query_x=query_x, **weights)["predictions"]
    np.testing.assert_allclose(received, learner(inputs)[0], rtol=2e-4, atol=2e-6)
    for wrong in (np.ones(5), np.zeros(6), [-1.0, *np.ones(5)], [np.inf, *np.ones(5)]):
        task["support_weight"] = tf.constant(wrong, tf.float32)
        with pytest.raises(tf.errors.InvalidArgumentError, match="support_weight"):
            ask["adapt_weighted"](**task, **steps)


def mask_of_steps():
    return [keras.Input((4, 3)), layers.Masking(), layers.GRU(5, return_sequences=True)]


SEQUENCES = {
    "mask": ("mse", None, 0),
    "adds-up": (keras.losses.MeanSquaredError(reduction="sum"), None, 1),
    "inner": ("mse", "mae", 1),
    "ignored": (keras.losses.SparseCategoricalCrossentropy(True, ignore_class=7), None, 7),
}


@pytest.mark.parametrize(("loss", "inner_loss", "filling"), SEQUENCES.values(), ids=SEQUENCES)
def test_padding_changes_nothing_for_labels_of_every_step(loss, inner_loss, filling):
    """Four examples of four steps each: a weight belongs to an example, not to a step."""
    learner = maml_tf.MAML(keras.Sequential([*mask_of_steps(), layers.Dense(2)]), 0.1)
    learner.compile("sgd", loss, inner_loss=inner_loss)
    random = np.random.default_rng(0)
    x = random.normal(size=(4, 4, 3)).astype("float32")
    x[0, 2:] = 0  # masked
    y = random.normal(size=(4, 4, 2)).astype("float32")
    if filling == 7:
        y = random.integers(0, 2, (4, 4))
        y[1, 1] = 7
    x[2:], y[2:] = min(filling, 1), filling
    weight = np.array([1, 1, 0, 0], np.float32)
    received = learner.adapt(x, y, support_weight=weight).get_weights()
    for one, other in zip(received, learner.adapt(x[:2], y[:2]).get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_each_output_is_weighted_as_its_own_loss_has_it():
    x = keras.Input((3,))
    model = keras.Model(x, [layers.Dense(1)(x), layers.Dense(1)(x)])
    learner = maml_tf.MAML(model, 0.1)
    learner.compile("sgd", [keras.losses.MeanSquaredError(reduction="sum"), "mse"])
    x, y = np.random.default_rng(0).normal(size=(2, 4, 3, 1)).astype("float32")
    weight = np.array([1, 1, 0, 0], np.float32)
    received = learner.adapt(x[..., 0], [y[:, 0], y[:, 1]], support_weight=weight)
    expected = learner.adapt(x[:2, :, 0], [y[:2, 0], y[:2, 1]])
    for one, other in zip(received.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrong", [-1.0, 0.0, np.nan])
def test_weights_that_make_no_sense_are_refused_in_later_batches(wrong):
    learner = compiled(maml_tf.MAML(dense_model(), 0.1))
    inputs, _, query_y = problem(learner, (3,))
    weight = np.ones([2, 3, 3], np.float32)
    weight[1, 0] = wrong
    parts = {name: np.stack([part, part]) for name, part in inputs.items()}
    parts["support_weight"] = weight
    data = tf.data.Dataset.from_tensor_slices((parts, np.stack([query_y, query_y])))
    with pytest.raises(ValueError, match="above 0 for one example of each task"):
        learner.evaluate(data, verbose=0)
