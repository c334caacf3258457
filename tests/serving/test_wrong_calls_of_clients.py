"""Every wrong call of a client is an error before it is sent, and every wrong answer is one too."""

import contextlib
import json
import re

import numpy as np
import pytest

from maml_tf.serving import Client, PolicyClient, ServingError, connection, wire
from maml_tf.serving.connection import Connection
from tests.serving.liars import METADATA
from tests.wrong_calls import check_message

pytest.importorskip("tensorflow_serving")

# Addresses, names and numbers.

ADDRESS = 'Expected `address`: "host:8500" for gRPC, or "http://host:8501" for REST'
NOWHERE = "localhost:1"
CONSTRUCTORS = [
    *[
        ({"address": a}, ADDRESS)
        for a in (
            *(None, 8500, b"localhost:8500", ["localhost:8500"], ("localhost", 8500), "", " "),
            *("localhost", "localhost:", ":8500", "localhost:0", "localhost:99999", "localhost:-1"),
            *("localhost:port", "localhost:85 00", "local host:8500", "localhost:8500/x", "dns:"),
            *("localhost:8500\n", "user@localhost:8500", "ftp://localhost:8501", "tcp://h:1"),
            *("http://", "https://", "http:localhost:8501", "http:///v1", "http://:8501"),
            *("http://localhost:99999", "http://localhost:0", "http://localhost:port"),
            *("http://localhost:8501\r\nX: y", "http://localhost:8501?a=b", "http://h:1#x"),
            *("http://user:word@localhost:8501", "http://[::1", "file:///etc/hosts"),
        )
    ],
    *[
        ({"model": m}, "Expected `model`: the name under which")
        for m in (None, 3, "", " ", "a b", "a/b", "a:predict", "..\n", "../x", "\ud800", b"sine")
    ],
    *[
        ({name: v}, f"Expected `{name}` to be an integer of at least 0.")
        for name in ("version", "retries")
        for v in (-1, True, 1.5, "1", [1], np.array([1]), np.False_)
    ],
    ({"version": 2**63}, "Expected `version` to be an integer of at least 0 and at most"),
    ({"retries": None}, "Expected `retries` to be an integer of at least 0."),
    *[
        ({"timeout": t}, "Expected `timeout` to be a finite number above 0.")
        for t in (0, -1, True, None, "10", float("nan"), float("inf"), [1.0], -(10**400))
    ],
]


@pytest.mark.parametrize("kind", [Client, PolicyClient])
@pytest.mark.parametrize(("arguments", "message"), CONSTRUCTORS)
def test_a_wrong_client(kind, arguments, message):
    name = next(iter(arguments))
    with pytest.raises((TypeError, ValueError), match=f"(?s){message}.*Received: {name}") as caught:
        kind(**{"address": NOWHERE, "model": "sine", **arguments})
    check_message(str(caught.value), [])


@pytest.mark.parametrize(
    "address",
    [
        *("localhost:8500", "10.0.0.1:8500", "[::1]:8500", "dns:///serving:8500", "unix:/tmp/s"),
        *("http://localhost:8501", "https://serving.example", "http://[::1]:8501/", "http://h/a/b"),
    ],
)
def test_addresses_that_may_be(address):
    Client(address, "sine-2.1_ü", version=np.int64(0), timeout=np.float32(0.5), retries=0).close()


# Values.

