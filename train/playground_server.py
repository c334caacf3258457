"""The web server of the playground: one page, the names of the models, and their REST interface.

It may be reached by any page that a browser of this machine shows, so that it is careful: it hands
out what stands in a table, no file by its path; it answers requests that name this machine as their
host, not a stranger's name that leads here (DNS rebinding); it refuses requests that other pages
make; it takes no more than it can hold; and what goes wrong is told in a line, without a trace.
"""

import base64
import hashlib
import http.server
import ipaddress
import json
import re
import socket
import sys
import threading

from train import playground_models

MOST_BYTES = 32 * 2**20  # of a request
_AT_A_TIME = 4  # requests that are held in memory and computed
_SECONDS = 30  # without a byte, until a connection is closed


class Server(http.server.ThreadingHTTPServer):
    """Serves the playground.

    Args:
        address: `(host, port)`; port 0 is any that is free.
        page: str, the page as HTML.
        models: `playground_models.Local` or `playground_remote.Remote`.

    Raises:
        OSError: the address cannot be had.
    """

    daemon_threads = True

    def __init__(self, address, page, models):
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.models = models
        self.busy = threading.BoundedSemaphore(_AT_A_TIME)
        listing = json.dumps({"models": models.cards(), "server": models.address}).encode()
        self.files = {
            "/": ("text/html; charset=utf-8", page.encode()),
            "/models.json": ("application/json", listing),
        }
        self.policy = policy(page)
        own = {"localhost", address[0], socket.gethostname()}
        self.hosts = {name.lower().rstrip(".") for name in own}
        super().__init__(address, _Handler)

    def handle_error(self, request, client_address):
        """A connection that broke is nobody's fault; anything else is told in a line."""
        reason = sys.exception()
        if not isinstance(reason, (ConnectionError, TimeoutError)):
            print(f"{type(reason).__name__}: {reason}", file=sys.stderr)


def policy(page, alone=False):
    """What the page may do, as Content-Security-Policy: its own script and style, its own server.

    Args:
        page: str, HTML.
        alone: bool, whether the page stands in a folder of files, computes by LiteRT.js and says
            the policy itself.
    """

    def hashes(tag):
        parts = re.findall(rf"<{tag}(?: [^>]*)?>(.*?)</{tag}>", page, re.DOTALL)
        digests = (hashlib.sha256(part.encode()).digest() for part in parts)
        return " ".join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests) or "'none'"

    scripts = hashes("script") + (" 'self' 'wasm-unsafe-eval'" if alone else "")
    # Who may show it in a frame cannot be said by a page itself.
    last = "worker-src 'self'" if alone else "frame-ancestors 'none'"
    return (
        f"default-src 'none'; script-src {scripts}; style-src {hashes('style')}; "
        "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        f"{last}"
    )


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "maml_tf", ""
    timeout = _SECONDS
    # An answer in two small packets would wait for the browser's acknowledgement of the first.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):  # noqa: N802
        if not self._is_welcome():
            return
        file = self.server.files.get(self.path.partition("?")[0])
        if file:
            self._answer(200, file[1], file[0])
        elif self.path.startswith("/v1/"):
            self._ask("GET", b"")
        else:
            self._answer(*playground_models.error(404, "There is nothing at this address."))

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self):  # noqa: N802
        if not self._is_welcome():
            return
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,19}", length):
            self._refuse(411, "Expected a Content-Length, in bytes.")
        elif int(length) > MOST_BYTES:
            self._refuse(
                413,
                f"Expected a request of at most {MOST_BYTES:,} bytes. Received: one of "
                f"{int(length):,}. Send fewer examples.",
            )
        else:
            with self.server.busy:
                body = self.rfile.read(int(length))
                if len(body) == int(length):
                    self._ask("POST", body)

    def _ask(self, method, body):
        try:
            answer = self.server.models.answer(method, self.path, body)
        except Exception as reason:  # whatever a model brings about: the browser hears of it
            print(f"{method} {self.path[:200]}: {type(reason).__name__}: {reason}", file=sys.stderr)
            answer = playground_models.error(500, "The model failed; the terminal says more.")
        self._answer(*answer)

    def _is_welcome(self):
        """Whether a request came by a name of this machine and not from another page."""
        host = self.headers.get("Host", "")
        if not _is_own(host, self.server.hosts):
            self._refuse(403, "Expected the address of this machine as Host.")
            return False
        origin = self.headers.get("Origin")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            self._refuse(403, "Expected a request from the playground's own page.")
            return False
        return True

    def _refuse(self, code, message):
        """Answers without reading what else was sent, so that the connection ends."""
        self.close_connection = True
        self._answer(*playground_models.error(code, message))

    def _answer(self, code, content, kind="application/json"):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Content-Security-Policy", self.server.policy)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_error(self, code, message=None, explain=None):
        """What `http.server` itself refuses, in the same form."""
        self._refuse(code, message or self.responses.get(code, ("Refused",))[0])

    def log_message(self, *args):
        """Nothing: a line for each of hundreds of requests would hide what matters."""


def _is_own(host, names):
    """Whether a Host header is a number or one of the names of this machine.

    A name that leads here may be anybody's; only a number cannot be pointed elsewhere later.
    """
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+))(?::[0-9]{1,5})?", host)
    if not found:
        return False
    name = (found[1] or found[2]).lower().rstrip(".")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in names
    return True
