"""Requests to TensorFlow Serving by gRPC or REST: arrays by name in, arrays by name out."""

import json
import time
import urllib.error
import urllib.request

import numpy as np

# A network's weights are larger than gRPC's 4 MB.
_UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
_FIRST_WAIT = 0.1  # seconds before the first retry; each wait is twice the one before


class ServingError(RuntimeError):
    """What the server answered when it could not answer, or that it could not be reached.

    Attributes:
        code: str, gRPC's name of the status, such as "INVALID_ARGUMENT", or HTTP's number.
    """

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


class Connection:
    """A model on a server, which the clients are made of.

    Args:
        address: str, `"host:8500"` for gRPC, or `"http://host:8501"` for REST.
        model: str, the name under which the server serves the model.
        version: int or None; the newest by default.
        timeout: float, seconds for each try.
        retries: int, how often to try again while the server is unavailable.

    Raises:
        ImportError: gRPC, and `tensorflow-serving-api` is not installed.
    """

    def __init__(self, address, model, *, version=None, timeout=10.0, retries=3):
        self._rest = address.startswith(("http://", "https://"))
        transport = _Rest if self._rest else _Grpc
        self._transport = transport(address, model, version, timeout)
        self._retries = retries
        self._inputs = None

    def _call(self, signature, tensors):
        """Outputs by name of a signature, for inputs by name, which are cast to its dtypes.

        Raises:
            ServingError: the server refused the request or could not be reached.
            ValueError: a model without this signature or these inputs.
        """
        known = self._signatures().get(signature)
        if known is None or not set(tensors) <= set(known):
            raise ValueError(
                f"Expected a model with the signature {signature!r} of {sorted(tensors)}. "
                f"Received: signatures {sorted(self._inputs)}, this one with {known}."
            )
        arrays = {name: np.asarray(array, known[name]) for name, array in tensors.items()}
        return self._try(self._transport.predict, signature, arrays)

    def _signatures(self):
        """Types of the inputs by signature and name, asked for once."""
        if self._inputs is None:
            self._inputs = self._try(self._transport.inputs)
        return self._inputs

    def _try(self, function, *args):
        for attempt in range(self._retries):
            try:
                return function(*args)
            except ServingError as error:
                if error.code not in ("UNAVAILABLE", "503"):
                    raise
                time.sleep(_FIRST_WAIT * 2**attempt)
        return function(*args)

    def close(self):
        """Closes the connection."""
        self._transport.close()


class _Grpc:
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

    def inputs(self):
        """Input dtypes by name, by signature."""
        import tensorflow as tf
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = self._request(get_model_metadata_pb2.GetModelMetadataRequest)
        request.metadata_field.append("signature_def")
        answer = self._send(self._stub.GetModelMetadata, request)
        content = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(content)
        return {
            name: {key: tf.as_dtype(i.dtype).as_numpy_dtype for key, i in signature.inputs.items()}
            for name, signature in content.signature_def.items()
        }

    def predict(self, signature, arrays):
        """Outputs by name."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = self._request(predict_pb2.PredictRequest)
        request.model_spec.signature_name = signature
        for name, array in arrays.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
        answer = self._send(self._stub.Predict, request)
        return {name: tf.make_ndarray(proto) for name, proto in answer.outputs.items()}

    def close(self):
        self._channel.close()


class _Rest:
    def __init__(self, address, model, version, timeout):
        of_version = "" if version is None else f"/versions/{version}"
        self._url = f"{address.rstrip('/')}/v1/models/{model}{of_version}"
        self._timeout = timeout

    def _send(self, url, body=None):
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(url, data, timeout=self._timeout) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            try:
                text = json.loads(text)["error"]
            except (ValueError, KeyError, TypeError):
                text = text or error.reason
            raise ServingError(str(error.code), text) from error
        except TimeoutError as error:
            raise ServingError("DEADLINE_EXCEEDED", f"no answer in {self._timeout} s") from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise ServingError(
                    "DEADLINE_EXCEEDED", f"no answer in {self._timeout} s"
                ) from error
            raise ServingError("UNAVAILABLE", str(error.reason)) from error

    def inputs(self):
        """Input dtypes by name, by signature."""
        content = self._send(f"{self._url}/metadata")["metadata"]["signature_def"]
        return {
            name: {
                key: np.dtype(_NUMPY.get(i["dtype"], i["dtype"][3:].lower()))
                for key, i in signature.get("inputs", {}).items()
            }
            for name, signature in content["signature_def"].items()
        }

    def predict(self, signature, arrays):
        """Outputs by name."""
        inputs = {name: array.tolist() for name, array in arrays.items()}
        body = {"signature_name": signature, "inputs": inputs}
        outputs = self._send(f"{self._url}:predict", body)["outputs"]
        if not isinstance(outputs, dict):  # a single output comes without its name
            outputs = {"weights" if signature == "adapt" else "predictions": outputs}
        return {name: np.asarray(values) for name, values in outputs.items()}

    def close(self):
        """Every request has a connection of its own."""


# Names of TensorFlow's types in REST's metadata that are not NumPy's.
_NUMPY = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16"}
