"""Labels that a loss cannot take: told with words, in whichever batch they come.

A sparse classification loss takes whole numbers from 0 to the number of outputs - 1. Of another
one TensorFlow makes an error that names nothing (on a CPU), a loss of NaN (on a GPU and under XLA)
or, from 0.5, class 0. Here the first batch is checked before work begins and every later one in
the graph, which costs two reductions of the labels: what is wrong ends the step before anything is
assigned, as a `ValueError`. A program that XLA compiled can raise nothing: there such labels make
the loss NaN, and training stops at a loss that is not finite and says which step it was.
"""

import contextlib
import re

import keras
import numpy as np
import tensorflow as tf

from maml_tf.learners.base import label_rules, output_losses, support_weights

_WEIGHTS = (
    "Expected support_weight to be finite, at least 0, and above 0 for one example of each task. "
    "Received: a task batch in which it is not. Give padding the weight 0, and examples 1."
)


def rules(learner, inputs, query_y=None):
    """The rules for a task batch: those of its support labels and, if given, its query labels.

    Args:
        learner: a compiled `maml_tf.Learner`.
        inputs: as in `Learner.call`.
        query_y: `[T, Q, ...]`, or None.

    Returns:
        List of `label_rules.Rule`.
    """
    parts = [("support_y", inputs["support_y"])]
    parts += [] if query_y is None else [("query_y", query_y)]
    support = None
    if learner.labels_are_classes:
        _refuse_other_labels(inputs["support_y"], "[tasks, support]")
        support = _counted(inputs["support_y"], inputs.get("support_weight"))
    found = _rules(learner, parts, lambda: learner.compute_output_spec(inputs), support)
    if any(rule.classes is None for rule in found):
        found.append(label_rules.SameWays(support))
    return found


def _refuse_other_labels(support_y, axes):
    """Refuses what cannot be numbers of classes, by structure and static shape."""
    advice = "Give the numbers of the classes, from 0, as one array: `np.argmax(y, -1)` of one-hot"
    expected = f"Expected 'support_y' to be numbers of classes, {axes}."
    if keras.tree.is_nested(support_y):
        raise ValueError(
            f"{expected} Received: a structure, {keras.tree.map_structure(np.shape, support_y)}. "
            f"{advice} ones, for example."
        )
    shape, rank = tf.TensorShape(support_y.shape), axes.count(",") + 1
    if shape.rank is not None and any(size != 1 for size in shape[rank:]):
        raise ValueError(
            f"{expected} Received: 'support_y' of shape {tuple(shape)}, which one-hot labels have. "
            f"{advice} ones. The loss is of the queries alone, and may take one-hot labels of them."
        )


def _counted(support_y, weight):
    """Support labels `[T, S, ...]`, those of padding replaced by one that counts."""
    if weight is None or keras.tree.is_nested(support_y):
        return support_y
    rows = tf.reshape(support_y, [tf.shape(support_y)[0], -1])
    weight = tf.convert_to_tensor(weight)
    first = tf.gather(rows, tf.argmax(weight, -1)[:, tf.newaxis], batch_dims=1)
    return tf.where(weight > 0, rows, first)


def rules_of_support(learner, support_x, support_y, weight=None):
    """The rules for the support set of one task, `[S, ...]`."""

    def spec():
        x = keras.tree.map_structure(
            lambda t: keras.KerasTensor(t.shape, keras.backend.standardize_dtype(t.dtype)),
            support_x,
        )
        return learner.output_spec(x)

    support = None
    if learner.labels_are_classes:
        _refuse_other_labels(support_y, "[support]")
        rows = None if weight is None else tf.convert_to_tensor(weight)[tf.newaxis]
        support = _counted(support_y[tf.newaxis], rows)
    return _rules(learner, [("support_y", support_y)], spec, support)


