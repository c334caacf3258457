"""Taking task batches apart."""

import keras
import tensorflow as tf

from maml_tf.exact import keras_internals


def number_of_tasks(structure):
    """T of tensors `[T, ...]`, an int32 scalar."""
    return tf.shape(tf.nest.flatten(structure)[0])[0]


def merge_tasks(structure, axes=2):
    """`[T, Q, ...]` to `[T * Q, ...]`: losses and metrics see examples, as in ordinary Keras.

    Args:
        structure: structure of tensors, or None.
        axes: `int`, how many axes become one.
    """
    if structure is None:
        return None
    return tf.nest.map_structure(
        lambda t: tf.reshape(t, tf.concat([[-1], tf.shape(t)[axes:]], 0)), structure
    )


def masks_of(y_pred):
    """The masks that layers left on predictions: a dict of those there are, by output."""
    masks = {i: keras_internals.mask_of(y) for i, y in enumerate(tf.nest.flatten(y_pred))}
    return {i: mask for i, mask in masks.items() if mask is not None}


def with_masks(y_pred, masks):
    """Predictions that carry the masks that `masks_of` found, reshaped or not."""
    flat = [
        keras_internals.with_mask(y, masks.get(i)) for i, y in enumerate(tf.nest.flatten(y_pred))
    ]
    return tf.nest.pack_sequence_as(y_pred, flat)


def query_weights(query_y, sample_weight, class_weight=None):
    """Weights of queries, each `[T, Q, ...]`, or None where all count the same.

    Args:
        query_y: `[T, Q, ...]`, a structure for several outputs.
        sample_weight: `[T, Q, ...]` for each query, `[T]` for each task, or None; a structure of
            them for several outputs.
        class_weight: dict from the number of a class to the weight of its queries, or None.
    """
    if class_weight is not None:
        if keras.tree.is_nested(query_y):
            raise ValueError(
                "Expected `class_weight` for a learner of one output. Received: labels of several, "
                f"{keras.tree.map_structure(lambda t: t.shape, query_y)}. Give `sample_weight`, "
                "an array for each output."
            )
        return _weights_of_classes(query_y, class_weight)
    if sample_weight is None:
        return None

    def for_each_query(weight, y):
        weight = tf.convert_to_tensor(weight)
        # Unknown where a step was traced for weights of queries and for weights of tasks.
        if weight.shape.rank not in (1, None):
            return weight
        rows = tf.shape(y)[:2]
        return tf.broadcast_to(tf.reshape(weight, [rows[0], -1]), rows)

    first = keras.tree.flatten(query_y)[0]
    return keras.tree.map_structure(lambda weight: for_each_query(weight, first), sample_weight)


def _weights_of_classes(query_y, class_weight):
    """As Keras counts classes: by the largest entry of one-hot labels, by number otherwise."""
    labels = tf.convert_to_tensor(query_y)
    if len(labels.shape) > 2:
        labels = labels[..., 0] if labels.shape[-1] == 1 else tf.argmax(labels, -1)
    labels = tf.cast(tf.round(labels) if labels.dtype.is_floating else labels, tf.int32)
    size = max(int(label) for label in class_weight) + 1
    table = tf.constant([float(class_weight.get(i, 1.0)) for i in range(size)], tf.float32)
    known = tf.clip_by_value(labels, 0, size - 1)
    return tf.where(known == labels, tf.gather(table, known), 1.0)
