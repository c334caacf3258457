import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_tf import inner_loop, inner_optimizers
from maml_tf.inner.optimizers import SGD, Adam
from tests.wrong_calls import Wrong, check

OPTIMIZERS = [
    pytest.param(SGD(0.1), id="sgd"),
    pytest.param(SGD([0.3, 0.2, 0.1]), id="sgd-rates"),
    pytest.param(SGD(0.1, momentum=0.9), id="momentum"),
    pytest.param(Adam(0.1), id="adam"),
    pytest.param(Adam((0.1, 0.01), beta_1=0.5, epsilon=1e-3), id="adam-rates"),
]


def descend(optimizer, weights, gradients, dtype=tf.float64):
    """Weights after each of the given gradients, one list of arrays a step."""
    weights = [tf.constant(w, dtype) for w in weights]
    slots, path = optimizer.init(weights), []
    for step, gradient in enumerate(gradients):
        gradient = [tf.constant(g, dtype) for g in gradient]
        weights, slots = optimizer.update(step, gradient, weights, slots)
        path.append([w.numpy() for w in weights])
    return path


def descend_in_keras(optimizer, weights, gradients):
    variables = [keras.Variable(w, dtype="float64") for w in weights]
    path = []
    for gradient in gradients:
        optimizer.apply(
            [tf.constant(g, tf.float64) for g in gradient], variables if not path else None
        )
        path.append([v.numpy().copy() for v in variables])
    return path


def steps_of(seed, steps):
    normal = np.random.default_rng(seed).normal
    return [normal(size=(2, 2)), normal(size=3)], [
        [normal(size=(2, 2)), normal(size=3)] for _ in range(steps)
    ]


def assert_paths_equal(received, expected, rtol):
    for one, other in zip(received, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


def test_sgd_moves_by_rate_times_gradient():
    path = descend(SGD(0.5), [[2.0, 3.0, 5.0]], [[[1.0, -2.0, 0.0]], [[4.0, 0.0, 1.0]]])
    np.testing.assert_array_equal(path[0][0], [1.5, 4.0, 5.0])
    np.testing.assert_array_equal(path[1][0], [-0.5, 4.0, 4.5])


def test_a_sequence_gives_each_step_its_rate_and_the_last_one_to_later_steps():
    path = descend(SGD([0.5, 0.25]), [[0.0]], [[[-1.0]]] * 4)
    assert [w.item() for (w,) in path] == [0.5, 0.75, 1.0, 1.25]


def test_momentum_starts_from_rest_and_accumulates_by_hand():
    path = descend(SGD(0.5, momentum=0.5), [[0.0]], [[[-1.0]]] * 3)
    assert [w.item() for (w,) in path] == [0.5, 1.25, 2.125]


# Keras rounds the numbers of an optimizer to float32: these it holds exactly.
sixty_fourths = st.integers(1, 63).map(lambda i: i / 64)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), rate=sixty_fourths, momentum=sixty_fourths | st.just(0.0))
def test_momentum_agrees_with_keras(seed, rate, momentum):
    weights, gradients = steps_of(seed, 4)
    ours = descend(SGD(rate, momentum), weights, gradients)
    theirs = descend_in_keras(keras.optimizers.SGD(rate, momentum), weights, gradients)
    assert_paths_equal(ours, theirs, rtol=1e-9)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 99),
    rate=st.floats(1e-3, 1.0),
    betas=st.tuples(st.floats(0.0, 0.99), st.floats(0.0, 0.9999)),
    epsilon=st.sampled_from([1e-12, 1e-8, 1e-3, 0.5]),
)
def test_adam_agrees_with_algorithm_1_of_its_paper(seed, rate, betas, epsilon):
    weights, gradients = steps_of(seed, 4)
    path, w = [], list(weights)
    first, second = [np.zeros_like(x) for x in w], [np.zeros_like(x) for x in w]
    for t, gradient in enumerate(gradients, start=1):
        for i, g in enumerate(gradient):
            first[i] = betas[0] * first[i] + (1 - betas[0]) * g
            second[i] = betas[1] * second[i] + (1 - betas[1]) * g**2
            m_hat, v_hat = first[i] / (1 - betas[0] ** t), second[i] / (1 - betas[1] ** t)
            w[i] = w[i] - rate * m_hat / (np.sqrt(v_hat) + epsilon)
        path.append(list(w))
    ours = descend(Adam(rate, *betas, epsilon=epsilon), weights, gradients)
    assert_paths_equal(ours, path, rtol=1e-9)


