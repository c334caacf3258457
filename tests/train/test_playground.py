"""The playground's server: TensorFlow Serving's REST interface, and what it refuses."""

import http.client
import json
import pathlib
import socket

import numpy as np
import pytest

from maml_tf.serving import Client, ServingError
from tests.serving.liars import RestLiar
from tests.train import playgrounds
from train import playground, playground_server

SAVED = pathlib.Path(__file__).parents[2] / "saved_models"


@pytest.fixture(scope="module")
def served():
    with playgrounds.served(models=str(SAVED), names=("sinusoid", "omniglot")) as server:
        yield server


@pytest.fixture
def ask(served):
    """`ask(method, path, body, headers)`: status, headers and body of an answer."""

    def ask(method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", served.server_port, timeout=30)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read().decode()
        connection.close()
        return answer.status, answer.headers, content

    return ask


def test_the_client_of_tensorflow_serving_finds_what_it_knows(served):
    model = served.models.model("sinusoid").load().signatures
    client = Client(f"http://localhost:{served.server_port}", "sinusoid", version=1)
    x, y = np.float32([[-2.0], [0.5], [3.0]]), np.float32([[1.0], [-1.0], [0.3]])
    handle = client.adapt(x, y, inner_steps=3)
    expected = model["adapt_and_predict"](support_x=x, support_y=y, query_x=x, inner_steps=3)
    np.testing.assert_allclose(handle.predict(x), expected["predictions"], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(client.predict(x), model["predict"](query_x=x)["predictions"])
    with pytest.raises(ServingError, match="Expected as many support_y as support_x"):
        client.adapt(x, y[:2], inner_steps=1)


def test_status_and_metadata_are_tensorflow_servings(ask):
    status = json.loads(ask("GET", "/v1/models/sinusoid")[2])["model_version_status"]
    assert status == [
        {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    ]
    answer = json.loads(ask("GET", "/v1/models/omniglot/versions/1/metadata")[2])
    assert answer["model_spec"] == {"name": "omniglot", "signature_name": "", "version": "1"}
    adapt = answer["metadata"]["signature_def"]["signature_def"]["adapt"]["inputs"]
    assert adapt["support_x"]["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in adapt["support_x"]["tensor_shape"]["dim"]] == [
        *("-1", "28", "28", "1")
    ]
    assert adapt["inner_steps"]["tensor_shape"] == {"dim": [], "unknown_rank": False}


def test_the_page_and_the_names_of_the_models(ask):
    code, headers, page = ask("GET", "/?seed=1")
    assert (code, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page == playground.PAGE.read_text(encoding="utf-8")
    assert "default-src 'none'; script-src 'sha256-" in headers["Content-Security-Policy"]
    listed = json.loads(ask("GET", "/models.json")[2])["models"]
    assert [model["name"] for model in listed] == ["omniglot", "sinusoid"]
    assert listed[1]["card"]["held_out"]["tasks"] == 6000


def test_the_page_asks_nothing_of_the_network():
    page = playground.PAGE.read_text(encoding="utf-8")
    # Names of namespaces alone, which nobody fetches.
    found = set(playgrounds.addresses(page))
    assert found == {"http://www.w3.org/2000/svg"}


GOOD = {"support_x": [[1]], "support_y": [[1]], "inner_steps": 1}
PREDICT = "/v1/models/sinusoid:predict"
REFUSED = [
    ("GET", "/v1/models/nobody", None, 404, "Servable not found for request: Latest(nobody)"),
    ("GET", "/v1/models/nobody/metadata", None, 404, "Latest(nobody)"),
    ("GET", "/v1/models/sinusoid/versions/2", None, 404, "Specific(sinusoid, 2)"),
    ("GET", "/v1/models", None, 400, "Malformed request: GET /v1/models"),
    ("GET", PREDICT, None, 400, "Malformed request"),
    ("GET", "/v1/models/..%2F..%2Fetc", None, 404, "Servable not found"),
    ("GET", "/v1/models/../../etc/passwd", None, 400, "Malformed request"),
    ("GET", "/../../../etc/passwd", None, 404, "nothing at this address"),
    ("GET", "/..%2f..%2fetc%2fpasswd", None, 404, "nothing at this address"),
    ("GET", "/playground.py", None, 404, "nothing at this address"),
    ("GET", "//etc/passwd", None, 404, "nothing at this address"),
    ("POST", "/v1/models/nobody:predict", "{}", 404, "Latest(nobody)"),
    ("POST", "/v1/models/sinusoid:classify", "{}", 400, "Malformed request"),
    ("POST", "/", "{}", 400, "Malformed request"),
    ("POST", PREDICT, "", 400, "The document is empty"),
    ("POST", PREDICT, "{", 400, "JSON Parse error"),
    ("POST", PREDICT, b"\xff\xfe{}", 400, "JSON Parse error"),
    ("POST", PREDICT, "[" * 100_000, 400, "JSON Parse error"),
    ("POST", PREDICT, "[1]", 400, "is not an object"),
    ("POST", PREDICT, {"signature_name": "nothing"}, 400, '"nothing\\" not found in signature def'),
    ("POST", PREDICT, {"signature_name": ["adapt"]}, 400, "not found in signature def"),
    ("POST", PREDICT, {"instances": [1]}, 400, "Missing 'inputs' key"),
    ("POST", PREDICT, {"inputs": [1]}, 400, "inputs is a plain value/list"),
    ("POST", PREDICT, {"inputs": {}}, 400, "Missing named input: "),
    ("POST", PREDICT, {"support_x": [[1, 2]]}, 400, "Expected `support_x` of shape [any, 1]"),
    ("POST", PREDICT, {"support_x": [[1], [2, 3]]}, 400, "Expected `support_x` as an array"),
    ("POST", PREDICT, {"support_x": [["a"]]}, 400, "Expected `support_x` as numbers"),
    ("POST", PREDICT, '{"signature_name": "predict", "inputs": [[NaN]]}', 400, "finite numbers"),
    ("POST", PREDICT, {"inner_steps": 1.5}, 400, "Expected `inner_steps` as numbers that int32"),
    ("POST", PREDICT, {"inner_steps": 10**30}, 400, "Expected `inner_steps`"),
    ("POST", PREDICT, {"inner_steps": -1}, 400, "Expected inner_steps of at least 0"),
    ("POST", PREDICT, {"support_y": [[1], [2]]}, 400, "Expected as many support_y as support_x"),
    ("POST", PREDICT, {"inner_steps": 100, "support_y": [[1e30]]}, 400, "stays finite"),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "message"),
    REFUSED,
    ids=[f"{i}-{message}" for i, (*_, message) in enumerate(REFUSED)],
)
def test_bad_requests_are_told_in_a_line(ask, method, path, body, code, message):
    if isinstance(body, dict):
        inputs = body if body and not {"inputs", "instances", "signature_name"} & set(body) else {}
        body = {"signature_name": "adapt", "inputs": GOOD | inputs} if inputs else body
        body = json.dumps(body)
    status, headers, content = ask(method, path, body)
    assert (status, headers["Content-Type"]) == (code, "application/json")
    said = json.loads(content)
    assert set(said) == {"error"}
    assert message in content.replace("\\n", " ")
    assert not any(word in said["error"] for word in ("Traceback", 'File "', ".py", "\n"))


def test_a_request_may_not_be_larger_than_the_limit(ask):
    head = {"Content-Length": str(playground_server.MOST_BYTES + 1)}
    # Nothing of it is sent, and nobody waits for it.
    code, headers, content = ask("POST", PREDICT, None, head)
    assert (code, headers["Connection"]) == (413, "close")
    assert "Expected a request of at most 33,554,432 bytes" in content
    assert ask("POST", PREDICT, None, {"Content-Length": "-1"})[0] == 411
    assert ask("POST", PREDICT, None, {"Content-Length": "9" * 30})[0] == 411
    assert ask("POST", PREDICT, iter([b"{}"]), {"Transfer-Encoding": "chunked"})[0] == 411


@pytest.mark.parametrize(
    ("host", "welcome"),
    [
        ("localhost", True),
        ("localhost:8765", True),
        ("127.0.0.1:1", True),
        ("[::1]:8765", True),
        ("192.168.1.7", True),
        ("evil.example", False),
        ("localhost.evil.example:8765", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
        ("localhost/x", False),
    ],
)
def test_a_name_that_was_pointed_here_is_not_answered(ask, host, welcome):
    assert (ask("GET", "/", None, {"Host": host})[0] == 200) == welcome
    code = ask("POST", PREDICT, "{}", {"Host": host})[0]
    assert code == (400 if welcome else 403)


def test_other_pages_are_not_answered(ask, served):
    own = f"http://127.0.0.1:{served.server_port}"
    assert ask("POST", PREDICT, "{}", {"Origin": own})[0] == 400
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        assert ask("POST", PREDICT, "{}", {"Origin": origin})[0] == 403


def test_what_is_no_http_is_told_and_ends(served):
    for line in (b"GARBAGE\r\n\r\n", b"PUT / HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", served.server_port), timeout=10) as connection:
            connection.sendall(line)
            answer = connection.makefile("rb").read().decode()
        assert '{"error": ' in answer
        assert "Traceback" not in answer


def test_what_fails_inside_is_told_without_a_trace(served, ask, monkeypatch, capsys):
    def fail(request):
        raise RuntimeError("secret")

    monkeypatch.setattr(served.models.model("sinusoid"), "predict", fail)
    code, _, content = ask("POST", PREDICT, "{}")
    assert code == 500
    assert "secret" not in content
    assert "RuntimeError: secret" in capsys.readouterr().err


def test_requests_are_passed_on(served):
    address = f"http://localhost:{served.server_port}"
    with playgrounds.served(server=address, names=("sinusoid", "nobody")) as front:
        assert front.models.cards() == [{"name": "sinusoid", "card": {}}]
        here = (
            Client(address, "sinusoid"),
            Client(f"http://localhost:{front.server_port}", "sinusoid"),
        )
        x = np.float32([[0.5], [1.0]])
        direct, passed = (client.adapt(x, x, inner_steps=2).predict(x) for client in here)
        np.testing.assert_array_equal(direct, passed)
        with pytest.raises(ServingError, match="Expected as many support_y"):
            here[1].adapt(x, x[:1], inner_steps=1)
        # What the other server has, and is not named here.
        with pytest.raises(ServingError, match=r"Servable not found for request: Latest\(omniglot"):
            Client(f"http://localhost:{front.server_port}", "omniglot").predict(x)


def test_a_server_that_answers_nonsense_is_told():
    liar = RestLiar()
    with playgrounds.served(server=liar.address, names=("sine",)) as front:
        for answer, message in [
            (b"HTTP/1.0 200 OK\r\n\r\n<html>", "did not answer in JSON"),
            (
                b"HTTP/1.0 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n{}",
                "sends requests else",
            ),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\n{", "did not answer in JSON"),
            (b"nonsense", "gave no answer"),
        ]:
            liar.answers = [answer]
            code, content = front.models.answer("POST", "/v1/models/sine:predict", b"{}")
            assert code == 502
            assert message in json.loads(content)["error"]
    liar.close()


OPTIONS = [
    ("--port 70000", "--port 70000", "at most 65535"),
    ("--port -1", "--port -1"),
    ("--models nowhere", "--models nowhere", "Expected a folder of exported models"),
    ("--names omniglot nobody", "--names omniglot nobody", "Leave out ['nobody']"),
    ("--server localhost:8500", "--server localhost:8500", "http://localhost:8501"),
    ("--server http://localhost:1 --names sine", "gave no answer", "--names"),
    ("--host 203.0.113.1", "--host 203.0.113.1", "Expected --host and --port to be free"),
    ("--colour", "--colour", "unrecognized"),
]


@pytest.mark.parametrize(("words", "told"), [(o[0], o[1:]) for o in OPTIONS])
def test_options_that_make_no_sense_end_in_a_line(words, told, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["playground", "--models", str(SAVED), *words.split()])
    monkeypatch.setattr(playground.webbrowser, "open", lambda address: pytest.fail("opened"))
    with pytest.raises(SystemExit) as ended:
        playground.common.run(playground.main, resumes=False)
    line = capsys.readouterr().err
    assert ended.value.code == 2
    assert line.count("\n") == 1
    for part in told:
        assert part in line


def test_a_port_that_is_taken(served, monkeypatch, capsys):
    words = ["playground", "--models", str(SAVED), "--port", str(served.server_port)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit, match=f"--port {served.server_port}: Address already in use"):
        playground.main()


def test_a_model_that_reaches_out_is_not_served(tmp_path):
    import tensorflow as tf

    module = tf.Module()
    module.read = tf.function(tf.io.read_file, input_signature=[tf.TensorSpec([], tf.string)])
    tf.saved_model.save(module, str(tmp_path / "spy" / "1"))
    settings = playground.Settings(models=str(tmp_path), port=0)
    with pytest.raises(SystemExit, match="Expected a model that only computes"):
        playground.make_server(settings)