IMAGES = wire.Tensor(np.dtype("float32"), (None, 2, 2))
LABELS = wire.Tensor(np.dtype("int32"), (None,))
BYTES = wire.Tensor(np.dtype("uint8"), (None,))
STEPS = wire.Tensor(np.dtype("int32"), ())
WORDS = wire.Tensor(np.dtype(object), (None,))
FREE = wire.Tensor(np.dtype("float32"), None)
HOLD = "numbers that int32 can hold"
VALUES = [
    (LABELS, [0, 1.7], rf"{HOLD}. Received: value of float64 with .*1.7"),
    (LABELS, np.array([0.5], np.float32), rf"{HOLD}.*0.5"),
    (LABELS, [0, np.nan], rf"{HOLD}.*nan"),
    (LABELS, [0, np.inf], rf"{HOLD}.*inf"),
    (LABELS, [0, -np.inf], rf"{HOLD}.*-inf"),
    (LABELS, [2**31], rf"{HOLD}.*2147483648"),
    (LABELS, [-(2**31) - 1], rf"{HOLD}.*-2147483649"),
    (LABELS, np.array([2**63], np.uint64), rf"{HOLD}.*9223372036854775808"),
    (LABELS, [float(2**31)], rf"{HOLD}.*2147483648"),
    (LABELS, [2**80], "numbers of int32.*object"),
    (LABELS, ["0", "1"], "numbers of int32.*'0'"),
    (LABELS, [None], "numbers of int32.*None"),
    (LABELS, [1j], "numbers of int32.*complex128"),
    (LABELS, np.array(["2020-01-01"], "datetime64[D]"), "numbers of int32.*datetime64"),
    (LABELS, [[0], [1, 2]], "no array can be made.*same shape"),
    (LABELS, [[0], [1]], r"of shape \[any\]. Received: value of shape \(2, 1\)"),
    (LABELS, 3, r"of shape \[any\]. Received: value of shape \(\)"),
    (LABELS, None, r"of shape \[any\]. Received: value of shape \(\)"),
    (LABELS, {0: 1}, r"of shape \[any\]"),
    (LABELS, {0, 1}, r"of shape \[any\]"),
    (LABELS, (i for i in range(3)), r"of shape \[any\]"),
    (LABELS, np.ma.array([1, 2], mask=[True, False]), "without masked numbers"),
    (BYTES, [256], "numbers that uint8 can hold.*256"),
    (BYTES, [-1], "numbers that uint8 can hold.*-1"),
    (BYTES, [0.5], "numbers that uint8 can hold.*0.5"),
    (IMAGES, np.zeros((3, 2)), r"of shape \[any, 2, 2\]. Received: value of shape \(3, 2\)"),
    (IMAGES, np.zeros((3, 2, 3)), r"of shape \[any, 2, 2\]. Received: value of shape \(3, 2, 3\)"),
    (IMAGES, np.full((1, 2, 2), 1e300), "numbers that float32 can hold.*1e"),
    (IMAGES, np.full((1, 2, 2), "ink"), "numbers of float32.*<U3"),
    (IMAGES, np.zeros((1, 2, 2), complex), "numbers of float32.*complex128"),
    (FREE, [[1.0], [2.0, 3.0]], "no array can be made"),
    (FREE, object(), "numbers of float32.*object"),
    (FREE, [[0.0, np.nan]], r"finite numbers. Received: value with nan at \[0, 1\]"),
    (FREE, [1.0, -np.inf], r"finite numbers. Received: value with -inf at \[1\]"),
    (FREE, np.nan, r"finite numbers. Received: value with nan at \[\]"),
    (IMAGES, np.full((1, 2, 2), np.nan, np.float32), "finite numbers.*nan at .0, 0, 0."),
    (STEPS, [3], r"of shape \[\]. Received: value of shape \(1,\)"),
    (STEPS, 2.9, rf"{HOLD}.*2.9"),
    (WORDS, [1, 2], "as str or bytes.*int64"),
    (WORDS, ["a", None], "as str or bytes"),
    (WORDS, np.array(["a", 1.5, b"c"], object), "as str or bytes.*object"),
]


@pytest.mark.parametrize(("tensor", "value", "message"), VALUES)
def test_a_value_that_an_input_cannot_hold(tensor, value, message):
    with pytest.raises(ValueError, match=f"(?s)Expected `value` .*{message}") as caught:
        wire.cast("value", value, tensor)
    check_message(str(caught.value), [])


@pytest.mark.parametrize(
    ("tensor", "value", "expected"),
    [
        (LABELS, [0.0, 2.0], [0, 2]),
        (LABELS, np.array([True, False]), [1, 0]),
        (LABELS, np.array([7], np.uint64), [7]),
        (BYTES, np.array([255.0]), [255]),
        (STEPS, np.int64(3), 3),
        (WORDS, ["a", b"b"], ["a", b"b"]),
        (WORDS, np.array(["a", "Wörter"]), ["a", "Wörter"]),
        (FREE, [[1, 2]], [[1, 2]]),
        (FREE, [0.1], np.array([0.1], np.float32)),
    ],
)
def test_a_value_that_changes_only_its_type(tensor, value, expected):
    array = wire.cast("value", value, tensor)
    assert array.dtype == tensor.dtype
    np.testing.assert_array_equal(array, expected)


