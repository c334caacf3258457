"""Every wrong call of `serving.export` says so before it writes anything."""

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from tests.problems import compiled, dense_model
from tests.wrong_calls import check_message

SAVED = pathlib.Path(__file__).parents[2] / "saved_models"
X, Y = tf.TensorSpec([None, 3]), tf.TensorSpec([None, 2])


@pytest.fixture(scope="module")
def learner():
    return compiled(dense_model())


def cyclic():
    card = {}
    card["self"] = card
    return card


def plain():
    model = dense_model()
    model.compile("sgd", "mse")
    return model


LEARNERS = [
    (plain, TypeError, r"`maml_tf.Learner`.*Received: learner=<Sequential.*type Sequential\).*own"),
    (lambda: None, TypeError, r"Received: learner=None \(of type NoneType\)"),
    (
        lambda: "saved_models/omniglot",
        TypeError,
        r"learner='saved_models/omniglot' \(of type str\)",
    ),
    (lambda: maml_tf.MAML, TypeError, "of type (ABCMeta|type)"),
]
CALLS = [
    ({"base_path": None}, TypeError, "Expected `base_path`.*base_path=None .of type NoneType"),
    ({"base_path": 7}, TypeError, "Expected `base_path`.*base_path=7 .of type int"),
    ({"base_path": b"exported"}, TypeError, "Expected `base_path`.*of type bytes"),
    ({"base_path": ""}, ValueError, "Expected `base_path`.*base_path=''.*Give"),
    ({"base_path": "a\0b"}, ValueError, "Expected `base_path`.*base_path='a"),
    ({"base_path": __file__}, NotADirectoryError, "is a file. Give another path"),
    ({"base_path": __file__ + "/below"}, NotADirectoryError, "is a file. Give another path"),
    *[
        ({name: v}, kind, f"Expected `{name}` to be an integer of at least {least}.*{name}={v!r}")
        for name, least in {
            **{"version": 0, "inner_steps": 0, "max_inner_steps": 0},
            **{"max_support": 1, "max_queries": 1},
        }.items()
        for v, kind in [(least - 1, ValueError), (2**63, ValueError)]
        + [(v, TypeError) for v in (True, False, 1.5, 2.0, "3")]
    ],
    ({"version": [1]}, TypeError, "Expected `version`.*Leave `version` out"),
    ({"version": np.array([3])}, TypeError, "Expected `version`.*version of shape"),
    ({"version": np.True_}, TypeError, "Expected `version`.*version=np.True_"),
    ({"max_inner_steps": None}, TypeError, "Expected `max_inner_steps`.*max_inner_steps=None"),
    ({"max_support": None}, TypeError, "Expected `max_support`.*max_support=None"),
    ({"max_queries": 2**31}, ValueError, "Expected `max_queries`.*at most 2147483647"),
    ({"inner_steps": 9, "max_inner_steps": 3}, ValueError, "inner_steps=9 and max_inner_steps=3"),
    ({"max_inner_steps": 0}, ValueError, "inner_steps=1 and max_inner_steps=0"),
    ({"warm_up": "no"}, TypeError, "Expected `warm_up` to be True or False.*warm_up='no'"),
    ({"warm_up": 1}, TypeError, "Expected `warm_up`.*warm_up=1"),
    ({"card": "sine waves"}, ValueError, "Expected `card`: a dict.*card='sine waves'"),
    ({"card": [("data", "sine")]}, ValueError, "Expected `card`: a dict"),
    ({"card": {1: "one"}}, ValueError, "Expected `card`: a dict of facts by name"),
    ({"card": {"loss": float("nan")}}, ValueError, r"JSON can hold.*card\['loss'\]=nan"),
    ({"card": {"loss": float("inf")}}, ValueError, r"card\['loss'\]=inf"),
    ({"card": {"loss": np.float32(1)}}, ValueError, r"JSON can hold.*card\['loss'\]"),
    ({"card": {"ways": {5, 20}}}, ValueError, r"JSON can hold.*card\['ways'\]=\{"),
    ({"card": {"path": pathlib.Path("x")}}, ValueError, r"JSON can hold.*card\['path'\]"),
    ({"card": {"deep": [{"x": np.zeros(2)}]}}, ValueError, r"JSON can hold.*card\['deep'\]"),
    ({"card": {"data": "\ud800"}}, ValueError, r"JSON can hold.*card\['data'\]"),
    ({"card": {"data": cyclic()}}, ValueError, r"JSON can hold.*card\['data'\]"),
    ({"card": {"parameters": 3}}, ValueError, "without 'parameters', which the export itself"),
    ({"card": {"name": "mine"}}, ValueError, "without 'name'"),
    ({"card": {"signatures": {}}}, ValueError, "without 'signatures'"),
    ({"x_spec": 3}, TypeError, r"Expected `x_spec`: a `tf.TensorSpec.*x_spec=3, with a int"),
    ({"x_spec": "float32"}, TypeError, "Expected `x_spec`.*x_spec='float32', with a str"),
    ({"x_spec": (None, 3)}, TypeError, r"Expected `x_spec`.*x_spec=\(None, 3\)"),
    ({"x_spec": tf.zeros([2, 3])}, TypeError, "Expected `x_spec`.*EagerTensor"),
    ({"x_spec": keras.KerasTensor((None, 3))}, TypeError, "Expected `x_spec`.*KerasTensor"),
    ({"x_spec": {}}, ValueError, "Expected `x_spec` with a `tf.TensorSpec` for each"),
    ({"x_spec": tf.TensorSpec([], tf.float32)}, ValueError, "`x_spec` with a free first axis"),
    ({"x_spec": tf.TensorSpec([4, 3])}, ValueError, "`x_spec` with a free first axis"),
    ({"x_spec": tf.TensorSpec(None)}, ValueError, "`x_spec` with a free first axis"),
    ({"x_spec": tf.TensorSpec([None, 4])}, ValueError, r"inputs that the model .* takes.*None, 4"),
    ({"x_spec": [X, X]}, ValueError, "inputs that the model .* takes"),
    ({"y_spec": "int32"}, TypeError, "Expected `y_spec`.*y_spec='int32', with a str"),
    ({"y_spec": tf.int32}, TypeError, "Expected `y_spec`.*with a DType"),
    ({"y_spec": [None, 2]}, TypeError, r"Expected `y_spec`.*y_spec=\[None, 2\]"),
    ({"y_spec": tf.TensorSpec([5, 2])}, ValueError, "`y_spec` with a free first axis"),
    (
        {"y_spec": tf.TensorSpec([None])},
        ValueError,
        r"labels of shape \[None, 2\], numbers.*y_spec=",
    ),
    (
        {"y_spec": tf.TensorSpec([None, 3])},
        ValueError,
        r"labels of shape \[None, 2\], numbers.*y_spec=",
    ),
    (
        {"y_spec": tf.TensorSpec([None, 2], tf.string)},
        ValueError,
        r"\[None, 2\], numbers.*tf.string",
    ),
    ({"y_spec": {"a": Y, "b": Y}}, ValueError, "adaptation fails"),
]


