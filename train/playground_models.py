"""Saved models of this machine behind the REST interface of TensorFlow Serving.

`Local`, as `train.playground_remote.Remote`, has `answer(method, path, body)`, which gives a status
and bytes of JSON; what TensorFlow Serving says in words of its own
(`https://www.tensorflow.org/tfx/serving/api_rest`) is said here in the same ones. Of its two ways
to write a request this is the columnar one, `inputs`.
"""

import json
import re
import threading
import urllib.parse

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2

from maml_tf.serving import requests, wire
from train import graph_check

# The only paths that mean something, of the status, of the metadata and of a prediction.
_PATH = re.compile(r"/v1/models/([^/:?#]+)(?:/versions/([0-9]{1,19}))?(/metadata|:predict)?")
_LONGEST_ERROR = 2000
# What the operations say, as HTTP has it; TensorFlow Serving answers the same numbers.
_CODES = {
    tf.errors.INVALID_ARGUMENT: 400,
    tf.errors.FAILED_PRECONDITION: 400,
    tf.errors.RESOURCE_EXHAUSTED: 429,
}


class RefusedError(Exception):
    """A request that is answered by an error.

    Args:
        code: int, the status of HTTP.
        message: str.
    """

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def error(code, message):
    """The answer that TensorFlow Serving gives to what it cannot do: status and JSON."""
    return code, json.dumps({"error": message[:_LONGEST_ERROR]}).encode()


class Saved:
    """One exported model, loaded when it is asked for the first time.

    Args:
        name: str, under which it is served.
        path: `pathlib.Path` of one version, a folder with `saved_model.pb`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or does more than to compute.
    """

    def __init__(self, name, path):
        graph_check.check(path)
        self.name, self._path, self.version = name, path, path.name if path.name.isdigit() else "1"
        content = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
        self._definitions = {
            key: signature
            for key, signature in content.meta_graphs[0].signature_def.items()
            if not key.startswith("__")
        }
        self._loaded = None
        self._loading = threading.Lock()

    def card(self):
        """What the model card says but for the signatures: dict, empty where there is no card."""
        try:
            card = json.loads((self._path / "card.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        card = card if isinstance(card, dict) else {}
        return {key: value for key, value in card.items() if key not in ("name", "signatures")}

    def load(self):
        """Loads the model, unless it is there already."""
        with self._loading:
            if self._loaded is None:
                self._loaded = tf.saved_model.load(str(self._path))
        return self._loaded

    def is_for_the_page(self):
        """Whether the page has a use for it, as far as its signatures tell."""
        inputs = self._definitions["adapt"].inputs if "adapt" in self._definitions else {}
        if "observation" in inputs:
            return inputs["observation"].tensor_shape.dim[-1].size == 2
        return "support_x" in inputs

    def status(self):
        """Whether it is there, as TensorFlow Serving says it."""
        state = {"version": self.version, "state": "AVAILABLE"}
        state["status"] = {"error_code": "OK", "error_message": ""}
        return {"model_version_status": [state]}

    def metadata(self):
        """Its signatures, as TensorFlow Serving describes them."""
        spec = {"name": self.name, "signature_name": "", "version": self.version}
        signatures = {
            key: json_format.MessageToDict(
                signature,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )
            for key, signature in self._definitions.items()
        }
        return {
            "model_spec": spec,
            "metadata": {"signature_def": {"signature_def": signatures}},
        }

    def predict(self, request):
        """The outputs of a request, both as JSON has them.

        Raises:
            RefusedError: it is no request, or one that the model does not answer.
        """
        name, definition = self._signature(request)
        arrays = _arrays(request, definition.inputs)
        signature = self.load().signatures[name]
        try:
            outputs = signature(**{key: tf.constant(array) for key, array in arrays.items()})
        except tf.errors.OpError as refusal:
            raise RefusedError(
                _CODES.get(refusal.error_code, 500), requests.said(refusal)
            ) from refusal
        values = {key: tensor.numpy().tolist() for key, tensor in outputs.items()}
        # A single output comes without its name.
        return {"outputs": next(iter(values.values())) if len(values) == 1 else values}

    def _signature(self, request):
        if not isinstance(request, dict):
            raise RefusedError(400, "JSON Value: is not an object")
        name = request.get("signature_name", "serving_default") or "serving_default"
        if not isinstance(name, str) or name not in self._definitions:
            raise RefusedError(
                400, f'Serving signature name: "{str(name)[:80]}" not found in signature def'
            )
        return name, self._definitions[name]


def _arrays(request, known):
    """Arrays by name of what a request holds for the inputs of a signature."""
    if "inputs" not in request:
        raise RefusedError(400, "Missing 'inputs' key (rows, 'instances', are not served here)")
    inputs = request["inputs"]
    if not isinstance(inputs, dict):
        if len(known) > 1:
            raise RefusedError(
                400,
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map",
            )
        inputs = dict.fromkeys(known, inputs)
    arrays = {}
    for name, info in known.items():
        if name not in inputs:
            raise RefusedError(400, f"Missing named input: {name} in 'inputs' object.")
        sizes = [None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim]
        shape = None if info.tensor_shape.unknown_rank else tuple(sizes)
        dtype = np.dtype(tf.as_dtype(info.dtype).as_numpy_dtype)
        try:
            arrays[name] = wire.cast(name, inputs[name], wire.Tensor(dtype, shape))
        except (ValueError, OverflowError) as refusal:
            raise RefusedError(400, " ".join(str(refusal).split())) from refusal
    return arrays


class Local:
    """Exported models of this machine.

    Args:
        models: list of `Saved`.
    """

    address = None  # of the server that has the models, where it is another one

    def __init__(self, models):
        self._models = {model.name: model for model in models}

    def model(self, name):
        """The `Saved` of that name."""
        return self._models[name]

    def cards(self):
        """What is served: list of dicts of each model's name and card."""
        return [{"name": name, "card": model.card()} for name, model in self._models.items()]

    def load(self):
        """Loads what the page asks, one after the other, so that the first request need not wait.

        The others are loaded when somebody asks for them.
        """
        for model in self._models.values():
            if model.is_for_the_page():
                model.load()

    def answer(self, method, path, body):
        """The answer to a request.

        Args:
            method: "GET" or "POST".
            path: str.
            body: bytes, empty for "GET".

        Returns:
            `(status, JSON as bytes)`.
        """
        try:
            return 200, json.dumps(self._answer(method, path, body)).encode()
        except RefusedError as refusal:
            return error(refusal.code, str(refusal))

    def _answer(self, method, path, body):
        name, version, what = parse(method, path)
        model = self._models.get(name)
        if model is None or version not in (None, model.version):
            asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise RefusedError(404, f"Servable not found for request: {asked}")
        if what == ":predict":
            return model.predict(_parsed(body))
        return model.metadata() if what else model.status()


def parse(method, path):
    """Name, version (None for the newest) and kind of a request.

    Raises:
        RefusedError: it is none of TensorFlow Serving's that are served here.
    """
    found = _PATH.fullmatch(path)
    if not found or (method == "POST") != (found[3] == ":predict"):
        raise RefusedError(400, f"Malformed request: {method} {path[:200]}")
    return urllib.parse.unquote(found[1]), found[2], found[3]


def _parsed(body):
    if not body:
        raise RefusedError(400, "JSON Parse error: The document is empty")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as refusal:
        raise RefusedError(400, f"JSON Parse error: {refusal}") from refusal
