"""TensorFlow Serving by REST."""

import base64
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request

import numpy as np

from maml_tf.serving import wire
from maml_tf.serving.errors import ServingError


class Rest:
    """One model on one server; see `maml_tf.serving.connection.Connection`."""

    def __init__(self, address, model, version, timeout):
        of_version = "" if version is None else f"/versions/{version}"
        name = urllib.parse.quote(model, safe="")
        self._url = f"{address.rstrip('/')}/v1/models/{name}{of_version}"
        self._timeout = timeout

    def signatures(self):
        """`wire.Signature`s by name."""
        answer = _unmixed(self._send(f"{self._url}/metadata"), "metadata")
        try:
            found = answer["metadata"]["signature_def"]["signature_def"]
            return {
                name: wire.Signature(
                    {key: _tensor(key, i) for key, i in signature.get("inputs", {}).items()},
                    {key: _tensor(key, i) for key, i in signature.get("outputs", {}).items()},
                )
                for name, signature in found.items()
                if not name.startswith("__")
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            what = f"metadata that cannot be read ({type(error).__name__}: {error})"
            raise wire.malformed(what) from error

    def predict(self, signature, arrays, outputs):
        """Arrays of `outputs`, a dict of `wire.Tensor` by name, for arrays by name."""
        for name, array in arrays.items():
            if array.size == 0 and array.ndim > 1:
                raise ValueError(
                    f"Expected `{name}` with at least one example: JSON does not keep the shape of "
                    f"an empty array. Received: {name} of shape {array.shape}. Leave the request "
                    "out, or use gRPC."
                )
        body = {
            "signature_name": signature,
            "inputs": {name: _listed(array) for name, array in arrays.items()},
        }
        answer = _unmixed(self._send(f"{self._url}:predict", body), "outputs")
        if not isinstance(answer, dict) or "outputs" not in answer:
            raise wire.malformed("an answer without `outputs`")
        values = answer["outputs"]
        if not isinstance(values, dict) and len(outputs) == 1:
            # A single output comes without its name.
            values = dict.fromkeys(outputs, values)
        if not isinstance(values, dict) or set(values) != set(outputs):
            received = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise wire.malformed(f"outputs {received}, not {sorted(outputs)}")
        return values

    def close(self):
        """Every request has a connection of its own."""

    def _send(self, url, body=None):
        data = None if body is None else json.dumps(body).encode()
        try:
            content = self._read(url, data)
        except http.client.IncompleteRead as error:
            raise ServingError("UNAVAILABLE", f"the connection was dropped: {error}") from error
        except TimeoutError as error:
            raise ServingError("DEADLINE_EXCEEDED", f"no answer in {self._timeout} s") from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise ServingError(
                    "DEADLINE_EXCEEDED", f"no answer in {self._timeout} s"
                ) from error
            raise ServingError("UNAVAILABLE", str(error.reason)) from error
        except OSError as error:  # `http.client.RemoteDisconnected` among them
            raise ServingError("UNAVAILABLE", f"the connection was dropped: {error}") from error
        except http.client.HTTPException as error:
            raise wire.malformed(f"no HTTP ({type(error).__name__}: {error})") from error
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise wire.malformed(f"no JSON ({error}): {content[:80]!r}") from error

    def _read(self, url, data):
        try:
            with urllib.request.urlopen(url, data, timeout=self._timeout) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            try:
                text = json.loads(text)["error"]
            except (ValueError, KeyError, TypeError, RecursionError):
                text = text or error.reason
            raise ServingError(str(error.code), text) from error
        except UnicodeError as error:  # a label of the host's name that is none
            raise ServingError("UNAVAILABLE", f"no such host ({error})") from error
        except http.client.HTTPException:  # some are ValueErrors too
            raise
        except ValueError as error:
            # Addresses of ours were looked at when the client was made.
            raise wire.malformed(f"a redirect to what is no address ({error})") from error


def _unmixed(answer, key):
    """The answer, unless it holds both what was asked for and an error."""
    if isinstance(answer, dict) and "error" in answer and key in answer:
        what = f"an answer with both `{key}` and `error`: {str(answer['error'])[:80]}"
        raise wire.malformed(what)
    return answer


def _tensor(name, info):
    shape = info.get("tensor_shape", {})
    unknown = shape.get("unknown_rank", False)
    if not isinstance(unknown, bool):
        raise wire.malformed(f"metadata with {name} of unknown_rank {unknown!r}")
    sizes = None if unknown else [dim.get("size", 0) for dim in shape.get("dim", [])]
    return wire.tensor(name, info["dtype"], sizes)


def _listed(array):
    """Nested lists; bytes as JSON has them in TensorFlow Serving."""
    if array.dtype != object:
        return array.tolist()
    flat = [
        {"b64": base64.b64encode(item).decode()} if isinstance(item, bytes) else item
        for item in array.flat
    ]
    listed = np.empty(array.shape, object)
    listed.reshape(-1)[:] = flat
    return listed.tolist()
