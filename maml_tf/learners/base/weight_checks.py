"""Errors of weights, those of queries and those of support examples, before work begins."""

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.learners.base import labels, support_weights

WEIGHT = "support_weight"  # of a task batch that has them


def check_sample_weight(query_y, sample_weight):
    """Refuses weights that do not belong to query labels, by static shape and concrete value.

    Args:
        query_y: labels that `check_task_batch` let pass.
        sample_weight: `[T]`, `[T, Q]` or `[T, Q, ...]`, a structure of them for several outputs,
            or None.
    """
    if sample_weight is None:
        return
    ys, weights = keras.tree.flatten(query_y), keras.tree.flatten(sample_weight)
    arrays = all(hasattr(w, "shape") and hasattr(w, "dtype") for w in weights)
    if not weights or not arrays or isinstance(sample_weight, (str, bytes)):
        raise TypeError(
            "Expected `sample_weight` to be an array or a tensor, [tasks] or [tasks, query]. "
            f"Received: {arguments.received('sample_weight', sample_weight)}. Convert it with "
            "`np.array(sample_weight, ...)`; for a learner of several outputs, one for each."
        )
    if len(weights) not in (1, len(ys)):
        raise ValueError(
            f"Expected `sample_weight` for all of the {len(ys)} outputs, or one array for each. "
            f"Received: {len(weights)} arrays. Give one array, or {len(ys)} as the labels are."
        )
    for w, y in zip(weights, ys if len(weights) == len(ys) else ys[:1], strict=True):
        if not labels.is_numeric(w.dtype):
            raise TypeError(
                "Expected `sample_weight` to be numbers. Received: sample_weight of dtype "
                f"{w.dtype}. Give a weight for each query."
            )
        _check_weight_shape(w, y, trailing=len(weights) == len(ys))
        _check_weight_values(w)


def _check_weight_shape(weight, y, trailing):
    """Refuses other shapes than `[T]` and `[T, Q, ...]`, the rest as that of the labels or 1."""
    shape, wanted = tf.TensorShape(weight.shape), tf.TensorShape(y.shape)
    if shape.rank is None or wanted.rank is None:
        return
    fits = shape.rank > 0 and shape[:2].is_compatible_with(wanted[: min(shape.rank, 2)])
    for i, size in enumerate(shape[2:] if trailing else [], 2):
        same = i < wanted.rank and (wanted[i] is None or size == wanted[i])
        fits = fits and (size in (1, None) or same)
    if not fits:
        raise ValueError(
            "Expected `sample_weight` with a weight for each task, [tasks], or for each query, "
            f"[tasks, query]: of shape {tuple(wanted[:1])} or {tuple(wanted[:2])}, and an axis "
            "more where queries have several labels. Received: sample_weight of shape "
            f"{tuple(shape)} beside labels of shape {tuple(wanted)}. Reshape it to one of them."
        )


def _check_weight_values(weight):
    concrete = isinstance(weight, np.ndarray) or (
        tf.is_tensor(weight) and tf.executing_eagerly() and hasattr(weight, "numpy")
    )
    if concrete and not np.isfinite(np.asarray(weight, np.float64)).all():
        raise ValueError(
            "Expected `sample_weight` to be finite. Received: sample_weight of shape "
            f"{tuple(weight.shape)} with values that are NaN or infinite. Give queries that shall "
            "not count the weight 0."
        )


def check_support_weight(weight, support_y, axes):
    """Refuses weights that do not belong to support examples, by static shape and concrete value.

    Args:
        weight: `[T, S]`, or `[S]` of one task.
        support_y: labels that go with it.
        axes: tuple of str, the names of the axes that it should have.
    """
    named = f"[{', '.join(axes)}]"
    if not hasattr(weight, "shape") or not hasattr(weight, "dtype"):
        raise TypeError(
            f"Expected {WEIGHT!r} to be an array or a tensor, {named}. Received: "
            f"{arguments.received(WEIGHT, weight)}. Convert it with `np.array(...)`."
        )
    shape, rank = tf.TensorShape(weight.shape), len(axes)
    labelled = tf.TensorShape(keras.tree.flatten(support_y)[0].shape)
    if not shape.is_compatible_with(labelled[:rank] if labelled.rank is not None else labelled):
        raise ValueError(
            f"Expected {WEIGHT!r} {named}, a number for each support example. Received: "
            f"{WEIGHT!r} of shape {tuple(shape)} beside labels of shape {tuple(labelled)}. Give "
            "one for each."
        )
    if "float" not in str(getattr(weight.dtype, "name", weight.dtype)):
        raise TypeError(
            f"Expected {WEIGHT!r} to be floating numbers. Received: {WEIGHT!r} of dtype "
            f"{weight.dtype}. Convert it, for example with `.astype('float32')`."
        )
    if isinstance(weight, np.ndarray) or (tf.executing_eagerly() and hasattr(weight, "numpy")):
        values = np.asarray(weight, np.float64)
        if not np.all(support_weights.are_weights(tf.constant(values))):
            raise ValueError(
                f"Expected {WEIGHT!r} to be finite, at least 0, and above 0 for one example of "
                f"each task. Received: {WEIGHT!r} of shape {tuple(shape)} with values from "
                f"{values.min()} to {values.max()}. Give padding the weight 0, and examples 1."
            )
