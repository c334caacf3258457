"""Errors of task batches and support sets, before work begins."""

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.learners.base import labels, weight_checks
from maml_tf.learners.base.weight_checks import WEIGHT

KEYS = ("support_x", "support_y", "query_x")


def check_inputs(inputs):
    """Refuses inputs that are not a task batch, by structure and static shape."""
    if not isinstance(inputs, dict) or not set(KEYS) <= set(inputs):
        received = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
        raise ValueError(
            "Expected a task batch: a dict with the keys 'support_x' [tasks, support, ...], "
            f"'support_y' [tasks, support, ...] and 'query_x' [tasks, query, ...]. Received: "
            f"{received}. Make task batches of labelled arrays with maml_tf.tasks.sampling."
        )
    unknown = sorted(set(inputs) - {*KEYS, WEIGHT})
    if unknown:
        raise ValueError(
            f"Expected a task batch with the keys {', '.join(map(repr, KEYS))}, with "
            f"{WEIGHT!r} where support examples have weights, and no others. Received also: "
            f"{unknown}, which no learner would use. Remove them, or correct their "
            "names; weights of queries go beside the labels: `(inputs, query_y, sample_weight)`."
        )
    for key in KEYS:
        _check_tensors(key, inputs[key])
    _check_sizes({k: inputs[k] for k in KEYS}, 0, "task", KEYS)
    _check_sizes({k: inputs[k] for k in KEYS}, 1, "support example", KEYS[:2])
    if inputs.get(WEIGHT) is not None:
        axes = ("tasks", "support")
        weight_checks.check_support_weight(inputs[WEIGHT], inputs["support_y"], axes)


def check_task_batch(inputs, query_y):
    """Refuses a task batch whose inputs and query labels do not belong together."""
    check_inputs(inputs)
    if query_y is None:
        raise ValueError(
            "Expected a task batch `(inputs, query_y)`. Received: inputs without query labels. "
            "Give both: training and evaluation compare the predictions for 'query_x' with them."
        )
    _check_tensors("query_y", query_y)
    parts = {"query_x": inputs["query_x"], "query_y": query_y, "support_x": inputs["support_x"]}
    _check_sizes(parts, 0, "task", ("support_x", "query_x", "query_y"))
    _check_sizes(parts, 1, "query", ("query_x", "query_y"))


def _check_tensors(key, structure):
    """Refuses nested lists, ragged and sparse tensors, and labels that are no numbers."""
    leaves = keras.tree.flatten(structure)
    for tensor in leaves:
        if isinstance(tensor, (tf.RaggedTensor, tf.SparseTensor)):
            raise ValueError(
                f"Expected {key!r} to be a dense array, with as many examples in every task. "
                f"Received: a {type(tensor).__name__} of shape {tensor.shape}. Fill the smaller "
                "tasks up with examples drawn again, or make batches of tasks of one size."
            )
        if not hasattr(tensor, "shape") or not hasattr(tensor, "dtype"):
            raise TypeError(
                f"Expected {key!r} to be an array or a tensor. Received: "
                f"{arguments.received(key, structure)}. Convert it with `np.array({key}, ...)`."
            )
        if key.endswith("_y") and not labels.is_numeric(tensor.dtype):
            raise TypeError(
                f"Expected {key!r} to be real numbers. Received: {key!r} of dtype {tensor.dtype}. "
                "Number the classes of each task from 0."
            )
        _check_objects(key, tensor)
    if not leaves:
        raise ValueError(
            f"Expected {key!r} to be an array or a tensor. Received: {key}={structure!r}. Give one."
        )


def _check_objects(key, array):
    """Refuses an array of Python's objects that is not one of texts."""
    if getattr(array.dtype, "kind", "") != "O":
        return
    others = [value for value in np.ravel(array) if not isinstance(value, (str, bytes))]
    if others:
        raise TypeError(
            f"Expected {key!r} to be an array of numbers, or of texts. Received: {key!r} of dtype "
            f"object with {len(others)} entries that are no text, such as {others[0]!r}. Replace "
            "or remove them, or convert it: `.astype('float32')`."
        )


def _check_sizes(parts, axis, what, keys):
    sizes = {}
    for key in keys:
        for tensor in keras.tree.flatten(parts[key]):
            if tensor.shape.__len__() <= axis:
                raise ValueError(
                    f"Expected {key!r} with axes [tasks, examples, ...]. Received: shape "
                    f"{tuple(tensor.shape)}. Give a single task a leading axis of size 1."
                )
            if tensor.shape[axis] == 0:
                raise ValueError(
                    f"Expected at least one {what}. Received: {key!r} of shape "
                    f"{tuple(tensor.shape)}. Leave tasks without examples out."
                )
            if tensor.shape[axis] is not None:
                sizes.setdefault(key, tensor.shape[axis])
                if sizes[key] != tensor.shape[axis]:
                    break
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"Expected one entry for each {what} along axis {axis} of {' and '.join(keys)}. "
            f"Received: sizes {sizes}. Give as many of each."
        )


def check_data(learner, x, y, sample_weight=None, name="x"):
    """Checks the first task batch of what `fit` or `evaluate` was given.

    Generators are left alone: looking would consume. Their batches, like all later ones, are
    checked by static shape when the step is traced, and by value where it runs
    (`maml_tf.learners.base.labels`).
    """
    _check_kind(name, x)
    if isinstance(x, tf.data.Dataset):
        for element in x.take(1):
            if isinstance(element, tuple) and len(element) > 3:
                raise ValueError(
                    "Expected a data set of `(inputs, query_y)` or of `(inputs, query_y, "
                    f"sample_weight)`. Received: elements of {len(element)} parts. Drop the others."
                )
            check_batch_values(learner, *keras.utils.unpack_x_y_sample_weight(element))
    elif isinstance(x, dict):
        check_batch_values(learner, x, y, sample_weight)


