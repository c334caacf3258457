"""What a file for LiteRT answers: as the learner, whatever stands behind the rows that count."""

import json

import keras
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import maml_tf
from tests.problems import compiled, dense_model
from tests.serving.litert.device import (
    SPARSE,
    convolutional,
    examples,
    expected,
    exported,
    layers,
)

few = settings(
    max_examples=12, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate]
)
SIZES = {"max_support": 25, "max_queries": 6}
TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def transductive(tmp_path_factory):
    """Queries are normalised by those that count."""
    learner = convolutional(inner_steps=2)
    folder = tmp_path_factory.mktemp("transductive")
    card = {"accuracy": 0.5}
    return learner, exported(learner, folder, **SIZES, max_inner_steps=4, card=card), folder


@pytest.fixture(scope="module")
def regression(tmp_path_factory):
    learner = compiled(maml_tf.models.sinusoid_mlp(), 0.05)
    return learner, exported(learner, tmp_path_factory.mktemp("regression"), **SIZES)


@few
@given(st.integers(1, 25), st.integers(1, 6), st.integers(0, 4), st.integers(0, 99))
def test_it_predicts_as_the_learner_for_any_sizes_and_steps(
    transductive, supports, queries, steps, seed
):
    learner, device, _ = transductive
    x, y = examples(learner, supports, seed)
    query_x, _ = examples(learner, queries, seed + 100)
    answer = device.adapt_and_predict(x, y, query_x, steps)
    np.testing.assert_allclose(answer, expected(learner, x, y, query_x, steps), **TOLERANCE)
    weights = device.adapt(x, y, steps)
    np.testing.assert_allclose(device.predict(weights, query_x), answer, rtol=1e-5, atol=1e-6)


@few
@given(st.integers(1, 25), st.integers(0, 20), st.integers(0, 99))
def test_regression(regression, supports, steps, seed):
    learner, device = regression
    x, y = examples(learner, supports, seed)
    query_x, _ = examples(learner, 3, seed + 100)
    answer = device.adapt_and_predict(x, y, query_x, steps)
    np.testing.assert_allclose(answer, expected(learner, x, y, query_x, steps), **TOLERANCE)


def test_more_steps_than_the_most_are_the_most(transductive):
    learner, device, _ = transductive
    x, y = examples(learner, 5)
    query_x, _ = examples(learner, 2, 1)
    most = device.adapt_and_predict(x, y, query_x, 4)
    np.testing.assert_array_equal(device.adapt_and_predict(x, y, query_x, 2**31 - 1), most)
    assert np.abs(device.adapt_and_predict(x, y, query_x, 3) - most).max() > 1e-3


def wrong(name, value):
    def change(request):
        request[name] = np.asarray(value, request[name].dtype)

    return change


def spoiled(name, value):
    def change(request):
        request[name][1] = value

    return change


