"""A model on a TensorFlow Serving: arrays by name in, arrays by name out."""

import re
import time
import urllib.parse

from maml_tf import arguments
from maml_tf.serving import versions, wire
from maml_tf.serving.errors import ServingError
from maml_tf.serving.grpc_transport import Grpc
from maml_tf.serving.rest_transport import Rest

_FIRST_WAIT = 0.1  # seconds before the first retry; each wait is twice the one before
# Other ways to name a server to gRPC, which it resolves itself.
_GRPC_SCHEMES = ("dns:", "unix:", "unix-abstract:", "ipv4:", "ipv6:", "xds:", "vsock:")


class Connection:
    """A model on a server, which the clients are made of.

    Args:
        address: str, `"host:8500"` for gRPC, or `"http://host:8501"` for REST.
        model: str, the name under which the server serves the model.
        version: int or None; the newest by default.
        timeout: float, seconds for each try.
        retries: int, how often to try again while the server is unavailable or drops the
            connection.

    Raises:
        ImportError: gRPC, and `tensorflow-serving-api` is not installed.
        TypeError: a number that is none.
        ValueError: an address or a name that cannot be one, or a number out of range.
    """

    def __init__(self, address, model, *, version=None, timeout=10.0, retries=3):
        self._rest = _is_rest(address)
        _check_model(model)
        if version is not None:
            advice = "Leave `version` out to ask for the newest."
            version = arguments.integer("version", version, 0, versions.LARGEST, advice=advice)
        timeout = arguments.positive("timeout", timeout, advice="Give seconds, such as timeout=10.")
        self._retries = arguments.integer("retries", retries, 0)
        transport = Rest if self._rest else Grpc
        self._transport = transport(address, model, version, timeout)
        self._known = None
        self._closed = False

    def _call(self, signature, tensors):
        """Outputs by name of a signature, for inputs by name, which become arrays of its dtypes.

        Raises:
            ServingError: the server refused the request, gave no answer or could not be reached.
            ValueError: a model without this signature or these inputs, or values that they cannot
                hold.
        """
        self._check_names(signature, tensors)
        known = self._signature(signature)
        arrays = {name: wire.cast(name, v, known.inputs[name]) for name, v in tensors.items()}
        answer = self._try(self._transport.predict, signature, arrays, known.outputs)
        return {name: wire.answered(name, v, known.outputs[name]) for name, v in answer.items()}

    def _check_names(self, signature, names):
        """Refuses a model whose signature has no inputs of these names."""
        known = self._signature(signature).inputs
        if not set(names) <= set(known):
            raise ValueError(
                f"Expected a model with the signature {signature!r} of {sorted(names)}. "
                f"Received: one of {sorted(known)}. Check that it is the model you mean."
            )

    def _signature(self, name):
        """The `Signature` of that name; the server is asked for all of them once."""
        if self._known is None:
            self._known = self._try(self._transport.signatures)
        if name not in self._known:
            raise ValueError(
                f"Expected a model with the signature {name!r}. Received: one with "
                f"{sorted(self._known)}. Ask what `maml_tf.serving.export` wrote by "
                "`Client`, and what `maml_tf.rl.export` wrote by `PolicyClient`."
            )
        return self._known[name]

    def _try(self, function, *args):
        if self._closed:
            raise ValueError(
                "Expected an open client. Received: one after `close()`. Make another one."
            )
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
        self._closed = True
        self._transport.close()


def _is_rest(address):
    """Whether an address is one of REST; refuses what is none of the two."""
    if isinstance(address, str) and re.fullmatch(r"[!-~]+", address):
        if address.startswith(_GRPC_SCHEMES) and not address.endswith(":"):
            return False
        rest = address.startswith(("http://", "https://"))
        try:
            parts = urllib.parse.urlsplit(address if rest else f"//{address}")
            port = parts.port  # a ValueError where it is no number up to 65535
        except ValueError:
            parts = None
        if parts and parts.hostname and not (parts.query or parts.fragment or parts.username):
            if rest and port != 0:
                return True
            if not rest and port and not parts.path:
                return False
    raise ValueError(
        'Expected `address`: "host:8500" for gRPC, or "http://host:8501" for REST, with a port '
        f"from 1 to 65535. Received: address={address!r}. Give the server's name and port as text."
    )


def _check_model(model):
    if not isinstance(model, str) or not re.fullmatch(r"[^\s/:\x00-\x1f\ud800-\udfff]+", model):
        raise ValueError(
            "Expected `model`: the name under which the server serves the model, a str without "
            f"spaces, '/' and ':'. Received: model={model!r}. Give its name as text."
        )
