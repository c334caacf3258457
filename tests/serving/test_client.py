"""The client over real gRPC and real REST, to a stand-in in front of the C API."""

import concurrent.futures
import pathlib
import sys

import keras
import numpy as np
import pytest

import maml_tf
from maml_tf.serving import Client, ServingError, connection

pytest.importorskip("tensorflow_serving")
SAVED = pathlib.Path(__file__).parents[2] / "saved_models"


@pytest.fixture(scope="module")
def server():
    from tests.serving.stand_in import StandIn

    stand_in = StandIn(SAVED / "sinusoid" / "1", "sine")
    yield stand_in
    stand_in.close()


@pytest.fixture(params=["grpc", "rest"])
def connected(server, request):
    made = Client(getattr(server, request.param), "sine", timeout=20)
    yield made
    made.close()


@pytest.fixture(scope="module")
def tasks():
    inputs, _ = next(iter(maml_tf.tasks.sinusoid(meta_batch=8)[2]))
    return [{name: part[i].numpy() for name, part in inputs.items()} for i in range(8)]


@pytest.fixture(scope="module")
def expected(tasks):
    learner = keras.saving.load_model(SAVED / "sinusoid" / "learner.keras")
    batch = {name: np.stack([task[name] for task in tasks]) for name in tasks[0]}
    return learner.predict_path(batch, 5).numpy()


def test_adapting_once_and_predicting_as_often_as_one_likes(connected, tasks, expected):
    for task, path in zip(tasks[:3], expected, strict=False):
        handle = connected.adapt(task["support_x"], task["support_y"], inner_steps=5)
        assert handle.weights.shape == (1761,)
        np.testing.assert_allclose(handle.predict(task["query_x"]), path[5], rtol=1e-5, atol=1e-5)
        one = handle.predict(task["query_x"][:1])
        np.testing.assert_allclose(one, path[5][:1], rtol=1e-5, atol=1e-5)


def test_at_once_and_without_adapting(connected, tasks, expected):
    task = tasks[0]
    at_once = connected.adapt_and_predict(
        task["support_x"], task["support_y"], task["query_x"], inner_steps=2
    )
    np.testing.assert_allclose(at_once, expected[0, 2], rtol=1e-5, atol=1e-5)
    before = connected.predict(task["query_x"])
    np.testing.assert_allclose(before, expected[0, 0], rtol=1e-5, atol=1e-5)


def test_numbers_of_other_types_and_lists_are_cast(connected, tasks, expected):
    task = tasks[0]
    handle = connected.adapt(
        task["support_x"].astype(np.float64), task["support_y"].tolist(), np.int64(5)
    )
    answer = handle.predict(task["query_x"].tolist())
    np.testing.assert_allclose(answer, expected[0, 5], rtol=1e-5, atol=1e-5)


def test_numbers_are_never_cast_to_others(connected, tasks):
    task = tasks[0]
    with pytest.raises(
        TypeError, match=r"Expected `inner_steps` to be an integer.*inner_steps=2\.9"
    ):
        connected.adapt(task["support_x"], task["support_y"], 2.9)
    with pytest.raises(ValueError, match="numbers that float32 can hold.*1e"):
        connected.adapt(task["support_x"], np.full(task["support_y"].shape, 1e300), 1)


def test_steps_that_are_left_out(server, tasks, expected):
    task = tasks[0]
    arguments = task["support_x"], task["support_y"], task["query_x"]
    answer = Client(server.grpc, "sine").adapt_and_predict(*arguments)
    np.testing.assert_allclose(answer, expected[0, 1], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="REST requests name every input"):
        Client(server.rest, "sine").adapt_and_predict(*arguments)


def test_errors_repeat_what_the_server_said(connected, tasks):
    x, y = tasks[0]["support_x"], tasks[0]["support_y"]
    with pytest.raises(ServingError, match="as many support_y as support_x") as caught:
        connected.adapt(x, y[:2], 1)
    assert caught.value.code in ("INVALID_ARGUMENT", "400")
    assert np.isfinite(connected.predict(x)).all()


