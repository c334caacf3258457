"""A learner with its backbone does with pictures what the learner does with features."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import backbones, evaluation
from tests.backbones.networks import LEARNERS, anil, backbone, one_task, pictures, prototypical
from tests.problems import layers

each_learner = pytest.mark.parametrize("name", LEARNERS)


def both(name, tmp_path):
    """The learner, that with its backbone, tasks of features and of pictures."""
    network, given = backbone(), pictures()
    made = backbones.features(given, network, cache=tmp_path)
    learner = LEARNERS[name]()
    return learner, backbones.WithBackbone(network, learner), made, given


@each_learner
def test_it_answers_pictures_as_the_learner_answers_features(name, tmp_path):
    learner, whole, made, given = both(name, tmp_path)
    (z, y), (x, _) = (next(iter(tasks[2])) for tasks in (made, given))
    paths = [
        one.predict_path(task, learner.inner_steps) for one, task in ((learner, z), (whole, x))
    ]
    np.testing.assert_allclose(paths[1], paths[0], atol=1e-5)
    assert paths[0].shape[2:] == (6, 3)
    if learner.inner_steps:
        losses = [one.loss_path(task, y, 1).numpy() for one, task in ((learner, z), (whole, x))]
        np.testing.assert_allclose(losses[1], losses[0], atol=1e-5)
    task, pictures_of = one_task(made), one_task(given)
    expected = learner.adapt(*task[:2]).predict(task[2], verbose=0)
    answer = whole.adapt(*pictures_of[:2]).predict(pictures_of[2], verbose=0)
    np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_it_is_evaluated_by_the_protocol_as_the_learner_is(tmp_path):
    learner, whole, made, given = both("prototypical", tmp_path)
    results = [evaluation.evaluate(*pair, 4) for pair in ((learner, made[2]), (whole, given[2]))]
    assert results[0].metric == results[1].metric == "accuracy"
    np.testing.assert_allclose(results[0].values, results[1].values)


@each_learner
def test_training_on_pictures_is_training_on_features(name, tmp_path):
    """The same meta-gradient, for the same variables; the backbone stays as it is."""
    learner, whole, made, given = both(name, tmp_path)
    gradients = []
    for one, tasks in ((learner, made), (whole, given)):
        _, found, *_ = one.meta_gradient(*next(iter(tasks[0])))
        by_path = zip(one.trainable_variables, found, strict=True)
        gradients.append({id(v): g.numpy() for v, g in by_path})
    assert gradients[0].keys() == gradients[1].keys()
    assert any(np.any(g) for g in gradients[0].values())
    for key, gradient in gradients[0].items():
        np.testing.assert_allclose(gradients[1][key], gradient, atol=1e-6)


def test_training_on_pictures_leaves_the_backbone_as_it_is(tmp_path):
    """Also to the last bit, though the state of a model is averaged over tasks, here seven."""
    _, whole, _, given = both("anil", tmp_path)
    before = whole.backbone.get_weights()
    head = whole.learner.get_weights()
    whole.run_eagerly = True
    inputs, query_y = next(iter(given[0]))
    seven = {name: tf.tile(part[:1], [7, *[1] * (part.ndim - 1)]) for name, part in inputs.items()}
    whole.train_on_batch(seven, tf.tile(query_y[:1], [7, 1]))
    assert any(np.any(a != b) for a, b in zip(head, whole.learner.get_weights(), strict=True))
    for one, other in zip(before, whole.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["anil", "prototypical", "low_rank"])
def test_it_is_saved_and_exported_with_its_backbone(name, tmp_path):
    _, whole, _, given = both(name, tmp_path)
    x, y, query, _ = one_task(given)
    expected = whole.adapt(x, y).predict(query, verbose=0)
    whole.save(tmp_path / "whole.keras")
    again = keras.saving.load_model(tmp_path / "whole.keras")
    np.testing.assert_array_equal(again.adapt(x, y).predict(query, verbose=0), expected)
    assert len(again.trainable_variables) == len(whole.trainable_variables)
    again.adapt(x, y).save(tmp_path / "adapted.keras")
    adapted = keras.saving.load_model(tmp_path / "adapted.keras", compile=False)
    np.testing.assert_array_equal(adapted.predict(query, verbose=0), expected)

    path = maml_tf.serving.export(whole, tmp_path / "exported", warm_up=False)
    card = json.loads((path / "card.json").read_text())
    assert card["method"] == type(whole.learner).__name__
    assert card["backbone"] == f"{whole.backbone.name}, frozen, 128 parameters"
    served = tf.saved_model.load(str(path)).signatures
    task = {"support_x": tf.constant(x), "support_y": tf.constant(y)}
    task |= {} if whole.inner_steps is None else {"inner_steps": tf.constant(2)}
    answer = served["adapt_and_predict"](**task, query_x=tf.constant(query))["predictions"]
    np.testing.assert_allclose(answer, expected, atol=1e-5)
    weights = served["adapt"](**task)
    answer = served["predict_with"](**weights, query_x=tf.constant(query))["predictions"]
    np.testing.assert_allclose(answer, expected, atol=1e-5)
    # What goes to and fro is what adapts, and nothing of the backbone.
    assert tf.size(weights["weights"]) <= 22


def test_decoded_jpegs_are_answered_alike(tmp_path):
    """uint8 as a decoder gives them, where the backbone begins with them."""
    x = keras.Input((6, 6, 3), dtype="uint8")
    network = keras.Model(x, backbone()(layers.Rescaling(1 / 255)(x)))
    whole = backbones.WithBackbone(network, prototypical())
    rng = np.random.default_rng(0)
    files = [
        tf.io.encode_jpeg(rng.integers(0, 256, [6, 6, 3], np.uint8), quality=95).numpy()
        for _ in range(6)
    ]
    decoded = np.stack([tf.io.decode_jpeg(file).numpy() for file in files])
    y = np.array([0, 0, 1, 1, 2, 2], np.int32)
    adapted = whole.adapt(decoded, y)
    path = maml_tf.serving.export(whole, tmp_path / "exported", warm_up=False)
    served = tf.saved_model.load(str(path)).signatures["adapt_and_predict"]
    task = {"support_x": tf.constant(decoded), "support_y": tf.constant(y)}
    answer = served(**task, query_x=tf.constant(decoded))["predictions"]
    np.testing.assert_allclose(answer, adapted.predict(decoded, verbose=0), atol=1e-5)


def test_the_backbone_runs_once_for_each_example_whatever_the_steps(tmp_path):
    _, whole, _, given = both("anil", tmp_path)
    calls, run = [], whole.backbone.call

    def counting(*args, **kwargs):
        calls.append(1)
        return run(*args, **kwargs)

    whole.backbone.__dict__["call"] = counting
    whole.adapt(*one_task(given)[:2], inner_steps=7)
    assert len(calls) == 1


def test_compiling_it_gives_the_learner_the_same_losses():
    learner = anil()
    optimizer = learner.optimizer
    whole = backbones.WithBackbone(backbone(), learner)
    assert whole.loss is learner.loss
    assert type(whole.optimizer) is type(optimizer)
    whole.compile("sgd", "mse", inner_loss="mae")
    assert learner.loss == "mse"
    assert learner.optimizer is optimizer
    assert learner._compile_config.config["metrics"] == ["accuracy"]


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (TypeError, lambda: (backbone(), backbone()), r"Expected `learner` to be a `maml_tf.Learn"),
        (
            TypeError,
            lambda: (backbone(), backbones.WithBackbone(backbone(), anil())),
            r"Expected `learner` to be a `maml_tf.Learner` of features",
        ),
        (
            ValueError,
            lambda: (keras.Sequential([keras.Input((6, 6, 3)), layers.Flatten()]), anil()),
            r"gives features of shape \(4,\).*Received: .* with features of shape \(108,\)",
        ),
    ],
    ids=["no learner", "twice", "other features"],
)
def test_what_does_not_fit_is_refused(kind, arguments, message):
    with pytest.raises(kind, match=message):
        backbones.WithBackbone(*arguments())


def test_pictures_of_another_size_are_refused():
    whole = backbones.WithBackbone(backbone(), anil())
    with pytest.raises(ValueError, match=r"Expected 'support_x' of shape \('support', 6, 6, 3\)"):
        whole.adapt(np.zeros([3, 8, 8, 3], np.float32), np.arange(3))
