import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_tf import inner_loop
from maml_tf.exact import dispatch
from maml_tf.inner.optimizers import SGD, Adam
from tests.wrong_calls import Wrong, check

OPTIMIZERS = [
    pytest.param(SGD(0.1), id="sgd"),
    pytest.param(SGD([0.2, 0.1], momentum=0.9), id="momentum"),
    pytest.param(Adam(0.1), id="adam"),
]
W = tf.constant([2.0, 3.0, 5.0], tf.float64)
V = tf.constant([0.5, -1.0, 1.5], tf.float64)


def half_square(weights, state, step):
    """sum(w**2) / 2, whose gradient is w: a step of SGD(a) multiplies w by 1 - a."""
    return tf.reduce_sum(weights[0] ** 2) / 2, state


def count_and_remember(weights, state, step):
    """State: how often it was called (an integer), and the largest step number seen."""
    count, last = state
    loss = tf.reduce_sum(tf.sin(weights[0])) + tf.reduce_sum(weights[0] * weights[1])
    return loss, [count + 1, tf.maximum(last, tf.cast(step, last.dtype))]


COUNTERS = [tf.constant(0), tf.constant(-1.0, tf.float64)]


def gradient_of_query(adapt, weights):
    """Gradients of a query loss at what `adapt(weights)` adapts to, and the adapted weights."""
    with tf.GradientTape() as tape:
        tape.watch(weights)
        adapted = adapt(weights)
        loss = tf.add_n([tf.reduce_sum(w**3) for w in adapted.weights])
    return tape.gradient(loss, weights), adapted


def in_graph(function, *arguments):
    """What a function gives inside of `tf.function`, where rematerialized steps are a loop."""
    return tf.function(lambda: function(*arguments), autograph=False)()


def called(function, *arguments):
    """What a function gives outside of one, where steps are unrolled."""
    return function(*arguments)


WHERE = pytest.mark.parametrize("where", [called, in_graph])


def test_each_step_multiplies_the_weights_and_reports_the_loss_before_it():
    adapted = inner_loop.adapt(half_square, [W], [], SGD(0.5), 3)
    np.testing.assert_array_equal(adapted.weights[0], [0.25, 0.375, 0.625])
    np.testing.assert_allclose(adapted.losses, [38 / 2, 38 / 8, 38 / 32])
    assert adapted.losses.dtype == tf.float64
    assert adapted.state == []


def test_no_steps_give_the_weights_and_state_back():
    adapted = inner_loop.adapt(count_and_remember, [W, V], COUNTERS, Adam(0.1), 0)
    assert [a is b for a, b in zip(adapted.weights, [W, V], strict=True)] == [True, True]
    assert adapted.state == COUNTERS
    assert adapted.losses.shape == [0]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 99),
    steps=st.integers(0, 5),
    rate=st.integers(1, 32).map(lambda i: i / 64),  # float32 holds it exactly
    first_order=st.booleans(),
    rematerialize=st.booleans(),
    where=st.sampled_from([called, in_graph]),
)
def test_on_quadratic_losses_the_meta_gradient_is_a_matrix_power(
    seed, steps, rate, first_order, rematerialize, where
):
    normal = np.random.default_rng(seed).normal
    a, b = (m @ m.T / 4 for m in normal(size=(2, 4, 4)))
    initial = normal(size=4)
    w = tf.constant(initial)

    def support_loss(weights, state, step):
        return tf.tensordot(weights[0], tf.linalg.matvec(a, weights[0]), 1) / 2, state

    def meta_gradient():
        with tf.GradientTape() as tape:
            tape.watch(w)
            adapted = inner_loop.adapt(
                support_loss,
                [w],
                [],
                SGD(rate),
                steps,
                first_order=first_order,
                rematerialize=rematerialize,
            ).weights[0]
            loss = tf.tensordot(adapted, tf.linalg.matvec(b, adapted), 1) / 2
        return adapted, tape.gradient(loss, w)

    adapted, gradient = where(meta_gradient)

    power = np.linalg.matrix_power(np.eye(4) - rate * a, steps)
    np.testing.assert_allclose(adapted, power @ initial, rtol=1e-9, atol=1e-9)
    expected = b @ power @ initial
    if not first_order:
        expected = power.T @ expected
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-9)


