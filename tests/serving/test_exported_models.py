"""What models an export holds (tables, strings, several outputs), and what labels it takes."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.learners.base import specs
from tests.problems import compiled
from tests.serving.test_export import steps

layers = keras.layers
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def text():
    """Sentences to four classes, by an adapted `TextVectorization`."""
    vectorize = layers.TextVectorization(output_sequence_length=4)
    vectorize.adapt(["hello big world", "good day to you", "what a big day"])
    sentence = keras.Input((), dtype="string")
    words = layers.Embedding(20, 6, embeddings_initializer=keras.initializers.Orthogonal(1))
    mean = layers.GlobalAveragePooling1D()(words(vectorize(sentence)))
    model = keras.Model(sentence, layers.Dense(4, kernel_initializer="ones")(mean))
    x = np.array(["hello day", "big you", "what", "unknown Wörter here"])
    return compiled(model, 0.5, loss=SPARSE), x, np.arange(4, dtype=np.int32), x[::-1].copy()


def lookups():
    """A word and a number, each looked up in a table of its own."""
    word, number = keras.Input((2,), dtype="string"), keras.Input((1,), dtype="int64")
    words = layers.Embedding(5, 3)(layers.StringLookup(vocabulary=["a", "b", "c"])(word))
    numbers = layers.Embedding(5, 3)(layers.IntegerLookup(vocabulary=[3, 50, 700])(number))
    flat = [layers.Flatten()(words), layers.Flatten()(numbers)]
    model = keras.Model([word, number], layers.Dense(2)(layers.Concatenate()(flat)))
    x = [np.array([["a", "b"], ["c", "?"], ["b", "b"]]), np.array([[3], [700], [8]])]
    y = np.array([[0, 1], [1, 0], [2, 2]], np.float32)
    return compiled(model), x, y, [part[::-1].copy() for part in x]


def two_outputs():
    """A value and a class, each with a loss of its own, by the names of a dictionary."""
    x = keras.Input((3,))
    hidden = layers.Dense(4, "tanh")(x)
    outputs = {"value": layers.Dense(2)(hidden), "kind": layers.Dense(3)(hidden)}
    learner = maml_tf.MAML(keras.Model(x, outputs), 0.1)
    learner.compile(loss={"value": "mse", "kind": SPARSE})
    random = np.random.default_rng(0)
    y = {"value": random.normal(size=(6, 2)).astype(np.float32), "kind": np.arange(6) % 3}
    support_x, query_x = random.normal(size=(2, 6, 3)).astype(np.float32)
    return learner, support_x, y | {"kind": y["kind"].astype(np.int32)}, query_x


def two_outputs_of_one_loss():
    learner, support_x, y, query_x = two_outputs()
    outputs = learner.model.outputs
    model = keras.Model(learner.model.input, outputs)
    y = [np.full((6, *t.shape[1:]), 0.5, np.float32) for t in outputs]
    return compiled(model), support_x, y, query_x


class Constant(layers.Layer):
    """A variable of TensorFlow's own, which Keras does not know."""

    def build(self, shape):
        self.factor = tf.Variable(np.full(shape[-1], 3, np.float32))

    def call(self, x):
        return x * self.factor


def raw_variable():
    model = keras.Sequential([keras.Input((3,)), Constant(), layers.Dense(1)])
    random = np.random.default_rng(0)
    support_x, query_x = random.normal(size=(2, 6, 3)).astype(np.float32)
    return compiled(model, 0.01), support_x, support_x[:, :1].copy(), query_x


def dropout():
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4), layers.Dropout(0.5, seed=1), layers.Dense(1)]
    )
    random = np.random.default_rng(0)
    support_x, query_x = random.normal(size=(2, 6, 3)).astype(np.float32)
    return compiled(model, 0.01), support_x, support_x[:, :1].copy(), query_x


def numbered(part, structure):
    flat = keras.tree.flatten(structure)
    names = [part] if len(flat) == 1 else [f"{part}_{i}" for i in range(len(flat))]
    # Strings go over the wire as bytes.
    flat = [np.char.encode(a, "utf-8") if a.dtype.kind == "U" else a for a in flat]
    return dict(zip(names, flat, strict=True))


