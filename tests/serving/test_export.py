"""Exports answer through the C API, with no TensorFlow Python, as the learner does."""

import json
import os
import pathlib
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.serving import warmup
from tests.problems import compiled, dense_model
from tests.serving.c_api import Server

SAVED = pathlib.Path(__file__).parents[2] / "saved_models"


def steps(number):
    return np.array(number, np.int32)


@pytest.fixture(scope="module")
def sine():
    learner = keras.saving.load_model(SAVED / "sinusoid" / "learner.keras")
    inputs, _ = next(iter(maml_tf.tasks.sinusoid(meta_batch=3)[2]))
    return learner, tf.nest.map_structure(lambda t: t.numpy(), inputs)


@pytest.fixture(scope="module")
def drawings():
    """The trained Omniglot learner, and a task of random strokes."""
    learner = keras.saving.load_model(SAVED / "omniglot" / "learner.keras")
    random = np.random.default_rng(0)
    strokes = (random.random((5, 28, 28, 1)) < 0.1).astype(np.float32)
    query_x = np.clip(strokes + (random.random((10, 5, 28, 28, 1)) < 0.02), 0, 1)
    task = {"support_x": strokes, "support_y": np.arange(5, dtype=np.int32)}
    return learner, {**task, "query_x": query_x.reshape(50, 28, 28, 1).astype(np.float32)}


def task_of(inputs, index):
    return {name: part[index] for name, part in inputs.items()}


def test_the_process_has_no_tensorflow_python(serve):
    modules = serve(SAVED / "sinusoid" / "1").modules
    assert "numpy" in modules
    assert not [name for name in modules if name.split(".")[0] in ("tensorflow", "keras")]


@pytest.mark.parametrize("number", [0, 1, 5, 10])
def test_sine_predictions_are_the_learners(serve, sine, number):
    learner, inputs = sine
    expected = learner.predict_path(inputs, number).numpy()[:, -1]
    server = serve(SAVED / "sinusoid" / "1")
    for i, y in enumerate(expected):
        task = task_of(inputs, i)
        answer = server("serving_default", **task, inner_steps=steps(number))["predictions"]
        np.testing.assert_allclose(answer, y, rtol=1e-5, atol=1e-5)
        same = server("adapt_and_predict", **task, inner_steps=steps(number))["predictions"]
        np.testing.assert_array_equal(same, answer)


def test_convolutional_predictions_are_the_learners(serve, drawings):
    learner, task = drawings
    batch = {name: part[np.newaxis] for name, part in task.items()}
    expected = learner.predict_path(batch, 1).numpy()[0]
    server = serve(SAVED / "omniglot" / "1")
    answer = server("serving_default", **task, inner_steps=steps(1))["predictions"]
    np.testing.assert_allclose(answer, expected[1], rtol=1e-5, atol=1e-5)
    answer = server("predict", query_x=task["query_x"], query_count=steps(50))["predictions"]
    np.testing.assert_allclose(answer, expected[0], rtol=1e-5, atol=1e-5)


def test_predictions_that_depend_on_each_other_cannot_be_put_together(serve, drawings, sine):
    """As the batching of the server would: along the first axis of what has one."""
    _, task = drawings
    server = serve(SAVED / "omniglot" / "1")
    query_x = np.concatenate([task["query_x"], task["query_x"]])
    with pytest.raises(RuntimeError, match="number of examples"):
        server("predict", query_x=query_x, query_count=steps(50))
    known = server.signatures["predict"].inputs
    assert not known["query_count"].tensor_shape.dim  # no axis to put together along
    # Rows of the sine model do not see each other: together they are what each is alone.
    server = serve(SAVED / "sinusoid" / "1")
    assert set(server.signatures["predict"].inputs) == {"query_x"}
    x = sine[1]["query_x"]
    alone = [server("predict", query_x=part)["predictions"] for part in x[:2]]
    together = server("predict", query_x=np.concatenate(x[:2]))["predictions"]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-6, atol=1e-6)


