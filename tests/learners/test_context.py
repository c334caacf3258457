"""What adapts is no weight of the model: a context vector, against closed forms in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.inner.optimizers import SGD, LearnedRates
from maml_tf.learners.base.adapted_models import AdaptedLearner
from tests.learners.toys import Context, ContextReptile

RANDOM = np.random.default_rng(0)
TASKS, SUPPORT, QUERIES, WIDTH = 2, 4, 3, 2


def linear(optimizer=0.1, method=Context, **settings):
    """y = w x + v c + b with 3 inputs x and a context c of 2; c begins elsewhere than at 0."""
    keras.utils.set_random_seed(1)
    network = keras.Sequential([keras.Input((3 + WIDTH,)), keras.layers.Dense(1)])
    learner = method(network, optimizer, WIDTH, **settings)
    learner.context.assign([0.3, 0.2])
    learner.compile(keras.optimizers.SGD(1.0), loss=keras.losses.MeanSquaredError())
    return learner


def task_batch():
    dtype = keras.config.floatx()

    def normal(*shape):
        return tf.constant(RANDOM.normal(size=(TASKS, *shape)), dtype)

    inputs = {
        "support_x": normal(SUPPORT, 3),
        "support_y": normal(SUPPORT, 1),
        "query_x": normal(QUERIES, 3),
    }
    return inputs, normal(QUERIES, 1)


def by_hand(learner, x, y, rates, steps=1):
    """The context after `steps`, and the gradient of the last one."""
    kernel, bias = (v.numpy() for v in learner.model.trainable_variables)
    context, x, y = learner.context.numpy(), x.numpy(), y.numpy()
    for _ in range(steps):
        error = x @ kernel[:3] + context @ kernel[3:] + bias - y
        gradient = 2 * error.mean() * kernel[3:, 0]
        context = context - rates * gradient
    return context, gradient


def answer_by_hand(learner, x, context):
    kernel, bias = (v.numpy() for v in learner.model.trainable_variables)
    return x.numpy() @ kernel[:3] + context @ kernel[3:] + bias


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("rematerialize", [False, True])
def test_adapting_descends_the_context_and_its_rates_learn(rematerialize):
    rates = LearnedRates(0.1)
    learner = linear(rates, rematerialize=rematerialize)
    (rate,) = rates.rates
    assert tuple(rate.shape) == (WIDTH,)
    rate.assign([0.4, 0.1])
    inputs, query_y = task_batch()
    loss, gradients, _, y_pred, _ = tf.function(learner.meta_gradient)(inputs, query_y)
    losses, of_rate = [], np.zeros(WIDTH)
    for i in range(TASKS):
        x, y = inputs["support_x"][i], inputs["support_y"][i]
        context, gradient = by_hand(learner, x, y, rate.numpy())
        expected = answer_by_hand(learner, inputs["query_x"][i], context)
        np.testing.assert_allclose(y_pred[i], expected, rtol=1e-12)
        error = expected - query_y[i].numpy()
        losses.append(np.mean(error**2))
        # d loss / d rate = d loss / d context' * d context' / d rate
        at_queries = 2 * error.mean() * learner.model.trainable_variables[0].numpy()[3:, 0]
        of_rate -= at_queries * gradient / TASKS
        adapted = learner.adapt(x, y)
        assert type(adapted) is AdaptedLearner
        (own,) = adapted.trainable_variables
        np.testing.assert_allclose(own.numpy(), context, rtol=1e-12)
        np.testing.assert_allclose(adapted(inputs["query_x"][i]), expected, rtol=1e-12)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-12)
    by_variable = dict(zip([v.path for v in learner.trainable_variables], gradients, strict=True))
    np.testing.assert_allclose(by_variable[rate.path], of_rate, rtol=1e-10)


@pytest.mark.usefixtures("float64")
def test_the_meta_gradient_is_that_of_central_differences():
    learner, (inputs, query_y) = linear(LearnedRates(0.2), inner_steps=2), task_batch()
    compute = tf.function(learner.meta_gradient)
    gradients = compute(inputs, query_y)[1]
    for variable, gradient in zip(learner.trainable_variables, gradients, strict=True):
        value, received = variable.numpy(), np.zeros(variable.shape)
        for place in np.ndindex(*variable.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = value.copy()
                moved[place] += step
                variable.assign(moved)
                ends.append(float(compute(inputs, query_y)[0]))
            variable.assign(value)
            received[place] = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(received, gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_paths_are_those_of_each_number_of_steps():
    learner, (inputs, query_y) = linear(0.1, inner_steps=1), task_batch()
    predictions, losses = learner.predict_path(inputs, 2), learner.loss_path(inputs, query_y, 2)
    assert (predictions.shape, losses.shape) == ((TASKS, 3, QUERIES, 1), (TASKS, 3))
    for i in range(TASKS):
        for steps in range(3):
            support = inputs["support_x"][i], inputs["support_y"][i]
            context = learner.context.numpy()
            if steps:
                context, _ = by_hand(learner, *support, 0.1, steps)
            expected = answer_by_hand(learner, inputs["query_x"][i], context)
            np.testing.assert_allclose(predictions[i, steps], expected, rtol=1e-12)
            error = expected - query_y[i].numpy()
            np.testing.assert_allclose(losses[i, steps], np.mean(error**2), rtol=1e-12)


def test_a_constraint_of_the_context_holds_after_every_inner_step():
    inputs, _ = task_batch()
    x, y = inputs["support_x"][0], inputs["support_y"][0]
    learner = linear(2.0, constraint="non_neg", inner_steps=3)
    assert learner.inner_loop.constraints == [learner.constraint]
    free = linear(2.0, inner_steps=3).adapt(x, y).trainable_variables[0]
    held = learner.adapt(x, y).trainable_variables[0]
    assert free.numpy().min() < 0 <= held.numpy().min()


def test_adaptable_chooses_among_what_the_inner_loop_changes():
    assert linear(adaptable="context").adaptable == [True]
    with pytest.raises(ValueError, match=r"1 trainable weights \['context.*adaptable='dense'"):
        linear(adaptable="dense")


def test_examples_are_those_without_the_context(tmp_path):
    learner, (inputs, _) = linear(), task_batch()
    x, y = inputs["support_x"][0], inputs["support_y"][0]
    with pytest.raises(ValueError, match=r"of shape \('support', 3\).*\(4, 5\)"):
        learner.adapt(np.zeros((SUPPORT, 3 + WIDTH), "float32"), y)
    path = maml_tf.serving.export(learner, tmp_path / "served", warm_up=False)
    signatures = tf.saved_model.load(str(path)).signatures
    weights = signatures["adapt"](support_x=x, support_y=y, inner_steps=tf.constant(1))["weights"]
    np.testing.assert_allclose(weights, by_hand(learner, x, y, 0.1)[0], rtol=1e-5)


def test_rates_of_a_file_are_there_before_the_learner_is_compiled(tmp_path):
    learner = linear(LearnedRates(0.1))
    learner.inner_optimizer.rates[0].assign([0.75, 0.5])
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras", compile=False)
    np.testing.assert_array_equal(loaded.inner_optimizer.rates[0], [0.75, 0.5])
    np.testing.assert_array_equal(loaded.context, learner.context)


@pytest.mark.usefixtures("float64")
def test_reptile_moves_the_context_to_where_tasks_end_and_nothing_else():
    learner, (inputs, query_y) = linear(SGD(0.1), ContextReptile, inner_steps=3), task_batch()
    gradients = tf.function(learner.meta_gradient)(inputs, query_y)[1]
    ends = [
        by_hand(learner, inputs["support_x"][i], inputs["support_y"][i], 0.1, 3)[0]
        for i in range(TASKS)
    ]
    expected = learner.context.numpy() - np.mean(ends, 0)
    for variable, gradient in zip(learner.trainable_variables, gradients, strict=True):
        wanted = expected if variable is learner.context else np.zeros(variable.shape)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-12, atol=1e-15)