def _check_kind(name, x):
    if x is None or isinstance(x, (str, bytes, bool, int, float)):
        raise TypeError(
            f"Expected `{name}` to be task batches: a `tf.data.Dataset` of `(inputs, query_y)`, or "
            f"a dict of arrays beside `y`. Received: {arguments.received(name, x)}. Make them with "
            "maml_tf.tasks."
        )


def check_validation(learner, data):
    """Checks what `fit` was given as `validation_data`, before training begins."""
    if data is None:
        return
    several = isinstance(data, (tuple, list)) and len(data) > 1
    x, y, sample_weight = (*data, None)[:3] if several else (data, None, None)
    check_data(learner, x, y, sample_weight, "validation_data")


def check_queries(x):
    """Checks what `predict` was given: by static shape, where it is the arrays of a task batch."""
    _check_kind("x", x)
    if isinstance(x, dict):
        check_inputs(x)


def check_one_batch(x, y, sample_weight):
    """Checks the arrays of one task batch by static shape, and its weights by value."""
    check_task_batch(x, y)
    weight_checks.check_sample_weight(y, sample_weight)


def check_batch_values(learner, inputs, query_y, sample_weight=None):
    """Checks structure, sizes, labels and weights of one concrete task batch."""
    check_one_batch(inputs, query_y, sample_weight)
    for rule in labels.rules(learner, inputs, query_y):
        rule.check()


def check_support(learner, support_x, support_y, weight=None):
    """Checks the one task that `learner.adapt` was given, as tensors, and gives it back as such.

    Raises:
        TypeError: nested lists, labels that are no numbers, or examples of a kind that the model
            does not take.
        ValueError: sizes or shapes that do not fit, no example, labels that the model has no
            output for, or values that are not finite.
    """
    parts = {"support_x": support_x, "support_y": support_y}
    for key, part in parts.items():
        _check_tensors(key, part)
    _check_examples(learner.example_spec(), support_x)
    for key, part in parts.items():
        parts[key] = keras.tree.map_structure(tf.convert_to_tensor, part)
    _check_sizes(parts, 0, "support example", ("support_x", "support_y"))
    for rule in labels.rules_of_support(learner, parts["support_x"], parts["support_y"], weight):
        rule.check()
    for key, part in parts.items():
        for tensor in keras.tree.flatten(part):
            _check_finite(key, tensor)
    return parts["support_x"], parts["support_y"]


def _check_examples(spec, support_x):
    """Refuses examples that are not those of `Learner.example_spec`, where it tells them."""
    if spec is None:
        return
    inputs = keras.tree.flatten(spec)
    tensors = _by_input(spec, inputs, support_x)
    if tensors is None:
        names = [t.name for t in inputs]
        raise ValueError(
            f"Expected 'support_x' to have one array for each input of the model, {names}. "
            f"Received: {_shapes(support_x)}. Give "
            + ("one array." if len(inputs) == 1 else "as many, in the model's own structure.")
        )
    for tensor, wanted in zip(tensors, inputs, strict=True):
        if labels.is_numeric(tensor.dtype) and not labels.is_numeric(wanted.dtype):
            raise TypeError(
                f"Expected 'support_x' to be text, for the input {wanted.name!r} of the model. "
                f"Received: 'support_x' of dtype {tensor.dtype}. Give texts as an array."
            )
        if labels.is_numeric(wanted.dtype) and not labels.is_numeric(tensor.dtype):
            raise TypeError(
                f"Expected 'support_x' to be real numbers, {wanted.dtype} for the input "
                f"{wanted.name!r} of the model. Received: 'support_x' of dtype {tensor.dtype}. "
                "Convert it, "
                "for example with `support_x.astype('float32')`."
            )
        if not _takes(wanted.shape, tensor.shape):
            raise ValueError(
                f"Expected 'support_x' of shape {('support', *wanted.shape[1:])} for the input "
                f"{wanted.name!r} of the model. Received: 'support_x' of shape "
                f"{tuple(tensor.shape)}. Give the examples of one task, shaped as the model "
                "takes them."
            )


def _by_input(spec, inputs, x):
    """The part of `x` for each of a model's inputs, as Keras finds it, or None."""
    if isinstance(x, dict):
        names = sorted(spec) if isinstance(spec, dict) else [t.name for t in inputs]
        x = [x[name] for name in names] if set(names) <= set(x) else []
    flat = keras.tree.flatten(x)
    return flat if len(flat) == len(inputs) else None


def _takes(wanted, shape):
    """Whether examples of this shape fit; Keras adds or takes away a last axis of 1."""
    wanted, shape = tf.TensorShape([None, *wanted[1:]]), tf.TensorShape(shape)
    if shape.rank is None or shape.rank == wanted.rank:
        return wanted.is_compatible_with(shape)
    if shape.rank == wanted.rank + 1 and shape[-1] == 1:
        return wanted.is_compatible_with(shape[:-1])
    return (
        shape.rank == wanted.rank - 1 and wanted[-1] == 1 and wanted[:-1].is_compatible_with(shape)
    )


def _shapes(structure):
    return keras.tree.map_structure(lambda t: f"shape {tuple(t.shape)}", structure)


def _check_finite(key, tensor):
    if not tensor.dtype.is_floating or not tf.executing_eagerly():
        return
    if not bool(tf.reduce_all(tf.math.is_finite(tensor))):
        count = int(tf.reduce_sum(tf.cast(~tf.math.is_finite(tensor), tf.int32)))
        raise ValueError(
            f"Expected {key!r} to be finite. Received: {key!r} of shape {tuple(tensor.shape)} with "
            f"{count} values that are NaN or infinite. Remove or replace these examples."
        )
