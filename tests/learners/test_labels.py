"""Which labels belong to which loss and output, and what becomes of wrong ones."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.learners.base import label_rules, labels, output_losses
from tests.problems import dense_model, layers, task_batch

LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
IGNORING = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)


def learner(model, loss, **settings):
    made = maml_tf.MAML(model, 0.1)
    made.compile("sgd", loss, **settings)
    return made


def two_outputs(structure):
    """`"a"` of two classes, `"b"` of three."""
    x = keras.Input((3,))
    a, b = layers.Dense(2, name="a")(x), layers.Dense(3, name="b")(x)
    return keras.Model(x, {"dict": {"a": a, "b": b}, "list": [a, b]}[structure])


# Which loss an output has.


@pytest.mark.parametrize(
    ("loss", "structure", "expected"),
    [
        ("mse", "list", ["mse", "mse"]),
        (["mse", None], "list", ["mse", None]),
        (("mse", "mae"), "dict", ["mse", "mae"]),
        ({"b": "mae", "a": "mse"}, "list", ["mse", "mae"]),
        ({"b": "mae"}, "dict", [None, "mae"]),
        (["mse"], "list", None),
    ],
    ids=str,
)
def test_each_output_has_its_loss(loss, structure, expected):
    model = two_outputs(structure)
    assert output_losses.losses_of(loss, model, model.output) == expected


def test_a_dictionary_of_losses_needs_names_of_outputs():
    class Nameless:
        output_names = None

    outputs = [tf.zeros([1, 2])] * 2
    assert output_losses.losses_of({"a": "mse"}, Nameless(), outputs) is None
    Nameless.output_names = {"b": "y", "a": "x"}  # a subclass that keeps them as a dictionary
    assert output_losses.losses_of({"a": "mse"}, Nameless(), outputs) == ["mse", None]


def test_adaptation_descends_the_loss_or_its_own():
    model, both = two_outputs("list"), ["mse", "mae"]
    assert output_losses.inner_losses(learner(model, both), model.output) == both
    one = dense_model()
    own = learner(one, "mse", inner_loss=LOGITS)
    assert output_losses.inner_losses(own, one.outputs[0]) == [LOGITS]
    own = learner(model, both, inner_loss=LOGITS)  # a function of both outputs
    assert output_losses.inner_losses(own, model.output) is None


def test_the_class_that_a_loss_passes_over():
    assert output_losses.ignored_class(IGNORING) == -1
    assert output_losses.ignored_class(LOGITS) is None
    function = keras.losses.sparse_categorical_crossentropy
    assert output_losses.ignored_class(functools.partial(function, ignore_class=3)) == 3
    assert output_losses.ignored_class(function) is None


# Which rules there are for a task batch.


def of_outputs(structure, size):
    a = np.zeros([2, size], "int32")
    return {"a": a, "b": a + 2} if structure == "dict" else [a, a + 2]


def described(rules):
    return [(rule.name, rule.classes, rule.ignored) for rule in rules]


@pytest.mark.parametrize(
    ("outputs", "given"), [("dict", "dict"), ("list", "dict"), ("list", "list")]
)
def test_labels_are_paired_with_outputs_by_name_or_by_place(outputs, given):
    losses = {"a": LOGITS, "b": IGNORING}
    made = learner(two_outputs(outputs), losses if outputs == "dict" else list(losses.values()))
    inputs = {**task_batch()[0], "support_y": of_outputs(given, 4)}
    names = ("['a']", "['b']") if given == "dict" else ("[0]", "[1]")
    expected = [
        (f"{key}{name}", classes, ignored)
        for key in ("support_y", "query_y")
        for name, classes, ignored in zip(names, (2, 3), (None, -1), strict=True)
    ]
    rules = labels.rules(made, inputs, of_outputs(given, 3))
    assert described(rules) == expected
    assert described(labels.rules(made, inputs)) == expected[:2]
    for rule in rules:
        rule.check()


def test_no_rule_where_it_is_not_clear_what_belongs_together():
    made = learner(two_outputs("list"), [LOGITS, LOGITS])
    inputs = {**task_batch()[0], "support_y": {"b": 0, "c": 0}}
    assert labels.rules(made, inputs, {"a": 0}) == []
    # What is not clear of support labels says nothing about those of queries.
    received = labels.rules(made, inputs, {"a": 0, "b": 0})
    assert described(received) == [("query_y['a']", 2, None), ("query_y['b']", 3, None)]
    own = learner(two_outputs("list"), [LOGITS, LOGITS], inner_loss="mse")
    received = labels.rules(own, inputs, [0, 0])
    assert [rule.key for rule in received] == ["query_y"] * 2


def test_no_rule_for_other_losses_and_none_for_an_unknown_number_of_classes():
    inputs, query_y = task_batch()
    assert labels.rules(learner(dense_model(), "mse"), inputs, query_y) == []
    made = learner(dense_model(), "mse", inner_loss=LOGITS)
    assert described(labels.rules(made, inputs, query_y)) == [("support_y", 2, None)]
    x, y = inputs["support_x"][0], inputs["support_y"][0]
    assert described(labels.rules_of_support(made, x, y)) == [("support_y", 2, None)]


class Tokens(keras.Model):
    """Takes integers alone."""

    def __init__(self):
        super().__init__()
        self.head = layers.Dense(2)

    def call(self, x):
        return self.head(tf.one_hot(x, 4))


def test_a_model_is_asked_with_the_dtype_of_the_examples():
    model, x = Tokens(), tf.zeros([4], tf.int32)
    model(x)
    received = labels.rules_of_support(learner(model, LOGITS), x, x)
    assert described(received) == [("support_y", 2, None)]


# What a rule finds.


@pytest.mark.parametrize(
    ("values", "broken"),
    [
        ([0, 1, 2], False),
        ([0.0, 2.0], False),
        ([-1, 0], False),  # ignored
        ([-1.0, 0.0], False),
        ([-2, 0], True),
        ([0, 3], True),
        ([0.0, 1.5], True),
        ([np.nan, 0.0], True),
        ([True, False], False),
        ([], False),
    ],
    ids=str,
)
def test_labels_are_whole_numbers_of_classes(values, broken):
    rule = label_rules.Rule("query_y", ("a", 0), np.array(values), 3, ignored=-1)
    if not broken:
        return rule.check()
    message = r"in \[0, 3\), .* \(and -1, which .* Received: \"query_y\['a'\]\[0\]\" with labels"
    with pytest.raises(ValueError, match=message):
        rule.check()
    return None


@pytest.mark.parametrize(("path", "ignored"), [((), None), (("a",), -1)], ids=["one", "several"])
def test_an_assertion_is_read_again(path, ignored):
    """What fails inside of a graph says the same as what is checked beforehand."""
    rule = label_rules.Rule("support_y", path, tf.constant([0, 1, 7]), 3, ignored)

    @tf.function(autograph=False)
    def asserted():
        with tf.control_dependencies([rule.assertion()]):
            return tf.identity(1)

    with pytest.raises(ValueError, match="labels from 0 to 7") as late, labels.explained():
        asserted()
    with pytest.raises(ValueError, match="labels from 0 to 7") as early:
        rule.check()
    assert str(late.value) == str(early.value)


def test_other_errors_stay_what_they_are():
    with pytest.raises(tf.errors.InvalidArgumentError, match="mine"), labels.explained():
        tf.debugging.Assert(False, ["mine"])


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_wrong_labels_are_spoiled_and_no_others(dtype):
    rule = label_rules.Rule("query_y", (), np.array([0, 1, 7, -1, -3], dtype), 3, ignored=-1)
    np.testing.assert_array_equal(rule.spoiled(), np.array([0, 1, 3, -1, 3], dtype))


# Batches whose labels are guarded in a graph.


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("queries", [False, True])
def test_guarded_batches_are_the_same_batches(queries, jit_compile):
    made = learner(two_outputs("list"), [LOGITS, "mse"], jit_compile=jit_compile)
    inputs = {**task_batch()[0], "support_y": of_outputs("list", 4)}
    query_y = of_outputs("list", 3) if queries else None

    @tf.function(autograph=False)
    def guarded(batch):
        return labels.guarded(made, *batch)

    received = guarded((inputs, query_y))
    assert (received[1] is None) is not queries
    one, other = (
        [x for x in tf.nest.flatten(b) if x is not None] for b in (received, (inputs, query_y))
    )
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("part", ["support_y", "query_y"])
def test_wrong_labels_end_a_graph_and_are_spoiled_under_xla(part):
    wrong = np.array([[0, 1, 7], [1, 0, 0]], "int32")
    right = np.zeros([2, 3], "int32")
    inputs = {**task_batch(support=3)[0], "support_y": wrong if part == "support_y" else right}
    query_y = wrong if part == "query_y" else right

    def guarded(**settings):
        made = learner(dense_model(), LOGITS, **settings)
        return tf.function(lambda *batch: labels.guarded(made, *batch), autograph=False)

    with pytest.raises(ValueError, match=f"'{part}' with labels from 0 to 7"), labels.explained():
        guarded()(inputs, query_y)
    spoiled, spoiled_y = guarded(jit_compile=True)(inputs, query_y)
    for received, given in ((spoiled["support_y"], inputs["support_y"]), (spoiled_y, query_y)):
        np.testing.assert_array_equal(received, np.where(given == 7, 2, given))


@pytest.mark.parametrize(
    ("dtype", "numeric"),
    [("float32", True), ("uint8", True), ("bool", True), (tf.int64, True)]
    + [("complex64", False), (np.dtype("<U3"), False), (tf.string, False), (np.dtype("O"), False)],
    ids=str,
)
def test_which_labels_are_numbers(dtype, numeric):
    assert labels.is_numeric(dtype) is numeric
