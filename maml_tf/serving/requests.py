"""Requests to an exported model: their tensors by name, and what they must be.

Nothing is computed before a request is known to be good: with labels of another number than
examples some kernels end the whole process.
"""

import keras
import tensorflow as tf


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


def checked_support(support_x, support_y, classes):
    """The support set of one task, once it is known to be good.

    Args:
        support_x: structure of tensors `[S, ...]`.
        support_y: structure of tensors `[S, ...]`.
        classes: int, the number of outputs that integer labels choose from, or None.

    Returns:
        `(support_x, support_y)`, whose use raises an InvalidArgumentError where S is 0 or differs,
        a label has no output, or a number is not finite.
    """
    support_x = checked_x("support_x", support_x)
    count = tf.shape(tf.nest.flatten(support_x)[0])[0]
    assertions = [tf.debugging.assert_positive(count, "Expected at least one support example.")]
    for y in tf.nest.flatten(support_y):
        message = "Expected as many support_y as support_x."
        assertions.append(tf.debugging.assert_equal(tf.shape(y)[0], count, message))
        if y.dtype.is_floating:
            assertions.append(finite("support_y", y))
    if classes is not None:
        known = tf.reduce_all((support_y >= 0) & (support_y < classes))
        message = f"Expected labels from 0 to {classes - 1} in support_y."
        assertions.append(tf.debugging.assert_equal(known, True, message))
    return after(assertions, (support_x, support_y))


def checked_x(name, x):
    """Inputs, once they are known to be as many in each part and finite."""
    flat = tf.nest.flatten(x)
    message = f"Expected as many examples in each part of {name}."
    assertions = [
        tf.debugging.assert_equal(tf.shape(t)[0], tf.shape(flat[0])[0], message) for t in flat[1:]
    ]
    assertions += [finite(name, t) for t in flat if t.dtype.is_floating]
    return after(assertions, x)


def of_shape(tensors, specs):
    """The tensors of a request by name, once they are of the shapes of `specs`.

    A fed tensor of another rank than its placeholder would end the process in some kernels.
    """
    return {name: tf.ensure_shape(t, specs[name].shape) for name, t in tensors.items()}


def after(operations, structure):
    """The structure, once the operations have run."""
    with tf.control_dependencies([op for op in operations if op is not None]):
        return tf.nest.map_structure(tf.identity, structure)


def is_good_row(support_x, support_y, query_x, supports, queries, classes):
    """Whether one of several tasks can be answered: bool scalar tensor.

    Args:
        support_x: structure of tensors `[S, ...]`.
        support_y: structure of tensors `[S, ...]`.
        query_x: structure of tensors `[Q, ...]`.
        supports: int32 scalar, how many of the S count.
        queries: int32 scalar, how many of the Q count.
        classes: as in `checked_support`.
    """
    flat_x, flat_y = tf.nest.flatten(support_x), tf.nest.flatten(support_y)
    flat_query = tf.nest.flatten(query_x)
    good = (supports >= 1) & (supports <= tf.shape(flat_x[0])[0])
    good &= (queries >= 0) & (queries <= tf.shape(flat_query[0])[0])
    good &= tf.equal(tf.shape(flat_x[0])[0], tf.shape(flat_y[0])[0])
    counted = [t[: tf.maximum(supports, 0)] for t in [*flat_x, *flat_y]]
    counted += [t[: tf.maximum(queries, 0)] for t in flat_query]
    for tensor in counted:
        if tensor.dtype.is_floating:
            good &= tf.reduce_all(tf.math.is_finite(tensor))
    if classes is not None:
        labels = flat_y[0][: tf.maximum(supports, 0)]
        good &= tf.reduce_all((labels >= 0) & (labels < classes))
    return good


def made_finite(tensor):
    """0 in the place of what is not finite."""
    if not tensor.dtype.is_floating:
        return tensor
    return tf.where(tf.math.is_finite(tensor), tensor, tf.zeros_like(tensor))


def padded(tensor, length, good):
    """Zeros behind the answers up to `length`, and NaN everywhere in a row that is not good."""
    missing = length - tf.shape(tensor)[0]
    padding = [[0, missing], *[[0, 0]] * (len(tensor.shape) - 1)]
    tensor = tf.pad(tensor, padding)
    if not tensor.dtype.is_floating:
        return tensor
    return tf.where(good, tensor, tf.constant(float("nan"), tensor.dtype))


def finite(name, tensor):
    """The assertion that a tensor holds finite numbers."""
    return tf.debugging.assert_all_finite(tensor, f"Expected finite numbers in {name}.")
