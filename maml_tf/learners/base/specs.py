"""Shapes and dtypes of what a learner takes, for exports."""

from typing import NamedTuple

import keras
import tensorflow as tf

from maml_tf.learners.base.output_losses import ignored_class, inner_losses, is_sparse

# Losses of Keras whose labels have a shape of their own.
_OTHERS = ("CTC", "ctc", "Circle", "circle")


class Labels(NamedTuple):
    """What integer labels of a sparse loss may be.

    Attributes:
        classes: int, how many outputs the labels choose from; None for as many as they name.
        ignored: int, a label that the loss leaves out, or None.
    """

    classes: int | None
    ignored: int | None


def inputs_of(model):
    """Inputs of a model: structure of `keras.KerasTensor`; None where it does not know them."""
    if not getattr(model, "inputs", None):
        return None
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def x_spec(model):
    """Inputs of `model` for any number of examples: structure of `tf.TensorSpec` `[None, ...]`.

    Raises:
        ValueError: a model that does not know the shapes of its inputs.
    """
    return _of_any_number(inputs_of(model), model)


def example_spec(learner):
    """Examples of `learner`, any number of them: structure of `tf.TensorSpec` `[None, ...]`.

    Raises:
        ValueError: as `x_spec`.
    """
    return _of_any_number(learner.example_spec(), learner.model)


def _of_any_number(inputs, model):
    if inputs is None:
        raise ValueError(
            f"Expected a model that knows the shapes of its inputs. Received: {model.name!r}, a "
            "subclassed one. Give its `tf.TensorSpec([None, ...], dtype)` to the export."
        )
    return keras.tree.map_structure(lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), inputs)


def output_spec(learner, x_spec):
    """Predictions of `learner` for queries of `x_spec`: structure of `keras.KerasTensor`.

    Raises:
        ValueError: the model does not take such inputs.
    """
    x = keras.tree.map_structure(lambda s: keras.KerasTensor(s.shape, s.dtype.name), x_spec)
    try:
        return learner.output_spec(x)
    except Exception as error:
        raise ValueError(
            f"Expected inputs that the model {learner.model.name!r} takes. Received: "
            f"x_spec={x_spec}, of which it says: {error}"
        ) from error


def y_spec(learner, x_spec):
    """Labels as the learner's inner loss takes them: structure of `tf.TensorSpec` `[None, ...]`.

    They are those that the inner loss saw when the learner was trained or asked; of a learner that
    has seen none they follow from the loss, where it is one of Keras': int32 without the axis of
    classes for sparse cross-entropy, as the model's output for the others.

    Raises:
        ValueError: it has seen no labels, and its loss does not tell what they are.
    """
    seen = getattr(learner, "_support_y_spec", None)
    if seen is not None:
        return _plain(seen)
    outputs = output_spec(learner, x_spec)
    losses = inner_losses(learner, outputs)
    if losses is None:
        raise _unknown(learner._inner_loss_config or learner.loss)
    flat = [
        _labels_of(loss, t) for loss, t in zip(losses, keras.tree.flatten(outputs), strict=True)
    ]
    return keras.tree.pack_sequence_as(outputs, flat)


def labels(learner, x_spec, y_spec):
    """What the integers among the labels may be, for each tensor of `y_spec`.

    Returns:
        List of `Labels`, None for a tensor that is no integers of a sparse loss of Keras.

    Raises:
        ValueError: labels of a shape that the loss, one of Keras', does not take.
    """
    outputs = output_spec(learner, x_spec)
    losses, flat_y = inner_losses(learner, outputs), keras.tree.flatten(y_spec)
    flat = keras.tree.flatten(outputs)
    if losses is None or len(flat) != len(flat_y):
        return [None] * len(flat_y)
    found = []
    for loss, output, y in zip(losses, flat, flat_y, strict=True):
        kind = _kind(loss)
        if kind in ("sparse", "alike"):
            _check_shape(loss, output, y, sparse=kind == "sparse")
        known = kind == "sparse" and (output.shape[-1] or learner.labels_are_classes)
        found.append(Labels(output.shape[-1], ignored_class(loss)) if known else None)
    return found