@pytest.fixture(scope="module")
def rest():
    from tests.serving.liars import RestLiar

    liar = RestLiar()
    yield liar
    liar.close()


@pytest.fixture
def client(rest):
    return Client(rest.address, "sine", timeout=5, retries=0)


X, Y = np.zeros((3, 1)), np.zeros((3, 1))
CALLS = [
    *[
        (lambda c, s=s: c.adapt(X, Y, s), "Expected `inner_steps` to be an integer of at least 0.*")
        for s in (2.9, 2.0, -1, True, "3", [1], 2**31, np.array([2]))
    ],
    (lambda c: c.adapt(X, Y), "Expected `inner_steps`: REST requests name every input"),
    (lambda c: c.adapt(None, Y, 1), "Expected `support_x` of shape"),
    (lambda c: c.adapt("images", Y, 1), "Expected `support_x` of shape"),
    (lambda c: c.adapt([[1], [2, 3]], Y, 1), "Expected `support_x` as an array.*same shape"),
    (lambda c: c.adapt(X, [["a"]] * 3, 1), "Expected `support_y` as numbers of float32"),
    (lambda c: c.adapt(X[:, 0], Y, 1), r"Expected `support_x` of shape \[any, 1\].*\(3,\)"),
    (lambda c: c.adapt(X[:0], Y[:0], 1), "Expected `support_\\w` with at least one example: JSON"),
    (lambda c: c.predict(X[:0]), "Expected `query_x` with at least one example: JSON"),
    (lambda c: c.predict(np.zeros((3, 2))), r"Expected `query_x` of shape \[any, 1\].*\(3, 2\)"),
    (lambda c: c.predict({"a": X}), "Expected `query_x` of shape"),
    (lambda c: c.predict(X + np.nan), "Expected `query_x` as finite numbers.*nan"),
    (lambda c: c.adapt(X + np.inf, Y, 1), "Expected `support_x` as finite numbers.*inf"),
    (lambda c: c.adapt(X, Y * np.nan, 1), "Expected `support_y` as finite numbers.*nan"),
    (lambda c: c.adapt_and_predict(X, Y, X, 1), "with the signature 'adapt_and_predict'.*one with"),
    (lambda c: (c.close(), c.predict(X)), r"Expected an open client.*after `close\(\)`"),
]


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_a_wrong_call(rest, client, call, message):
    asked = rest.asked
    with pytest.raises((TypeError, ValueError), match=f"(?s){message}") as caught:
        call(client)
    check_message(str(caught.value), [])
    assert rest.asked == asked


@pytest.mark.parametrize("seed", [-1, 1.5, True, None, "1", 2**62])
def test_a_wrong_seed(rest, seed):
    policy = PolicyClient(rest.address, "sine", retries=0).policy()
    message = "Expected `seed` to be an integer of at least 0 and at most"
    with pytest.raises((TypeError, ValueError), match=message):
        policy.sample(X, seed)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.act(X), "with the signature 'act_with'.*by `PolicyClient`"),
        (lambda p: p.sample(X, 1), "with the signature 'sample'"),
        (lambda p: p.adapt(X, X, X), r"signature 'adapt' of \['action'.*Received: one of \['inner"),
    ],
)
def test_a_policy_of_what_is_none(rest, call, message):
    with pytest.raises(ValueError, match=message):
        call(PolicyClient(rest.address, "sine", retries=0).policy())


# Answers.


def said(content):
    from tests.serving.liars import ok

    return ok(content if isinstance(content, bytes) else json.dumps(content).encode())


