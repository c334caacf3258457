"""What a row of the table of real models is, and random examples for it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

register = keras.saving.register_keras_serializable("strangers")


@dataclasses.dataclass(frozen=True)
class Row:
    """A model as a stranger would bring it.

    Attributes:
        name: of the row.
        build: function without arguments that makes the built `keras.Model`.
        examples: `examples(rng, n) -> (x, y)`, `[n, ...]`.
        loss: `"logits"` or `"probabilities"` for a sparse cross-entropy, or a loss of Keras.
        rate: of the one inner step.
        step: of the central differences, along a direction of norm 1 to 2; small, because a kink
            of a ReLU or of max-pooling between its two ends would be seen.
        tolerance: relative, of the meta-gradient along that direction; larger where Keras holds
            weights in float32 whatever the precision is, for the inner step rounds them.
        slow: whether it is left out of the default run.
        refused: text of the error with which training is refused before it begins, or None.
        x_spec: function without arguments to the inputs' specs, for a model that cannot tell them.
        copied: whether `adapt` gives a plain copy of the model.
        safe_mode: as `keras.saving.load_model` takes it; False for a `Lambda`.
    """

    name: str
    build: Callable
    examples: Callable
    loss: Any = "logits"
    rate: float = 0.05
    step: float = 1e-6
    tolerance: float = 1e-6
    slow: bool = False
    refused: str | None = None
    x_spec: Callable | None = None
    copied: bool = True
    safe_mode: bool = True


def reals(rng, *shape):
    """Normal numbers of Keras' float type."""
    return rng.normal(size=shape).astype(keras.config.floatx())


def classes(rng, n, ways, *shape):
    """Labels `[n, ...]` of int32 in `0 .. ways - 1`."""
    return rng.integers(0, ways, (n, *shape)).astype(np.int32)


def task_batch(row, tasks=2, support=4, query=3, seed=0):
    """A task batch `(inputs, query_y)` of tensors."""
    rng = np.random.default_rng(seed)

    def stacked(number):
        drawn = [row.examples(rng, number) for _ in range(tasks)]
        return tf.nest.map_structure(lambda *a: tf.constant(np.stack(a)), *drawn)

    (support_x, support_y), (query_x, query_y) = stacked(support), stacked(query)
    return {"support_x": support_x, "support_y": support_y, "query_x": query_x}, query_y


def loss_of(row):
    """A new loss object of a row."""
    if row.loss in ("logits", "probabilities"):
        return keras.losses.SparseCategoricalCrossentropy(from_logits=row.loss == "logits")
    return row.loss() if isinstance(row.loss, type) else row.loss
