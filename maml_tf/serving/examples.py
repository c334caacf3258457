"""Requests of made-up numbers that an export answers, to warm a server up."""

import math

import keras
import numpy as np
import tensorflow as tf

from maml_tf.serving import requests


def requests_of(x_spec, y_spec, labels, inner_steps, weights, counted):
    """A small request for each signature of `maml_tf.serving.signatures`.

    Args:
        x_spec: structure of `tf.TensorSpec` `[None, ...]`, the model's inputs.
        y_spec: structure of `tf.TensorSpec` `[None, ...]`, labels.
        labels: list of `maml_tf.learners.base.specs.Labels` or None, for each tensor of `y_spec`.
        inner_steps: int, or None for a learner that takes none.
        weights: dict of arrays by name, for `predict_with`.
        counted: bool, whether `predict` takes `query_count`.

    Returns:
        Dict of dicts of arrays, by signature and input.
    """
    count = max([known.classes or 5 for known in labels if known is not None], default=5)
    x = keras.tree.map_structure(lambda s: _ramp(s, count), x_spec)
    y = [
        _ramp(s, count) if known is None else _choices(s, count, known.classes or 5)
        for s, known in zip(keras.tree.flatten(y_spec), labels, strict=True)
    ]
    steps = {} if inner_steps is None else {"inner_steps": np.array(inner_steps, np.int32)}
    support = {
        **requests.entries("support_x", x),
        **requests.entries("support_y", keras.tree.pack_sequence_as(y_spec, y)),
    }
    query = requests.entries("query_x", x)
    task = {**support, **query, **steps}
    counts = {name: np.array(count, np.int32) for name in ("support_count", "query_count")}
    return {
        "serving_default": task,
        "adapt_and_predict": task,
        "adapt": {**support, **steps},
        "adapt_weighted": {**support, "support_weight": np.ones([count], np.float32), **steps},
        "predict_with": {**weights, **query},
        "adapt_and_predict_tasks": {n: a[np.newaxis] for n, a in {**task, **counts}.items()},
        "predict": query | ({"query_count": counts["query_count"]} if counted else {}),
    }


def _ramp(spec, count):
    """`count` examples, no two of them alike where they are numbers with a fraction."""
    shape = _shape(spec, count)
    if spec.dtype == tf.string:
        return np.full(shape, b"a", object)
    if spec.dtype.is_floating:
        return np.linspace(0, 1, math.prod(shape)).reshape(shape).astype(spec.dtype.as_numpy_dtype)
    return np.zeros(shape, spec.dtype.as_numpy_dtype)


def _choices(spec, count, classes):
    """Labels that name each class in turn."""
    shape = _shape(spec, count)
    labels = (np.arange(count) % classes).reshape(-1, *[1] * (len(shape) - 1))
    return np.broadcast_to(labels, shape).astype(spec.dtype.as_numpy_dtype)


def _shape(spec, count):
    return [count, *[1 if n is None else n for n in spec.shape[1:]]]
