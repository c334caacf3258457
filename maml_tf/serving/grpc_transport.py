"""TensorFlow Serving by gRPC."""

import math

from maml_tf.serving import wire
from maml_tf.serving.errors import ServingError

# A network's weights are larger than gRPC's 4 MB.
_UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class Grpc:
    """One model on one server; see `maml_tf.serving.connection.Connection`."""

    def __init__(self, address, model, version, timeout):
        try:
            import grpc
            from tensorflow_serving.apis import prediction_service_pb2_grpc
        except ImportError as error:
            raise ImportError(
                "gRPC needs tensorflow-serving-api, which could not be imported "
                f'({error}). Install it with: pip install "maml_tf[serving]", or use REST: '
                '"http://host:8501".'
            ) from error
        self._channel = grpc.insecure_channel(address, _UNLIMITED)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._model, self._version, self._timeout = model, version, timeout

    def signatures(self):
        """`wire.Signature`s by name."""
        from google.protobuf.message import DecodeError
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = self._request(get_model_metadata_pb2.GetModelMetadataRequest)
        request.metadata_field.append("signature_def")
        answer = self._send(self._stub.GetModelMetadata, request)
        content = get_model_metadata_pb2.SignatureDefMap()
        # Looking up what is not there would add it to the map.
        if "signature_def" not in answer.metadata:
            raise wire.malformed("metadata without signature_def")
        try:
            unpacked = answer.metadata["signature_def"].Unpack(content)
        except DecodeError as error:
            raise wire.malformed(f"metadata that cannot be read: {error}") from error
        if not unpacked:
            raise wire.malformed("metadata whose signature_def is of another type")
        return {
            name: wire.Signature(
                {key: _tensor(key, info) for key, info in signature.inputs.items()},
                {key: _tensor(key, info) for key, info in signature.outputs.items()},
            )
            for name, signature in content.signature_def.items()
            if not name.startswith("__")
        }

    def predict(self, signature, arrays, outputs):
        """Arrays of `outputs`, a dict of `wire.Tensor` by name, for arrays by name."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = self._request(predict_pb2.PredictRequest)
        request.model_spec.signature_name = signature
        for name, array in arrays.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
        answer = self._send(self._stub.Predict, request)
        if set(answer.outputs) != set(outputs):
            raise wire.malformed(f"outputs {sorted(answer.outputs)}, not {sorted(outputs)}")
        return {name: _array(name, answer.outputs[name]) for name in outputs}

    def close(self):
        """Closes the channel."""
        self._channel.close()

    def _request(self, kind):
        request = kind()
        request.model_spec.name = self._model
        if self._version is not None:
            request.model_spec.version.value = self._version
        return request

    def _send(self, method, request):
        import grpc

        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise ServingError(error.code().name, error.details()) from error


def _tensor(name, info):
    from tensorflow.core.framework import types_pb2

    known = types_pb2.DataType.values()
    dtype = types_pb2.DataType.Name(info.dtype) if info.dtype in known else info.dtype
    shape = info.tensor_shape
    sizes = None if shape.unknown_rank else [dim.size for dim in shape.dim]
    # TensorFlow, which is here by now, has NumPy know `bfloat16`.
    return wire.tensor(name, dtype, sizes, more=("bfloat16",))


def _array(name, proto):
    """The array of a `TensorProto` that holds as many numbers as its shape says."""
    import tensorflow as tf

    try:
        dtype = tf.as_dtype(proto.dtype)
        count = math.prod(dim.size for dim in proto.tensor_shape.dim)
        # One value may stand for many; for how many is nothing to believe a server.
        fields = [f for f in proto.DESCRIPTOR.fields if f.name.endswith("_val")]
        held = max(len(getattr(proto, f.name)) for f in fields)
        if proto.tensor_content:
            held = len(proto.tensor_content) / dtype.size
        if dtype.is_complex or held != count or any(d.size < 0 for d in proto.tensor_shape.dim):
            raise ValueError(f"{held} values for {count} of them")
        return tf.make_ndarray(proto)
    except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        raise wire.malformed(f"{name} that is no tensor: {error}") from error
