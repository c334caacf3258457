"""Weights of examples as the losses of Keras take them.

Keras multiplies what each label loses by its weight and divides by how many labels there are, of a
masked loss by how many are not masked, whatever their weights. Here the weights are scaled so that
the quotient is the weighted mean of the labels that count, which padding of weight 0 leaves alone.
"""

import keras
import tensorflow as tf

from maml_tf.exact import keras_internals


def are_weights(weight):
    """Which weights of support examples make sense: bool `[T, S]`, or `[S]` of one task.

    All numbers must be finite and at least 0, and of each task one must be above 0.
    """
    good = tf.math.is_finite(weight) & (weight >= 0)
    return good & tf.reduce_any(weight > 0, axis=-1, keepdims=True)


def of_outputs(support, y_pred, losses):
    """`sample_weight` for the support loss; None where all examples count the same.

    Args:
        support: `maml_tf.learners.base.task.Support`.
        y_pred: predictions for it, a structure of tensors `[S, ...]`.
        losses: list of the loss of each output, None among them; None where it is not clear, or
            one for all outputs together.

    Returns:
        A tensor for each output, in the structure of `y_pred`; of `losses` that do not tell the
        outputs apart one tensor `[S]`.
    """
    if support.weight is None:
        return None
    outputs, y = keras.tree.flatten(y_pred), keras.tree.flatten(support.y)
    if losses is None or not len(losses) == len(outputs) == len(y):
        return support.relative_weight
    weights = [_of_output(support, *parts) for parts in zip(losses, y, outputs, strict=True)]
    return keras.tree.pack_sequence_as(y_pred, weights)


def of_queries(weight, y, y_pred, losses):
    """`sample_weight` for the query loss, where a number of each query weighs all of its labels.

    Args:
        weight: `[Q]` or `[Q, ...]`, a number for each query or for each label; a structure for
            several outputs.
        y: query labels, a structure of tensors `[Q, ...]`.
        y_pred: predictions, a structure of tensors `[Q, ...]`.
        losses: as in `of_outputs`.

    Returns:
        As `weight`; weights of queries have an axis of 1 for each further one of the loss.
    """
    outputs, labels = keras.tree.flatten(y_pred), keras.tree.flatten(y)
    weights = keras.tree.flatten(weight)
    # Where a query has one label, or weights of labels were given, there is nothing to add.
    several = [len(o.shape) > 2 for o in outputs]
    if not any(several) or all(w.shape.rank != 1 for w in weights):
        return weight
    weights = weights * len(outputs) if len(weights) == 1 else weights
    if losses is None or not len(losses) == len(outputs) == len(labels) == len(weights):
        return weight
    return keras.tree.pack_sequence_as(
        y_pred,
        [
            _with_axes(w, loss, label, output) if more and w.shape.rank == 1 else w
            for w, loss, label, output, more in zip(
                weights, losses, labels, outputs, several, strict=True
            )
        ],
    )


def _with_axes(weight, loss, y, y_pred):
    """`[Q]` as `[Q, 1, ...]`, as many axes as the loss has."""
    rank = 1 if loss is None else _values(loss, y, y_pred).shape.rank or 1
    return tf.reshape(weight, [-1, *[1] * (rank - 1)])


def _of_output(support, loss, y, y_pred):
    """Weights of one output, with an axis for each that its loss has: steps, or places of images.

    Without these axes Keras would take a weight of an example for one of a step.
    """
    if loss is None:
        return support.relative_weight
    values = _values(loss, y, y_pred)
    rank = values.shape.rank or 1
    weight = support.weight
    weight = tf.cast(weight, tf.float32) if weight.dtype.size == 2 else weight
    weight = tf.reshape(weight, [-1, *[1] * (rank - 1)])
    if getattr(loss, "reduction", None) == "sum":
        return weight
    counts = tf.ones_like(values, weight.dtype)
    for mask in (keras_internals.mask_of(y_pred), keras_internals.mask_of(values)):
        if mask is not None and mask.shape.rank == rank:
            counts *= tf.cast(mask, weight.dtype)
    total = tf.reduce_sum(counts)
    return weight * tf.math.divide_no_nan(total, tf.reduce_sum(weight * counts))


def _values(loss, y, y_pred):
    """What each label loses, before weights and reduction; only its shape and mask are used."""
    loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        y = keras.ops.convert_to_tensor(y, dtype=loss.dtype)
        return tf.convert_to_tensor(loss.call(y, y_pred))
    return tf.convert_to_tensor(loss(y, y_pred))
