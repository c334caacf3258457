"""Requests that a server answers while it loads a model, so that no client waits for the first.

TensorFlow Serving replays `assets.extra/tf_serving_warmup_requests`, a TFRecord file of
`PredictionLog`s. Only signatures that are asked there are warm: all of them are.
"""

import importlib.util
import pathlib

import tensorflow as tf

FILE = pathlib.Path("assets.extra") / "tf_serving_warmup_requests"


def is_possible():
    """Whether `tensorflow-serving-api`, which has the format of the requests, is installed."""
    return importlib.util.find_spec("tensorflow_serving") is not None


def write(folder, requests):
    """Writes the requests into an exported model.

    Args:
        folder: path of the version.
        requests: dict of dicts of arrays, by signature and input name.

    Raises:
        ImportError: `tensorflow-serving-api` is not installed.
    """
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError as error:
        raise ImportError(
            "Warm-up requests are written with tensorflow-serving-api, which could not be imported "
            f'({error}). Install it with: pip install "maml_tf[serving]", or leave `warm_up` out.'
        ) from error
    path = pathlib.Path(folder) / FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as file:
        for signature, inputs in requests.items():
            request = predict_pb2.PredictRequest()
            # The server puts in the name under which it serves the model.
            request.model_spec.signature_name = signature
            for name, array in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            file.write(log.SerializeToString())
