"""Taking task batches apart."""

import tensorflow as tf


def parts(task):
    """Support inputs, support labels and query inputs of one task."""
    return task["support_x"], task["support_y"], task["query_x"]


def merge_tasks(structure):
    """`[T, Q, ...]` to `[T * Q, ...]`: losses and metrics see examples, as in ordinary Keras."""
    if structure is None:
        return None
    return tf.nest.map_structure(
        lambda t: (
            tf.reshape(t, tf.concat([[-1], tf.shape(t)[2:]], 0))
            if None in t.shape[2:]
            else tf.reshape(t, [-1, *t.shape[2:]])
        ),
        structure,
    )
