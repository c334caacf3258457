"""Wrong calls of a learner: told with words, before anything is assigned."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import evaluation
from tests.problems import compiled, dense_model, layers, task_batch
from tests.wrong_calls import Wrong, check

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
INPUTS, QUERY_Y = task_batch()
X, Y = INPUTS["support_x"][0], INPUTS["support_y"][0]


@pytest.fixture(scope="module")
def learner():
    return compiled(dense_model(), 0.1)


def made(**settings):
    return maml_tf.MAML(dense_model(), **{"inner_optimizer": 0.1, **settings})


def fresh(**settings):
    made_one = made()
    made_one.compile(**{"optimizer": "sgd", **settings})
    return made_one


def batches(inputs, query_y=QUERY_Y):
    return tf.data.Dataset.from_tensors((inputs, query_y))


def changed(**parts):
    return batches({**INPUTS, **parts})


def ragged():
    support = tf.RaggedTensor.from_tensor(INPUTS["support_x"], lengths=[4, 2], ragged_rank=1)
    return batches({**INPUTS, "support_x": support})


CONSTRUCTOR = [
    Wrong(lambda: maml_tf.MAML("model", 0.1), TypeError, "`model`", "model='model'"),
    Wrong(lambda: maml_tf.MAML(None, 0.1), TypeError, "`model`", "model=None"),
    Wrong(lambda: maml_tf.MAML(layers.Dense(2), 0.1), TypeError, "`model`", "of type Dense"),
    Wrong(
        lambda: maml_tf.MAML(keras.Sequential([layers.Dense(2)]), 0.1),
        ValueError,
        "`model`",
        "built",
    ),
    Wrong(lambda: maml_tf.MAML(made(), 0.1), TypeError, "a learner", "learner.model"),
    Wrong(lambda: made(inner_optimizer="sgd"), TypeError, "`inner_optimizer`", "'sgd'"),
    Wrong(lambda: made(inner_optimizer=keras.optimizers.SGD()), TypeError, "assigns variables"),
    Wrong(lambda: made(inner_optimizer=-0.1), ValueError, "`learning_rate`", "=-0.1"),
    Wrong(lambda: made(inner_steps=-1), ValueError, "`inner_steps`", "inner_steps=-1"),
    Wrong(lambda: made(inner_steps=1.5), TypeError, "`inner_steps`", "inner_steps=1.5"),
    Wrong(lambda: made(inner_steps=None), TypeError, "`inner_steps`", "inner_steps=None"),
    Wrong(lambda: made(inner_steps="1"), TypeError, "`inner_steps`", "inner_steps='1'"),
    Wrong(lambda: made(first_order="no"), TypeError, "`first_order`", "first_order='no'"),
    Wrong(lambda: made(first_order=None), TypeError, "`first_order`", "first_order=None"),
    Wrong(lambda: made(rematerialize="no"), TypeError, "`rematerialize`", "rematerialize='no'"),
    Wrong(lambda: made(adaptable=5), TypeError, "`adaptable`", "adaptable=5"),
    Wrong(lambda: made(adaptable="["), ValueError, "`adaptable`", "adaptable='['"),
    Wrong(lambda: made(adaptable=""), ValueError, "`adaptable`", "adaptable=''"),
    Wrong(lambda: made(adaptable=["no"] * 4), TypeError, "`adaptable`", "['no', 'no'"),
    Wrong(lambda: made(batch_norm="batch"), ValueError, "`batch_norm`", "batch_norm='batch'"),
    Wrong(lambda: made(batch_norm=None), ValueError, "`batch_norm`", "batch_norm=None"),
    Wrong(lambda: made(task_map="vectorised"), ValueError, "`task_map`", "mean 'vectorized'?"),
    Wrong(lambda: made(parallel_tasks=0), ValueError, "`parallel_tasks`", "parallel_tasks=0"),
    Wrong(lambda: made(parallel_tasks=-2), ValueError, "`parallel_tasks`", "parallel_tasks=-2"),
    Wrong(lambda: made(parallel_tasks=1.5), TypeError, "`parallel_tasks`", "parallel_tasks=1.5"),
    Wrong(lambda: made(parallel_tasks=10**12), ValueError, "`parallel_tasks`", "=1000000000000"),
    Wrong(lambda: made(name=5), TypeError, "`name`", "name=5"),
]

COMPILE = [
    Wrong(lambda: fresh(inner_loss="mse").fit(batches(INPUTS)), ValueError, "`loss`", "loss=None"),
    Wrong(
        lambda: fresh(inner_loss="mse").evaluate(batches(INPUTS)),
        ValueError,
        "`loss`",
        "loss=None",
    ),
    Wrong(
        lambda: fresh(inner_loss="mse").train_on_batch(INPUTS, QUERY_Y),
        ValueError,
        "`loss`",
        "loss=None",
    ),
    Wrong(
        lambda: fresh(loss=keras.losses.MeanSquaredError(reduction="none")).fit(batches(INPUTS)),
        ValueError,
        "`loss`",
        "reduction",
    ),
    Wrong(
        lambda: fresh(loss="mse", inner_loss=keras.losses.MeanSquaredError(reduction="none")).fit(
            batches(INPUTS)
        ),
        ValueError,
        "`inner_loss`",
        "reduction",
    ),
    Wrong(
        lambda: fresh(loss=keras.losses.MeanSquaredError(reduction="none")).adapt(X, Y),
        ValueError,
        "`loss`",
        "reduction",
    ),
]


@pytest.mark.parametrize("wrong", CONSTRUCTOR + COMPILE, ids=str)
def test_wrong_settings_are_explained(wrong):
    check(wrong)


DATA = [
    ("empty support", changed(support_x=X[None, :0], support_y=Y[None, :0]), "support_x", "0"),
    ("empty queries", batches({**INPUTS, "query_x": X[None, :0]}), "query_x", "0"),
    ("no tasks", changed(support_x=INPUTS["support_x"][:0]), "'support_x'", "(0, 4, 3)"),
    ("ragged support", ragged(), "'support_x'", "RaggedTensor"),
    ("an unknown key", changed(support_weigth=Y), "unknown", "['support_weigth']"),
    ("a missing key", batches({"support_x": X, "query_x": X}), "'support_y'", "['query_x'"),
    ("tensors", batches(X), "task batch", "Tensor"),
    ("one task", batches({k: v[0] for k, v in INPUTS.items()}), "task", "sizes"),
]


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
@pytest.mark.parametrize(("name", "data", "part", "shown"), DATA, ids=lambda x: str(x)[:20])
def test_wrong_task_batches_are_explained(learner, method, name, data, part, shown):
    if name == "an unknown key":
        part = "no others"
    if (name, method) == ("one task", "predict"):
        pytest.skip("sizes of the support set may agree")
    check(Wrong(lambda: getattr(learner, method)(data, verbose=0), ValueError, part, shown))


OF_A_LEARNER = [
    Wrong(lambda m: m.fit(None), TypeError, "`x`", "x=None"),
    Wrong(lambda m: m.fit("tasks"), TypeError, "`x`", "x='tasks'"),
    Wrong(lambda m: m.fit(5), TypeError, "`x`", "x=5"),
    Wrong(lambda m: m.evaluate(None), TypeError, "`x`", "x=None"),
    Wrong(lambda m: m.predict_path(INPUTS, -1), ValueError, "`inner_steps`", "inner_steps=-1"),
    Wrong(lambda m: m.predict_path(INPUTS, 1.5), TypeError, "`inner_steps`", "inner_steps=1.5"),
    Wrong(lambda m: m.predict_path(INPUTS, None), TypeError, "`inner_steps`", "=None"),
    Wrong(lambda m: m.loss_path(INPUTS, QUERY_Y, -1), ValueError, "inner_steps=-1"),
    Wrong(lambda m: m.adapt([[1.0, 2.0, 3.0]], [[1.0, 2.0]]), TypeError, "'support_x'", "np.array"),
    Wrong(lambda m: m.adapt(X, [[1.0, 2.0]] * 4), TypeError, "'support_y'", "np.array"),
    Wrong(lambda m: m.adapt(X, None), TypeError, "'support_y'", "None"),
    Wrong(lambda m: m.adapt(X * np.nan, Y), ValueError, "'support_x'", "12 values", "NaN"),
    Wrong(lambda m: m.adapt(X, Y * np.inf), ValueError, "'support_y'", "8 values"),
    Wrong(lambda m: m.adapt(X[:0], Y[:0]), ValueError, "'support_x'", "(0, 3)"),
    Wrong(lambda m: m.adapt(X, Y[:2]), ValueError, "'support_x': 4", "'support_y': 2"),
    Wrong(lambda m: m.adapt(X, np.array([["a", "b"]] * 4)), TypeError, "'support_y'", "<U1"),
    Wrong(lambda m: m.adapt(X, Y, inner_steps=-1), ValueError, "`inner_steps`", "=-1"),
    Wrong(lambda m: m.adapt(X, Y, inner_steps=1.5), TypeError, "`inner_steps`", "=1.5"),
    Wrong(lambda m: m.save("learner.h5"), ValueError, "`filepath`", "'learner.h5'", ".keras"),
    Wrong(lambda m: m.save("learner"), ValueError, "`filepath`", "'learner'"),
    Wrong(lambda m: m.save(None), TypeError, "`filepath`", "filepath=None"),
    Wrong(lambda m: m.fit(batches(INPUTS), validation_data=5), TypeError, "validation_data=5"),
    Wrong(
        lambda m: m.fit(batches(INPUTS), validation_data=changed(support_weigth=Y)),
        ValueError,
        "['support_weigth']",
    ),
    Wrong(
        lambda m: m.fit(batches({**INPUTS, "support_y": np.full([2, 4, 2], "a")})),
        TypeError,
        "'support_y'",
        "string",
    ),
    Wrong(lambda m: m.predict_path({**INPUTS, "support_y": "a"}, 1), TypeError, "'support_y'"),
    Wrong(lambda m: m.predict_path({**INPUTS, "support_x": [[1.0]]}, 1), TypeError, "'support_x'"),
]


@pytest.mark.parametrize("wrong", OF_A_LEARNER, ids=str)
def test_wrong_calls_are_explained(learner, wrong):
    before = learner.model.get_weights()
    call = wrong.call
    check(Wrong(lambda: call(learner), wrong.error, *wrong.fragments, id=wrong.id))
    for one, other in zip(learner.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


# Labels of a sparse loss, in the second batch.


def labelled(dtype="int32", support=0, query=0):
    """A task batch of two classes whose labels are 0 but for one."""
    support_y, query_y = np.zeros([2, 4], dtype), np.zeros([2, 3], dtype)
    support_y[1, 2], query_y[0, 1] = support, query
    return {**INPUTS, "support_y": tf.constant(support_y)}, tf.constant(query_y)


def good_then(**labels):
    first, second = labelled(labels.get("dtype", "int32")), labelled(**labels)
    return tf.data.Dataset.from_tensors(first).concatenate(tf.data.Dataset.from_tensors(second))


LATER = [
    ({"support": 2}, "'support_y'", "from 0 to 2"),
    ({"query": -1}, "'query_y'", "from -1 to 0"),
    ({"query": 0.5, "dtype": "float32"}, "'query_y'", "to 0.5"),
    ({"support": np.nan, "dtype": "float32"}, "'support_y'", "[0, 2)"),
]
USES = {
    "fit": lambda m, data: m.fit(data, verbose=0),
    "validation": lambda m, data: m.fit(data.take(1), validation_data=data, verbose=0),
    "evaluate": lambda m, data: m.evaluate(data, verbose=0),
    "evaluation": lambda m, data: evaluation.evaluate(m, data, 4),
}


@pytest.fixture(scope="module", params=[{}, {"run_eagerly": True}], ids=["graph", "eager"])
def classifier(request):
    return compiled(dense_model(), 0.1, loss=SPARSE, **request.param)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(("labels", "name", "shown"), LATER, ids=str)
def test_labels_of_later_batches_are_checked(classifier, use, labels, name, shown):
    data = good_then(**labels)
    check(Wrong(lambda: USES[use](classifier, data), ValueError, name, "[0, 2)", shown))


@pytest.mark.parametrize("method", ["predict", "predict_path", "call"])
def test_support_labels_are_checked_in_predictions(classifier, method):
    data = good_then(support=7)
    calls = {
        "predict": lambda: classifier.predict(data, verbose=0),
        "predict_path": lambda: classifier.predict_path(labelled(support=7)[0], 1),
        "call": lambda: classifier(labelled(support=7)[0]),
    }
    check(Wrong(calls[method], ValueError, "'support_y'", "from 0 to 7"))


def test_nothing_is_assigned_where_labels_are_wrong():
    learner = compiled(dense_model(), 0.1, loss=SPARSE)
    learner.fit(good_then().take(1), verbose=0)
    before = learner.model.get_weights()
    with pytest.raises(ValueError, match="from 0 to 5"):
        learner.train_on_batch(*labelled(query=5))
    for one, other in zip(learner.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(learner.optimizer.iterations) == 1


@pytest.mark.parametrize(("labels", "name", "shown"), LATER, ids=str)
def test_under_xla_wrong_labels_stop_training_at_a_loss_that_is_not_finite(labels, name, shown):
    learner = compiled(dense_model(), 0.1, loss=SPARSE, jit_compile=True)
    with pytest.raises(FloatingPointError, match="at training step 2"):
        learner.fit(good_then(**labels), verbose=0)


def test_a_label_that_the_loss_ignores_is_none_too_many():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    learner = compiled(dense_model(), 0.1, loss=loss)
    learner.fit(good_then(query=-1, support=-1), verbose=0)
    wrong = Wrong(lambda: learner.fit(good_then(query=-2), verbose=0), ValueError, "and -1, which")
    check(wrong)


def test_support_labels_are_those_of_the_inner_loss():
    learner = fresh(loss=SPARSE, inner_loss="mse")
    inputs, query_y = labelled()
    learner.fit(batches({**inputs, "support_y": INPUTS["support_y"] * 7}, query_y), verbose=0)
    learner.adapt(X, Y * 7)
    swapped = fresh(loss="mse", inner_loss=SPARSE)
    wrong = batches({**INPUTS, "support_y": labelled(support=3)[0]["support_y"]})
    check(Wrong(lambda: swapped.fit(wrong, verbose=0), ValueError, "'support_y'", "to 3"))


def test_whole_numbers_may_come_as_floats():
    learner = compiled(dense_model(), 0.1, loss=SPARSE)
    learner.fit(good_then(query=1, dtype="float32"), verbose=0)


@pytest.mark.parametrize(
    ("loss", "sparse"),
    [
        ("sparse_categorical_crossentropy", True),
        ("SparseCategoricalCrossentropy", True),
        (SPARSE, True),
        (keras.losses.sparse_categorical_crossentropy, True),
        ("mse", False),
        ("categorical_crossentropy", False),
        (keras.losses.MeanSquaredError(name="sparse_targets"), False),
        (lambda y, y_pred: y_pred, False),
        (None, False),
    ],
    ids=["name", "class name", "object", "function", "mse", "one-hot", "named", "lambda", "none"],
)
def test_which_losses_take_numbers_of_classes(loss, sparse):
    assert maml_tf.learners.base.output_losses.is_sparse(loss) is sparse