@pytest.mark.parametrize(
    "make", [text, lookups, two_outputs, two_outputs_of_one_loss, raw_variable, dropout]
)
def test_it_answers_through_the_c_api_as_the_learner_does(serve, tmp_path, make):
    learner, support_x, support_y, query_x = make()
    batch = {"support_x": support_x, "support_y": support_y, "query_x": query_x}
    batch = keras.tree.map_structure(lambda a: tf.constant(a)[tf.newaxis], batch)
    expected = keras.tree.map_structure(lambda t: t.numpy()[0, -1], learner.predict_path(batch, 3))
    folder = maml_tf.serving.export(learner, tmp_path, warm_up=False)
    server = serve(folder)
    support = numbered("support_x", support_x) | numbered("support_y", support_y)
    query = numbered("query_x", query_x)
    at_once = server("serving_default", **support, **query, inner_steps=steps(3))
    expected = numbered("predictions", expected)
    assert set(at_once) == set(expected)
    for name, received in at_once.items():
        np.testing.assert_allclose(received, expected[name], rtol=1e-5, atol=1e-5)
    weights = server("adapt", **support, inner_steps=steps(3))["weights"]
    later = server("predict_with", weights=weights, **query)
    for name, received in later.items():
        np.testing.assert_array_equal(received, at_once[name])
    counts = [len(keras.tree.flatten(part)[0]) for part in (support_x, query_x)]
    rows = {n: np.stack([a, a]) for n, a in {**support, **query}.items()}
    rows |= {"support_count": steps([counts[0]] * 2), "query_count": steps([counts[1]] * 2)}
    tasks = server("adapt_and_predict_tasks", **rows, inner_steps=steps([0, 3]))
    for name, received in tasks.items():
        np.testing.assert_allclose(received[1], at_once[name], rtol=1e-5, atol=1e-5)
    # The weights stand in it once.
    saved = tf.train.list_variables(str(folder / "variables" / "variables"))
    trained = [shape for name, shape in saved if name.startswith("weights/")]
    assert sorted(trained) == sorted([list(v.shape) for v in learner.model.trainable_variables])
    largest = max(trained, key=np.prod)
    assert sum(shape == largest for _, shape in saved) == sum(s == largest for s in trained)


def test_warm_up_requests_of_strings(tmp_path):
    log = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    folder = maml_tf.serving.export(text()[0], tmp_path, warm_up=True)
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    asked = [
        log.PredictionLog.FromString(record).predict_log.request
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]
    assert len(asked) == 6
    for request in asked:
        sentences = [n for n in ("support_x", "query_x") if n in request.inputs]
        assert sentences
        for name in sentences:
            assert tf.make_ndarray(request.inputs[name]).flat[0] == b"a"


def test_a_table_that_belongs_to_no_layer_is_refused_by_name(tmp_path):
    initial = tf.lookup.KeyValueTensorInitializer([1, 2], [0.5, 0.7])
    table = tf.lookup.StaticHashTable(initial, 0.0)

    class Hidden(layers.Layer):
        def call(self, x):
            return table.lookup(x)[:, None]

    model = keras.Sequential([keras.Input((), dtype="int32"), Hidden(), layers.Dense(1)])
    with pytest.raises(ValueError, match="belongs to no layer.*attribute of the layer"):
        maml_tf.serving.export(compiled(model), tmp_path)
    assert not list(tmp_path.iterdir())


# Labels.


def three_ways():
    return keras.Sequential([keras.Input((2,)), layers.Dense(3)])


def my_loss(y, y_pred):
    return keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True)


def learner_of(loss, inner_loss=None, seen=None):
    learner = maml_tf.MAML(three_ways(), 0.1)
    learner.compile(loss=loss, inner_loss=inner_loss)
    learner._support_y_spec = seen
    return learner


def labels_of(learner):
    spec = specs.y_spec(learner, specs.x_spec(learner.model))
    return spec.shape.as_list(), spec.dtype


INTEGERS, VECTORS = ([None], tf.int32), ([None, 3], tf.float32)


@pytest.mark.parametrize(
    ("loss", "inner_loss", "expected"),
    [
        (SPARSE, None, INTEGERS),
        ("sparse_categorical_crossentropy", None, INTEGERS),
        (keras.losses.sparse_categorical_crossentropy, None, INTEGERS),
        ("mse", None, VECTORS),
        (keras.losses.CategoricalCrossentropy(from_logits=True), None, VECTORS),
        # What adaptation descends counts, whatever the outer loss is.
        (SPARSE, "mse", VECTORS),
        ("mse", SPARSE, INTEGERS),
    ],
)
def test_labels_are_those_of_the_inner_loss(loss, inner_loss, expected):
    assert labels_of(learner_of(loss, inner_loss)) == expected


