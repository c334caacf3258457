"""Models of a TensorFlow Serving elsewhere, to which the playground passes requests on."""

import http.client
import json
import urllib.parse

from train.playground_models import RefusedError, error, parse

_SECONDS = 60  # to wait for the server that requests are passed on to
_MOST_BYTES = 64 * 2**20  # of an answer that is passed on


class Remote:
    """Models of a TensorFlow Serving, to which requests are passed on as they are.

    Args:
        address: str, "http://host:8501".
        names: names of the models that may be asked for.

    Raises:
        ValueError: no such address, or a server that has none of the models.
    """

    def __init__(self, address, names):
        try:
            parts = urllib.parse.urlsplit(address)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            good = False
        if not good or parts.query or parts.fragment or parts.username:
            raise ValueError(
                "Expected --server to be the address of a server's REST interface. Received: "
                f"--server {address}. Give one such as http://localhost:8501."
            )
        self._parts, self.address = parts, address
        reasons = {}
        for name in names:
            code, content = self._send(
                "GET", f"/v1/models/{urllib.parse.quote(name)}/metadata", b""
            )
            if code != 200:
                reasons[name] = content.decode(errors="replace")
        self._names = [name for name in names if name not in reasons]
        if not self._names:
            reason = next(iter(reasons.values()), "no names were given")
            raise ValueError(
                f"Expected a TensorFlow Serving at {address} that serves one of {list(names)}. "
                f"Received: {' '.join(reason.split())[:300]} Start it, or name its models by "
                "--names."
            )

    def cards(self):
        """What is served: list of dicts of each model's name; a server tells no cards."""
        return [{"name": name, "card": {}} for name in self._names]

    def answer(self, method, path, body):
        """The server's answer to a request, as in `playground_models.Local.answer`."""
        try:
            name, _, _ = parse(method, path)
        except RefusedError as refusal:
            return error(refusal.code, str(refusal))
        if name not in self._names:
            return error(404, f"Servable not found for request: Latest({name})")
        return self._send(method, path, body)

    def _send(self, method, path, body):
        secure = self._parts.scheme == "https"
        make = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = make(self._parts.hostname, self._parts.port, timeout=_SECONDS)
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            connection.request(method, self._parts.path.rstrip("/") + path, body or None, headers)
            answer = connection.getresponse()
            content = answer.read(_MOST_BYTES + 1)
            json.loads(content)
        except (OSError, http.client.HTTPException) as refusal:
            return error(502, f"The server at {self.address} gave no answer: {refusal}")
        except (ValueError, RecursionError):
            return error(502, f"The server at {self.address} did not answer in JSON.")
        finally:
            connection.close()
        if len(content) > _MOST_BYTES:
            return error(502, f"The server at {self.address} answered too much.")
        if 300 <= answer.status < 400:
            return error(502, f"The server at {self.address} sends requests elsewhere.")
        return answer.status, content