def _rules(learner, parts, spec, support=None):
    """The rules for labels by name; the model is asked for its `spec()` only where one may be."""
    losses = keras.tree.flatten([learner.loss, output_losses.own_inner_loss(learner)])
    sparse = any(map(output_losses.is_sparse, losses))
    if not sparse and not learner.labels_are_classes:
        return []
    outputs, found = spec(), []
    for key, y in parts:
        losses = output_losses.inner_losses(learner, outputs)
        if key == "query_y":
            losses = output_losses.losses_of(learner.loss, learner.model, outputs)
        pairs = output_losses.paired(y, learner.model, outputs)
        if losses is None or pairs is None:
            continue
        for loss, (path, values), output in zip(
            losses, pairs, keras.tree.flatten(outputs), strict=True
        ):
            if not output_losses.is_sparse(loss):
                continue
            if output.shape[-1] is not None or support is not None:
                ignored = output_losses.ignored_class(loss)
                found.append(
                    label_rules.Rule(key, path, values, output.shape[-1], ignored, support)
                )
    return found


def guarded(learner, inputs, query_y=None):
    """The same tensors, which exist only where their labels break no rule.

    Args:
        learner: a compiled `maml_tf.Learner`.
        inputs: as in `Learner.call`.
        query_y: `[T, Q, ...]`, or None.

    Returns:
        `(inputs, query_y)`.
    """
    found = rules(learner, inputs, query_y)
    if tf.executing_eagerly():
        for rule in found:
            rule.check()
        return inputs, query_y
    weight = inputs.get("support_weight")
    if learner.jit_compile:
        if weight is not None:
            # Which make the loss NaN, too.
            nan = tf.constant(float("nan"), weight.dtype)
            inputs = {
                **inputs,
                "support_weight": tf.where(support_weights.are_weights(weight), weight, nan),
            }
        support_y = _spoiled(inputs["support_y"], [r for r in found if r.key == "support_y"])
        query_y = _spoiled(query_y, [r for r in found if r.key == "query_y"])
        return {**inputs, "support_y": support_y}, query_y
    assertions = [rule.assertion() for rule in found]
    if weight is not None:
        good = tf.reduce_all(support_weights.are_weights(weight))
        assertions.append(tf.debugging.Assert(good, [_WEIGHTS]))
    if not assertions:
        return inputs, query_y
    with tf.control_dependencies(assertions):
        inputs = tf.nest.map_structure(tf.identity, inputs)
        return inputs, None if query_y is None else tf.nest.map_structure(tf.identity, query_y)


def _spoiled(y, rules):
    if not rules:
        return y
    spoiled = {rule.path: rule.spoiled() for rule in rules}
    flat = [spoiled.get(path, t) for path, t in keras.tree.flatten_with_path(y)]
    return keras.tree.pack_sequence_as(y, flat)


@contextlib.contextmanager
def explained():
    """Puts what an assertion of `guarded` found into words."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if _WEIGHTS in str(error):
            raise ValueError(_WEIGHTS) from None
        ways = re.search(re.escape(label_rules.WAYS) + r"\] (\[\d+\]) (\[\d+\])", str(error))
        if ways is not None:
            raise ValueError(" ".join([label_rules.WAYS, *ways.groups()])) from None
        found = re.search(label_rules.PATTERN, str(error))
        if found is None:
            raise
    else:
        return
    name, classes, ignored, lowest, highest = found.groups()
    name = name.replace("\\'", "'")  # as TensorFlow writes the name of an output
    raise label_rules.error_of(
        name, classes, ignored if ignored != "None" else None, lowest, highest
    ) from None


def explaining(function):
    """`function` of a data iterator, with `explained` around it."""

    def explaining_function(iterator):
        with explained():
            return function(iterator)

    return explaining_function


def is_numeric(dtype):
    """Whether labels of this dtype are real numbers."""
    name = getattr(dtype, "name", dtype)
    others = ("str", "object", "bytes", "resource", "variant", "complex")
    return not any(kind in str(name) for kind in others)
