"""Checks of what an export is given."""

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.learners import Learner
from maml_tf.learners.base import checks as learner_checks
from maml_tf.learners.base import specs
from maml_tf.serving import requests

MOST = 2**31 - 1  # of int32, in which requests count


def check_learner(learner):
    """Refuses what is no compiled learner."""
    if not isinstance(learner, Learner):
        raise TypeError(
            "Expected `learner`: a `maml_tf.Learner`, such as `maml_tf.MAML(model, 0.01)`, "
            f"compiled. Received: {arguments.received('learner', learner)}. Call a Keras model's "
            "own `export` where nothing adapts, and `maml_tf.rl.export` for a policy."
        )
    learner.require_compiled("export")


def check_steps(learner, inner_steps, max_inner_steps):
    """`(inner_steps, max_inner_steps)` as integers; steps None for a learner that takes none."""
    steps = learner_checks.check_steps(learner, inner_steps, default=learner.inner_steps)
    steps = None if steps is None else arguments.integer("inner_steps", steps, 0, MOST)
    most = arguments.integer("max_inner_steps", max_inner_steps, 0, MOST)
    if steps is not None and steps > most:
        raise ValueError(
            f"Expected `inner_steps` of at most `max_inner_steps`. Received: inner_steps={steps} "
            f"and max_inner_steps={most}. Raise `max_inner_steps`, or give fewer `inner_steps`."
        )
    return steps, most


def check_limits(max_support, max_queries):
    """`maml_tf.serving.requests.Limits` of these numbers."""
    return requests.Limits(
        arguments.integer("max_support", max_support, 1, MOST),
        arguments.integer("max_queries", max_queries, 1, MOST),
    )


def check_specs(learner, x_spec, y_spec):
    """`(x_spec, y_spec)`: those given, checked, or what the learner knows of its examples."""
    x_spec = specs.example_spec(learner) if x_spec is None else _check_spec("x_spec", x_spec)
    y_spec = specs.y_spec(learner, x_spec) if y_spec is None else _check_spec("y_spec", y_spec)
    return x_spec, y_spec


def _check_spec(name, spec):
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