WRONG = {
    "no support": wrong("support_count", 0),
    "support below 0": wrong("support_count", -1),
    "too much support": wrong("support_count", 26),
    "no query": wrong("query_count", 0),
    "too many queries": wrong("query_count", 7),
    "steps below 0": wrong("inner_steps", -1),
    "label too large": spoiled("support_y", 3),
    "label below 0": spoiled("support_y", -1),
    "NaN in support": spoiled("support_x", np.nan),
    "infinite support": spoiled("support_x", np.inf),
    "NaN in queries": spoiled("query_x", np.nan),
    "infinite queries": spoiled("query_x", -np.inf),
    "running away": spoiled("support_x", 1e38),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_answered_by_nan_and_harms_nothing(transductive, change):
    learner, device, _ = transductive
    x, y = examples(learner, 25)
    request = {
        "support_x": x,
        "support_y": y,
        "support_count": np.int32(5),
        "inner_steps": np.int32(2),
        "query_x": examples(learner, 6, 1)[0],
        "query_count": np.int32(3),
    }
    good = device.ask("adapt_and_predict", **request)["predictions"]
    bad = {name: np.copy(value) for name, value in request.items()}
    change(bad)
    assert np.isnan(device.ask("adapt_and_predict", **bad)["predictions"]).all()
    query = {name: bad.pop(name) for name in ("query_x", "query_count")}
    weights = device.ask("adapt", **bad)["weights"]
    assert np.isnan(device.ask("predict_with", weights=weights, **query)["predictions"]).all()
    np.testing.assert_array_equal(device.ask("adapt_and_predict", **request)["predictions"], good)


@pytest.mark.parametrize("shape", [(4, 6, 6, 2), (1, 6, 6, 2), (25, 5, 6, 2), (25, 1, 1, 1)])
def test_a_wrong_shape_is_an_error_of_the_runtime(transductive, shape):
    learner, device, _ = transductive
    x, y = examples(learner, 25)
    rest = {"support_count": np.int32(1), "inner_steps": np.int32(1)}
    good = device.ask("adapt", support_x=x, support_y=y, **rest)["weights"]
    with pytest.raises((RuntimeError, ValueError)):
        device.ask("adapt", support_x=np.zeros(shape, np.float32), support_y=y[: shape[0]], **rest)
    np.testing.assert_array_equal(
        device.ask("adapt", support_x=x, support_y=y, **rest)["weights"], good
    )


def test_a_wrong_dtype_is_an_error_of_the_runtime(transductive):
    learner, device, _ = transductive
    x, y = examples(learner, 25)
    rest = {"support_count": np.int32(1), "inner_steps": np.int32(1)}
    for wrong in ({"support_x": x.astype(np.float64)}, {"support_y": y.astype(np.int64)}):
        with pytest.raises(ValueError, match="Got value of type"):
            device.ask("adapt", **{"support_x": x, "support_y": y, **rest, **wrong})


def test_the_card_says_what_it_is_and_takes(transductive):
    learner, device, folder = transductive
    card = json.loads((folder / "learner.card.json").read_text())
    assert card["method"] == "MAML"
    assert card["bytes"] == device.size
    assert card["accuracy"] == 0.5
    assert (card["inner_steps"], card["max_inner_steps"], card["max_support"]) == (2, 4, 25)
    inputs = card["signatures"]["adapt"]["inputs"]
    assert inputs["support_x"] == {"dtype": "float32", "shape": [25, 6, 6, 2]}
    assert inputs["support_count"] == {"dtype": "int32", "shape": []}
    assert set(card["signatures"]) == set(device.signatures)
    text = (folder / "learner.md").read_text()
    assert 'Interpreter("learner.tflite")' in text
    assert "inner_steps=np.int32(2)" in text


@pytest.mark.parametrize("batch_norm", ["support", "moving"])
def test_batch_normalisation_of_another_kind(tmp_path, batch_norm):
    """`"support"` is what `learner.adapt` gives: for one query at a time."""
    learner = convolutional()
    settings = {"max_support": 6, "max_queries": 1}
    device = exported(learner, tmp_path, **settings, batch_norm=batch_norm)
    x, y = examples(learner, 4)
    query_x, _ = examples(learner, 1, 1)
    same = convolutional(batch_norm=batch_norm)
    same.set_weights(learner.get_weights())
    answer = device.adapt_and_predict(x, y, query_x, 2)
    np.testing.assert_allclose(answer, expected(same, x, y, query_x, 2), **TOLERANCE)
    if batch_norm == "support":
        mine = learner.adapt(x, y, inner_steps=2)
        np.testing.assert_allclose(answer, mine.predict(query_x, verbose=0), **TOLERANCE)
    card = json.loads((tmp_path / "learner.card.json").read_text())
    assert card["batch_norm"] == batch_norm


def embedding():
    return keras.Sequential(
        [
            keras.Input((5, 5, 1)),
            layers.Conv2D(4, 3, kernel_initializer=keras.initializers.HeNormal(1)),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
        ]
    )


def test_prototypes_of_up_to_so_many_classes(tmp_path):
    learner = maml_tf.Prototypical(embedding(), distance="cosine", learned_scale=True)
    learner.compile(loss=SPARSE)
    device = exported(learner, tmp_path, max_support=12, max_queries=4, max_ways=5)
    query_x, _ = examples(learner, 4, 1)
    for ways, number in ((2, 3), (5, 12), (1, 1)):
        x, y = examples(learner, number, ways, classes=ways)
        answer = device.adapt_and_predict(x, y, query_x)
        np.testing.assert_allclose(answer[:, :ways], expected(learner, x, y, query_x), **TOLERANCE)
        assert (answer[:, ways:] == np.finfo(np.float32).min).all()
        np.testing.assert_array_equal(device.predict(device.adapt(x, y), query_x), answer)
    x, y = examples(learner, 3)
    assert np.isnan(device.adapt_and_predict(x, y + np.int32(3), query_x)).all()
    assert "inner_steps" not in (tmp_path / "learner.card.json").read_text()


def test_prototypes_of_known_classes_want_all_of_them(tmp_path):
    learner = maml_tf.Prototypical(embedding(), ways=3, batch_norm="transductive")
    device = exported(learner, tmp_path, max_support=12, max_queries=4, precision="int8")
    plain = tmp_path / "plain"
    plain.mkdir()
    exact = exported(learner, plain, max_support=12, max_queries=4)
    x, y = examples(learner, 5)
    y = (np.arange(5) % 3).astype(np.int32)
    query_x, _ = examples(learner, 3, 1)
    wanted = expected(learner, x, y, query_x)
    np.testing.assert_allclose(exact.adapt_and_predict(x, y, query_x), wanted, **TOLERANCE)
    rounded = device.adapt_and_predict(x, y, query_x)
    np.testing.assert_allclose(rounded, wanted, rtol=0.1, atol=0.1)
    assert np.abs(rounded - wanted).max() > 1e-4
    assert np.isnan(exact.adapt_and_predict(x, np.minimum(y, 1), query_x)).all()


def test_weights_in_half_the_bytes(tmp_path):
    """What is adapted is float32 all the same; what it begins with is rounded."""
    learner = compiled(maml_tf.models.sinusoid_mlp(), 0.05)
    full = exported(learner, tmp_path, max_support=5, max_queries=2)
    half = exported(learner, tmp_path, max_support=5, max_queries=2, precision="float16")
    assert full.size - half.size > 2000
    x, y = examples(learner, 5)
    before = np.concatenate([np.ravel(w) for w in learner.model.get_weights()])
    rounded = half.adapt(x, y, 0)["weights"]
    np.testing.assert_array_equal(full.adapt(x, y, 0)["weights"], before)
    large = np.concatenate([np.full(w.size, w.size >= 32) for w in learner.model.get_weights()])
    np.testing.assert_array_equal(rounded, np.where(large, before.astype(np.float16), before))


def test_a_layer_that_cannot_go_is_named_before_anything_is_converted(tmp_path):
    larger = layers.Resizing(5, 5, interpolation="bicubic", name="larger")
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), layers.Conv2D(2, 1), larger, layers.Flatten(), layers.Dense(1)]
    )
    with pytest.raises(ValueError, match=r"(?s)larger.*bilinear") as error:
        exported(compiled(model), tmp_path, max_support=3, max_queries=1)
    assert len(str(error.value)) < 600
    assert not list(tmp_path.iterdir())


