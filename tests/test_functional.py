import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import functional
from tests.problems import layers

X = tf.constant(np.random.default_rng(0).normal(2.0, 3.0, [8, 2]), tf.float32)


def values(model):
    return (
        [tf.convert_to_tensor(v) for v in model.trainable_variables],
        [tf.convert_to_tensor(v) for v in model.non_trainable_variables],
    )


def normalised(x, mean, variance):
    return (x - mean) / np.sqrt(variance + 1e-3)


def dropout_and_batch_norm():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.5)),
            layers.BatchNormalization(momentum=0.9),
            layers.Dropout(0.5, seed=1),
        ]
    )


@pytest.mark.parametrize("training", [False, True])
def test_without_a_mode_it_is_stateless_call_on_other_weights(training):
    model = dropout_and_batch_norm()
    weights, state = ([v + 1 for v in part] for part in values(model))
    before = [v.numpy() for v in model.variables]
    y, after = functional.call(model, weights, state, X, training=training)
    expected, kept = model.stateless_call(weights, state, X, training=training)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    for one, other in zip(after, kept, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", ["batch", "store", "moving", None])
def test_what_batch_norm_normalises_with_and_what_it_keeps(mode, training):
    model = keras.Sequential([keras.Input((2,)), layers.BatchNormalization(momentum=0.75)])
    moving = np.array([1.0, -1.0], "float32"), np.array([4.0, 9.0], "float32")
    own = np.mean(X, 0), np.var(X, 0)
    kept = {
        "batch": moving,
        "keras": tuple(0.75 * m + 0.25 * o for m, o in zip(moving, own, strict=True)),
        "store": own,
        "moving": moving,
    }
    weights, _ = values(model)
    y, state = functional.call(model, weights, list(moving), X, training=training, batch_norm=mode)
    if mode is None:
        mode = "keras" if training else "moving"
    expected = normalised(X, *(moving if mode == "moving" else own))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(state, kept[mode], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("mode", ["batch", "store", "moving", None])
def test_the_mode_leaves_dropout_to_training(mode):
    model = keras.Sequential(
        [keras.Input((2,)), layers.BatchNormalization(), layers.Dropout(0.5, seed=1)]
    )
    weights, state = values(model)
    for training, dropped in ((True, True), (False, False)):
        y, _ = functional.call(model, weights, state, X, training=training, batch_norm=mode)
        assert np.any(np.asarray(y) == 0) == dropped


@pytest.mark.parametrize("mode", ["batch", "store", "moving", None])
def test_frozen_batch_norm_keeps_to_its_moving_averages(mode):
    frozen = layers.BatchNormalization(trainable=False)
    model = keras.Sequential([keras.Input((2,)), frozen, layers.Dense(1)])
    weights, _ = values(model)
    state = [tf.zeros(2), tf.ones(2), tf.constant([1.0, -1.0]), tf.constant([4.0, 9.0])]
    names = [v.name for v in model.non_trainable_variables]
    assert names == ["gamma", "beta", "moving_mean", "moving_variance"]
    state[0], state[1] = tf.ones(2), tf.zeros(2)
    y, after = functional.call(model, weights, state, X, training=True, batch_norm=mode)
    expected = normalised(X, state[2], state[3]) @ weights[0] + weights[1]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert all(a is b for a, b in zip(after, state, strict=True))


def test_nested_and_shared_batch_norm_follow_the_mode():
    shared = layers.BatchNormalization()
    nested = keras.Sequential([keras.Input((2,)), keras.Sequential([layers.BatchNormalization()])])
    x = keras.Input((2,))
    model = keras.Model(x, shared(nested(shared(x))))
    weights, state = values(model)
    assert len(functional.batch_norm_layers(model)) == 2
    y, _ = functional.call(model, weights, state, X, training=True, batch_norm="moving")
    np.testing.assert_allclose(y, X / (1 + 1e-3) ** 1.5, rtol=1e-5)


def test_losses_are_those_of_the_given_weights():
    model = dropout_and_batch_norm()
    weights, state = values(model)
    weights[0] = tf.ones_like(weights[0])
    loss, _ = functional.call(
        model, weights, state, X, training=False, then=lambda y: tf.add_n(model.losses)
    )
    assert loss.numpy() == 0.5 * 6


class BoomError(Exception):
    pass


def boom(y):
    raise BoomError


@pytest.mark.parametrize("mode", ["batch", "store", "moving", None])
@pytest.mark.parametrize("then", [boom, lambda y: y], ids=["error", "success"])
def test_everything_is_put_back_after_a_call_even_after_an_error(mode, then):
    model, original = dropout_and_batch_norm(), tf.nn.moments
    weights, state = values(model)
    try:
        functional.call(model, weights, state, X, training=True, batch_norm=mode, then=then)
    except BoomError:
        assert then is boom
    else:
        assert then is not boom
    assert tf.nn.moments is original
    (layer,) = functional.batch_norm_layers(model)
    assert "call" not in vars(layer)
    assert layer.momentum == 0.9
    assert not keras.src.backend.in_stateless_scope()


def test_two_threads_do_not_interleave():
    model = dropout_and_batch_norm()
    arguments = (model, *values(model), X)
    entered = threading.Event()

    def enter(y):
        entered.set()
        return y

    other = threading.Thread(
        target=functional.call, args=arguments, kwargs={"training": True, "then": enter}
    )

    def inside(y):
        other.start()
        assert not entered.wait(0.3)
        return y

    functional.call(*arguments, training=True, then=inside)
    other.join()
    assert entered.is_set()


@pytest.mark.parametrize("mode", ["batch", "store", "moving"])
def test_another_thread_sees_the_model_as_it_is(mode):
    """In the middle of our call, whoever else calls the model gets Keras' own answer."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4), layers.BatchNormalization(momentum=0.5)]
    )
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    expected, seen = model(x, training=False), []

    def meanwhile(y):
        thread = threading.Thread(target=lambda: seen.append(model(x, training=False)))
        other = threading.Thread(target=lambda: seen.append(model.layers[-1].momentum))
        for one in (thread, other):
            one.start()
            one.join()
        return y

    values = [
        [tf.convert_to_tensor(v) for v in vs]
        for vs in (model.trainable_variables, model.non_trainable_variables)
    ]
    functional.call(model, *values, x, training=True, batch_norm=mode, then=meanwhile)
    np.testing.assert_array_equal(seen[0], expected)
    assert seen[1] == 0.5
    np.testing.assert_array_equal(model(x, training=False), expected)


def test_a_wrong_number_of_weights_is_refused():
    model = dropout_and_batch_norm()
    weights, state = values(model)
    with pytest.raises(ValueError, match="shorter"):
        functional.call(model, weights[:-1], state, X, training=False)


def test_seeds_differ_from_task_to_task_and_nothing_else_does():
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dropout(0.5, seed=1),
            layers.BatchNormalization(),
            layers.GaussianNoise(0.5, seed=2),
        ]
    )
    _, state = values(model)
    tasks = [
        functional.distinct_seeds(model.non_trainable_variables, state, tf.constant(i))
        for i in range(64)
    ]
    for first, value in zip(tasks[0], state, strict=True):
        np.testing.assert_array_equal(first, value)
    for variable, of_tasks in zip(
        model.non_trainable_variables, zip(*tasks, strict=True), strict=True
    ):
        distinct = {tuple(np.asarray(value)) for value in of_tasks}
        assert len(distinct) == (64 if "seed" in variable.path else 1)


def pair():
    return keras.Variable([1.0, 2.0]), keras.Variable(3.0)


def test_tensors_stand_in_the_place_of_variables_while_the_scope_is_open():
    vector, number = pair()
    with functional.in_place_of([vector, number], [tf.constant([5.0, 6.0]), tf.constant(7.0)]):
        np.testing.assert_array_equal(vector + number, [12.0, 13.0])
        functional.assign([number], [tf.constant(8.0)])
        assert float(functional.values_of([number])[0]) == 8.0
    np.testing.assert_array_equal(vector + number, [4.0, 5.0])


def test_scopes_nest_and_what_is_assigned_in_one_is_forgotten_at_its_end():
    vector, number = pair()
    with functional.in_place_of([number], [tf.constant(7.0)]) as outer:
        with functional.in_place_of([vector], [tf.constant([5.0, 6.0])]) as inner:
            np.testing.assert_array_equal(vector + number, [12.0, 13.0])
            functional.assign([vector, number], [tf.zeros([2]), tf.constant(1.0)])
            np.testing.assert_array_equal(vector + number, [1.0, 1.0])
            assert float(inner.get_current_value(number)) == 1.0
        assert float(outer.get_current_value(number)) == 7.0
        np.testing.assert_array_equal(vector + number, [8.0, 9.0])
    np.testing.assert_array_equal(vector + number, [4.0, 5.0])


def test_an_inner_scope_may_put_another_tensor_in_the_place_of_the_same_variable():
    _, number = pair()
    with functional.in_place_of([number], [tf.constant(7.0)]):
        with functional.in_place_of([number], [tf.constant(9.0)]):
            assert float(number.value) == 9.0
        assert float(number.value) == 7.0


def test_gradients_flow_to_what_stands_in_the_place():
    vector, number = pair()
    given = [tf.constant([5.0, 6.0]), tf.constant(7.0)]
    with tf.GradientTape() as tape:
        tape.watch(given)
        with functional.in_place_of([vector, number], given):
            loss = tf.reduce_sum(vector * vector) * number
    received = tape.gradient(loss, given)
    np.testing.assert_array_equal(received[0], [70.0, 84.0])
    np.testing.assert_array_equal(received[1], 61.0)


def test_a_scope_ends_with_an_error_too():
    _, number = pair()
    with (
        pytest.raises(BoomError),
        functional.in_place_of([number], [tf.constant(7.0)]),
        functional.sealed(),
    ):
        boom(None)
    assert float(number.value) == 3.0


def test_a_wrong_number_of_tensors_is_refused():
    with pytest.raises(ValueError, match="shorter"), functional.in_place_of(pair(), []):
        pass


def test_what_a_sealed_scope_assigns_is_forgotten_and_losses_are_apart():
    _, number = pair()
    with functional.in_place_of([number], [tf.constant(7.0)]):
        with functional.sealed():
            assert float(number.value) == 7.0
            number.assign(8.0)
            assert float(number.value) == 8.0
        assert float(number.value) == 7.0
    with functional.sealed():  # without a scope around it there is nothing to forget
        number.assign(4.0)
    assert float(number.value) == 4.0


def test_a_sealed_body_of_a_loop_leaks_none_of_its_tensors():
    _, number = pair()

    @tf.function(autograph=False)
    def counted():
        with functional.in_place_of([number], [tf.constant(7.0)]):

            def body(i, total):
                with functional.sealed():
                    number.assign_add(tf.cast(i, tf.float32))
                    return i + 1, total + tf.convert_to_tensor(number.value)

            _, total = tf.while_loop(lambda i, _: i < 3, body, (tf.constant(0), tf.constant(0.0)))
            return total + tf.convert_to_tensor(number.value)

    assert float(counted()) == (7 + 8 + 9) + 7
    assert float(number.value) == 3.0


def test_assigning_outside_of_a_scope_is_refused():
    vector, _ = pair()
    with pytest.raises(RuntimeError, match="no such scope. Open it by `with learner.with_values"):
        functional.assign([vector], [tf.zeros([2])])
    np.testing.assert_array_equal(vector, [1.0, 2.0])


def test_a_call_within_a_scope_keeps_what_stands_around_it_and_assigns_nothing():
    model, (_, number) = dropout_and_batch_norm(), pair()
    weights, state = values(model)
    with functional.in_place_of(
        [number, *model.variables], [tf.constant(7.0), *[v.value + 1 for v in model.variables]]
    ):
        before = functional.values_of(model.variables)
        seen, _ = functional.call(
            model, weights, state, X, training=True, then=lambda y: float(number.value)
        )
        assert seen == 7.0
        for one, other in zip(functional.values_of(model.variables), before, strict=True):
            np.testing.assert_array_equal(one, other)


def test_embeddings_of_several_axes_become_vectors():
    z = tf.reshape(tf.range(24.0), [2, 3, 2, 2])
    np.testing.assert_array_equal(functional.flattened(z), tf.reshape(z, [2, 12]))
    flat = tf.reshape(z, [6, 4])
    assert functional.flattened(flat) is flat