ROWS = [[1.0], [2.0], [3.0]]
MALFORMED = [
    (b"garbage\r\n\r\n", "no HTTP.*BadStatusLine"),
    (b"\x16\x03\x01\x00\r\n\r\n", "no HTTP"),
    (b"HTTP/1.0 " + b"2" * 70_000 + b"\r\n", "no HTTP.*LineTooLong"),
    (said(b""), "no JSON"),
    (said(b"<html>busy</html>"), "no JSON.*<html>busy"),
    (said(b'{"outputs": [[1.0], [2'), "no JSON"),
    (said(b"\xff\xfe\x00"), "no JSON"),
    (said(b"[" * 200_000), "no JSON"),
    (said([]), "an answer without `outputs`"),
    (said(None), "an answer without `outputs`"),
    (said({}), "an answer without `outputs`"),
    (said({"error": "busy"}), "an answer without `outputs`"),
    (said({"predictions": ROWS}), "an answer without `outputs`"),
    (said({"outputs": None}), "predictions is of object"),
    (said({"outputs": "text"}), "predictions is of <U4"),
    (said({"outputs": 1.0}), r"predictions is of shape \(\), not of \[any, 1\]"),
    (said({"outputs": {}}), r"outputs \[\], not \['predictions'\]"),
    (said({"outputs": {"weights": ROWS}}), r"outputs \['weights'\], not \['predictions'\]"),
    (said({"outputs": {"predictions": ROWS, "more": 1}}), r"outputs \['more', 'predictions'\]"),
    (said({"outputs": [1.0, 2.0, 3.0]}), r"of shape \(3,\), not of \[any, 1\]"),
    (said({"outputs": [[1.0, 2.0]] * 3}), r"of shape \(3, 2\), not of \[any, 1\]"),
    (said({"outputs": [[1.0], [2.0, 3.0], [4.0]]}), "predictions is no array"),
    (said({"outputs": [["1"], ["2"], ["3"]]}), "predictions is of <U1"),
    (said({"outputs": [[None], [None], [None]]}), "predictions is of object"),
    (said({"outputs": [[True], [True], [True]]}), "predictions is of bool"),
    (said({"outputs": [[{}], [{}], [{}]]}), "predictions is of object"),
    (said({"outputs": [[10**400]] * 3}), "predictions is of object|predictions is no array"),
    (said({"outputs": ROWS[:2]}), r"predictions of shape \(2, 1\) for 3 queries"),
    (said({"outputs": ROWS * 2}), r"predictions of shape \(6, 1\) for 3 queries"),
    (said({"outputs": []}), r"predictions of shape \(0, 1\) for 3 queries"),
    (said({"outputs": ROWS, "error": "half of it"}), "both `outputs` and `error`: half of it"),
    (said({"outputs": ROWS, "error": None}), "both `outputs` and `error`"),
    (said({"outputs": [[1e300], [1], [2]]}), "predictions has numbers that float32 cannot hold"),
    (b"HTTP/1.0 302 Found\r\nLocation: http://[\r\n\r\n", "a redirect to what is no address"),
]


@pytest.mark.parametrize(("answer", "message"), MALFORMED)
def test_an_answer_that_is_none(rest, client, answer, message):
    rest.answers = [answer]
    with pytest.raises(
        ServingError, match=f"(?s)INTERNAL: Expected an answer.*{message}"
    ) as caught:
        client.predict(X)
    assert caught.value.code == "INTERNAL"
    rest.answers = [said({"outputs": ROWS})]
    np.testing.assert_array_equal(client.predict(X), ROWS)


@pytest.mark.parametrize("number", ["NaN", "1e999", "-Infinity"])
def test_an_answer_that_is_not_finite(rest, client, number):
    """As an export of before may give, which does not look."""
    rest.answers = [said(b'{"outputs": [[%s], [1], [2]]}' % number.encode())]
    with pytest.raises(ServingError, match=r"finite numbers.*predictions of shape \(3, 1\) with 1"):
        client.predict(X)
    rest.metadata = of_signatures({"act_with": POLICY})
    rest.answers = [said(b'{"outputs": [[1], [%s]]}' % number.encode())]
    policy = PolicyClient(rest.address, "sine", retries=0).policy()
    with pytest.raises(ServingError, match=r"finite numbers.*action of shape \(2, 1\) with 1"):
        policy.act(X[:2])
    rest.honest()


def test_rows_of_several_tasks_may_be_not_finite(rest):
    """The signature that answers NaN for a row on purpose."""
    rest.metadata = of_signatures({"adapt_and_predict_tasks": {"outputs": {"predictions": INPUT}}})
    rest.answers = [said(b'{"outputs": [NaN, 1]}')]
    answer = Connection(rest.address, "sine")._call("adapt_and_predict_tasks", {})
    np.testing.assert_array_equal(answer["predictions"], [np.nan, 1])
    rest.honest()


