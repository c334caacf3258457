"""A stand-in for TensorFlow Serving: its gRPC and REST in front of a session of the C API.

It is not the server: it speaks as much of its protocol as the client uses, and the session behind
it is loaded and run by the code that the server uses.
"""

import concurrent.futures
import contextlib
import http.server
import json
import threading

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import any_pb2, json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.serving.c_api import Server


class StandIn:
    """Serves one SavedModel on free ports of this machine.

    Args:
        folder: path of the SavedModel.
        name: str, of the model.
    """

    def __init__(self, folder, name):
        self.name = name
        self.unavailable = 0  # how many requests to turn away
        self.hung = 0  # how many requests hung
        self._free = threading.Event()
        self._free.set()
        self._session = Server(folder)
        self._lock = threading.Lock()
        self._pool = concurrent.futures.ThreadPoolExecutor(8)
        self._grpc = grpc.server(self._pool, options=[("grpc.max_receive_message_length", -1)])
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _servicer(self), self._grpc
        )
        self.grpc = f"localhost:{self._grpc.add_insecure_port('localhost:0')}"
        self._grpc.start()
        self._http = http.server.ThreadingHTTPServer(("localhost", 0), _handler(self))
        self.rest = f"http://localhost:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def definitions(self):
        """The signatures as the server's metadata holds them."""
        content = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in self._session.signatures.items():
            content.signature_def[name].CopyFrom(signature)
        return content

    def run(self, signature, inputs):
        """Outputs by name; defaults stand for inputs that are left out, as in the server."""
        defaults = self._session.signatures[signature].defaults
        given = {name: tf.make_ndarray(proto) for name, proto in defaults.items()} | inputs
        given = {name: _bytes(array) for name, array in given.items()}
        with self._lock:
            return self._session(signature, **given)

    @contextlib.contextmanager
    def hanging(self):
        """While open, requests hang: for a minute, should nobody give up."""
        self._free.clear()
        try:
            yield
        finally:
            self._free.set()

    def wait(self):
        """Hangs while it is to."""
        if not self._free.is_set():
            self.hung += 1
            self._free.wait(60)

    def turn_away(self):
        """Whether this request is to be refused."""
        self.unavailable -= 1
        return self.unavailable >= 0

    def close(self):
        """Stops both servers and the session."""
        self._free.set()
        self._grpc.stop(None)
        self._http.shutdown()
        self._session.close()


def _bytes(array):
    """Strings, which come as objects, as the bytes that the session takes; JSON has them as str."""
    if array.dtype != object:
        return array
    encoded = [item if isinstance(item, bytes) else item.encode() for item in array.flat]
    return np.array(encoded).reshape(array.shape)


def _servicer(stand_in):
    class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):  # noqa: N802
            if stand_in.turn_away():
                context.abort(grpc.StatusCode.UNAVAILABLE, "busy loading")
            stand_in.wait()
            if request.model_spec.name != stand_in.name:
                context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request")
            inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
            try:
                outputs = stand_in.run(request.model_spec.signature_name, inputs)
            except RuntimeError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            answer = predict_pb2.PredictResponse()
            for name, array in outputs.items():
                answer.outputs[name].CopyFrom(tf.make_tensor_proto(array))
            return answer

        def GetModelMetadata(self, request, context):  # noqa: N802
            if request.model_spec.name != stand_in.name:
                context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request")
            content = any_pb2.Any()
            content.Pack(stand_in.definitions())
            answer = get_model_metadata_pb2.GetModelMetadataResponse()
            answer.metadata["signature_def"].CopyFrom(content)
            return answer

    return Servicer()


def _handler(stand_in):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            if self.path != f"/v1/models/{stand_in.name}/metadata":
                return self._answer(404, {"error": "Servable not found for request"})
            content = json_format.MessageToDict(
                stand_in.definitions(), preserving_proto_field_name=True
            )
            return self._answer(200, {"metadata": {"signature_def": content}})

        def do_POST(self):  # noqa: N802
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if stand_in.turn_away():
                return self._answer(503, {"error": "busy loading"})
            stand_in.wait()
            if self.path != f"/v1/models/{stand_in.name}:predict":
                return self._answer(404, {"error": "Servable not found for request"})
            signature = body["signature_name"]
            known = stand_in.definitions().signature_def[signature].inputs
            inputs = {
                name: np.array(value, tf.as_dtype(known[name].dtype).as_numpy_dtype)
                for name, value in body["inputs"].items()
            }
            try:
                outputs = stand_in.run(signature, inputs)
            except RuntimeError as error:
                return self._answer(400, {"error": str(error)})
            values = {name: array.tolist() for name, array in outputs.items()}
            # A single output comes without its name.
            single = next(iter(values.values())) if len(values) == 1 else values
            return self._answer(200, {"outputs": single})

        def _answer(self, code, content):
            data = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            """Nothing on the standard error of the tests."""

    return Handler