def test_weights_that_do_not_adapt_stay_and_still_get_their_second_order_gradient():
    def product(weights, state, step):
        return weights[0] * weights[1], state  # d/d w0 = w1

    def adapt(weights, first_order=False):
        return inner_loop.adapt(
            product, weights, [], SGD(0.5), 1, adaptable=[True, False], first_order=first_order
        )

    weights = [tf.constant(3.0), tf.constant(4.0)]
    gradients, adapted = gradient_of_query(adapt, weights)
    assert [w.numpy() for w in adapted.weights] == [1.0, 4.0]
    # loss = (w0 - w1 / 2)**3 + w1**3
    assert [g.numpy() for g in gradients] == [3.0, -1.5 + 48.0]
    gradients, _ = gradient_of_query(lambda w: adapt(w, first_order=True), weights)
    assert [g.numpy() for g in gradients] == [3.0, 48.0]


@WHERE
@pytest.mark.parametrize("rematerialize", [False, True])
def test_state_and_step_numbers_go_from_step_to_step(rematerialize, where):
    def adapt():
        return inner_loop.adapt(
            count_and_remember, [W, V], COUNTERS, SGD(0.1), 4, rematerialize=rematerialize
        )

    adapted = where(adapt)
    assert [s.numpy() for s in adapted.state] == [4, 3.0]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("first_order", [False, True])
