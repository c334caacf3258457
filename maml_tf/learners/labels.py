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

# What an assertion says, to a client of an exported learner too; `explained` reads it again.
_ASSERTED = "Expected {} to hold whole numbers in [0, {}), or {}. Received labels from and to:"
_PATTERN = re.escape(_ASSERTED).replace(r"\{\}", r"(\S+)") + r"\] \[(\S+)\] \[(\S+)\]"


class Rule:
    """Labels of one part of a task batch, and which of them there is an output for.

    Args:
        name: str, "support_y" or "query_y".
        values: array or tensor of labels.
        classes: int, outputs of the model.
        ignored: int, the label that the loss passes over, or None.
    """

    def __init__(self, name, values, classes, ignored=None):
        self.name, self.classes, self.ignored = name, classes, ignored
        self._values = values

    def check(self):
        """Raises a ValueError for concrete labels that break the rule."""
        values = np.asarray(self._values)
        if values.size:
            self._raise(*(np.asarray(x) for x in self._broken(tf.constant(values))))

    def assertion(self):
        """An operation that fails where labels break the rule; to be run before the step."""
        broken, lowest, highest = self._broken(tf.convert_to_tensor(self._values))
        text = _ASSERTED.format(self.name, self.classes, self.ignored)
        return tf.debugging.Assert(~broken, [text, lowest, highest])

    def spoiled(self):
        """The labels, those that break the rule replaced by one that makes the loss NaN in XLA."""
        values = tf.convert_to_tensor(self._values)
        return tf.where(self._wrong(values), tf.cast(self.classes, values.dtype), values)

    def _broken(self, values):
        wrong = self._wrong(values)
        return tf.reduce_any(wrong), tf.reduce_min(values), tf.reduce_max(values)

    def _wrong(self, values):
        wrong = (values < 0) | (values >= self.classes)
        if values.dtype.is_floating:
            wrong |= values != tf.floor(values)  # NaN is among them
        if self.ignored is not None:
            wrong &= values != tf.cast(self.ignored, values.dtype)
        return wrong

    def _raise(self, broken, lowest, highest):
        if broken:
            raise error_of(self.name, self.classes, self.ignored, lowest, highest)


def error_of(name, classes, ignored, lowest, highest):
    """The error for labels between these two."""
    passed = "" if ignored is None else f" (and {ignored}, which the loss passes over)"
    return ValueError(
        f"Expected labels in [0, {classes}), whole numbers, one for each of the {classes} outputs "
        f"of the model{passed}. Received: {name!r} with labels from {lowest} to {highest}. Number "
        "the classes of each task from 0, or build the model with more outputs."
    )


def rules(learner, inputs, query_y=None):
    """The rules for a task batch: those of its support labels and, if given, its query labels.

    Args:
        learner: a compiled `maml_tf.Learner`.
        inputs: as in `Learner.call`.
        query_y: `[T, Q, ...]`, or None.

    Returns:
        List of `Rule`.
    """
    losses = [("support_y", _inner_loss(learner), inputs["support_y"])]
    losses += [] if query_y is None else [("query_y", learner.loss, query_y)]
    losses = [(name, loss, y) for name, loss, y in losses if is_sparse(loss) and _is_one(y)]
    if not losses:
        return []
    return _rules(losses, learner.compute_output_spec(inputs))


def rules_of_support(learner, support_x, support_y):
    """The rules for the support set of one task, `[S, ...]`."""
    loss = _inner_loss(learner)
    if not is_sparse(loss) or not _is_one(support_y):
        return []
    spec = keras.tree.map_structure(
        lambda t: keras.KerasTensor(t.shape, keras.backend.standardize_dtype(t.dtype)), support_x
    )
    return _rules([("support_y", loss, support_y)], learner.model.compute_output_spec(spec))


def _rules(losses, spec):
    if keras.tree.is_nested(spec) or spec.shape[-1] is None:
        return []
    return [Rule(name, y, spec.shape[-1], _ignored(loss)) for name, loss, y in losses]


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
    if learner.jit_compile:
        spoiled = {rule.name: rule.spoiled() for rule in found}
        query_y = spoiled.pop("query_y", query_y)
        return {**inputs, **spoiled}, query_y
    if not found:
        return inputs, query_y
    with tf.control_dependencies([rule.assertion() for rule in found]):
        inputs = tf.nest.map_structure(tf.identity, inputs)
        return inputs, None if query_y is None else tf.nest.map_structure(tf.identity, query_y)


@contextlib.contextmanager
def explained():
    """Puts what an assertion of `guarded` found into words."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(_PATTERN, str(error))
        if found is None:
            raise
    else:
        return
    name, classes, ignored, lowest, highest = found.groups()
    raise error_of(name, classes, ignored if ignored != "None" else None, lowest, highest) from None


def explaining(function):
    """`function` of a data iterator, with `explained` around it."""

    def explaining_function(iterator):
        with explained():
            return function(iterator)

    return explaining_function


def is_sparse(loss):
    """Whether a loss takes integer labels without an axis of classes: Keras' sparse ones."""
    if isinstance(loss, str):
        return loss.replace("_", "").lower() == "sparsecategoricalcrossentropy"
    name = type(loss).__name__ if isinstance(loss, keras.losses.Loss) else ""
    function = getattr(loss, "fn", loss)  # of a Keras loss that wraps a function
    return (
        "sparse" in name.lower()
        or function is keras.losses.sparse_categorical_crossentropy
        or "sparse" in getattr(loss, "__name__", "").lower()
    )


def is_numeric(dtype):
    """Whether labels of this dtype are numbers."""
    name = getattr(dtype, "name", dtype)
    return not any(kind in str(name) for kind in ("str", "object", "bytes", "resource", "variant"))


def _inner_loss(learner):
    own = getattr(learner, "_inner_loss_config", None)
    return learner.loss if own is None else own


def _ignored(loss):
    return getattr(loss, "ignore_class", None)


def _is_one(y):
    return not keras.tree.is_nested(y)