def task_batch_spec(learner):
    """The inputs of `learner` for any number of tasks and examples, `[None, None, ...]`."""
    x = example_spec(learner)
    spec = {"support_x": x, "support_y": y_spec(learner, x), "query_x": x}
    return keras.tree.map_structure(lambda s: tf.TensorSpec([None, *s.shape], s.dtype), spec)


def of_examples(examples, axis=0):
    """Shapes and dtypes of examples for any number of them: `tf.TensorSpec` `[None, ...]`.

    Args:
        examples: structure of tensors `[S, ...]`, or `[T, S, ...]` with `axis=1`.
        axis: `int`, the axis of the examples; those before it are left out.
    """
    return keras.tree.map_structure(
        lambda t: tf.TensorSpec([None, *t.shape[axis + 1 :]], t.dtype), examples
    )


def to_config(spec):
    """A structure of `tf.TensorSpec` as JSON can hold it."""
    tensors = keras.tree.map_structure(lambda s: keras.KerasTensor(s.shape, s.dtype.name), spec)
    return keras.saving.serialize_keras_object(tensors)


def from_config(config):
    """A structure of `tf.TensorSpec` from what `to_config` returned; None of None."""
    if config is None:
        return None
    tensors = keras.saving.deserialize_keras_object(config)
    if tensors is None:  # which Keras' trees take for a leaf
        return None
    return keras.tree.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), tensors)


def _plain(structure):
    """A structure of Python's own dicts, lists and tuples: Keras wraps those that it tracks."""
    if isinstance(structure, dict):
        return {key: _plain(structure[key]) for key in structure}
    if isinstance(structure, (list, tuple)):
        kind = tuple if isinstance(structure, tuple) else list
        return kind(_plain(part) for part in structure)
    return structure


def _kind(loss):
    """`"sparse"`, `"alike"` (labels of the predictions' shape), or None for any other loss."""
    if loss is None:
        return "alike"
    if is_sparse(loss):
        return "sparse"
    loss = keras.losses.get(loss)
    name = getattr(loss, "__name__", type(loss).__name__)
    known = getattr(keras.losses, name, None)
    if known is None or (known is not loss and known is not type(loss)) or name in _OTHERS:
        return None
    return "alike"


def _labels_of(loss, output):
    kind = _kind(loss)
    if kind is None:
        raise _unknown(loss)
    if kind == "sparse":
        return tf.TensorSpec([None, *output.shape[1:-1]], tf.int32)
    return tf.TensorSpec([None, *output.shape[1:]], output.dtype)


def _unknown(loss):
    return ValueError(
        f"Expected `y_spec`: the labels of the inner loss {loss!r} are not known, because this "
        "learner has seen none since it was made or loaded. Received: y_spec=None. Give their "
        "`tf.TensorSpec([None, ...], dtype)` to `maml_tf.serving.export`."
    )


def _check_shape(loss, output, y, sparse):
    """Refuses labels that are no numbers, or that would be broadcast along the predictions."""
    wanted = [None, *output.shape[1:-1]] if sparse else [None, *output.shape[1:]]
    # Keras adds or takes away a last axis of 1.
    allowed = [wanted, [*wanted, 1]] + ([wanted[:-1]] if wanted[-1] == 1 else [])
    fits = any(y.shape.is_compatible_with(shape) for shape in allowed)
    if not fits or not (y.dtype.is_floating or y.dtype.is_integer or y.dtype.is_bool):
        raise ValueError(
            f"Expected labels of shape {wanted}, numbers, for the inner loss {loss!r}, the model's "
            f"outputs being {[None, *output.shape[1:]]}. Received: y_spec={y}. Give the spec of "
            "what one task's `support_y` is."
        )
