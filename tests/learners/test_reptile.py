"""Reptile against plain loops of gradient descent, and what is its alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from tests.problems import (
    adapt_by_hand,
    conv_model,
    dense_by_hand,
    dense_model,
    relative_error,
    task_batch,
)

RATE = 0.1


def ready(learner, optimizer=None, **settings):
    learner.compile(optimizer or keras.optimizers.SGD(1.0), loss="mse", **settings)
    return learner


def weights_of(learner):
    return [v.numpy() for v in learner.trainable_variables]


def step_by_hand(learner, inputs, steps):
    """Mean over tasks of where `steps` of gradient descent on the support loss end."""
    initial = [tf.constant(w) for w in weights_of(learner)]
    ends = [
        adapt_by_hand(dense_by_hand, initial, x, y, RATE, steps, first_order=True)
        for x, y in zip(inputs["support_x"], inputs["support_y"], strict=True)
    ]
    return [np.mean(parts, axis=0) for parts in zip(*ends, strict=True)]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("steps", [1, 4])
def test_an_outer_step_of_sgd_at_1_goes_where_gradient_descent_ends(steps):
    learner = ready(maml_tf.Reptile(dense_model(), RATE, steps))
    inputs, query_y = task_batch(tasks=3)
    expected = step_by_hand(learner, inputs, steps)
    learner.train_on_batch(inputs, query_y)
    assert relative_error(weights_of(learner), expected) < 1e-12


@pytest.mark.usefixtures("float64")
def test_one_inner_step_is_a_step_down_the_support_loss():
    """Joint training: the mean of the tasks' support gradients, by Keras' own optimizer."""
    learner = ready(maml_tf.Reptile(dense_model(), RATE, 1))
    plain = dense_model()
    plain.compile(keras.optimizers.SGD(RATE), loss="mse")
    inputs, query_y = task_batch(tasks=3)
    learner.train_on_batch(inputs, query_y)
    plain.train_on_batch(*(tf.reshape(inputs[k], [12, -1]) for k in ("support_x", "support_y")))
    received = weights_of(learner)
    assert relative_error(received, [v.numpy() for v in plain.trainable_variables]) < 1e-12


def test_the_queries_do_not_touch_the_outer_step():
    learner = ready(maml_tf.Reptile(dense_model(), RATE, 2))
    inputs, query_y = task_batch()
    one = learner.meta_gradient(inputs, query_y)
    other = learner.meta_gradient({**inputs, "query_x": 2 * inputs["query_x"]}, query_y + 1)
    for g, h in zip(one[1], other[1], strict=True):
        np.testing.assert_array_equal(g, h)
    assert abs(float(one[0] - other[0])) > 0.1


class Seen(maml_tf.Reptile):
    """Tells the support examples of each inner step: `inner_batch` of them, numbered from 0."""

    def indices(self, training, count, steps, task=0):
        values = self.initial_values()
        state = maml_tf.functional.distinct_seeds(self.non_trainable_variables, values[1], task)
        drawn = []
        ordinary = self._chosen

        def chosen(seed, step, count):
            drawn.append(ordinary(seed, step, count))
            return drawn[-1]

        support = maml_tf.learners.base.task.Support(tf.ones([count, 3]), tf.ones([count, 2]))
        with self.with_values(values[0], state):
            self._chosen = chosen
            objective = self.inner_objective(support, training)
            for step in range(steps):
                objective(*self.start(), step)
            del self._chosen
            after = maml_tf.functional.values_of(self.non_trainable_variables)
        return np.array([d.numpy() for d in drawn]), after


def seeing(**settings):
    settings = {"inner_batch": 2, **settings}
    return ready(Seen(dense_model(), RATE, 4, **settings))


@pytest.mark.parametrize(("batch", "count"), [(2, 6), (2, 5), (4, 6), (3, 3), (9, 4)])
@pytest.mark.parametrize("training", [True, False])
def test_every_example_is_used_once_before_any_twice(batch, count, training):
    learner, size = seeing(inner_batch=batch), min(batch, count)
    steps = 3 * count // size
    drawn, _ = learner.indices(training, count, steps)
    assert drawn.shape == (steps, size)
    order = drawn.ravel()[: len(drawn.ravel()) // count * count].reshape(-1, count)
    np.testing.assert_array_equal(
        np.sort(order, axis=1), np.tile(np.arange(count), (len(order), 1))
    )
    if count > 4:
        assert len({tuple(one) for one in order}) > 1


def test_orders_differ_from_task_to_task_and_from_step_to_step_but_not_in_prediction():
    learner = seeing()
    first, state = learner.indices(True, 8, 4)
    again, _ = learner.indices(True, 8, 4)
    other_task, _ = learner.indices(True, 8, 4, task=1)
    np.testing.assert_array_equal(first, again)  # nothing was assigned
    assert not np.array_equal(first, other_task)
    for variable, value in zip(learner.non_trainable_variables, state, strict=True):
        variable.assign(value)  # as a training step does
    later, _ = learner.indices(True, 8, 4)
    assert not np.array_equal(first, later)
    predicting = [learner.indices(False, 8, 4, task=task)[0] for task in (0, 1)]
    np.testing.assert_array_equal(*predicting)
    assert not np.array_equal(predicting[0], seeing(seed=1).indices(False, 8, 4)[0])


def test_training_advances_the_order_and_prediction_is_the_same_every_time():
    learner = ready(maml_tf.Reptile(dense_model(), RATE, 2, inner_batch=2))
    inputs, query_y = task_batch()
    seed = learner.non_trainable_variables[-1].numpy()
    one = learner.predict(inputs, verbose=0)
    np.testing.assert_array_equal(learner.predict(inputs, verbose=0), one)
    np.testing.assert_array_equal(learner.non_trainable_variables[-1].numpy(), seed)
    learner.train_on_batch(inputs, query_y)
    assert not np.array_equal(learner.non_trainable_variables[-1].numpy(), seed)


@pytest.mark.usefixtures("float64")
def test_minibatch_steps_are_a_python_loop_over_those_examples():
    learner = seeing(inner_batch=2)
    inputs, query_y = task_batch(tasks=2, support=5)
    initial = [tf.constant(w) for w in weights_of(learner)]
    ends = []
    for task in range(2):
        weights = initial
        for chosen in learner.indices(True, 5, 4, task=task)[0]:
            x, y = (tf.gather(inputs[k][task], chosen) for k in ("support_x", "support_y"))
            weights = adapt_by_hand(dense_by_hand, weights, x, y, RATE, 1, first_order=True)
        ends.append(weights)
    expected = [np.mean(parts, axis=0) for parts in zip(*ends, strict=True)]
    learner.train_on_batch(inputs, query_y)
    assert relative_error(weights_of(learner), expected) < 1e-12


def test_the_scale_of_a_loss_does_not_change_the_outer_step():
    inputs, query_y = task_batch()
    ends = []
    for scale in (None, 1.0, 1024.0):
        optimizer = keras.optimizers.SGD(0.5)
        if scale is not None:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=scale)
        learner = ready(maml_tf.Reptile(dense_model(), RATE, 2), optimizer)
        before = weights_of(learner)
        learner.train_on_batch(inputs, query_y)
        moves = zip(weights_of(learner), before, strict=True)
        ends.append([w - b for w, b in moves])
    assert relative_error(ends[1], ends[0]) < 1e-6
    assert relative_error(ends[2], ends[0]) < 1e-6


def test_in_half_precision_the_outer_step_is_that_of_float32_up_to_rounding():
    inputs, query_y = task_batch()
    before, moves = keras.mixed_precision.dtype_policy(), {}
    for policy in ("float32", "mixed_float16"):
        keras.mixed_precision.set_dtype_policy(policy)
        try:
            learner = maml_tf.Reptile(dense_model(), RATE, 2)
        finally:
            keras.mixed_precision.set_dtype_policy(before)
        ready(learner, keras.optimizers.SGD(0.5))
        initial = weights_of(learner)
        learner.train_on_batch(inputs, query_y)
        moves[policy] = [w - i for w, i in zip(weights_of(learner), initial, strict=True)]
    assert relative_error(moves["mixed_float16"], moves["float32"]) < 0.02


def test_weights_that_do_not_adapt_stay():
    learner = ready(
        maml_tf.Reptile(dense_model(), RATE, 3, adaptable=lambda v: v.shape[-1] == 2),
        keras.optimizers.SGD(1.0, momentum=0.9),
    )
    before = weights_of(learner)
    learner.fit(*task_batch(), batch_size=2, epochs=3, verbose=0)
    moved = [np.abs(w - b).max() for w, b in zip(weights_of(learner), before, strict=True)]
    assert moved[:2] == [0, 0]
    assert min(moved[2:]) > 1e-3


def test_adaptable_weights_are_those_of_the_whole_where_the_others_stand_still():
    """The displacement of those that adapt alone, not of all of them."""
    inputs, query_y = task_batch()
    learner = ready(maml_tf.Reptile(dense_model(), RATE, 1, adaptable=[False, False, True, True]))
    whole = ready(maml_tf.Reptile(dense_model(), RATE, 1))
    some, every = (x.meta_gradient(inputs, query_y)[1] for x in (learner, whole))
    assert relative_error(list(some[2:]), list(every[2:])) < 1e-6
    assert not np.any(np.abs(some[0]))


def test_averages_of_batch_normalisation_follow_the_tasks():
    learner = ready(maml_tf.Reptile(conv_model(), RATE, 2, inner_batch=3, batch_norm="moving"))
    moving = [v for v in learner.model.non_trainable_variables if "moving" in v.path]
    before = [v.numpy() for v in moving]
    learner.train_on_batch(*task_batch((6, 6, 1)))
    assert all(np.abs(v - b).max() > 1e-4 for v, b in zip(moving, before, strict=True))


def test_by_default_there_are_five_steps_on_all_examples_in_no_order():
    learner = maml_tf.Reptile(dense_model(), RATE)
    assert (learner.inner_steps, learner.inner_batch, learner.seed) == (5, None, 0)
    assert learner.non_trainable_variables == []


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"inner_batch": 0}, ValueError, "`inner_batch` to be an integer of at least 1"),
        ({"inner_batch": True}, TypeError, "`inner_batch` to be an integer"),
        ({"seed": -1}, ValueError, "`seed` to be an integer of at least 0"),
        ({"inner_steps": 1.5}, TypeError, "`inner_steps` to be an integer"),
        ({"rematerialize": 1}, TypeError, "`rematerialize` to be True or False"),
    ],
    ids=["no-example", "truth-value", "seed", "steps", "rematerialize"],
)
def test_wrong_settings_are_refused(settings, error, match):
    with pytest.raises(error, match=match):
        maml_tf.Reptile(dense_model(), RATE, **settings)


@pytest.mark.parametrize("size", [1, 3, 9])
def test_minibatches_are_drawn_of_the_examples_that_count(size):
    learner = ready(maml_tf.Reptile(dense_model(), RATE, 5, inner_batch=size))
    inputs, _ = task_batch(tasks=1)
    x, y = inputs["support_x"][0], inputs["support_y"][0]
    weight = np.array([1, 1, 0, 0], np.float32)
    received = learner.adapt(x, y, support_weight=weight).get_weights()
    for one, other in zip(received, learner.adapt(x[:2], y[:2]).get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_rates_that_nothing_would_train_are_refused():
    rates = maml_tf.inner_optimizers.LearnedRates
    with pytest.raises(ValueError, match="without trainable variables.*LearnedRates"):
        maml_tf.Reptile(dense_model(), rates(0.1))
    maml_tf.Reptile(dense_model(), rates(0.1, trainable=False))


def test_a_seed_is_as_large_as_tensorflow_takes_it():
    def made(seed):
        return maml_tf.Reptile(dense_model(), 0.1, inner_batch=2, seed=seed)

    with pytest.raises(ValueError, match=rf"`seed` to be .* at most {2**63 - 1}\. .*seed={2**63}"):
        made(2**63)
    learner = made(2**63 - 1)
    learner.compile("sgd", loss="mse")
    x, y = np.zeros((4, 3), "float32"), np.zeros((4, 2), "float32")
    assert np.isfinite(learner.adapt(x, y)(x)).all()
