"""Every wrong request to an export is an error that says what is wrong, and the next one is well.

Asked through the C API, as the server asks: what a session says is what a client reads.
"""

import re

import keras
import numpy as np
import pytest

import maml_tf
from tests.serving.test_export import steps, two_inputs
from tests.wrong_calls import check_message

MOST = {"max_inner_steps": 500, "max_support": 6, "max_queries": 8, "warm_up": False}
WEIGHTS = 4 * 5 + 6 * 4  # of `classifier`


def classifier():
    """3-5-4 with ReLU, whose rectifier would take NaN for 0, and four classes."""
    initial = [keras.initializers.GlorotNormal(seed=i) for i in range(2)]
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(5, "relu", kernel_initializer=initial[0]),
            keras.layers.Dense(4, kernel_initializer=initial[1]),
        ]
    )
    learner = maml_tf.MAML(model, 0.5)
    learner.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return learner


@pytest.fixture(scope="module")
def server(serve, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrong") / "classifier"
    return serve(maml_tf.serving.export(classifier(), folder, **MOST))


@pytest.fixture(scope="module")
def good(server):
    """A good request of each signature."""
    random = np.random.default_rng(0)
    x, query_x = random.normal(size=(2, 4, 3)).astype(np.float32)
    task = {"support_x": x, "support_y": np.arange(4, dtype=np.int32), "inner_steps": steps(2)}
    weights = server("adapt", **task)["weights"]
    rows = {**task, "query_x": query_x, "support_count": steps(4), "query_count": steps(4)}
    return {
        "adapt": task,
        "adapt_and_predict": {**task, "query_x": query_x},
        "predict_with": {"weights": weights, "query_x": query_x},
        "predict": {"query_x": query_x},
        "adapt_and_predict_tasks": {n: np.stack([a, a, a]) for n, a in rows.items()},
    }


def put(name, place, value):
    """A change of a request: `value` at a place of an input."""

    def changed(request):
        array = request[name].copy()
        array[place] = value
        return {**request, name: array}

    return changed


def cut(*names, to):
    """A change of a request: so many examples (or rows), repeated where there are fewer."""

    def changed(request):
        parts = {n: np.resize(request[n], (to, *request[n].shape[1:])) for n in names}
        return {**request, **parts}

    return changed


def narrower(*names, to):
    """A change of a request of rows: so many examples in each."""
    return lambda request: {**request, **{n: request[n][:, :to] for n in names}}


def of_type(name, dtype):
    return lambda request: {**request, name: request[name].astype(dtype)}


def reshaped(name, *shape):
    return lambda request: {**request, name: np.resize(request[name], shape)}


SUPPORT = ("support_x", "support_y")
OF_THE_SUPPORT = [
    (
        cut(*SUPPORT, to=0),
        r"at least one support example.*Received: examples in support_x = *\] \[0",
    ),
    (cut(*SUPPORT, to=7), r"at most 6 examples in support_x.*larger `max_support`.*\[7\]"),
    (put("support_y", 1, 4), r"labels from 0 to 3 in support_y.*Number the classes.*\[4\]"),
    (put("support_y", 0, -1), r"labels from 0 to 3 in support_y.*\[-1\]"),
    (cut("support_y", to=3), r"as many support_y as support_x.*one label for each.*\[3\] \[4\]"),
    (cut("support_y", to=5), r"as many support_y as support_x.*\[5\] \[4\]"),
    (put("support_x", (2, 1), np.nan), "finite numbers in support_x.*Leave out.*NaN"),
    (put("support_x", (2, 1), np.inf), "finite numbers in support_x.*Inf"),
    (reshaped("support_x", 4), r"support_x.*\[4\] is not compatible with expected shape \[\?,3\]"),
    (reshaped("support_x", 4, 2), r"support_x.*\[4,2\] is not compatible with .* \[\?,3\]"),
    (reshaped("support_y", 4, 1), r"support_y.*\[4,1\] is not compatible with .* \[\?\]"),
    (
        reshaped("inner_steps", 2),
        r"Expected inner_steps of shape \[\]. Give it that shape. Received.*\[2\]",
    ),
    (of_type("support_x", np.float64), "to be float but double is provided"),
    (of_type("support_y", np.float32), "to be int32 but float is provided"),
    (of_type("support_y", np.int64), "to be int32 but int64 is provided"),
    (of_type("inner_steps", np.float32), "to be int32 but float is provided"),
    (
        lambda r: {**r, "support_x": r["support_x"] * np.float32(1e20), "inner_steps": steps(300)},
        r"adaptation that stays finite.*fewer steps.*inner_steps = *\] \[300\]",
    ),
    *[
        (put("inner_steps", (), n), rf"inner_steps of at least 0.*inner_steps = *\] \[{n}\]")
        for n in (-1, -(2**31))
    ],
]
OF_THE_QUERIES = [
    (cut("query_x", to=0), r"at least one query.*Received: examples in query_x = *\] \[0\]"),
    (cut("query_x", to=9), r"at most 8 examples in query_x.*larger `max_queries`.*\[9\]"),
    (put("query_x", (0, 0), np.nan), "finite numbers in query_x.*NaN"),
    (put("query_x", (0, 0), -np.inf), "finite numbers in query_x.*Inf"),
    (reshaped("query_x", 4, 3, 1), r"query_x.*\[4,3,1\] is not compatible with .* \[\?,3\]"),
    (reshaped("query_x", 4, 4), r"query_x.*\[4,4\] is not compatible with .* \[\?,3\]"),
    (of_type("query_x", np.float64), "to be float but double is provided"),
]
OF_THE_WEIGHTS = [
    (cut("weights", to=7), rf"the {WEIGHTS} weights that `adapt` gave.*\[7\]"),
    (cut("weights", to=WEIGHTS + 1), rf"the {WEIGHTS} weights.*\[{WEIGHTS + 1}\]"),
    (cut("weights", to=0), rf"the {WEIGHTS} weights.*\[0\]"),
    (put("weights", 3, np.nan), "finite numbers in weights.*NaN"),
    (put("weights", 3, np.inf), "finite numbers in weights.*Inf"),
    (put("weights", slice(None), 3e38), "finite numbers in predictions"),
    (reshaped("weights", WEIGHTS, 1), r"weights.*is not compatible with expected shape \[\?\]"),
    (of_type("weights", np.float64), "to be float but double is provided"),
]
OF_THE_ROWS = [
    *[
        (
            cut(name, to=number),
            rf"as many tasks, one a row, in {name} as in support_x.*\[{number}\]",
        )
        for name in ("support_y", "query_x", "inner_steps", "support_count", "query_count")
        for number in (2, 4)
    ],
    (cut("support_x", to=2), r"as many tasks, one a row, in \w+ as in support_x.*\[3\] \[2\]"),
    (cut(*SUPPORT, "query_x", to=1), r"as many tasks, one a row, in \w+ as in support_x"),
    (cut("inner_steps", to=1), r"as many tasks, one a row, in inner_steps.*\[1\] \[3\]"),
    (lambda r: {n: a[:0] for n, a in r.items()}, "at least one task, a row"),
    (narrower("support_y", to=3), r"as many support examples in support_y.*support_count.*3\] \[4"),
    (narrower("support_x", to=2), r"as many support examples in support_y as in support_x"),
    (reshaped("support_x", 4, 3), r"support_x.*not compatible with expected shape \[\?,\?,3\]"),
    (reshaped("inner_steps", 3, 1), r"inner_steps.*not compatible with expected shape \[\?\]"),
    (reshaped("support_count"), r"support_count.*not compatible with expected shape \[\?\]"),
]
TABLE = [
    *[("adapt", *row) for row in OF_THE_SUPPORT],
    *[("adapt_and_predict", *row) for row in OF_THE_SUPPORT + OF_THE_QUERIES],
    *[("predict_with", *row) for row in OF_THE_WEIGHTS + OF_THE_QUERIES],
    *[("predict", *row) for row in OF_THE_QUERIES],
    *[("adapt_and_predict_tasks", *row) for row in OF_THE_ROWS],
]


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(("signature", "change", "message"), TABLE)
def test_a_wrong_request(server, good, signature, change, message):
    before = server(signature, **good[signature])
    with pytest.raises(RuntimeError, match=f"(?s){message}") as caught:
        server(signature, **change(good[signature]))
    if not re.search("is provided|not compatible", message):  # what TensorFlow itself says
        check_message(str(caught.value), [])
    for name, array in server(signature, **good[signature]).items():
        np.testing.assert_array_equal(array, before[name])


def test_not_a_number_is_found_wherever_it_stands_among_the_weights(server, good):
    """A rectifier takes NaN for 0, so that the answer alone would not tell."""
    request = good["predict_with"]
    for place in range(WEIGHTS):
        with pytest.raises(RuntimeError, match="finite numbers in weights"):
            server("predict_with", **put("weights", place, np.nan)(request))


@pytest.mark.parametrize(
    "change",
    [
        put("support_x", (1, 2, 0), np.nan),
        put("query_x", (1, 0, 0), np.inf),
        put("support_y", (1, 3), 4),
        put("support_y", (1, 3), -1),
        put("support_count", 1, 0),
        put("support_count", 1, 5),
        put("support_count", 1, -1),
        put("query_count", 1, 5),
        put("query_count", 1, -1),
        put("inner_steps", 1, -1),
        # It runs away.
        lambda r: put("inner_steps", 1, 300)(put("support_x", 1, 1e20)(r)),
    ],
)
def test_a_wrong_row_answers_nan_and_leaves_the_others_alone(server, good, change):
    request = good["adapt_and_predict_tasks"]
    right = server("adapt_and_predict_tasks", **request)["predictions"]
    answer = server("adapt_and_predict_tasks", **change(request))["predictions"]
    assert np.isnan(answer[1]).all()
    np.testing.assert_array_equal(answer[[0, 2]], right[[0, 2]])


def test_more_steps_than_the_limit_are_as_many_as_it(server, good):
    task, rows = good["adapt"], good["adapt_and_predict_tasks"]
    most, more = steps(500), steps(2**31 - 1)
    np.testing.assert_array_equal(
        server("adapt", **{**task, "inner_steps": more})["weights"],
        server("adapt", **{**task, "inner_steps": most})["weights"],
    )
    changed = put("inner_steps", 1, more)(rows), put("inner_steps", 1, most)(rows)
    answers = [server("adapt_and_predict_tasks", **r)["predictions"] for r in changed]
    np.testing.assert_array_equal(*answers)
    assert np.isfinite(answers[0]).all()


def test_a_row_of_more_examples_than_the_limit_answers_nan(server, good):
    wide = {
        name: np.concatenate([a] * 3, 1) if name in (*SUPPORT, "query_x") else a
        for name, a in good["adapt_and_predict_tasks"].items()
    }
    right = server("adapt_and_predict_tasks", **wide)["predictions"]
    assert np.isfinite(right).all()
    for name, value in (("support_count", 7), ("query_count", 9)):
        answer = server("adapt_and_predict_tasks", **put(name, 1, value)(wide))["predictions"]
        assert np.isnan(answer[1]).all()
        np.testing.assert_array_equal(answer[[0, 2]], right[[0, 2]])


def test_parts_of_several_inputs_that_differ_in_number(serve, tmp_path):
    learner, support_x, support_y, query_x = two_inputs()
    server = serve(maml_tf.serving.export(learner, tmp_path, warm_up=False))

    def numbered(part, x):
        return {f"{part}_{i}": a for i, a in enumerate(keras.tree.flatten(x))}

    task = {**numbered("support_x", support_x), "support_y": support_y, "inner_steps": steps(1)}
    task |= numbered("query_x", query_x)
    server("adapt_and_predict", **task)
    for name, message in {
        "support_x_1": "each part of support_x.*examples in support_x_1 and in support_x_0",
        "query_x_2": "each part of query_x.*examples in query_x_2 and in query_x_0",
    }.items():
        with pytest.raises(RuntimeError, match=f"(?s){message}"):
            server("adapt_and_predict", **cut(name, to=3)(task))
    rows = {name: a[np.newaxis] for name, a in task.items()}
    rows |= {"support_count": steps([5]), "query_count": steps([6])}
    with pytest.raises(RuntimeError, match="as many support examples in support_x_1"):
        server("adapt_and_predict_tasks", **narrower("support_x_1", to=3)(rows))


def test_queries_of_another_number_than_said(serve, tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    learner = maml_tf.MAML(model, 0.1)
    learner.compile(loss="mse")
    server = serve(maml_tf.serving.export(learner, tmp_path, warm_up=False))
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert server("predict", query_x=x, query_count=steps(4))["predictions"].shape == (4, 3)
    with pytest.raises(RuntimeError, match=r"(?s)number of examples in `query_x`.*\[5\] \[4\]"):
        server("predict", query_x=x, query_count=steps(5))