def two_inputs():
    """A learner of a model with an image, a token and a length as inputs."""
    image = keras.Input((4, 4, 1), dtype="uint8", name="image")
    token = keras.Input((3,), dtype="int32", name="token")
    length = keras.Input((1,), name="length")
    pixels = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
    words = keras.layers.Flatten()(keras.layers.Embedding(7, 4)(token))
    joined = keras.layers.Concatenate()([pixels, words, length])
    outputs = keras.layers.Dense(2)(keras.layers.Dense(8, "tanh")(joined))
    inputs = {"image": image, "length": length, "token": token}
    learner = maml_tf.MAML(keras.Model(inputs, outputs), 0.1)
    learner.compile(loss="mean_squared_error")
    random = np.random.default_rng(0)

    def x(number):
        return {
            "image": random.integers(0, 256, (number, 4, 4, 1)).astype(np.uint8),
            "length": random.random((number, 1)).astype(np.float32),
            "token": random.integers(0, 7, (number, 3)).astype(np.int32),
        }

    y = random.random((5, 2)).astype(np.float32)
    return learner, x(5), y, x(6)


def float64_one_hot():
    """A float64 classifier with labels as one-hot vectors."""
    model = keras.Sequential(
        [keras.Input((3,), dtype="float64"), keras.layers.Dense(4, dtype="float64")]
    )
    learner = maml_tf.MAML(model, 0.1)
    learner.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    random = np.random.default_rng(1)
    y = np.eye(4, dtype=np.float64)[random.integers(0, 4, 6)]
    return learner, random.random((6, 3)), y, random.random((5, 3))


