"""What `compile` and the weights, queries and examples of a call may not be; several outputs."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.learners.base import output_losses
from tests.problems import compiled, dense_model, layers, task_batch
from tests.wrong_calls import Wrong, check

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
INPUTS, QUERY_Y = task_batch()
X, Y = INPUTS["support_x"][0].numpy(), INPUTS["support_y"][0].numpy()


@pytest.fixture(scope="module")
def learner():
    return compiled(dense_model(), 0.1)


def fresh(model=None, **settings):
    made_one = maml_tf.MAML(model or dense_model(), 0.1)
    made_one.compile(**{"optimizer": "sgd", "loss": "mse", **settings})
    return made_one


def unchanged(learner, wrong):
    """Checks a wrong call of a learner, and that it assigns nothing."""
    before = learner.model.get_weights()
    call = wrong.call
    check(Wrong(lambda: call(learner), wrong.error, *wrong.fragments, id=wrong.id))
    for one, other in zip(learner.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


INNER = maml_tf.inner_optimizers.SGD(0.1)
STEPS, NO_LOSS = "`steps_per_execution`", "`inner_loss`"
COMPILE = [
    Wrong(lambda: fresh(steps_per_execution=-2), ValueError, STEPS, "steps_per_execution=-2"),
    Wrong(lambda: fresh(steps_per_execution=0), ValueError, STEPS, "steps_per_execution=0"),
    Wrong(lambda: fresh(steps_per_execution=1.5), TypeError, STEPS, "steps_per_execution=1.5"),
    Wrong(lambda: fresh(jit_compile="yes"), TypeError, "`jit_compile`", "jit_compile='yes'"),
    Wrong(lambda: fresh(jit_compile="auto"), ValueError, "`jit_compile`", "jit_compile='auto'"),
    Wrong(lambda: fresh(run_eagerly="no"), TypeError, "`run_eagerly`", "run_eagerly='no'"),
    Wrong(lambda: fresh(auto_scale_loss="no"), TypeError, "`auto_scale_loss`", "='no'"),
    Wrong(lambda: fresh(inner_loss="msee"), ValueError, NO_LOSS, "inner_loss='msee'"),
    Wrong(lambda: fresh(inner_loss={"a": "mse"}), ValueError, NO_LOSS, "inner_loss={'a': 'mse'}"),
    Wrong(lambda: fresh(inner_loss=["mse"]), ValueError, NO_LOSS, "inner_loss=['mse']"),
    Wrong(lambda: fresh(inner_loss=5), TypeError, NO_LOSS, "inner_loss=5"),
    Wrong(lambda: fresh(optimizer=INNER), TypeError, "`optimizer`", "of type SGD", "MAML(model"),
]


@pytest.mark.parametrize("wrong", COMPILE, ids=str)
def test_wrong_settings_of_compile_are_explained(wrong):
    check(wrong)


def test_inner_loss_may_be_a_configuration():
    config = keras.losses.serialize(SPARSE)
    learner = fresh(loss=SPARSE, inner_loss=config)
    assert output_losses.is_sparse(learner._inner_loss_config)


# Weights of queries: T = 2, Q = 3.

NAN = np.array([1.0, np.nan])
WEIGHTS = {
    "[Q]": (np.ones(3), ValueError, "(3,)"),
    "[T + 1, Q]": (np.ones([3, 3]), ValueError, "(3, 3)"),
    "[T, 7]": (np.ones([2, 7]), ValueError, "(2, 7)"),
    "[T, 1]": (np.ones([2, 1]), ValueError, "(2, 1)"),
    "[]": (np.float32(1.0), ValueError, "()"),
    "[T, Q, 7]": (np.ones([2, 3, 7]), ValueError, "(2, 3, 7)"),
    "list": ([[1.0] * 3] * 2, TypeError, "sample_weight=[[1.0"),
    "text": ("balanced", TypeError, "sample_weight='balanced'"),
    "strings": (np.array([["a"] * 3] * 2), TypeError, "<U1"),
    "NaN": (NAN, ValueError, "NaN"),
    "-NaN": (-NAN, ValueError, "NaN"),
    "infinite": (tf.constant([1.0, np.inf]), ValueError, "infinite"),
    "too many": ([np.ones([2, 3])] * 2, ValueError, "2 arrays"),
}
WEIGHED = {
    "fit": lambda m, w: m.fit(INPUTS, QUERY_Y, sample_weight=w, verbose=0),
    "evaluate": lambda m, w: m.evaluate(INPUTS, QUERY_Y, sample_weight=w, verbose=0),
    "train_on_batch": lambda m, w: m.train_on_batch(INPUTS, QUERY_Y, w),
    "test_on_batch": lambda m, w: m.test_on_batch(INPUTS, QUERY_Y, w),
    "validation": lambda m, w: m.fit(
        INPUTS, QUERY_Y, validation_data=(INPUTS, QUERY_Y, w), verbose=0
    ),
}


@pytest.mark.parametrize("use", WEIGHED)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_wrong_weights_are_explained(learner, use, kind):
    weight, error, shown = WEIGHTS[kind]
    unchanged(
        learner,
        Wrong(lambda m: WEIGHED[use](m, weight), error, "`sample_weight`", shown),
    )


@pytest.mark.parametrize("use", ["fit", "evaluate"])
@pytest.mark.parametrize("kind", ["[Q]", "[T, 7]", "NaN"])
def test_wrong_weights_in_a_data_set_are_explained(learner, use, kind):
    weight, error, shown = WEIGHTS[kind]
    data = tf.data.Dataset.from_tensors((INPUTS, QUERY_Y, weight))
    call = Wrong(lambda m: getattr(m, use)(data, verbose=0), error, "`sample_weight`", shown)
    unchanged(learner, call)


def test_wrong_weights_that_a_generator_makes_are_explained(learner):
    def batches():
        yield INPUTS, QUERY_Y, np.ones([2, 7], "float32")

    wrong = Wrong(lambda m: m.fit(batches(), verbose=0), ValueError, "`sample_weight`", "labels")
    unchanged(learner, wrong)


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 1)])
@pytest.mark.parametrize("use", WEIGHED)
def test_right_weights_are_taken(learner, use, shape):
    WEIGHED[use](learner, np.ones(shape, "float32"))


def test_weights_of_steps_are_taken():
    inputs, query_y = task_batch((4, 3), (4, 2))
    model = keras.Sequential([keras.Input((4, 3)), layers.Dense(2)])
    learner = fresh(model)
    learner.train_on_batch(inputs, query_y, np.ones([2, 3, 4], "float32"))
    wrong = np.ones([2, 3, 5], "float32")
    unchanged(
        learner,
        Wrong(lambda m: m.train_on_batch(inputs, query_y, wrong), ValueError, "(2, 3, 5)"),
    )


# Queries and examples.

OTHER_T = {**INPUTS, "query_x": np.zeros([3, 3, 3], "float32")}
OTHER_Y = np.zeros([3, 3, 2], "float32")
CALLS = [
    Wrong(lambda m: m.predict(OTHER_T), ValueError, "each task", "'query_x': 3"),
    Wrong(lambda m: m.predict_on_batch(OTHER_T), ValueError, "each task", "'query_x': 3"),
    Wrong(lambda m: m.predict(None), TypeError, "`x`", "x=None"),
    Wrong(lambda m: m.predict("tasks"), TypeError, "`x`", "x='tasks'"),
    Wrong(lambda m: m.predict_on_batch(None), TypeError, "`x`", "x=None"),
    Wrong(lambda m: m.train_on_batch(OTHER_T, QUERY_Y), ValueError, "each task", "'query_x': 3"),
    Wrong(lambda m: m.train_on_batch(INPUTS, OTHER_Y), ValueError, "each task", "'query_y': 3"),
    Wrong(lambda m: m.test_on_batch(OTHER_T, QUERY_Y), ValueError, "each task", "'query_x': 3"),
    Wrong(lambda m: m.adapt(X.astype(object), Y), TypeError, "'support_x'", "object"),
    Wrong(lambda m: m.adapt(X.astype(str), Y), TypeError, "'support_x'", "<U"),
    Wrong(lambda m: m.adapt(X.astype(complex), Y), TypeError, "'support_x'", "complex128"),
    Wrong(lambda m: m.adapt(X, Y.astype(complex)), TypeError, "'support_y'", "complex128"),
    Wrong(lambda m: m.adapt(tf.constant(X.astype(str)), Y), TypeError, "'support_x'", "string"),
    Wrong(lambda m: m.adapt(X[:, :2], Y), ValueError, "'support_x'", "(4, 2)", "3)"),
    Wrong(lambda m: m.adapt(X[:, :2, None], Y), ValueError, "'support_x'", "(4, 2, 1)"),
    Wrong(lambda m: m.adapt(X[None], Y[None]), ValueError, "'support_x'", "(1, 4, 3)"),
    Wrong(lambda m: m.adapt({"image": X}, Y), ValueError, "'support_x'", "'image'"),
    Wrong(lambda m: m.adapt([X, X], Y), ValueError, "'support_x'", "(4, 3)"),
]


@pytest.mark.parametrize("wrong", CALLS, ids=str)
def test_wrong_calls_are_explained(learner, wrong):
    unchanged(learner, wrong)


def test_adaptation_takes_what_the_model_takes():
    model, column = keras.Sequential([keras.Input((1,), name="x"), layers.Dense(2)]), X[:, :1]
    expected = compiled(model).adapt(column, Y)(column)
    for x in (column[:, 0], column[..., None], column.astype("float64"), {"x": column}, [column]):
        np.testing.assert_allclose(compiled(model).adapt(x, Y)(column), expected, rtol=1e-6)


# Several outputs: "a" of two classes, "b" of numbers.


def two_outputs(kind):
    x = keras.Input((3,))
    a, b = layers.Dense(2, name="a")(x), layers.Dense(2, name="b")(x)
    return keras.Model(x, {"a": a, "b": b} if kind == "dict" else [a, b])


def labelled(kind, support=0, query=0, dtype="int32"):
    """A task batch whose labels of "a" are 0 but for one, and those of "b" are large."""
    support_a, query_a = np.zeros([2, 4], dtype), np.zeros([2, 3], dtype)
    support_a[1, 2], query_a[0, 1] = support, query
    support_y = {"a": support_a, "b": INPUTS["support_y"] + 7}
    query_y = {"a": query_a, "b": QUERY_Y + 7}
    if kind != "dict":
        support_y, query_y = list(support_y.values()), list(query_y.values())
    return {**INPUTS, "support_y": support_y}, query_y


def two_losses(kind):
    return {"a": SPARSE, "b": "mse"} if kind == "dict" else [SPARSE, "mse"]


BAD = [
    ({"support": 7}, "support_y", "to 7"),
    ({"query": 2}, "query_y", "to 2"),
    ({"query": 0.75, "dtype": "float32"}, "query_y", "to 0.75"),
]
OUTPUTS = {"dict": "['a']", "list": "[0]"}


@pytest.mark.parametrize("run_eagerly", [False, True], ids=["graph", "eager"])
@pytest.mark.parametrize("kind", OUTPUTS)
def test_labels_of_each_of_several_outputs_are_checked(kind, run_eagerly):
    learner = fresh(two_outputs(kind), loss=two_losses(kind), run_eagerly=run_eagerly)
    learner.train_on_batch(*labelled(kind))
    for wrong, name, shown in BAD:
        fragments = name + OUTPUTS[kind], "[0, 2)", shown
        batch = labelled(kind, **wrong)
        calls = {
            "train_on_batch": lambda m, batch=batch: m.train_on_batch(*batch),
            "fit": lambda m, batch=batch: m.fit(*batch, verbose=0),
        }
        if name == "support_y":
            one = [
                keras.tree.map_structure(lambda t: t[1], batch[0][k])
                for k in ("support_x", "support_y")
            ]
            calls["adapt"] = lambda m, one=one: m.adapt(*one)
        for call in calls.values():
            unchanged(learner, Wrong(call, ValueError, *fragments))


def test_under_xla_wrong_labels_of_one_output_stop_training():
    learner = fresh(two_outputs("dict"), loss=two_losses("dict"), jit_compile=True)
    learner.train_on_batch(*labelled("dict", query=1))
    with pytest.raises(FloatingPointError, match="at training step 2"):
        learner.train_on_batch(*labelled("dict", query=7))


@pytest.mark.parametrize("loss", [{"only": SPARSE}, [SPARSE]], ids=["dict", "list"])
def test_one_output_may_have_its_loss_in_a_structure(loss):
    x = keras.Input((3,))
    learner = fresh(keras.Model(x, layers.Dense(2, name="only")(x)), loss=loss)
    query_y = np.array([[0, 1, 7]] * 2)
    inputs = {**INPUTS, "support_y": np.zeros([2, 4], "int32")}
    wrong = Wrong(lambda m: m.train_on_batch(inputs, query_y), ValueError, "'query_y'", "to 7")
    unchanged(learner, wrong)


def test_more_classes_than_the_dtype_of_the_labels_holds():
    learner = fresh(keras.Sequential([keras.Input((3,)), layers.Dense(300)]), loss=SPARSE)
    inputs = {**INPUTS, "support_y": np.full([2, 4], 255, "uint8")}
    learner.train_on_batch(inputs, np.full([2, 3], 255, "uint8"))


# Which loss is Keras' sparse one: by identity.


def mse_sparse(y, y_pred):
    return tf.reduce_mean((y - y_pred) ** 2, -1)


class SparseMean(keras.losses.Loss):
    """A loss of numbers that are few."""

    def call(self, y, y_pred):
        return mse_sparse(y, y_pred)


class Shifted(keras.losses.SparseCategoricalCrossentropy):
    """Labels from 1."""

    def call(self, y, y_pred):
        return super().call(y - 1, y_pred)


FUNCTION = keras.losses.sparse_categorical_crossentropy


@pytest.mark.parametrize(
    ("loss", "sparse"),
    [
        (mse_sparse, False),
        (functools.partial(mse_sparse), False),
        (SparseMean(), False),
        (Shifted(), False),
        (functools.partial(FUNCTION, from_logits=True), True),
        (functools.partial(functools.partial(FUNCTION), from_logits=True), True),
        (keras.losses.SparseCategoricalCrossentropy, True),
    ],
    ids=["function", "partial", "class", "subclass", "Keras' partial", "twice", "Keras' class"],
)
def test_losses_are_sparse_by_identity(loss, sparse):
    assert output_losses.is_sparse(loss) is sparse


def test_a_loss_with_sparse_in_its_name_takes_any_numbers():
    learner = fresh(loss=mse_sparse)
    inputs = {**INPUTS, "support_y": INPUTS["support_y"] - 7.5}
    learner.train_on_batch(inputs, QUERY_Y + 7.5)


def test_a_partial_loss_keeps_the_class_that_it_ignores():
    loss = functools.partial(FUNCTION, from_logits=True, ignore_class=-1)
    assert output_losses.ignored_class(loss) == output_losses.ignored_class(
        keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    )
    assert output_losses.ignored_class(FUNCTION) is None
    assert output_losses.ignored_class("sparse_categorical_crossentropy") is None
