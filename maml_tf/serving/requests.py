"""Requests to an exported model: their tensors by name, and what they must be.

Nothing is computed before a request is known to be good: with labels of another number than
examples some kernels end the whole process.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from maml_tf.learners.base import support_weights


def entries(name, structure):
    """A structure as a flat dict: `{name: tensor}`, or `{name_0: …, name_1: …}` for several."""
    flat = keras.tree.flatten(structure)
    if len(flat) == 1:
        return {name: flat[0]}
    return {f"{name}_{i}": tensor for i, tensor in enumerate(flat)}


def collect(tensors, name, structure):
    """The structure whose `entries` are among `tensors`."""
    names = entries(name, structure)
    return keras.tree.pack_sequence_as(structure, [tensors[n] for n in names])


class Limits(NamedTuple):
    """How much one request may hold.

    Attributes:
        support: int, the most support examples of a task.
        queries: int, the most queries of a task.
    """

    support: int
    queries: int


def checked_support(support_x, support_y, labels, most):
    """The support set of one task, once it is known to be good.

    Args:
        support_x: structure of tensors `[S, ...]`.
        support_y: structure of tensors `[S, ...]`.
        labels: list of `maml_tf.learners.base.specs.Labels` or None, one for each tensor of
            `support_y`.
        most: int, the largest S.

    Returns:
        `(support_x, support_y)`, whose use raises an InvalidArgumentError where S is 0, too large
        or differs, a label has no output, or a number is not finite.
    """
    support_x = checked_x("support_x", support_x, most, "max_support")
    count = size(support_x)
    assertions = [
        expect(
            count >= 1,
            "Expected at least one support example. Give labelled examples to adapt to. Received: "
            "examples in support_x =",
            count,
        )
    ]
    flat_y = keras.tree.flatten(support_y)
    for name, y, known in zip(entries("support_y", support_y), flat_y, labels, strict=True):
        assertions.append(
            expect(
                tf.equal(size(y), count),
                f"Expected as many {name} as support_x. Give one label for each example. "
                f"Received: examples in {name} and in support_x =",
                size(y),
                count,
            )
        )
        if y.dtype.is_floating:
            assertions.append(finite(name, y))
        if known is not None:
            bad = tf.boolean_mask(y, ~is_label(y, known))[:3]
            wanted = (
                f"Expected labels that number the classes of a task from 0 in {name}, none left "
                "out, whole numbers. "
                if known.classes is None
                else f"Expected labels from 0 to {known.classes - 1} in {name}, one for each "
                "output of the model, whole numbers. Number the classes of each task from 0. "
            )
            assertions.append(
                expect(tf.equal(tf.size(bad), 0), f"{wanted}Received: {name} with", bad)
            )
    return after(assertions, (support_x, support_y))


def checked_weight(weight, count):
    """Weights `[S]` of support examples, once they are known to be good.

    Args:
        weight: float `[S]`.
        count: int32 scalar, S.
    """
    received = tf.size(weight)
    assertions = [
        expect(
            tf.equal(received, count),
            "Expected as many numbers in support_weight as examples in support_x. Give each one. "
            "Received: numbers and examples =",
            received,
            count,
        ),
        finite("support_weight", weight),
        expect(
            tf.reduce_all(support_weights.are_weights(weight)),
            "Expected support_weight of at least 0, and above 0 for one example. Give padding 0 "
            "and examples 1. Received: support_weight with",
            weight[:3],
        ),
    ]
    return after(assertions, weight)


def checked_x(name, x, most=None, limit=None):
    """Inputs, once they are known to be as many in each part, finite, and not too many.

    Args:
        name: str, of the input.
        x: structure of tensors `[n, ...]`.
        most: int, the largest n; None for any.
        limit: str, the argument of `maml_tf.serving.export` that set it.
    """
    flat = keras.tree.flatten(x)
    count = size(x)
    assertions = []
    if most is not None:
        assertions.append(
            expect(
                count <= most,
                f"Expected at most {most} examples in {name}, the limit of this export. Give "
                f"fewer, or export the model with a larger `{limit}`. Received: examples in "
                f"{name} =",
                count,
            )
        )
    for part, t in list(entries(name, x).items())[1:]:
        assertions.append(
            expect(
                tf.equal(size(t), count),
                f"Expected as many examples in each part of {name}. Give all parts of each. "
                f"Received: examples in {part} and in {name}_0 =",
                size(t),
                count,
            )
        )
    assertions += [finite(name, t) for t in flat if t.dtype.is_floating]
    return after(assertions, x)


def is_label(y, known):
    """Which labels a sparse loss has an output for, or leaves out: bool tensor of the shape of y.

    Args:
        y: tensor of integers, or of floating numbers that should be whole.
        known: `maml_tf.learners.base.specs.Labels`.
    """
    whole = tf.cast(y, tf.int64)
    classes = known.classes
    if classes is None:  # as many as are named, none left out
        classes = tf.cast(tf.size(tf.unique(tf.reshape(whole, [-1])).y), tf.int64)
    good = (whole >= 0) & (whole < classes)
    if known.ignored is not None:
        good |= tf.equal(whole, known.ignored)
    return good & tf.equal(tf.cast(whole, y.dtype), y)


def size(structure):
    """How many examples a structure of tensors `[n, ...]` holds in its first: int32 scalar."""
    return tf.shape(keras.tree.flatten(structure)[0])[0]


def expect(condition, message, *received):
    """The assertion of a bool scalar tensor, whose error ends in what was received."""
    return tf.debugging.Assert(condition, [message, *received], summarize=8)


def of_shape(tensors, specs):
    """The tensors of a request by name, once they are of the shapes of `specs`.

    A fed tensor of another rank than its placeholder would end the process in some kernels.
    """
    return {name: _of_shape(name, tensor, specs[name].shape) for name, tensor in tensors.items()}


def _of_shape(name, tensor, shape):
    if not shape.is_fully_defined():
        return tf.ensure_shape(tensor, shape)
    # TensorFlow believes a placeholder of a known shape and takes the check out of the graph, so
    # that the shape is forgotten first.
    given = tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=tf.TensorShape(None))
    received, wanted = tf.shape(given), tf.constant(shape.as_list(), tf.int32)
    rank = tf.size(received)
    check = expect(
        tf.equal(rank, len(shape)) & tf.reduce_all(tf.equal(received[: len(shape)], wanted[:rank])),
        f"Expected {name} of shape {shape.as_list()}. Give it that shape. Received: {name} of "
        "shape",
        received,
    )
    checked = after([check], given)
    checked.set_shape(shape)
    return checked


def after(operations, structure):
    """The structure, once the operations have run."""
    with tf.control_dependencies([op for op in operations if op is not None]):
        return tf.nest.map_structure(tf.identity, structure)


def are_finite(tensors):
    """Whether all floating numbers of a list of tensors are finite: bool scalar tensor."""
    good = tf.constant(True)
    for tensor in tensors:
        if tensor.dtype.is_floating:
            good &= tf.reduce_all(tf.math.is_finite(tensor))
    return good


def finite(name, tensor):
    """The assertion that a tensor holds finite numbers."""
    return tf.debugging.assert_all_finite(
        tensor, f"Expected finite numbers in {name}. Leave out or replace what is not. Received"
    )


def said(error):
    """What an exported graph said: str, without where in the graph it was.

    Args:
        error: `tf.errors.OpError`.
    """
    lines = error.message.split("\n\t [[")[0].strip().splitlines()
    return lines[-1] if lines else type(error).__name__