@WHERE
def test_rematerializing_changes_no_number(optimizer, first_order, where):
    def run(rematerialize):
        def adapt(weights):
            return inner_loop.adapt(
                count_and_remember,
                weights,
                COUNTERS,
                optimizer,
                3,
                first_order=first_order,
                rematerialize=rematerialize,
            )

        return gradient_of_query(adapt, [W, V])

    (expected, kept), (received, again) = where(run, False), where(run, True)
    # A graph optimizer multiplies constants of unrolled steps, such as Adam's, before they run.
    last_bits = 0 if where is called else 1e-15
    for a, b in zip(tf.nest.flatten(again), tf.nest.flatten(kept), strict=True):
        np.testing.assert_allclose(a, b, rtol=last_bits, atol=0)
    for a, b in zip(received, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_rematerializing_runs_each_step_again_on_the_way_back_and_only_there():
    calls = []

    def objective(weights, state, step):
        calls.append(step)
        return half_square(weights, state, step)

    for options, again in (({"rematerialize": True}, [2, 1, 0]), ({}, [])):
        calls.clear()
        with tf.GradientTape() as tape:
            tape.watch(W)
            adapted = inner_loop.adapt(objective, [W], [], SGD(0.5), 3, **options)
            loss = tf.reduce_sum(adapted.weights[0])
        assert calls == [0, 1, 2]
        tape.gradient(loss, W)
        assert calls == [0, 1, 2, *again]


@WHERE
def test_state_carries_gradients_from_step_to_step_when_rematerialized(where):
    def objective(weights, state, step):
        return tf.reduce_sum(weights[0] * (weights[0] + state[0])), [state[0] + weights[0]]

    def gradient(rematerialize):
        def adapt(weights):
            return inner_loop.adapt(
                objective, weights, [0.1 * W], SGD(0.1), 3, rematerialize=rematerialize
            )

        return gradient_of_query(adapt, [W])[0][0]

    np.testing.assert_allclose(where(gradient, True), gradient(False), rtol=1e-12)


@WHERE
def test_the_loss_of_every_step_has_its_gradient_when_rematerialized(where):
    def gradient(rematerialize):
        with tf.GradientTape() as tape:
            tape.watch(W)
            adapted = inner_loop.adapt(
                half_square, [W], [], SGD(0.5), 3, rematerialize=rematerialize
            )
            loss = tf.tensordot(adapted.losses, tf.constant([3.0, 5, 7], tf.float64), 1)
        return tape.gradient(loss, W)

    # Before step i the loss is w**2 / 2 / 4**i.
    np.testing.assert_allclose(where(gradient, True), W * (3 + 5 / 4 + 7 / 16), rtol=1e-12)
    np.testing.assert_allclose(where(gradient, False), W * (3 + 5 / 4 + 7 / 16), rtol=1e-12)


def test_a_rematerialized_program_is_as_long_for_many_steps_as_for_two():
    def operations(steps, rematerialize):
        def gradient():
            with tf.GradientTape() as tape:
                tape.watch([W, V])
                adapted = inner_loop.adapt(
                    count_and_remember,
                    [W, V],
                    COUNTERS,
                    Adam(0.1),
                    steps,
                    rematerialize=rematerialize,
                )
            return tape.gradient(adapted.weights, [W, V])

        graph = tf.function(gradient, autograph=False).get_concrete_function().graph
        called = graph.as_graph_def().library.function
        return len(graph.get_operations()) + sum(len(f.node_def) for f in called)

    assert operations(2, True) == operations(9, True)
    assert operations(9, False) > 3 * operations(2, False)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("adaptable", [None, [True, False]])
def test_the_loop_for_prediction_takes_the_same_steps(optimizer, adaptable):
    def unrolled(steps):
        return inner_loop.adapt(
            count_and_remember, [W, V], COUNTERS, optimizer, steps, adaptable=adaptable
        )

    @tf.function(autograph=False)
    def in_loop(steps):
        return inner_loop.adapt_in_loop(
            count_and_remember,
            [W, V],
            COUNTERS,
            optimizer,
            steps,
            adaptable=adaptable,
            observe=lambda weights, state: {"sum": weights[0] + weights[1], "count": state[0]},
        )

    weights, state, path = in_loop(tf.constant(4))
    expected = unrolled(4)
    for a, b in zip(weights, expected.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    assert [s.numpy() for s in state] == [s.numpy() for s in expected.state]
    np.testing.assert_array_equal(path["count"], range(5))
    sums = [sum(unrolled(steps).weights) for steps in range(5)]
    np.testing.assert_allclose(path["sum"], sums, rtol=1e-12)
    weights, state, path = in_loop(tf.constant(0))
    np.testing.assert_array_equal(weights[0], W)
    assert path["sum"].shape == [1, 3]
    assert in_loop.experimental_get_tracing_count() == 1


def test_the_graph_of_the_loop_for_prediction_does_not_grow_with_steps():
    def operations(steps):
        graph = tf.Graph()
        with graph.as_default():
            inner_loop.adapt_in_loop(half_square, [tf.ones(3)], [], Adam(0.1), steps)
        return len(graph.as_graph_def().node)

    assert operations(1) == operations(100)


def test_a_weight_that_the_loss_does_not_use_stays():
    adapted = inner_loop.adapt(half_square, [W, V], [], Adam(0.1), 2)
    np.testing.assert_array_equal(adapted.weights[1], V)


@pytest.mark.parametrize("rematerialize", [False, True])
def test_a_loss_without_a_gradient_is_refused(rematerialize):
    def rounded(weights, state, step):
        return tf.cast(tf.argmax(weights[0]), tf.float64), state

    with pytest.raises(ValueError, match="inner loss that is differentiable"):
        inner_loop.adapt(rounded, [W], [], SGD(0.1), 1, rematerialize=rematerialize)
    with pytest.raises(ValueError, match="inner loss that is differentiable"):
        inner_loop.adapt_in_loop(rounded, [W], [], SGD(0.1), 1)


def adapt(objective=half_square, weights=(W,), optimizer=None, steps=1, **options):
    optimizer = SGD(0.5) if optimizer is None else optimizer
    return inner_loop.adapt(objective, list(weights), [], optimizer, steps, **options)


def in_loop(steps=1, **options):
    return inner_loop.adapt_in_loop(half_square, [W], [], SGD(0.5), steps, **options)


def chosen(choice):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="head")])
    return inner_loop.adaptable_weights(choice, model)


def vector(weights, state, step):
    return weights[0] ** 2 / 2, state