def test_no_support_example(server, tasks):
    """JSON does not keep the shape of an empty array: the client says what the server cannot."""
    x, y = tasks[0]["support_x"], tasks[0]["support_y"]
    with pytest.raises(ServingError, match="at least one support example") as caught:
        Client(server.grpc, "sine").adapt(x[:0], y[:0], 1)
    assert caught.value.code == "INVALID_ARGUMENT"
    with pytest.raises(ValueError, match="`support_x` with at least one example: JSON"):
        Client(server.rest, "sine").adapt(x[:0], y[:0], 1)


def test_an_unknown_model(server, tasks):
    for address in (server.grpc, server.rest):
        with pytest.raises(ServingError, match="Servable not found") as caught:
            Client(address, "cosine").predict(tasks[0]["query_x"])
        assert caught.value.code in ("NOT_FOUND", "404")


def test_it_tries_again_while_the_server_is_unavailable(server, connected, tasks, monkeypatch):
    monkeypatch.setattr(connection, "_FIRST_WAIT", 0.01)
    connected.predict(tasks[0]["query_x"])
    server.unavailable = 3
    assert connected.predict(tasks[0]["query_x"]).shape == (100, 1)
    server.unavailable = 4
    with pytest.raises(ServingError, match="busy loading"):
        connected.predict(tasks[0]["query_x"])
    server.unavailable = 0


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_nobody_there(protocol):
    address = {"grpc": "localhost:1", "rest": "http://localhost:1"}[protocol]
    with pytest.raises(ServingError) as caught:
        Client(address, "sine", retries=0, timeout=5).predict(np.zeros([1, 1]))
    assert caught.value.code == "UNAVAILABLE"


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_server_that_hangs(server, tasks, protocol):
    """However slow this machine is: it hangs until the client has given up."""
    hasty, before = Client(getattr(server, protocol), "sine", timeout=0.5), server.hung
    with server.hanging(), pytest.raises(ServingError) as caught:
        hasty.predict(tasks[0]["query_x"])
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert server.hung == before + 1  # it does not ask again


def test_a_thousand_requests_of_eight_clients_are_answered_as_one_after_another(server, tasks):
    clients = [Client(server.grpc, "sine", timeout=60) for _ in range(8)]

    def ask(number):
        task = tasks[number % 8]
        return clients[number // 125].adapt_and_predict(
            task["support_x"], task["support_y"], task["query_x"], inner_steps=1 + number % 5
        )

    alone = [ask(number) for number in range(40)]  # every task with every number of steps
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, range(1000)))
    for number, answer in enumerate(together):
        np.testing.assert_array_equal(answer, alone[number % 40])


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.raises(ImportError, match=r'pip install "maml_tf\[serving\]"'):
        Client("localhost:8500", "sine")


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_a_model_without_steps_whose_prototypes_keep_their_shape(kind, tmp_path):
    from tests.serving.stand_in import StandIn

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    learner = maml_tf.Prototypical(model)
    path = maml_tf.serving.export(learner, tmp_path, support_weight=True)
    x = np.random.default_rng(0).normal(size=[8, 3]).astype("float32")
    y, weight = np.array([0, 1, 2, 0, 1, 2, 0, 0]), np.array([1.0] * 6 + [0.0] * 2)
    expected = learner.adapt(x[:6], y[:6])(x).numpy()
    server = StandIn(path, "prototypes")
    client = Client(getattr(server, kind), "prototypes", timeout=20)
    try:
        handle = client.adapt(x[:6], y[:6])
        assert handle.weights.shape == (3, 4)
        answers = [
            handle.predict(x),
            client.adapt(x, y, support_weight=weight).predict(x),
            client.adapt_and_predict(x[:6], y[:6], x),
        ]
        for answer in answers:
            np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-5)
        with pytest.raises(ValueError, match="adapts without steps. Received: inner_steps=1"):
            client.adapt(x, y, inner_steps=1)
        with pytest.raises(ServingError, match="number the classes of a task from 0"):
            client.adapt(x[:2], [0, 2])
    finally:
        client.close()
        server.close()