DROPPED = [
    b"",
    b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n{",
    b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 100\r\n\r\nbusy",
]


@pytest.mark.parametrize("answer", DROPPED)
def test_a_dropped_connection_is_tried_again(rest, client, answer, monkeypatch):
    monkeypatch.setattr(connection, "_FIRST_WAIT", 0.001)
    rest.answers = [answer]
    with pytest.raises(ServingError, match="UNAVAILABLE: the connection was dropped"):
        client.predict(X)
    patient = Client(rest.address, "sine", timeout=5, retries=2)
    rest.asked, rest.answers = 0, [answer, answer, said({"outputs": ROWS})]
    np.testing.assert_array_equal(patient.predict(X), ROWS)
    assert rest.asked == 3
    rest.asked, rest.answers = 0, [answer]
    with pytest.raises(ServingError, match="UNAVAILABLE"):
        patient.predict(X)
    assert rest.asked == 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": "no such thing"}', "400: no such thing"),
        (b"<html>no</html>", "400: <html>no</html>"),
        (b"", "400: Bad"),
        (b'{"error": {"deep": 1}}', "400: .*deep"),
        (b"[" * 200_000, r"400: \[\["),
    ],
)
def test_what_a_server_says_when_it_refuses(rest, client, body, message):
    head = b"HTTP/1.0 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(body)
    rest.answers, rest.asked = [head + body], 0
    with pytest.raises(ServingError, match=message) as caught:
        client.predict(X)
    assert (caught.value.code, rest.asked) == ("400", 1)


def test_weights_that_ran_away_are_no_handle(rest, client):
    """As an export of before may answer, which does not look."""
    rest.answers = [said(b'{"outputs": [1.0, NaN, 2.0]}')]
    with pytest.raises(ServingError, match="adaptation that stays finite.*inner_steps=9"):
        client.adapt(X, Y, 9)
    rest.answers = [said({"outputs": [1.0, 2.0]})]
    with pytest.raises(ServingError, match=r"weights is of shape \(2,\), not of \[3\]"):
        client.adapt(X, Y, 9)


def of_signatures(content):
    return json.dumps({"metadata": {"signature_def": {"signature_def": content}}}).encode()


INPUT = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}]}}
ROW = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": -1}, {"size": 1}]}}
POLICY = {
    "inputs": {"weights": INPUT, "observation": ROW},
    "outputs": {"action": ROW},
}


@pytest.mark.parametrize(
    "metadata",
    [
        *(b"", b"{}", b"[]", b"null", b"<html>", b'{"metadata": null}', b'{"metadata": []}'),
        *(b'{"metadata": {"signature_def": null}}', b'{"metadata": {"signature_def": {}}}'),
        *(of_signatures(None), of_signatures([1]), of_signatures({"predict": None})),
        of_signatures({"predict": {"inputs": [], "outputs": {}}}),
        of_signatures({"predict": {"inputs": {"query_x": {}}}}),
        of_signatures({"predict": {"inputs": {"query_x": {**INPUT, "dtype": "DT_NONSENSE"}}}}),
        of_signatures({"predict": {"inputs": {"query_x": {**INPUT, "dtype": 1}}}}),
        of_signatures({"predict": {"inputs": {"query_x": {**INPUT, "tensor_shape": 3}}}}),
        of_signatures(
            {
                "predict": {
                    "inputs": {"query_x": {**INPUT, "tensor_shape": {"dim": [{"size": "x"}]}}}
                }
            }
        ),
    ],
)
def test_metadata_that_is_none(rest, client, metadata):
    rest.metadata = metadata
    with pytest.raises(ServingError, match="INTERNAL: Expected an answer"):
        client.predict(X)
    rest.honest()
    rest.answers = [said({"outputs": ROWS})]
    np.testing.assert_array_equal(client.predict(X), ROWS)


SIZES = ["Infinity", "NaN", "1e30", "1.5", "3.0", "false", "null", "[1]", "-2", str(2**63)]
SIZES += ['""', '"1_0"', '"-2"', '" 3"', '"1e3"', f'"{2**63}"', f'"{"9" * 5000}"', '"\u0663"']
TYPES = ["DT_f4,f4", "DT_BFLOAT16", "M8[s]", "DT_COMPLEX64", "DT_RESOURCE", "float32", "DT_", ""]


