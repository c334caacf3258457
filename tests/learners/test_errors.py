"""Mistakes are told before training starts: what was expected, what came, what to do."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from tests.problems import compiled, dense_model, layers, task_batch

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module")
def learner():
    return compiled(dense_model(), 0.1)


@pytest.fixture(scope="module")
def classifier():
    return compiled(dense_model(), 0.1, loss=SPARSE)


def batch(**changed):
    inputs, query_y = task_batch()
    return {**inputs, **changed}, query_y


def labelled(support=1, query=1):
    """A task batch for two classes whose labels are all 0 but for one."""
    inputs, query_y = task_batch()
    support_y, query_y = np.zeros([2, 4], "int32"), np.zeros([2, 3], "int32")
    support_y[1, 2], query_y[0, 1] = support, query
    return {**inputs, "support_y": tf.constant(support_y)}, tf.constant(query_y)


def as_dataset(inputs, query_y):
    return (tf.data.Dataset.from_tensors((inputs, query_y)),)


def as_arrays(inputs, query_y):
    return keras.tree.map_structure(np.asarray, inputs), np.asarray(query_y)


def unbuilt():
    return keras.Sequential([layers.Dense(2)])


def frozen():
    model = dense_model()
    model.trainable = False
    return model


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: "model", TypeError, r"built `keras.Model`. Received: model='model'"),
        (lambda: layers.Dense(2), TypeError, "of type Dense"),
        (unbuilt, ValueError, "to be built"),
        (frozen, ValueError, "to have trainable weights"),
        (lambda: keras.Sequential([keras.Input((3,)), layers.ReLU()]), ValueError, "with none"),
    ],
    ids=["string", "layer", "unbuilt", "frozen", "without-weights"],
)
def test_a_model_must_be_built_and_trainable(build, error, match):
    with pytest.raises(error, match=match):
        maml_tf.MAML(build(), 0.1)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"inner_optimizer": keras.optimizers.SGD(0.1)}, TypeError, "assigns variables"),
        ({"inner_optimizer": 0.0}, ValueError, "a finite number above 0"),
        ({"inner_steps": -1}, ValueError, "at least 0. Received: inner_steps=-1"),
        ({"inner_steps": 1.5}, TypeError, "inner_steps=1.5"),
        ({"inner_steps": True}, TypeError, "inner_steps=True"),
        ({"batch_norm": "batch"}, ValueError, "`batch_norm` to be one of .*transductive"),
        ({"task_map": "map_fn"}, ValueError, "`task_map` to be one of .*vectorized"),
        ({"adaptable": "no_such_layer"}, ValueError, "at least one of the 4 trainable weights"),
        ({"adaptable": lambda v: False}, ValueError, "at least one of the 4"),
        ({"adaptable": [True]}, ValueError, "a list of 4 booleans"),
        ({"adaptable": [False] * 4}, ValueError, "at least one of the 4"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_settings_are_checked_when_the_learner_is_made(settings, error, match):
    with pytest.raises(error, match=match):
        maml_tf.MAML(dense_model(), **{"inner_optimizer": 0.1, **settings})


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict", "adapt", "predict_path"])
def test_nothing_runs_before_compile(method):
    learner = maml_tf.MAML(dense_model(), 0.1)
    inputs, query_y = batch()
    arguments = {
        "predict": (inputs,),
        "adapt": (inputs["support_x"][0], inputs["support_y"][0]),
        "predict_path": (inputs, 1),
    }.get(method, as_dataset(inputs, query_y))
    # Keras itself says so of `predict`.
    said = "compile" if method == "predict" else f"`{method}` adapts .* `learner.compile"
    with pytest.raises(ValueError, match=said):
        getattr(learner, method)(*arguments)
    with pytest.raises(ValueError, match=r"`call` adapts .* `learner.compile\("):
        learner(inputs)


X, Y, Q = (task_batch()[0][k] for k in ("support_x", "support_y", "query_x"))
WRONG = [
    pytest.param(batch(support_x=X[:1]), r"each task along axis 0 .*'support_x': 1", id="tasks"),
    pytest.param(batch(query_x=Q[:1]), r"each task along axis 0 .*'query_x': 1", id="query-tasks"),
    pytest.param(
        batch(support_y=Y[:, :2]), r"each support example .*'support_y': 2", id="supports"
    ),
    pytest.param(batch(query_x=Q[:, :2]), r"each query along axis 1 .*'query_x': 2", id="queries"),
    pytest.param(batch(support_y=Y[0, 0, 0]), r"axes \[tasks, examples, ...\]", id="axes"),
]


@pytest.mark.parametrize(("wrong", "match"), WRONG)
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_sizes_must_belong_together(learner, method, wrong, match):
    with pytest.raises(ValueError, match=match):
        getattr(learner, method)(*as_dataset(*wrong), verbose=0)


@pytest.mark.parametrize(("wrong", "match"), WRONG[:3])
def test_sizes_must_belong_together_in_predictions_too(learner, wrong, match):
    with pytest.raises(ValueError, match=match):
        learner.predict_on_batch(wrong[0])
    with pytest.raises(ValueError, match=match):
        learner.predict_path(wrong[0], 1)


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_a_batch_must_have_the_keys_of_a_task_batch(learner, method):
    inputs, query_y = batch()
    wrong = {"x": inputs["support_x"], "y": inputs["support_y"]}
    dataset = tf.data.Dataset.from_tensors((wrong, query_y))
    with pytest.raises(ValueError, match=r"Expected a task batch: .* Received: \['x', 'y'\]"):
        getattr(learner, method)(dataset, verbose=0)
    tensors = tf.data.Dataset.from_tensors((inputs["support_x"], query_y))
    with pytest.raises(ValueError, match=r"Expected a task batch: .* Received: \w*Tensor"):
        getattr(learner, method)(tensors, verbose=0)


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_query_labels_must_be_there(learner, method):
    inputs, _ = batch()
    for data in (tf.data.Dataset.from_tensors(inputs), as_arrays(inputs, 0)[0]):
        with pytest.raises(ValueError, match="without query labels"):
            getattr(learner, method)(data, verbose=0)


@pytest.mark.parametrize("wrap", [as_dataset, as_arrays])
@pytest.mark.parametrize("method", ["fit", "evaluate"])
@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ({"support": 2}, r"labels in \[0, 2\).* 'support_y' with labels from 0 to 2"),
        ({"query": 5}, r"labels in \[0, 2\).* 'query_y' with labels from 0 to 5"),
        ({"query": -1}, r"'query_y' with labels from -1 to 0"),
    ],
    ids=str,
)
def test_labels_must_have_an_output(classifier, wrap, method, labels, match):
    before = classifier.model.get_weights()
    with pytest.raises(ValueError, match=match):
        getattr(classifier, method)(*wrap(*labelled(**labels)), verbose=0)
    for one, other in zip(classifier.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_adapt_checks_its_examples(learner, classifier):
    x, y = np.ones([3, 3], "float32"), np.ones([3, 2], "float32")
    with pytest.raises(ValueError, match=r"at least one support example.*\(0, 3\)"):
        learner.adapt(x[:0], y[:0])
    with pytest.raises(ValueError, match=r"each support example .*'support_x': 3.*'support_y': 2"):
        learner.adapt(x, y[:2])
    with pytest.raises(ValueError, match="inner_steps=-1"):
        learner.adapt(x, y, inner_steps=-1)
    with pytest.raises(ValueError, match=r"'support_y' with labels from 0 to 7"):
        classifier.adapt(x, np.array([0, 1, 7]))


@pytest.mark.parametrize("method", ["fit", "adapt"])
def test_an_inner_loss_must_be_differentiable(method):
    learner = compiled(dense_model(), 0.1)
    learner.compile(
        optimizer="sgd",
        loss="mse",
        inner_loss=lambda y, y_pred: tf.cast(tf.argmax(y_pred, -1), tf.float32),
    )
    inputs, query_y = batch()
    arguments = {
        "fit": as_dataset(inputs, query_y),
        "adapt": (inputs["support_x"][0], inputs["support_y"][0]),
    }[method]
    with pytest.raises(ValueError, match="inner loss that is differentiable"):
        getattr(learner, method)(*arguments)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"run_eagerly": True},
        {"steps_per_execution": 10},
        {"steps_per_execution": 10, "jit_compile": True},
    ],
    ids=str,
)
def test_a_loss_that_is_not_finite_stops_training_and_names_the_step(settings):
    learner = maml_tf.MAML(dense_model(), 0.1)
    learner.compile(optimizer="sgd", loss="mse", **settings)
    inputs, query_y = batch()
    factors = tf.constant([1.0, 1.0, 1.0, np.nan, 1.0, np.inf] + [1.0] * 6)
    dataset = tf.data.Dataset.from_tensor_slices(factors).map(
        lambda factor: (inputs, query_y * factor)
    )
    finite, initial = dataset.take(3), learner.model.get_weights()
    with pytest.raises(FloatingPointError, match=r"at training step 4 .*inner optimizer"):
        learner.fit(dataset, verbose=0)
    learner.model.set_weights(initial)
    learner.fit(finite, verbose=0)  # what was reported is not reported again
