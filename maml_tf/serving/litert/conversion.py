"""From functions of TensorFlow to a file for LiteRT, and what its converter says in words."""

import tempfile

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from maml_tf.serving.litert import operations, trial, weights


def converted(functions, layers, precisions, requests):
    """The content of a `.tflite` file in some precisions.

    Args:
        functions: concrete functions by signature, all of whose inputs have names.
        layers: list of `keras.Layer`, those that are named where one of them cannot go.
        precisions: sequence of some of `maml_tf.serving.litert.weights.PRECISIONS`.
        requests: dicts of arrays by signature, to try it with.

    Returns:
        Dict of `bytes` by precision.

    Raises:
        RuntimeError: LiteRT does not run it, or computes something else.
        ValueError: an operation that LiteRT lacks, with the layer that it belongs to.
    """
    for function in functions.values():
        operations.check(function.graph, layers)
    with tempfile.TemporaryDirectory() as folder:
        # The way of all signatures in one file; their weights are in it once.
        signatures = {name: _without_variables(f) for name, f in functions.items()}
        tf.saved_model.save(tf.Module(), folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(functions))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            content = converter.convert()
        except Exception as error:
            raise operations.refusal_of(error, layers) from error
    stored = {precision: weights.stored(content, precision) for precision in precisions}
    trial.run(stored.get("float32", content), functions, requests)
    for precision in set(precisions) - {"float32"}:
        trial.run(stored[precision], functions, requests, compare=False)
    return stored


def _without_variables(function):
    """The function with constants in the place of variables that Keras does not know of.

    With variables the file is converted all the same, and answers NaN.
    """
    if all(captured.dtype != tf.resource for captured in function.captured_inputs):
        return function
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    names = [tensor.name.partition(":")[0] for tensor in frozen.inputs]

    def call(**tensors):
        answers = tf.nest.flatten(frozen(*[tensors[name] for name in names]))
        return dict(zip(sorted(function.structured_outputs), answers, strict=True))

    specs = {s.name: s for s in function.structured_input_signature[1].values()}
    return tf.function(call, autograph=False).get_concrete_function(**specs)