@pytest.mark.parametrize("make", [two_inputs, float64_one_hot])
def test_several_inputs_and_other_types(serve, tmp_path, make):
    learner, support_x, support_y, query_x = make()
    server = serve(maml_tf.serving.export(learner, tmp_path / "model"))

    def entries(part, x):
        flat = keras.tree.flatten(x)
        return {f"{part}_{i}": a for i, a in enumerate(flat)} if flat[1:] else {part: flat[0]}

    support = entries("support_x", support_x) | {"support_y": support_y}
    query = entries("query_x", query_x)
    expected = np.asarray(learner.adapt(support_x, support_y, inner_steps=3).predict(query_x))
    at_once = server("adapt_and_predict", **support, **query, inner_steps=steps(3))
    np.testing.assert_allclose(at_once["predictions"], expected, rtol=1e-5, atol=1e-5)
    weights = server("adapt", **support, inner_steps=steps(3))["weights"]
    later = server("predict_with", weights=weights, **query)
    np.testing.assert_array_equal(later["predictions"], at_once["predictions"])
    initial = np.asarray(learner.model.predict(query_x, verbose=0))
    np.testing.assert_allclose(server("predict", **query)["predictions"], initial, rtol=1e-5)
    counts = {
        "support_count": steps([len(support_y)] * 2),
        "query_count": steps([len(expected)] * 2),
    }
    rows = {name: np.stack([a, a]) for name, a in {**support, **query}.items()}
    tasks = server("adapt_and_predict_tasks", **rows, **counts, inner_steps=steps([3, 3]))
    np.testing.assert_allclose(tasks["predictions"][1], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_adapting_once_and_predicting_later_is_the_same_bit_for_bit(serve, drawings, number):
    _, task = drawings
    server = serve(SAVED / "omniglot" / "1")
    at_once = server("adapt_and_predict", **task, inner_steps=steps(number))["predictions"]
    query_x = task.pop("query_x") if "query_x" in task else None
    weights = server("adapt", **task, inner_steps=steps(number))["weights"]
    task["query_x"] = query_x
    later = server("predict_with", weights=weights, query_x=query_x)["predictions"]
    np.testing.assert_array_equal(later, at_once)


@pytest.mark.omniglot
def test_held_out_characters_through_the_c_api(serve, omniglot_dir):
    """200 of the tasks that the card's accuracy was measured on: within both intervals of it."""
    _, _, test = maml_tf.tasks.omniglot(meta_batch=1, test_tasks=200, data_dir=omniglot_dir)
    server = serve(SAVED / "omniglot" / "1")
    right = []
    for inputs, query_y in test.as_numpy_iterator():
        answer = server("serving_default", **task_of(inputs, 0), inner_steps=steps(1))
        right.append(np.mean(answer["predictions"].argmax(-1) == query_y[0]))
    interval = 1.96 * np.std(right) / np.sqrt(len(right))
    assert abs(np.mean(right) - 0.9903) < 0.0039 + interval


def test_more_steps_than_the_most_are_as_many_as_the_most(serve, sine, tmp_path):
    learner, inputs = sine
    folder = maml_tf.serving.export(learner, tmp_path, max_inner_steps=7)
    server, task = serve(folder), task_of(inputs, 0)

    def answer(number):
        return server("serving_default", **task, inner_steps=steps(number))["predictions"]

    np.testing.assert_array_equal(answer(2_000_000_000), answer(7))
    assert np.isfinite(answer(0)).all()
    with pytest.raises(RuntimeError, match="inner_steps of at least 0"):
        answer(-1)
    assert np.abs(answer(7) - answer(6)).max() > 1e-6


def test_requests_by_grpc_may_leave_the_steps_out(sine, tmp_path):
    folder = maml_tf.serving.export(sine[0], tmp_path, inner_steps=4)
    server = Server(folder)
    server.close()
    for name in ("serving_default", "adapt_and_predict", "adapt"):
        default = server.signatures[name].defaults["inner_steps"]
        assert int(tf.make_ndarray(default)) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {**t, "support_x": t["support_x"][:0], "support_y": t["support_y"][:0]}, "one"),
        (lambda t: {**t, "support_y": t["support_y"] + 3}, "labels from 0 to 4"),
        (lambda t: {**t, "support_y": t["support_y"] - 1}, "labels from 0 to 4"),
        (lambda t: {**t, "support_y": t["support_y"][:3]}, "as many support_y as support_x"),
        (lambda t: {**t, "support_x": t["support_x"] * np.float32("nan")}, "in support_x"),
        (lambda t: {**t, "query_x": t["query_x"] / np.float32(0)}, "finite numbers in query_x"),
        (lambda t: {**t, "query_x": t["query_x"][0]}, r"shape|rank"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_wrong_request_is_an_error_and_the_next_one_is_unharmed(serve, drawings, change, message):
    _, task = drawings
    server = serve(SAVED / "omniglot" / "1")
    before = server("serving_default", **task, inner_steps=steps(1))["predictions"]
    with pytest.raises(RuntimeError, match=message):
        server("serving_default", **change(task), inner_steps=steps(1))
    after = server("serving_default", **task, inner_steps=steps(1))["predictions"]
    np.testing.assert_array_equal(after, before)


def test_weights_of_another_model_are_refused(serve, drawings):
    server = serve(SAVED / "omniglot" / "1")
    with pytest.raises(RuntimeError, match="Expected the 112517 weights"):
        server("predict_with", weights=np.zeros(7, np.float32), query_x=drawings[1]["query_x"])


def test_rows_of_tasks_are_apart_and_a_wrong_row_answers_nan(serve, drawings):
    _, task = drawings
    server = serve(SAVED / "omniglot" / "1")
    alone = server("adapt_and_predict", **task, inner_steps=steps(2))["predictions"]
    few = {name: part[:4] for name, part in task.items()}
    alone_few = server("adapt_and_predict", **few, inner_steps=steps(1))["predictions"]

    def rows(part, *others):
        return np.stack([part, *others])

    bad = task["support_x"].copy()
    bad[2, 3, 3] = np.nan
    x, y, query = (task[name] for name in ("support_x", "support_y", "query_x"))
    answer = server(
        "adapt_and_predict_tasks",
        support_x=rows(x, x, bad, x, x),
        support_y=rows(y, y, y, y + 1, y),
        query_x=rows(*[query] * 5),
        inner_steps=np.array([2, 1, 1, 1, 1], np.int32),
        support_count=np.array([5, 4, 5, 5, 0], np.int32),
        query_count=np.array([50, 4, 50, 50, 50], np.int32),
    )["predictions"]
    np.testing.assert_allclose(answer[0], alone, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(answer[1, :4], alone_few, rtol=1e-5, atol=1e-5)
    assert not answer[1, 4:].any()
    assert np.isnan(answer[2:]).all()


@pytest.mark.parametrize("batch_norm", ["transductive", "support", "moving"])
def test_every_way_of_normalising_is_exported(serve, tmp_path, batch_norm):
    learner = maml_tf.MAML(maml_tf.models.conv4(3, filters=4), 0.4, 2, batch_norm=batch_norm)
    learner.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for layer in learner.model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign_add(np.full(4, 0.1))
    random = np.random.default_rng(0)
    x, query_x = random.random((2, 6, 28, 28, 1), np.float32)
    task = {"support_x": x, "support_y": np.arange(6, dtype=np.int32) % 3, "query_x": query_x}
    expected = learner.predict_path({n: p[np.newaxis] for n, p in task.items()}, 2).numpy()[0, -1]
    server = serve(maml_tf.serving.export(learner, tmp_path))
    answer = server("serving_default", **task, inner_steps=steps(2))["predictions"]
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)
    weights = server(
        "adapt", **{k: task[k] for k in ("support_x", "support_y")}, inner_steps=steps(2)
    )
    one = server("predict_with", query_x=query_x[:1], **weights)["predictions"]
    # Only where a prediction does not depend on the other queries is it the same by itself.
    same = np.allclose(one, answer[:1], rtol=1e-4, atol=1e-5)
    assert same == (batch_norm != "transductive")


def test_versions_are_written_whole_and_never_over_another(tmp_path):
    learner = compiled(dense_model())
    assert maml_tf.serving.export(learner, tmp_path).name == "1"
    assert maml_tf.serving.export(learner, tmp_path, version=7).name == "7"
    assert maml_tf.serving.export(learner, tmp_path).name == "8"
    assert sorted(os.listdir(tmp_path)) == ["1", "7", "8"]
    assert (tmp_path / "8").stat().st_mode & 0o055 == 0o055  # readable by the server's user
    with pytest.raises(FileExistsError, match="version=7"):
        maml_tf.serving.export(learner, tmp_path, version=7)
    with pytest.raises(ValueError, match="inner_steps=9 and max_inner_steps=3"):
        maml_tf.serving.export(learner, tmp_path, inner_steps=9, max_inner_steps=3)


def test_warm_up_requests_of_every_signature_are_answered(serve, tmp_path):
    """Read back as the server reads them, and given to the session."""
    prediction_log_pb2 = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    learner = keras.saving.load_model(SAVED / "omniglot" / "learner.keras")
    folder = maml_tf.serving.export(learner, tmp_path)
    records = tf.data.TFRecordDataset(str(folder / warmup.FILE)).as_numpy_iterator()
    asked = set()
    for record in records:
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        asked.add(request.model_spec.signature_name)
        inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        for array in serve(folder)(request.model_spec.signature_name, **inputs).values():
            assert np.isfinite(array).all()
    assert asked == set(serve(folder).signatures) - {"__saved_model_init_op"}


def test_without_the_package_of_the_requests(sine, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.raises(ImportError, match=r'pip install "maml_tf\[serving\]"'):
        maml_tf.serving.export(sine[0], tmp_path, warm_up=True)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(warmup, "is_possible", lambda: False)
    folder = maml_tf.serving.export(sine[0], tmp_path)
    assert not (folder / warmup.FILE).exists()


def test_the_card_says_what_the_signatures_take_and_how_to_ask(serve, sine, tmp_path):
    """Its REST example is answered as it stands, and its gRPC example is Python."""
    learner, _ = sine
    facts = {"data": "sine waves", "accuracy": {"mean": 0.7, "interval": 0.02}, "commit": "abc"}
    folder = maml_tf.serving.export(learner, tmp_path / "waves", inner_steps=3, card=facts)
    card = json.loads((folder / "card.json").read_text())
    assert {name: card[name] for name in facts} == facts
    assert (card["name"], card["parameters"], card["inner_steps"]) == ("waves", 1761, 3)
    signature = card["signatures"]["adapt"]
    assert signature["inputs"]["support_x"] == {"dtype": "float32", "shape": [-1, 1]}
    assert signature["inputs"]["inner_steps"] == {"dtype": "int32", "shape": []}
    assert signature["outputs"] == {"weights": {"dtype": "float32", "shape": [1761]}}

    readme = (folder / "README.md").read_text()
    body = json.loads(readme.split("curl -d '")[1].split("'")[0])
    known = serve(folder).signatures[body["signature_name"]].inputs
    inputs = {
        name: np.array(value, tf.as_dtype(known[name].dtype).as_numpy_dtype)
        for name, value in body["inputs"].items()
    }
    answer = serve(folder)(body["signature_name"], **inputs)
    assert answer["predictions"].shape == (1, 1)
    code = textwrap.dedent(readme.split("tensorflow-serving-api:\n\n")[1])
    compile(code, "README.md", "exec")
    for name in inputs:
        assert f'request.inputs["{name}"]' in code


def test_the_rest_example_of_images_is_shortened(drawings, tmp_path):
    folder = maml_tf.serving.export(drawings[0], tmp_path, warm_up=False)
    readme = (folder / "README.md").read_text()
    assert '"support_x": [...]' in readme
    assert len(readme) < 6000


def test_adaptation_is_traced_once_for_each_signature(tmp_path):
    class Traced(maml_tf.MAML):
        traces = 0

        def adapt_task(self, *args, **kwargs):
            self.traces += 1
            return super().adapt_task(*args, **kwargs)

    learner = Traced(dense_model(), 0.1)
    learner.compile(loss="mse")
    maml_tf.serving.export(learner, tmp_path, warm_up=False)
    assert learner.traces == 3  # adapt, adapt_and_predict and that for tasks