def test_adam_agrees_with_keras():
    weights, gradients = steps_of(0, 5)
    numbers = {"learning_rate": 1 / 16, "beta_1": 0.75, "beta_2": 63 / 64, "epsilon": 2**-40}
    ours = descend(Adam(**numbers), weights, gradients)
    theirs = descend_in_keras(keras.optimizers.Adam(**numbers), weights, gradients)
    assert_paths_equal(ours, theirs, rtol=1e-9)


def test_adam_adds_epsilon_after_the_correction_and_keras_before_it():
    weights, gradients = steps_of(0, 1)
    theirs = descend_in_keras(
        keras.optimizers.Adam(1 / 16, beta_1=0.75, beta_2=63 / 64, epsilon=1 / 64),
        weights,
        gradients,
    )
    hat = 1 / 64 / np.sqrt(1 - 63 / 64)
    ours = descend(Adam(1 / 16, 0.75, 63 / 64, epsilon=hat), weights, gradients)
    assert_paths_equal(ours, theirs, rtol=1e-9)


def test_adam_moves_by_the_rate_in_its_first_step_whatever_the_gradient():
    (((moved),),) = descend(Adam(0.25), [[0.0, 0.0, 0.0]], [[[1e-3, -7.0, 1e4]]])
    np.testing.assert_allclose(moved, [-0.25 / (1 + 1e-5), 0.25, -0.25], rtol=1e-8)


