"""The authors' checkpoints, made here in their format: by TensorFlow 1's own saver."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import models

FILTERS, WAYS = 4, 3


def shapes(filters=FILTERS, ways=WAYS, features=None):
    """Names and shapes as `tf.train.list_variables` tells them of the published checkpoint."""
    named = {"model/w5": [features or 25 * filters, ways], "model/b5": [ways]}
    for block in range(4):
        inputs = filters if block else 3
        named[f"model/conv{block + 1}"] = [3, 3, inputs, filters]
        named[f"model/Variable_{block}" if block else "model/Variable"] = [filters]
        named[f"model/{block}/beta"] = [filters]
    return named


def save(folder, named):
    """Writes a checkpoint of random numbers, and gives its prefix and the numbers."""
    random = np.random.default_rng(0)
    values = {n: random.normal(size=s).astype(np.float32) for n, s in named.items()}
    with tf.Graph().as_default():
        variables = {n: tf.compat.v1.Variable(v) for n, v in values.items()}
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            saver = tf.compat.v1.train.Saver(variables)
            prefix = saver.save(session, str(folder / "model59000"), write_meta_graph=False)
    return prefix, values


def forward(x, values):
    """The authors' network of their `maml.py`, once more, in NumPy."""
    for block in range(4):
        kernel = values[f"model/conv{block + 1}"]
        padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
        height, width = x.shape[1:3]
        x = values[f"model/Variable_{block}" if block else "model/Variable"] + sum(
            padded[:, i : i + height, j : j + width] @ kernel[i, j]
            for i in range(3)
            for j in range(3)
        )
        mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
        x = (x - mean) / np.sqrt(variance + 1e-3) + values[f"model/{block}/beta"]
        x = np.maximum(x, 0)[:, : height // 2 * 2, : width // 2 * 2]
        x = x.reshape(len(x), height // 2, 2, width // 2, 2, -1).max(axis=(2, 4))
    return x.reshape(len(x), -1) @ values["model/w5"] + values["model/b5"]


def test_the_network_gives_what_the_authors_network_gives(tmp_path):
    """By its own support set's statistics, as they normalise, and before any inner step."""
    prefix, values = save(tmp_path, shapes())
    model = models.from_authors(prefix)
    assert model.input_shape == (None, 84, 84, 3)
    x = np.random.default_rng(1).random((WAYS, 84, 84, 3), np.float32)
    learner = maml_tf.MAML(model, 0.05, adaptable=lambda v: "beta" not in v.path)
    learner.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    inputs = {"support_x": x, "support_y": np.arange(WAYS, dtype=np.int32), "query_x": x}
    inputs = {name: tf.constant(part[np.newaxis]) for name, part in inputs.items()}
    logits = learner.predict_path(inputs, 0)[0, 0].numpy()
    np.testing.assert_allclose(logits, forward(x.astype(np.float64), values), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"model/w1": [784, 256]}, "with no model/conv1"),
        ({n: s for n, s in shapes().items() if n != "model/2/beta"}, "with no model/2/beta"),
        (shapes(features=FILTERS), "no 5x5x4 features"),
        ({**shapes(), "model/conv3": [3, 3, 4, 8]}, "model/conv3 of shape"),
        ({**shapes(), "model/conv1": [12]}, r"model/conv1 of shape \[12\]"),
    ],
    ids=["dense", "no-norm", "omniglot", "filters", "rank"],
)
def test_another_layout_is_refused(tmp_path, named, message):
    with pytest.raises(ValueError, match=message):
        models.from_authors(save(tmp_path, named)[0])


def test_files_that_are_missing_or_damaged_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="model59000.index"):
        models.from_authors(tmp_path / "model59000")
    (tmp_path / "model59000.index").write_bytes(b"no table")
    with pytest.raises(ValueError, match="Expected a checkpoint that can be read"):
        models.from_authors(tmp_path / "model59000")