@pytest.mark.parametrize("place", ["inputs", "outputs"])
def test_types_and_sizes_that_are_none(rest, place):
    def refused(tensor, message, size=""):
        both = {"inputs": {"query_x": ROW}, "outputs": {"predictions": ROW}}
        name = next(iter(both[place]))
        both[place] = {name: tensor}
        rest.metadata = of_signatures({"predict": both}).replace(b'"SIZE"', size.encode())
        with pytest.raises(ServingError, match=f"INTERNAL.*{name} of {message}"):
            Client(rest.address, "sine", timeout=5, retries=0).predict(X)

    for size in SIZES:
        refused({**ROW, "tensor_shape": {"dim": [{"size": "SIZE"}]}}, "the size ", size)
    for dtype in [*TYPES, None, 1, {}, ["DT_FLOAT"]]:
        refused({**ROW, "dtype": dtype}, f"the type {re.escape(repr(dtype))}")
    refused({**ROW, "tensor_shape": {"unknown_rank": "false"}}, "unknown_rank 'false'")
    rest.honest()


@pytest.mark.parametrize(
    "outputs", [{}, {"other": ROW}, {"predictions_1": ROW, "predictions_2": ROW}]
)
def test_outputs_of_other_names(rest, client, outputs):
    names = {name: ROWS for name in outputs}
    rest.answers = [said({"outputs": names})]
    rest.metadata = of_signatures(
        {
            "predict": {"inputs": {"query_x": ROW}, "outputs": outputs},
            "adapt": {**METADATA["adapt"], "outputs": outputs},
            "act_with": {**POLICY, "outputs": outputs},
        }
    )
    for call in (
        lambda: client.predict(X),
        lambda: client.adapt(X, Y, 1),
        lambda: PolicyClient(rest.address, "sine", retries=0).policy().act(X),
    ):
        with pytest.raises(ServingError, match="INTERNAL.*Received: outputs"):
            call()
    rest.honest()


def test_metadata_with_an_error(rest, client):
    rest.metadata = rest.metadata[:-1] + b', "error": "half of it"}'
    with pytest.raises(ServingError, match="both `metadata` and `error`: half of it"):
        client.predict(X)
    rest.honest()


def test_no_axis_of_examples_where_the_server_says_that_any_shape_will_do(rest, client):
    anything = {"dtype": "DT_FLOAT", "tensor_shape": {"unknown_rank": True}}
    of_any = {"inputs": {"query_x": anything}, "outputs": {"predictions": ROW}}
    rest.metadata = of_signatures({"predict": of_any})
    with pytest.raises(ValueError, match=r"`query_x` of shape \[any, ...\].*query_x=3.0"):
        client.predict(3.0)
    rest.honest()


# The same by gRPC.


@pytest.fixture(scope="module")
def grpc_liar():
    from tests.serving.liars import GrpcLiar

    liar = GrpcLiar()
    yield liar
    liar.close()


def protos():
    import tensorflow as tf
    from google.protobuf import any_pb2, json_format
    from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

    from tests.serving.liars import METADATA

    definitions = get_model_metadata_pb2.SignatureDefMap()
    json_format.ParseDict({"signature_def": METADATA}, definitions)

    def metadata(pack=True, key="signature_def", value=None, dtype=None, size=None):
        query = definitions.signature_def["predict"].inputs["query_x"]
        query.dtype = dtype or query.dtype
        query.tensor_shape.dim[0].size = size or -1
        content = any_pb2.Any()
        if pack:
            content.Pack(definitions)
        if value is not None:
            content.value = value
        answer = get_model_metadata_pb2.GetModelMetadataResponse()
        answer.metadata[key].CopyFrom(content)
        return answer.SerializeToString()

    def predict(array=None, name="predictions", **fields):
        answer = predict_pb2.PredictResponse()
        tensor = answer.outputs[name]
        if array is not None:
            tensor.CopyFrom(tf.make_tensor_proto(array))
        for field, value in fields.items():
            if field == "shape":
                del tensor.tensor_shape.dim[:]
                for size in value:
                    tensor.tensor_shape.dim.add(size=size)
            elif field == "float_val":
                tensor.float_val.extend(value)
            else:
                setattr(tensor, field, value)
        return answer.SerializeToString()

    return metadata, predict


