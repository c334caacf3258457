"""From functions of TensorFlow to a file for LiteRT, and what its converter says in words."""

import tempfile

import tensorflow as tf

from maml_tf.serving.litert import operations, weights


def converted(functions, model, precision):
    """The content of a `.tflite` file.

    Args:
        functions: concrete functions by signature, all of whose inputs have names.
        model: the `keras.Model` among what they compute.
        precision: one of `maml_tf.serving.litert.weights.PRECISIONS`.

    Returns:
        `bytes`.

    Raises:
        ValueError: an operation that LiteRT lacks, with the layer that it belongs to.
    """
    for function in functions.values():
        operations.check(function.graph, model)
    with tempfile.TemporaryDirectory() as folder:
        # The way of all signatures in one file; their weights are in it once.
        tf.saved_model.save(tf.Module(), folder, signatures=functions)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(functions))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            content = converter.convert()
        except Exception as error:
            raise operations.refusal_of(error, model) from error
    return weights.stored(content, precision)