WRONG = [
    Wrong(lambda: adapt(steps=-1), ValueError, "`steps`", "at least 0", "steps=-1"),
    Wrong(lambda: adapt(steps=1.5), TypeError, "`steps`", "steps=1.5"),
    Wrong(lambda: adapt(steps="1"), TypeError, "steps='1'"),
    Wrong(lambda: adapt(steps=None), TypeError, "steps=None"),
    Wrong(lambda: adapt(steps=True), TypeError, "steps=True"),
    Wrong(lambda: adapt(objective="mse"), TypeError, "`objective`", "objective='mse'"),
    Wrong(lambda: adapt(optimizer=0.5), TypeError, "`optimizer`", "optimizer=0.5"),
    Wrong(lambda: adapt(optimizer="sgd"), TypeError, "optimizer='sgd'"),
    Wrong(lambda: adapt(optimizer=SGD), TypeError, "of type type"),
    Wrong(lambda: adapt(optimizer=keras.optimizers.SGD()), TypeError, "`optimizer`", "SGD(0.01)"),
    Wrong(lambda: adapt(first_order="no"), TypeError, "`first_order`", "first_order='no'"),
    Wrong(lambda: adapt(first_order=1), TypeError, "first_order=1"),
    Wrong(lambda: adapt(rematerialize="no"), TypeError, "`rematerialize`", "rematerialize='no'"),
    Wrong(lambda: adapt(adaptable=[True, False]), ValueError, "`adaptable`", "1 weights", "[True"),
    Wrong(lambda: adapt(objective=vector), ValueError, "scalar", "shape (3,)", "reduction"),
    Wrong(
        lambda: adapt(objective=lambda w, state, step: (tf.constant(1.0), state)),
        ValueError,
        "inner loss that is differentiable",
        "None for all 1",
        id="a constant loss",
    ),
    Wrong(lambda: in_loop(-1), ValueError, "`steps`", "steps=-1"),
    Wrong(lambda: in_loop(1.5), TypeError, "steps=1.5"),
    Wrong(lambda: in_loop(tf.constant(1.5)), TypeError, "`steps`", "float32"),
    Wrong(lambda: in_loop(tf.constant([1])), TypeError, "`steps`", "shape (1,)"),
    Wrong(lambda: chosen(5), TypeError, "`adaptable`", "adaptable=5", "head/kernel"),
    Wrong(lambda: chosen(True), TypeError, "adaptable=True"),
    Wrong(lambda: chosen("["), ValueError, "adaptable='['", "no regular expression"),
    Wrong(lambda: chosen(""), ValueError, "adaptable=''", "in every path"),
    Wrong(lambda: chosen("tail"), ValueError, "adaptable='tail'", "[False, False]"),
    Wrong(lambda: chosen(["no", "yes"]), TypeError, "adaptable=['no', 'yes']", "truth values"),
    Wrong(lambda: chosen([1, 0]), TypeError, "adaptable=[1, 0]"),
    Wrong(lambda: chosen([]), ValueError, "adaptable=[]"),
    Wrong(lambda: chosen([True]), ValueError, "adaptable=[True]", "2 booleans"),
    Wrong(lambda: chosen([False, False]), ValueError, "at least one of the 2"),
    Wrong(lambda: chosen(np.array([0.5, 1.0])), TypeError, "adaptable of shape (2,)"),
    Wrong(lambda: chosen(lambda v: False), ValueError, "[False, False]", id="chosen(none of them)"),
    Wrong(lambda: chosen(keras.layers.Dense(1)), TypeError, "of type Dense"),
    Wrong(lambda: chosen(SGD), TypeError, "of type type"),
    Wrong(lambda: chosen({"head": True}), TypeError, "adaptable={'head': True}"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_calls_are_explained(wrong):
    check(wrong)


@pytest.mark.parametrize("choice", [[True, False], (True, False), np.array([True, False])])
def test_truth_values_may_come_in_any_sequence(choice):
    assert chosen(choice) == [True, False]


def test_the_meta_gradient_is_of_second_order_unless_asked_otherwise():
    """Through one step of SGD(a) on w**3 / 3, w' = w - a w**2 and dw'/dw = 1 - 2 a w."""

    def cube(weights, state, step):
        return tf.reduce_sum(weights[0] ** 3) / 3, state

    step = inner_loop.gradient_step(cube, SGD(0.1))
    for take in (
        lambda w: inner_loop.adapt(cube, [w], [], SGD(0.1), 1).weights[0],
        lambda w: step(0, [w], [], inner_loop.initial_slots(SGD(0.1), [w]))[0][0],
    ):
        with tf.GradientTape() as tape:
            tape.watch(W)
            adapted = take(W)
        np.testing.assert_allclose(adapted, W - 0.1 * W**2, rtol=1e-12)
        np.testing.assert_allclose(tape.gradient(adapted, W), 1 - 0.2 * W, rtol=1e-12)


def test_a_step_gives_the_loss_before_it_and_what_goes_on():
    """Momentum m on sum(w**2) / 2: the first velocity is -a w, the second -(m + 1 - a) a w."""
    optimizer = SGD(0.5, momentum=0.25)
    step = inner_loop.gradient_step(half_square, optimizer)
    slots = inner_loop.initial_slots(optimizer, [W])
    np.testing.assert_array_equal(slots, np.zeros([1, 3]))
    weights, state, slots, loss = step(0, [W], ["kept"], slots)
    np.testing.assert_array_equal(weights[0], W / 2)
    np.testing.assert_array_equal(slots[0], -W / 2)
    assert (state, loss.numpy()) == (["kept"], 19)
    weights, _, _, loss = step(1, weights, state, slots)
    np.testing.assert_array_equal(weights[0], W * (1 - 0.5 - 0.125 - 0.25))
    assert loss.numpy() == 19 / 4


def test_only_weights_that_adapt_have_slots():
    slots = inner_loop.initial_slots(Adam(0.1), [W, tf.zeros([2]), V], [False, True, False])
    assert [s.shape for s in slots] == [[2], [2]]
    with pytest.raises(ValueError, match=r"shorter|2 weights"):
        inner_loop.initial_slots(Adam(0.1), [W, V], [True])


def test_shapes_are_known_before_the_loop_for_prediction_runs():
    @tf.function(autograph=False)
    def in_loop(steps):
        weights, _, path = inner_loop.adapt_in_loop(
            half_square, [W], [], SGD(0.5), steps, observe=lambda weights, state: weights[0][:2]
        )
        shapes.append((weights[0].shape.as_list(), path.shape.as_list()))
        return weights, path

    shapes = []
    weights, path = in_loop(tf.constant(2))
    assert shapes == [([3], [None, 2])]
    np.testing.assert_array_equal(path, [[2.0, 3.0], [1.0, 1.5], [0.5, 0.75]])
    np.testing.assert_array_equal(weights[0], W / 4)


def two_layers():
    """Paths: first/kernel, first/bias, first_head/kernel, first_head/bias."""
    dense = keras.layers.Dense
    return keras.Sequential(
        [keras.Input((2,)), dense(3, name="first"), dense(1, name="first_head")]
    )


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, None),
        ("bias", [False, True, False, True]),
        ("head/bias$", [False, False, False, True]),
        ("/first/", [True, True, False, False]),
        ("rst.*kernel", [True, False, True, False]),
        (lambda v: "head" in v.path, [False, False, True, True]),
        (lambda v: len(v.shape) - 1, [True, False, True, False]),
        ([True, False, False, True], [True, False, False, True]),
        ((False, False, True, False), [False, False, True, False]),
        (np.array([False, True, True, True]), [False, True, True, True]),
    ],
    ids=[
        "all",
        "name",
        "end",
        "start",
        "expression",
        "function",
        "truthy",
        "list",
        "tuple",
        "array",
    ],
)
def test_which_weights_adapt(choice, expected):
    chosen = inner_loop.adaptable_weights(choice, two_layers())
    assert chosen == expected
    assert chosen is None or {type(c) for c in chosen} == {bool}


