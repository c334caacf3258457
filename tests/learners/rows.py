"""The learners that the contract is for. A new one joins by a row in ROWS."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

import maml_tf
from maml_tf.inner.optimizers import SGD, Adam, LearnedRates
from tests.learners.toys import Context, Memory, Ridge
from tests.problems import conv_model, dense_model, layers

WAYS, SHOTS, QUERIES, TASKS = 2, 2, 3, 3
DENSE, IMAGES = (3,), (6, 6, 1)


@dataclasses.dataclass(frozen=True)
class Row:
    """A learner and what holds of it.

    Attributes:
        build: function of nothing to a learner that is not compiled.
        shape: of one example.
        one_hot: whether labels are vectors and the loss is the mean squared error; else they are
            numbers of classes, and the loss is sparse cross-entropy.
        outer_rate: of the outer optimizer.
        steps: training steps to learn a small problem.
        exact: the meta-gradient is the derivative of the loss that is reported.
        draws: training draws something (dropout, minibatches), for each task of a batch apart.
        vectorizes: `tf.vectorized_map` can map it over tasks.
        alike: another row is of its kind, so that what takes long is left to the slow tests.
        xla: its meta-gradient is compared with that of XLA, too (which is slow).
    """

    build: Callable
    shape: tuple = DENSE
    one_hot: bool = False
    outer_rate: float = 0.05
    steps: int = 60
    exact: bool = True
    draws: bool = False
    vectorizes: bool = True
    alike: bool = False
    xla: bool = False

    @property
    def loss(self):
        if self.one_hot:
            return keras.losses.MeanSquaredError()
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def ready(self, learner):
        """The same learner, compiled."""
        learner.compile(
            keras.optimizers.SGD(self.outer_rate, momentum=0.9),
            loss=self.loss,
            metrics=["accuracy"],
        )
        return learner

    def batches(self, number, seed=0):
        """`(inputs, query_y)` of `[number, T, ...]`: each class is a blob around a random point."""
        random = np.random.default_rng(seed)
        tasks = (number, TASKS)
        centers = 1.5 * random.normal(size=(*tasks, 1, WAYS, *self.shape))

        def examples(shots):
            noise = random.normal(size=(*tasks, shots, WAYS, *self.shape))
            x = (centers + 0.5 * noise).astype("float32")
            y = np.broadcast_to(np.arange(WAYS, dtype="int32"), (*tasks, shots, WAYS))
            y = y.reshape(*tasks, shots * WAYS)
            return x.reshape(*tasks, shots * WAYS, *self.shape), self.labels(y)

        (support_x, support_y), (query_x, query_y) = examples(SHOTS), examples(QUERIES)
        inputs = {"support_x": support_x, "support_y": support_y, "query_x": query_x}
        return tf.nest.map_structure(tf.constant, (inputs, query_y))

    def batch(self, seed=0):
        """One task batch `[T, ...]`."""
        return tf.nest.map_structure(lambda t: t[0], self.batches(1, seed))

    def labels(self, y):
        """Numbers of classes as this row's loss takes them."""
        return np.eye(WAYS, dtype="float32")[y] if self.one_hot else y

    def classes(self, y):
        """Labels as numbers of classes."""
        return np.argmax(y, -1) if self.one_hot else np.asarray(y)


def dropout_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input(DENSE),
            layers.Dense(5, "tanh", kernel_regularizer="l2"),
            layers.Dropout(0.5, seed=1),
            layers.Dense(2),
        ]
    )


@keras.saving.register_keras_serializable("tests")
class Reading(layers.Layer):
    """Multiplies what it makes of the first 3 inputs by a matrix, which the other 12 are."""

    def build(self, shape):
        del shape
        self.kernel = self.add_weight(shape=(3, 6), name="kernel")

    def call(self, both):
        hidden = tf.tanh(both[:, :3] @ self.kernel)
        return tf.einsum("boh,bh->bo", tf.reshape(both[:, 3:], [-1, 2, 6]), hidden)


def reading_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((15,)), Reading(), layers.Dense(2)])


def is_last(variable):
    return variable.shape[-1] == 2


def maml(build, rate=0.5, task_map="loop", **settings):
    return lambda: maml_tf.MAML(build(), rate, task_map=task_map, **settings)


def reptile(rate=0.5, **settings):
    return lambda: maml_tf.Reptile(dense_model(), rate, 3, task_map="loop", **settings)


def prototypical(build, task_map="loop", **settings):
    return lambda: maml_tf.Prototypical(build(), task_map=task_map, **settings)


def rates(**settings):
    return LearnedRates(0.5, **settings)


ROWS = {
    "maml": Row(maml(dense_model, inner_steps=3), one_hot=True),
    "maml-first-order": Row(
        maml(dense_model, first_order=True, task_map="vectorized"), exact=False, alike=True
    ),
    "maml-momentum": Row(
        maml(dense_model, SGD([0.2, 0.1], momentum=0.9), inner_steps=2, rematerialize=True),
        one_hot=True,
        alike=True,
    ),
    "maml-adam-head": Row(
        maml(dense_model, Adam(0.05, epsilon=1e-3), inner_steps=2, adaptable=is_last), alike=True
    ),
    "maml-dropout": Row(maml(dropout_model, inner_steps=2), draws=True, alike=True),
    "maml-transductive-norm": Row(
        maml(conv_model, inner_steps=2, parallel_tasks=1), IMAGES, alike=True
    ),
    "maml-support-norm": Row(maml(conv_model, batch_norm="support"), IMAGES),
    "maml-moving-norm": Row(
        maml(conv_model, batch_norm="moving", rematerialize=True), IMAGES, alike=True
    ),
    "maml-rate-per-weight": Row(lambda: maml(dense_model, rates())(), xla=True, alike=True),
    "maml-rate-per-tensor-and-step": Row(
        lambda: maml(dense_model, rates(per="tensor", steps=2), inner_steps=2, rematerialize=True)()
    ),
    "reptile": Row(reptile(), exact=False, outer_rate=0.1, alike=True),
    "reptile-minibatches": Row(reptile(inner_batch=2), exact=False, draws=True, outer_rate=0.1),
    "prototypical": Row(prototypical(dense_model), alike=True),
    "prototypical-cosine": Row(
        prototypical(dense_model, distance="cosine", learned_scale=True, task_map="vectorized"),
        outer_rate=0.3,
    ),
    "prototypical-moving-norm": Row(prototypical(conv_model), IMAGES, alike=True),
    "prototypical-support-norm": Row(prototypical(conv_model, batch_norm="support"), IMAGES),
    "prototypical-transductive-norm": Row(
        prototypical(conv_model, batch_norm="transductive"), IMAGES, alike=True
    ),
    "prototypical-ways": Row(prototypical(dense_model, ways=WAYS), xla=True, alike=True),
    "ridge": Row(lambda: Ridge(dense_model(), WAYS, task_map="loop"), one_hot=True),
    "context-rates": Row(
        lambda: Context(reading_model(), rates(), 12, inner_steps=2, task_map="loop"),
        outer_rate=0.1,
        alike=True,
    ),
    "memory": Row(lambda: Memory(dense_model(), WAYS, task_map="loop")),
}