def test_adam_is_differentiable_where_a_gradient_is_zero():
    optimizer, zero = Adam(0.1, epsilon=0.5), tf.zeros([1], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(zero)
        weight = tf.stop_gradient(zero)
        (moved,), _ = optimizer.update(0, [zero], [weight], optimizer.init([weight]))
    # moved = -rate * g / (abs(g) + epsilon) in the first step
    np.testing.assert_allclose(tape.gradient(moved, zero), [-0.1 / 0.5], rtol=1e-12)


CURVATURE = np.array([0.3, 1.0, -0.7, 2.0, 1.0])
CENTRE = np.array([1.0, -0.5, 0.2, 3.0, 0.0])
# The last weight begins at the minimum of its own loss: its gradient and v are exactly 0.
START = np.array([0.2, 0.4, -0.3, 2.9995, 0.0])


def adapted_by_adam(weights, epsilon, steps):
    """`steps` of Adam on sum(curvature * (w - centre)**2 / 2), in a graph."""
    optimizer = Adam(0.1, 0.8, 0.95, epsilon)
    slots = optimizer.init(weights)
    for step in range(steps):
        gradients = [tf.constant(CURVATURE) * (w - tf.constant(CENTRE)) for w in weights]
        weights, slots = optimizer.update(step, gradients, weights, slots)
    return weights


def adam_in_numpy(w, epsilon, steps):
    """The same, with its derivative by each weight written out: a second implementation."""
    w, dw = np.array(w), np.ones_like(w)
    m, v, dm, dv = (np.zeros_like(w) for _ in range(4))
    for t in range(1, steps + 1):
        g, dg = CURVATURE * (w - CENTRE), CURVATURE * dw
        m, dm = 0.8 * m + 0.2 * g, 0.8 * dm + 0.2 * dg
        v, dv = 0.95 * v + 0.05 * g**2, 0.95 * dv + 0.05 * 2 * g * dg
        c, d = 1 - 0.8**t, np.sqrt(1 - 0.95**t)
        root = np.sqrt(v)
        droot = np.divide(dv, 2 * root, out=np.zeros_like(dv), where=root > 0)
        bottom = root / d + epsilon
        w = w - 0.1 * (m / c) / bottom
        dw = dw - 0.1 * ((dm / c) / bottom - (m / c) * (droot / d) / bottom**2)
    return w, dw


@pytest.mark.parametrize("epsilon", [1e-8, 1e-3, 0.2])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_meta_gradient_through_adam_agrees_with_its_derivative_by_hand(epsilon, steps):
    start = tf.constant(START)
    with tf.GradientTape() as tape:
        tape.watch(start)
        (adapted,) = adapted_by_adam([start], epsilon, steps)
    weights, derivative = adam_in_numpy(START, epsilon, steps)
    np.testing.assert_allclose(adapted, weights, rtol=1e-12)
    np.testing.assert_allclose(tape.gradient(adapted, start), derivative, rtol=1e-9)


@pytest.mark.parametrize(("epsilon", "steps"), [(0.2, 1), (0.2, 3), (1e-3, 1)])
def test_the_meta_gradient_through_adam_agrees_with_central_differences(epsilon, steps):
    """Where v is 0 too, at a distance that is small beside epsilon."""

    def losses(start):
        return tf.sin(adapted_by_adam([start], epsilon, steps)[0])

    start, distance = tf.constant(START), 1e-8
    with tf.GradientTape() as tape:
        tape.watch(start)
        received = losses(start)
    # No weight has to do with another, so all of them may move at once.
    difference = losses(start + distance) - losses(start - distance)
    np.testing.assert_allclose(
        tape.gradient(received, start), difference / (2 * distance), rtol=1e-4
    )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_no_gradient_of_adam_is_nan_in_float32(jit_compile):
    """Gradients so small that their squares are 0 or too small for a processor are among them."""
    values = tf.constant([0.0, 1e-30, 1e-22, 2e-20, 1e-19, -1e-12, 1e-4, 1.0, 1e15])

    @tf.function(autograph=False, jit_compile=jit_compile)
    def derivatives(gradient):
        with tf.GradientTape() as outer:
            outer.watch(gradient)
            with tf.GradientTape() as tape:
                tape.watch(gradient)
                weight = tf.zeros_like(gradient)
                (moved,), _ = Adam(0.1).update(0, [gradient], [weight], Adam().init([weight]))
            first = tape.gradient(moved, gradient)
        return first, outer.gradient(first, gradient)

    first, second = derivatives(values)
    assert np.isfinite(first).all()
    assert np.isfinite(second.numpy()[[0, 1, 6, 7, 8]]).all()
    expected = -0.1 * 1e-8 / (np.abs(values.numpy().astype("float64")) + 1e-8) ** 2
    np.testing.assert_allclose(first.numpy()[:5], expected[:5], rtol=1e-5)


@pytest.mark.parametrize(
    "rates", [np.float32(0.5), np.array(0.5), [np.float32(0.5), 0.25], np.array([0.5, 0.25])]
)
def test_step_sizes_may_be_of_numpy(rates):
    config = json.loads(json.dumps(SGD(rates).get_config()))
    several = np.ndim(rates) == 1
    assert config["learning_rate"] == ([0.5, 0.25] if several else 0.5)
    path = descend(inner_optimizers.get(rates), [[0.0]], [[[-1.0]]] * 3)
    assert [w.item() for (w,) in path] == ([0.5, 0.75, 1.0] if several else [0.5, 1.0, 1.5])


def test_a_schedule_of_keras_gives_each_step_its_rate():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [0.5, 0.25, 0.125])
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(SGD(schedule))))
    for optimizer in (SGD(schedule), keras.saving.deserialize_keras_object(config)):
        path = descend(optimizer, [[0.0]], [[[-1.0]]] * 4)
        assert [w.item() for (w,) in path] == [0.5, 0.75, 0.875, 1.0]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_numbers_keep_the_precision_of_the_weights(optimizer):
    """0.1 is 0.1 in float64, not the nearest float32."""
    weights, gradients = steps_of(1, 3)
    exact = descend(optimizer, weights, gradients)

    config = {
        k: tuple(np.float64(x) for x in v) if isinstance(v, (list, tuple)) else np.float64(v)
        for k, v in optimizer.get_config().items()
    }
    again = descend(type(optimizer)(**config), weights, gradients)
    assert_paths_equal(exact, again, rtol=1e-14)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_number_may_be_a_tensor(optimizer):
    weights, gradients = steps_of(2, 4)
    by_int = descend(optimizer, weights, gradients)
    w = [tf.constant(x) for x in weights]
    stacked = [tf.stack([g[i] for g in gradients]) for i in range(len(w))]

    def body(step, w, slots):
        return step + 1, *optimizer.update(step, [g[step] for g in stacked], w, slots)

    *_, w, _ = tf.function(tf.while_loop, autograph=False)(
        lambda step, *_: step < 4, body, (tf.constant(0), w, optimizer.init(w))
    )
    assert_paths_equal([[x.numpy() for x in w]], by_int[-1:], rtol=1e-12)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_slots_keep_their_structure_and_the_dtype_of_the_weights(optimizer):
    weights = [tf.ones([2, 3], tf.float64), tf.ones([1], tf.float64)]
    before = optimizer.init(weights)
    moved, after = optimizer.update(0, weights, weights, before)
    for a, b in [*zip(before, after, strict=True), *zip(weights, moved, strict=True)]:
        assert (a.dtype, a.shape) == (b.dtype, b.shape)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_configuration_round_trip_through_json(optimizer):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(optimizer)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(optimizer)
    weights, gradients = steps_of(3, 3)
    assert_paths_equal(
        descend(again, weights, gradients), descend(optimizer, weights, gradients), rtol=0
    )