@pytest.mark.parametrize(
    "choice",
    ["dense", lambda v: None, [False] * 4, [True] * 3, [True] * 5, [True, False], []],
    ids=["a name", "a function", "none", "three", "five", "two", "empty"],
)
def test_a_choice_of_no_weight_or_of_other_weights_is_refused(choice):
    with pytest.raises(ValueError, match=r"`adaptable` .* 4 .*first_head/bias"):
        inner_loop.adaptable_weights(choice, two_layers())


def test_what_is_computed_again_waits_for_the_gradients_from_behind():
    """It depends on the first of them, so that no compiler computes it before: NaN spreads."""

    def product(weights, state, step):
        return tf.reduce_sum(weights[0] ** 2 * weights[1]), state

    def gradient(*upstream):
        with tf.GradientTape() as tape:
            tape.watch([W, V])
            adapted = inner_loop.adapt(product, [W, V], [], SGD(0.25), 1, rematerialize=True)
        return tape.gradient(adapted.weights, [W, V], output_gradients=upstream)

    # w' = w - w v / 2, v' = v - w**2 / 4
    one, other = gradient(V, W)
    np.testing.assert_allclose(one, V * (1 - V / 2) - W * W / 2, rtol=1e-12)
    np.testing.assert_allclose(other, W - V * W / 2, rtol=1e-12)
    gone = tf.constant([np.nan, 0, 0], tf.float64)
    assert np.isnan(gradient(gone, W)).all()
    assert np.isnan(gradient(V, gone)).sum() == 2


