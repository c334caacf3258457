"""Shapes and dtypes of what a learner takes, for exports."""

import keras
import tensorflow as tf

from maml_tf.learners import checks


def x_spec(model):
    """Inputs of `model` for any number of examples: `tf.TensorSpec` `[None, ...]`.

    Raises:
        ValueError: a model that does not know the shapes of its inputs.
    """
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"Expected a model that knows the shapes of its inputs. Received: {model.name!r}, a "
            "subclassed one. Give its `tf.TensorSpec([None, ...], dtype)` to the export."
        )
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    return keras.tree.map_structure(lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), inputs)


def y_spec(learner, x_spec):
    """Labels as the learner's loss takes them: `tf.TensorSpec` `[None, ...]`.

    int32 without the axis of classes for a sparse loss, as the model's output for any other.
    """
    inputs = keras.tree.map_structure(lambda s: keras.KerasTensor(s.shape, s.dtype.name), x_spec)
    sparse = checks.is_sparse(learner.loss)

    def labels(t):
        if sparse:
            return tf.TensorSpec([None, *t.shape[1:-1]], tf.int32)
        return tf.TensorSpec([None, *t.shape[1:]], t.dtype)

    return keras.tree.map_structure(labels, learner.model.compute_output_spec(inputs))


def task_batch_spec(learner):
    """The inputs of `learner` for any number of tasks and examples, `[None, None, ...]`."""
    x = x_spec(learner.model)
    spec = {"support_x": x, "support_y": y_spec(learner, x), "query_x": x}
    return keras.tree.map_structure(lambda s: tf.TensorSpec([None, *s.shape], s.dtype), spec)


def to_config(spec):
    """A structure of `tf.TensorSpec` as JSON can hold it."""
    tensors = keras.tree.map_structure(lambda s: keras.KerasTensor(s.shape, s.dtype.name), spec)
    return keras.saving.serialize_keras_object(tensors)


def from_config(config):
    """A structure of `tf.TensorSpec` from what `to_config` returned; None of None."""
    tensors = keras.saving.deserialize_keras_object(config)
    if tensors is None:  # which Keras' trees take for a leaf
        return None
    return keras.tree.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), tensors)