@pytest.mark.parametrize(
    ("loss", "inner_loss"),
    [(my_loss, None), (SPARSE, my_loss), (lambda y, p: my_loss(y, p), None), ("ctc", None)],
)
def test_labels_of_a_loss_of_ones_own_are_asked_for(tmp_path, loss, inner_loss):
    learner = learner_of(loss, inner_loss)
    with pytest.raises(ValueError, match=r"Expected `y_spec`.*are not known.*y_spec=None"):
        maml_tf.serving.export(learner, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_learner_keeps_the_labels_that_it_saw(tmp_path):
    @keras.saving.register_keras_serializable("tests")
    def own(y, y_pred):
        return my_loss(y, y_pred)

    learner = learner_of(own)
    learner.adapt(np.eye(2, dtype=np.float32), np.array([0, 2], np.uint8))
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    assert labels_of(learner) == labels_of(loaded) == ([None], tf.uint8)


@pytest.mark.parametrize("given", [None, tf.TensorSpec([None], tf.int32)])
def test_labels_that_the_inner_loss_saw_are_exported(tmp_path, given):
    """The learner keeps what it saw in training; what is given by hand comes first."""
    seen = tf.TensorSpec([None], tf.uint8)
    learner = learner_of(my_loss, seen=seen)
    path = maml_tf.serving.export(learner, tmp_path, y_spec=given, warm_up=False)
    signature = tf.saved_model.load(str(path)).signatures["adapt"]
    spec = signature.structured_input_signature[1]["support_y"]
    assert (spec.shape.as_list(), spec.dtype) == ([None], (given or seen).dtype)


def test_floating_labels_of_a_sparse_loss_are_whole_numbers(serve, tmp_path):
    learner = learner_of(SPARSE, seen=tf.TensorSpec([None], tf.float32))
    server = serve(maml_tf.serving.export(learner, tmp_path, warm_up=False))
    x = np.eye(2, dtype=np.float32)
    request = {"support_x": x, "inner_steps": steps(1)}
    server("adapt", support_y=np.array([0, 2], np.float32), **request)
    with pytest.raises(RuntimeError, match=r"(?s)labels from 0 to 2 in support_y.*\[1.7"):
        server("adapt", support_y=np.array([0, 1.7], np.float32), **request)


def test_a_label_that_the_loss_leaves_out(serve, tmp_path):
    """It is no label out of range: not alone, not in a row of tasks."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    learner = learner_of(loss)
    server = serve(maml_tf.serving.export(learner, tmp_path, warm_up=False))
    x = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    task = {"support_x": x, "query_x": x, "inner_steps": steps(2)}
    labels = np.array([0, -1, 2], np.int32)
    answer = server("adapt_and_predict", **task, support_y=labels)["predictions"]
    batch = {"support_x": x, "support_y": labels, "query_x": x}
    batch = {name: tf.constant(a)[tf.newaxis] for name, a in batch.items()}
    expected = learner.predict_path(batch, 2)[0, -1]
    np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6)
    rows = {n: a[np.newaxis] for n, a in {**task, "support_y": labels}.items()}
    rows |= {"support_count": steps([3]), "query_count": steps([3])}
    in_rows = server("adapt_and_predict_tasks", **rows)["predictions"][0]
    np.testing.assert_allclose(in_rows, answer, rtol=1e-6)
    with pytest.raises(RuntimeError, match="labels from 0 to 2"):
        server("adapt", support_x=x, support_y=labels - 1, inner_steps=steps(1))


def test_more_classes_than_a_byte_holds():
    """Labels of uint8 are compared as wide integers."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(300)])
    learner = maml_tf.MAML(model, 0.1)
    learner.compile(loss=SPARSE)
    x, y = tf.TensorSpec([None, 2]), tf.TensorSpec([None], tf.uint8)
    (known,) = specs.labels(learner, x, y)
    values = tf.constant([0, 44, 255], tf.uint8)
    assert maml_tf.serving.requests.is_label(values, known).numpy().all()


@pytest.mark.parametrize(
    ("loss", "shape"),
    list(itertools.product(["mse", SPARSE], [(2,), (3, 3), (3, 1, 1), (4,)])),
)
def test_labels_that_would_be_broadcast_are_refused(tmp_path, loss, shape):
    learner = learner_of(loss)
    with pytest.raises(ValueError, match="Expected labels of shape"):
        maml_tf.serving.export(learner, tmp_path, y_spec=tf.TensorSpec([None, *shape]))


def test_keras_own_export_asks_for_labels_too(tmp_path):
    with pytest.raises(ValueError, match=r"Expected `y_spec`.*not known"):
        learner_of(my_loss).export(str(tmp_path / "model"))