def test_in_a_graph_nothing_is_computed_again_before_its_gradient_is_there():
    """Or the second forward pass would run along with the first one, and save no memory."""

    def gradient(rematerialize):
        with tf.GradientTape() as tape:
            tape.watch([W, V])
            adapted = inner_loop.adapt(
                count_and_remember, [W, V], COUNTERS, SGD(0.5), 2, rematerialize=rematerialize
            )
        return tape.gradient(adapted.weights, [W, V])

    waiting = {}
    for rematerialize in (False, True):
        with dispatch.vectorized_here():  # where steps are unrolled in a graph
            traced = tf.function(gradient, autograph=False).get_concrete_function(rematerialize)
        operations = traced.graph.get_operations()
        waits = [op for op in operations if op.type == "Identity" and op.control_inputs]
        waiting[rematerialize] = len(waits)
    # What a step is computed from, both weights and the state that floats, in two steps.
    assert waiting == {False: 0, True: 2 * 3}


@pytest.mark.parametrize("steps", [2, np.int64(2), tf.constant(2)], ids=["int", "int64", "tensor"])
def test_the_loop_for_prediction_takes_any_integer(steps):
    weights, _ = inner_loop.adapt_in_loop(half_square, [W], [], SGD(0.5), steps)
    np.testing.assert_array_equal(weights[0], W / 4)


def test_constraints_hold_after_every_step_for_the_weights_that_adapt():
    """SGD(1.5) on sum(w**2) / 2 multiplies w by -0.5, and what is below zero becomes zero."""
    positive = keras.constraints.NonNeg()
    first, second = tf.constant([2.0, -4.0]), tf.constant([8.0])

    def objective(weights, state, step):
        return sum(tf.reduce_sum(w**2) for w in weights) / 2, state

    for constraints, adaptable, expected in (
        (None, None, ([0.5, -1.0], [2.0])),
        ([None, None], None, ([0.5, -1.0], [2.0])),
        ([positive, None], None, ([0.0, 0.0], [2.0])),
        ([None, positive], None, ([0.5, -1.0], [0.0])),
        ([positive, positive], [True, False], ([0.0, 0.0], [8.0])),
        ([positive, None], [False, True], ([2.0, -4.0], [2.0])),
    ):
        options = {"constraints": constraints, "adaptable": adaptable}
        arguments = objective, [first, second], [], SGD(1.5), 2
        unrolled = inner_loop.adapt(*arguments, **options).weights
        looped, _ = inner_loop.adapt_in_loop(*arguments, **options)
        for weights in (unrolled, looped):
            for one, other in zip(weights, expected, strict=True):
                np.testing.assert_array_equal(one, other)


def test_the_constraints_of_a_model_are_those_of_its_layers():
    model = two_layers()
    assert inner_loop.weight_constraints(model) is None
    positive = keras.constraints.NonNeg()
    inputs = keras.Input((2,))
    outputs = keras.layers.Dense(1, bias_constraint=positive)(keras.layers.Dense(3)(inputs))
    received = inner_loop.weight_constraints(keras.Model(inputs, outputs))
    assert received == [None, None, None, positive]
