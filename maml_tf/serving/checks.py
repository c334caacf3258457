"""Checks of what an export is given."""

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.learners import Learner


def check_learner(learner):
    """Refuses what is no compiled learner."""
    if not isinstance(learner, Learner):
        raise TypeError(
            "Expected `learner`: a `maml_tf.Learner`, such as `maml_tf.MAML(model, 0.01)`, "
            f"compiled. Received: {arguments.received('learner', learner)}. Call a Keras model's "
            "own `export` where nothing adapts, and `maml_tf.rl.export` for a policy."
        )
    learner.require_compiled("export")


def check_spec(name, spec):
    """Refuses what is no structure of `tf.TensorSpec` `[None, ...]`; returns it."""
    flat = keras.tree.flatten(spec)
    for part in flat:
        if not isinstance(part, tf.TensorSpec):
            raise TypeError(
                f"Expected `{name}`: a `tf.TensorSpec([None, ...], dtype)` or a structure of "
                f"them. Received: {name}={spec!r}, with a {type(part).__name__}. Give the specs of "
                "one task's examples."
            )
        if part.shape.rank is None or part.shape.rank == 0 or part.shape[0] is not None:
            raise ValueError(
                f"Expected `{name}` with a free first axis, the examples: `tf.TensorSpec([None, "
                f"...], dtype)`. Received: {name}={spec!r}. Give None as its first size."
            )
    if not flat:
        raise ValueError(
            f"Expected `{name}` with a `tf.TensorSpec` for each tensor. Received: {name}={spec!r}. "
            f"Leave `{name}` out where the learner knows it."
        )
    return spec