def test_get_takes_an_inner_optimizer_or_a_rate():
    optimizer = Adam(0.1)
    assert inner_optimizers.get(optimizer) is optimizer
    assert inner_optimizers.get(0.3).get_config() == SGD(0.3).get_config()
    assert inner_optimizers.get(1).learning_rate == 1


WRONG = [
    *(
        Wrong(lambda x=x: inner_optimizers.get(x), TypeError, "one of maml_tf.inner_optimizers", t)
        for x, t in [
            (keras.optimizers.SGD(0.1), "type SGD"),
            ("sgd", "inner_optimizer='sgd'"),
            (None, "inner_optimizer=None"),
            (True, "inner_optimizer=True"),
            (SGD, "of type type"),
        ]
    ),
    *(
        Wrong(
            lambda m=make, x=x: m(x), e, "`learning_rate", f"learning_rate{t}", "Give ", id=f"{t}"
        )
        for make in (SGD, Adam, inner_optimizers.get)
        for x, e, t in [
            (0, ValueError, "=0"),
            (-0.1, ValueError, "=-0.1"),
            (float("nan"), ValueError, "=nan"),
            (float("inf"), ValueError, "=inf"),
            ([], ValueError, "=[]"),
            (np.zeros([0]), ValueError, "=array([]"),
            ([0.1, -0.1], ValueError, "[1]=-0.1"),
            ([0.1, "0.1"], TypeError, "[1]='0.1'"),
            ([[0.1]], TypeError, "[0]=[0.1]"),
            (np.ones([2, 2]), TypeError, ""),
            (np.float32(-1), ValueError, "=-1.0"),
        ]
    ),
    Wrong(lambda: SGD("0.1"), TypeError, "learning_rate='0.1'", "SGD(0.01)"),
    Wrong(lambda: SGD(None), TypeError, "learning_rate=None"),
    Wrong(lambda: SGD(True), TypeError, "learning_rate=True"),
    Wrong(lambda: SGD({"rate": 0.1}), TypeError, "learning_rate={'rate': 0.1}"),
    Wrong(lambda: SGD(keras.optimizers.SGD()), TypeError, "learning_rate=", "type SGD"),
    Wrong(lambda: SGD(0.1, momentum=1.0), ValueError, "`momentum`", "below 1", "momentum=1.0"),
    Wrong(lambda: SGD(0.1, momentum=-0.1), ValueError, "at least 0", "momentum=-0.1"),
    Wrong(lambda: SGD(0.1, momentum="0.9"), TypeError, "momentum='0.9'"),
    Wrong(lambda: SGD(0.1, momentum=None), TypeError, "momentum=None"),
    Wrong(lambda: SGD(0.1, momentum=True), TypeError, "momentum=True"),
    Wrong(lambda: SGD(0.1, momentum=float("nan")), ValueError, "momentum=nan"),
    Wrong(lambda: SGD(0.1, momentum=[0.9]), TypeError, "momentum=[0.9]"),
    Wrong(lambda: Adam(0.1, beta_1=1.0), ValueError, "`beta_1`", "beta_1=1.0"),
    Wrong(lambda: Adam(0.1, beta_1="0.9"), TypeError, "beta_1='0.9'"),
    Wrong(lambda: Adam(0.1, beta_2=-0.5), ValueError, "`beta_2`", "beta_2=-0.5"),
    Wrong(lambda: Adam(0.1, beta_2=None), TypeError, "beta_2=None"),
    Wrong(lambda: Adam(0.1, epsilon=0), ValueError, "`epsilon`", "epsilon=0"),
    Wrong(lambda: Adam(0.1, epsilon=float("inf")), ValueError, "epsilon=inf"),
    Wrong(lambda: Adam(0.1, epsilon="1e-8"), TypeError, "epsilon='1e-8'"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_calls_are_explained(wrong):
    check(wrong)


def test_the_defaults():
    assert SGD().get_config() == {"learning_rate": 0.01, "momentum": 0.0}
    expected = {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8}
    assert Adam().get_config() == expected


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_a_schedule_goes_into_json_and_comes_back(optimizer):
    schedule = keras.optimizers.schedules.PolynomialDecay(0.5, 4, 0.1)
    config = json.loads(json.dumps(optimizer(schedule).get_config()))
    again = optimizer.from_config(config)
    for step in range(6):
        np.testing.assert_allclose(again.rate(step, tf.float64), schedule(step), rtol=1e-6)
        assert again.rate(tf.constant(step), tf.float64).dtype == tf.float64
    assert again.get_config() == config


def test_what_to_do_about_a_step_size_names_the_optimizer():
    for wrong in (-0.1, [0.1, -0.1], []):
        with pytest.raises(ValueError, match=r"Give SGD\(0\.01\), or SGD\(\[0\.02, 0\.01\]\)"):
            SGD(wrong)


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
def test_adam_in_half_precision_takes_the_steps_of_float32(dtype):
    """There 0.999 is 1 and 1e-8 nothing: no step at all, or NaN where a gradient is zero."""
    gradients = [[2.0, -0.5, 0.0], [1.0, 0.25, 0.0], [-0.5, 0.125, 0.0], [4.0, 1.0, 0.0]]
    gradients = [[np.array(g)] for g in gradients]
    half, single = (descend(Adam(0.25), [np.zeros(3)], gradients, d) for d in (dtype, tf.float32))
    for (one,), (other,) in zip(half, single, strict=True):
        assert one.dtype == dtype.as_numpy_dtype
        np.testing.assert_allclose(one.astype("float32"), other, atol=1e-2)
    np.testing.assert_allclose(single[0][0], [-0.25, 0.25, 0.0], rtol=1e-5)


@pytest.mark.parametrize(
    "optimizer", [Adam(0.25), SGD([0.25, 0.125], momentum=0.5)], ids=["adam", "momentum"]
)
@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16, tf.float64])
def test_a_loop_may_carry_the_slots_of_every_dtype(optimizer, dtype):
    def square(weights, state, step):
        return tf.reduce_sum(weights[0] ** 2) / 2, state

    weights = [tf.constant([1.0, -2.0], dtype)]
    looped, _ = inner_loop.adapt_in_loop(square, weights, [], optimizer, tf.constant(3))
    unrolled = inner_loop.adapt(square, weights, [], optimizer, 3).weights
    assert looped[0].dtype == dtype
    for one, other in zip(looped, unrolled, strict=True):
        np.testing.assert_array_equal(tf.cast(one, tf.float64), tf.cast(other, tf.float64))
    assert np.all(np.abs(tf.cast(looped[0], tf.float64)) < [1, 2])
