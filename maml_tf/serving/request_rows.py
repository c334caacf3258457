"""Several tasks in one request, a row each, as a server may have put them together.

What all rows have in common is the request's fault and an error; what is wrong with one row spoils
no other: its answer is NaN.
"""

import keras
import tensorflow as tf

from maml_tf.serving import requests


def checked_rows(rows, support, query):
    """Several tasks, one a row, once they are known to be as many in each part of the request.

    Args:
        rows: dict of tensors `[T, ...]` by name.
        support: names of those whose second axis are support examples.
        query: names of those whose second axis are queries.

    Returns:
        The dict, whose use raises an InvalidArgumentError where there is no row, or where rows,
        support examples or queries are not as many in each part: what a server puts together has
        one size, so that this is the request's fault and no single row's.
    """
    first = next(iter(rows))
    tasks = tf.shape(rows[first])[0]
    assertions = [
        requests.expect(
            tasks >= 1,
            "Expected at least one task, a row. Leave the request out. Received: rows in "
            f"{first} =",
            tasks,
        )
    ]
    for name, tensor in rows.items():
        assertions.append(_as_many("tasks, one a row,", name, tensor, first, rows[first], 0))
    for what, names in (("support examples", support), ("queries", query)):
        for name in names[1:]:
            assertions.append(_as_many(what, name, rows[name], names[0], rows[names[0]], 1))
    return requests.after(assertions, rows)


def _as_many(what, name, tensor, other, like, axis):
    received, wanted = tf.shape(tensor)[axis], tf.shape(like)[axis]
    return requests.expect(
        tf.equal(received, wanted),
        f"Expected as many {what} in {name} as in {other}. Fill up what is shorter, and say "
        "in support_count and query_count how many of it count. Received:",
        received,
        wanted,
    )


def is_good_row(support_x, support_y, query_x, supports, queries, labels, limits):
    """Whether one of several tasks can be answered: bool scalar tensor.

    Args:
        support_x: structure of tensors `[S, ...]`.
        support_y: structure of tensors `[S, ...]`.
        query_x: structure of tensors `[Q, ...]`.
        supports: int32 scalar, how many of the S count.
        queries: int32 scalar, how many of the Q count.
        labels: as in `requests.checked_support`.
        limits: `requests.Limits`.
    """
    good = (supports >= 1) & (supports <= tf.minimum(requests.size(support_x), limits.support))
    good &= (queries >= 0) & (queries <= tf.minimum(requests.size(query_x), limits.queries))
    counted = [t[: tf.maximum(supports, 0)] for t in keras.tree.flatten((support_x, support_y))] + [
        t[: tf.maximum(queries, 0)] for t in keras.tree.flatten(query_x)
    ]
    good &= requests.are_finite(counted)
    for y, known in zip(keras.tree.flatten(support_y), labels, strict=True):
        if known is not None:
            good &= tf.reduce_all(requests.is_label(y[: tf.maximum(supports, 0)], known))
    return good


def zeros_unless(good, structure):
    """A structure of tensors, or zeros in its place, which raise no error."""
    return tf.nest.map_structure(lambda t: tf.where(good, t, tf.zeros_like(t)), structure)


def padded(tensor, length, good):
    """Zeros behind the answers up to `length`, and NaN everywhere in a row that is not good."""
    missing = length - tf.shape(tensor)[0]
    padding = [[0, missing], *[[0, 0]] * (len(tensor.shape) - 1)]
    tensor = tf.pad(tensor, padding)
    if not tensor.dtype.is_floating:
        return tensor
    return tf.where(good, tensor, tf.constant(float("nan"), tensor.dtype))