@pytest.mark.parametrize(("make", "kind", "message"), LEARNERS)
def test_what_is_no_compiled_learner(tmp_path, make, kind, message):
    with pytest.raises(kind, match=f"(?s){message}") as caught:
        maml_tf.serving.export(make(), tmp_path / "model")
    check_message(str(caught.value), [])
    assert not list(tmp_path.iterdir())


def test_a_learner_that_is_not_compiled(tmp_path):
    with pytest.raises(ValueError, match=r"Call `learner.compile"):
        maml_tf.serving.export(maml_tf.MAML(dense_model(), 0.1), tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("arguments", "kind", "message"), CALLS)
def test_a_wrong_call(learner, tmp_path, arguments, kind, message):
    with pytest.raises(kind, match=f"(?s){message}") as caught:
        maml_tf.serving.export(learner, **{"base_path": tmp_path / "model", **arguments})
    assert type(caught.value) is kind
    check_message(str(caught.value), [])
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_name_that_looks_like_a_number(learner, tmp_path):
    (tmp_path / "²").mkdir()  # `str.isdigit` is true of it, and it is no int
    folder = maml_tf.serving.export(learner, tmp_path, np.int64(4), warm_up=False)
    assert folder.name == "4"


class Root(keras.layers.Layer):
    """Not a number below one half."""

    def call(self, x):
        return keras.ops.sqrt(x - 0.5)


def test_a_model_that_does_not_answer_made_up_numbers_has_no_warm_up(tmp_path):
    """A server refuses to load a model whose warm-up fails."""
    pytest.importorskip("tensorflow_serving")
    model = keras.Sequential([keras.Input((2,)), Root(), keras.layers.Dense(1)])
    learner = compiled(model)
    with pytest.raises(ValueError, match="warm_up=True, but 'serving_default' says: .*finite"):
        maml_tf.serving.export(learner, tmp_path / "a", warm_up=True)
    assert not list(tmp_path.iterdir())
    folder = maml_tf.serving.export(learner, tmp_path / "a")
    assert not (folder / "assets.extra").exists()


def test_the_card_names_the_limits(learner, tmp_path):
    folder = maml_tf.serving.export(
        learner, tmp_path / "m", warm_up=False, max_support=50, max_queries=70, card={"seed": None}
    )
    card = json.loads((folder / "card.json").read_text())
    assert (card["max_support"], card["max_queries"], card["seed"]) == (50, 70, None)
    assert "at most 50 support examples and 70 queries" in (folder / "README.md").read_text()
