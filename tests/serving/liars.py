"""Servers that answer wrongly, over real REST and real gRPC."""

import concurrent.futures
import http.server
import json
import threading

import grpc

# What a server says of an export with one input and one output, in REST's words.
_ROWS = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}, {"size": "1"}]}}
_VECTOR = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "3"}]}}
_NUMBER = {"dtype": "DT_INT32", "tensor_shape": {"dim": []}}
METADATA = {
    "adapt": {
        "inputs": {"support_x": _ROWS, "support_y": _ROWS, "inner_steps": _NUMBER},
        "outputs": {"weights": _VECTOR},
    },
    "predict": {"inputs": {"query_x": _ROWS}, "outputs": {"predictions": _ROWS}},
}


class RestLiar:
    """Answers `GET` with metadata and `POST` with the bytes in `answers`, one after the other.

    Attributes:
        answers: list of bytes, a whole HTTP answer each; the last one stays.
        metadata: bytes of the body of an answer to `GET`.
        asked: int, how often it was asked by `POST`.
    """

    def __init__(self):
        liar = self
        self.answers, self.asked, self.metadata = [], 0, b""
        self.honest()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802
                self.wfile.write(ok(liar.metadata))

            def do_POST(self):  # noqa: N802
                self.rfile.read(int(self.headers["Content-Length"]))
                liar.asked += 1
                answer = liar.answers[0] if len(liar.answers) == 1 else liar.answers.pop(0)
                self.wfile.write(answer)

            def log_message(self, *args):
                """Nothing on the standard error of the tests."""

        self._server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
        self.address = f"http://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def honest(self):
        """Tells the truth about its signatures."""
        content = {"metadata": {"signature_def": {"signature_def": METADATA}}}
        self.metadata = json.dumps(content).encode()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def ok(body, length=None):
    """A whole HTTP answer with a body of bytes, which says that it has `length` of them."""
    size = len(body) if length is None else length
    return b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body


class GrpcLiar:
    """Answers with the bytes in `predict` and `metadata`, whatever is asked."""

    def __init__(self):
        self.predict = self.metadata = b""
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        service = "tensorflow.serving.PredictionService"
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(self._answer(attribute))
            for name, attribute in (("Predict", "predict"), ("GetModelMetadata", "metadata"))
        }
        handler = grpc.method_handlers_generic_handler(service, handlers)
        self._server.add_generic_rpc_handlers((handler,))
        self.address = f"localhost:{self._server.add_insecure_port('localhost:0')}"
        self._server.start()

    def _answer(self, attribute):
        return lambda request, context: getattr(self, attribute)

    def close(self):
        self._server.stop(None)