GOOD = np.array(ROWS, np.float32)
FLOAT = 1
GRPC_ANSWERS = [
    (lambda p: b"\xff\xff\xff\xff", "INTERNAL"),
    (lambda p: b"", r"outputs \[\], not \['predictions'\]"),
    (lambda p: p(GOOD, "weights"), r"outputs \['weights'\], not"),
    (lambda p: p(), "predictions that is no tensor|predictions is of"),
    (lambda p: p(GOOD, dtype=99), "predictions that is no tensor"),
    (lambda p: p(GOOD.astype(str)), "predictions is of object"),
    (lambda p: p(GOOD > 0), "predictions is of bool"),
    (lambda p: p(GOOD.astype(complex)), "predictions that is no tensor"),
    (lambda p: p(GOOD[:, 0]), r"predictions is of shape \(3,\), not of"),
    (lambda p: p(GOOD[:2]), r"predictions of shape \(2, 1\) for 3 queries"),
    (lambda p: p(GOOD * np.float64(1e300)), "predictions has numbers that float32 cannot hold"),
    (lambda p: p(GOOD + np.float32(np.nan)), "finite numbers.*predictions of shape"),
    (lambda p: p(GOOD, tensor_content=b"\0" * 7), "predictions that is no tensor"),
    (lambda p: p(GOOD, shape=[4, 1]), "predictions that is no tensor"),
    (lambda p: p(GOOD, shape=[-3, -1]), "predictions that is no tensor"),
    (
        lambda p: p(dtype=FLOAT, shape=[10**12, 1], float_val=[1.0]),
        "predictions that is no tensor: 1 values for 1000000000000",
    ),
    (lambda p: p(dtype=FLOAT, shape=[3, 1], float_val=[1.0, 2.0]), "no tensor: 2 values for 3"),
]


def test_tensors_of_every_type_by_grpc_are_answers_or_errors(grpc_liar):
    from tensorflow.core.framework import types_pb2

    metadata, predict = protos()
    client = Client(grpc_liar.address, "sine", timeout=5, retries=0)
    grpc_liar.metadata, read = metadata(), set()
    for name, dtype in types_pb2.DataType.items():
        for size in (1, 2, 4, 8):
            fields = {"dtype": dtype, "shape": [3, 1], "tensor_content": b"\x01" * 3 * size}
            grpc_liar.predict = predict(**fields)
            with contextlib.suppress(ServingError):
                assert client.predict(X).shape == (3, 1)
                read.add(name)
    assert {"DT_FLOAT", "DT_DOUBLE", "DT_HALF", "DT_BFLOAT16", "DT_INT32"} <= read


@pytest.mark.parametrize(("make", "message"), GRPC_ANSWERS)
def test_an_answer_by_grpc_that_is_none(grpc_liar, make, message):
    metadata, predict = protos()
    client = Client(grpc_liar.address, "sine", timeout=5, retries=0)
    grpc_liar.metadata, grpc_liar.predict = metadata(), make(predict)
    with pytest.raises(ServingError, match=message) as caught:
        client.predict(X)
    assert caught.value.code == "INTERNAL"
    grpc_liar.predict = predict(GOOD)
    np.testing.assert_array_equal(client.predict(X), GOOD)
    client.close()
    with pytest.raises(ValueError, match="Expected an open client"):
        client.predict(X)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: b"\xff\xff\xff\xff", "INTERNAL"),
        (lambda m: b"", "metadata without signature_def"),
        (lambda m: m(key="other"), "metadata without signature_def"),
        (lambda m: m(pack=False), "of another type"),
        (lambda m: m(value=b"\xff\xff\xff"), "metadata that cannot be read"),
        (lambda m: m(dtype=8), "query_x of the type 'DT_COMPLEX64'"),
        (lambda m: m(dtype=20), "query_x of the type 'DT_RESOURCE'"),
        (lambda m: m(dtype=101), "query_x of the type 'DT_FLOAT_REF'"),
        (lambda m: m(dtype=77), "query_x of the type 77"),
        (lambda m: m(size=-2), "query_x of the size -2"),
    ],
)
def test_metadata_by_grpc_that_is_none(grpc_liar, make, message):
    metadata, _ = protos()
    grpc_liar.metadata = make(metadata)
    with pytest.raises(ServingError, match=message) as caught:
        Client(grpc_liar.address, "sine", timeout=5, retries=0).predict(X)
    assert caught.value.code == "INTERNAL"
