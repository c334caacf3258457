"""Real models as strangers bring them: each trains, is exact, adapts, loads and is served.

    python -m pytest tests/strangers                # a third of the rows, as in all runs of tests
    python -m pytest tests/strangers -n0 -m ""      # all of them

All in float64. A row is one test, because tracing is what it costs: the learner's training step is
traced once, and the meta-gradient read off a step of plain gradient descent. What a model cannot do
it is refused for by name, before training.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.learners.base.adapted_models import AdaptedModel
from tests.strangers.rows import loss_of, task_batch
from tests.strangers.table import ROWS

pytestmark = pytest.mark.usefixtures("float64")


def marked(row):
    return pytest.param(row, id=row.name, marks=[pytest.mark.slow] * row.slow)


def learner_of(row):
    """A learner whose first training step subtracts the meta-gradient from the weights."""
    keras.utils.set_random_seed(0)
    model, rng = row.build(), np.random.default_rng(0)
    for variable in model.trainable_variables:
        # Biases of zero put a ReLU exactly on its kink wherever its inputs are zero.
        variable.assign_add(0.05 * rng.normal(size=variable.shape))
    learner = maml_tf.MAML(model, row.rate, batch_norm="support")
    learner.compile(keras.optimizers.SGD(1.0, momentum=0.5), loss_of(row))
    return learner


@pytest.mark.parametrize("row", [marked(row) for row in ROWS if row.refused is None])
def test_a_model_trains_adapts_loads_and_is_served(row, tmp_path):
    data = task_batch(row)
    learner = learner_of(row)
    the_meta_gradient_agrees_with_central_differences(row, learner, data)
    predictions = learner.predict_on_batch(data[0])
    the_adapted_model_predicts_the_same(row, learner, data, predictions, tmp_path)
    the_export_predicts_the_same(row, learner, data, predictions, tmp_path)
    the_loaded_learner_is_where_it_was(row, learner, data, predictions, tmp_path)


def the_meta_gradient_agrees_with_central_differences(row, learner, data):
    model = learner.model
    trained, start = model.trainable_variables, [v.numpy() for v in model.variables]

    def loss_at(direction=None, step=0.0):
        """Of a training step from the initial variables, moved, and where that is: float32 rounds.

        The noise stays the same.
        """
        for variable, value in zip(model.variables, start, strict=True):
            variable.assign(value)
        for variable, part in zip(trained, direction or [], strict=direction is not None):
            variable.assign_add(step * part)
        place = [v.numpy() for v in trained]
        learner.reset_metrics()
        return learner.train_on_batch(*data, return_dict=True)["loss"], place

    loss, before = loss_at()
    gradient = [a - v.numpy() for a, v in zip(before, trained, strict=True)]
    norm = np.sqrt(sum(np.sum(g**2) for g in gradient))
    assert np.isfinite(loss)
    assert norm > 1e-6
    rng = np.random.default_rng(1)
    noise = [rng.normal(size=g.shape) for g in gradient]
    size = np.sqrt(sum(np.sum(n**2) for n in noise))
    direction = [g / norm + n / size for g, n in zip(gradient, noise, strict=True)]
    (above, end), (below, begin) = (loss_at(direction, sign * row.step) for sign in (1, -1))
    moved = zip(gradient, end, begin, strict=True)
    received = sum(np.sum(g * (e.astype("float64") - b)) for g, e, b in moved)
    np.testing.assert_allclose(received, above - below, rtol=row.tolerance)
    assert loss_at([g / norm for g in gradient], -1e-3)[0] < loss
    # A step of training as it would be, so that nothing is where its initializer put it; seeds
    # stay where training has brought them.
    for variable, value in zip(model.variables, start, strict=True):
        if not variable.path.endswith("seed_generator_state"):
            variable.assign(value)
    for variable, part in zip(trained, gradient, strict=True):
        variable.assign_sub(0.01 / norm * part)


def the_adapted_model_predicts_the_same(row, learner, data, predictions, folder):
    inputs, _ = data
    before = learner.get_weights()
    support_x, support_y, query_x = (
        tf.nest.map_structure(lambda t: t[0], inputs[k])
        for k in ("support_x", "support_y", "query_x")
    )
    adapted = learner.adapt(support_x, support_y)
    assert isinstance(adapted, AdaptedModel) is not row.copied
    answers = adapted(query_x, training=False).numpy()
    np.testing.assert_allclose(answers, predictions[0], rtol=1e-6, atol=1e-6)
    adapted.save(folder / "adapted.keras")
    again = keras.saving.load_model(folder / "adapted.keras", safe_mode=row.safe_mode)
    np.testing.assert_array_equal(again(query_x, training=False), answers)
    shapes = [[v.shape for v in m.trainable_variables] for m in (adapted, again)]
    assert shapes[0] == shapes[1]
    for one, other in zip(learner.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def the_export_predicts_the_same(row, learner, data, predictions, folder):
    inputs, _ = data
    x_spec = None if row.x_spec is None else row.x_spec()
    path = maml_tf.serving.export(learner, folder / "export", warm_up=False, x_spec=x_spec)
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    request = {"inner_steps": tf.constant(1)}
    for key in ("support_x", "support_y", "query_x"):
        flat = keras.tree.flatten(inputs[key])
        names = [key] if len(flat) == 1 else [f"{key}_{i}" for i in range(len(flat))]
        request |= {name: tensor[1] for name, tensor in zip(names, flat, strict=True)}
    answers = signature(**request)["predictions"]
    np.testing.assert_allclose(answers, predictions[1], rtol=1e-6, atol=1e-6)


def the_loaded_learner_is_where_it_was(row, learner, data, predictions, folder):
    """With all that its next step depends on: to trace that step again would be half of the test.

    That training goes on from there with the same bits, `tests/learners/test_contract` says of
    every learner.
    """
    learner.save(folder / "learner.keras")
    again = keras.saving.load_model(folder / "learner.keras", safe_mode=row.safe_mode)
    np.testing.assert_array_equal(again.predict_on_batch(data[0]), predictions)
    for variables in (lambda one: one.variables, lambda one: one.optimizer.variables):
        pairs = list(zip(variables(learner), variables(again), strict=True))
        for one, other in pairs:
            np.testing.assert_array_equal(one, other)
        assert [one.trainable for one, _ in pairs] == [other.trainable for _, other in pairs]
    assert again.get_compile_config() == learner.get_compile_config()


@pytest.mark.parametrize("row", [marked(row) for row in ROWS if row.refused is not None])
def test_a_model_is_refused_by_name_before_training(row):
    with pytest.raises((NotImplementedError, ValueError), match=row.refused) as raised:
        learner_of(row).train_on_batch(*task_batch(row))
    assert "Expected" in str(raised.value)