def test_a_recurrent_layer_in_a_loop_and_an_exact_gelu(tmp_path):
    memory = layers.GRU(3, kernel_initializer=keras.initializers.HeNormal(1))
    model = keras.Sequential([keras.Input((3, 2)), memory, layers.Dense(2, "gelu")])
    learner = compiled(model, 0.1)
    device = exported(learner, tmp_path, max_support=3, max_queries=2)
    assert not memory.unroll  # the model is as it was
    x, y = examples(learner, 3)
    for steps in (0, 2):
        answer = device.adapt_and_predict(x, y, x[:2], steps)
        wanted = expected(learner, x, y, x[:2], steps)
        np.testing.assert_allclose(answer, wanted, rtol=1e-5, atol=1e-6)


PLAIN = {"max_support": 3, "max_queries": 1}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"max_support": 0}, ValueError, "max_support"),
        ({"max_queries": 1.5}, TypeError, "max_queries"),
        ({"precision": "int4"}, ValueError, "precision"),
        ({"precision": "int8"}, ValueError, "adaptable"),
        ({"batch_norm": "layer"}, ValueError, "batch_norm"),
        ({"max_ways": 3}, ValueError, "no `max_ways`"),
        ({"inner_steps": 5, "max_inner_steps": 4}, ValueError, "at most `max_inner_steps`"),
        ({"card": {"bytes": 3}}, ValueError, "bytes"),
    ],
    ids=lambda value: "" if isinstance(value, type) else str(value),
)
def test_wrong_settings_are_refused_in_words(tmp_path, given, error, message):
    with pytest.raises(error, match=f"(?s)Expected.*{message}.*Received"):
        exported(compiled(dense_model()), tmp_path, **PLAIN | given)
    assert not list(tmp_path.iterdir())


def test_another_precision_is_refused_in_words(tmp_path, float64):
    with pytest.raises(ValueError, match="(?s)Expected a model that computes in float32.*float64"):
        exported(compiled(dense_model()), tmp_path, **PLAIN)


def test_wrong_paths_and_learners_are_refused_in_words(tmp_path):
    export, learner = maml_tf.serving.export_litert, compiled(dense_model())
    with pytest.raises(ValueError, match=r"ends in \.tflite"):
        export(learner, tmp_path / "model.keras", **PLAIN)
    with pytest.raises(FileNotFoundError, match="a folder that exists"):
        export(learner, tmp_path / "no" / "model.tflite", **PLAIN)
    with pytest.raises(TypeError, match=r"maml_tf\.Learner"):
        export(learner.model, tmp_path / "model.tflite", **PLAIN)
    free = maml_tf.Prototypical(dense_model())
    with pytest.raises(ValueError, match="max_ways"):
        export(free, tmp_path / "model.tflite", **PLAIN)
