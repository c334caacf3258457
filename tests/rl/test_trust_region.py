import numpy as np
import pytest
import tensorflow as tf

from maml_tf.rl import trust_region
from maml_tf.rl.trust_region import TrustRegion


def quadratic(seed=0, n=6):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n))
    return root @ root.T + 0.1 * np.eye(n), rng.normal(size=n)


def test_conjugate_gradient_solves():
    matrix, b = quadratic()
    x, residual = trust_region.conjugate_gradient(
        lambda v: tf.linalg.matvec(matrix, v), tf.constant(b), iterations=20, tolerance=1e-24
    )
    np.testing.assert_allclose(x, np.linalg.solve(matrix, b), rtol=1e-8)
    np.testing.assert_allclose(residual, 0, atol=1e-10)
    x, residual = trust_region.conjugate_gradient(
        lambda v: tf.linalg.matvec(matrix, v), tf.constant(b), iterations=3
    )
    np.testing.assert_allclose(residual, b - matrix @ x.numpy(), rtol=1e-10)


def test_step_of_a_linear_surrogate_ends_on_the_border():
    """min g.x under x.H.x / 2 <= delta has the solution -sqrt(2 delta / g.H^-1.g) H^-1 g."""
    matrix, g = quadratic()
    settings = TrustRegion(0.01, conjugate_gradient_steps=20, damping=0.0, backtrack_ratio=0.99)

    def evaluate(w):
        return tf.tensordot(w, g, 1), tf.tensordot(w, tf.linalg.matvec(matrix, w), 1) / 2

    start = tf.zeros(6, tf.float64)
    step = trust_region.step(
        settings,
        start,
        tf.constant(0.0, tf.float64),
        tf.constant(g),
        evaluate,
        lambda v: tf.linalg.matvec(matrix, v),
    )
    direction = np.linalg.solve(matrix, g)
    border = -np.sqrt(0.02 / (g @ direction)) * direction
    shortened = 0.99 ** int(step.backtracks)
    assert int(step.backtracks) <= 1
    np.testing.assert_allclose(step.weights, shortened * border, rtol=1e-5)
    assert float(step.divergence) <= 0.01


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.0])
def test_a_step_that_does_not_help_is_not_taken(bad):
    start = tf.constant([1.0, 2.0])
    step = trust_region.step(
        TrustRegion(),
        start,
        tf.constant(0.5),
        tf.constant([1.0, 0.0]),
        lambda w: (tf.constant(bad, tf.float32), tf.constant(0.0)),
        lambda v: v,
    )
    assert not bool(step.accepted)
    np.testing.assert_array_equal(step.weights, start)


def test_poisoned_gradients_leave_the_weights():
    start = tf.constant([1.0, 2.0])
    step = trust_region.step(
        TrustRegion(),
        start,
        tf.constant(np.nan),
        tf.constant([np.nan, 0.0]),
        lambda w: (tf.reduce_sum(w), tf.reduce_sum(w)),
        lambda v: v,
    )
    np.testing.assert_array_equal(step.weights, start)


@pytest.mark.parametrize(
    "wrong", [{"product": "hessian"}, {"max_divergence": 0.0}, {"backtrack_ratio": 1.0}]
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match="Received"):
        TrustRegion(**wrong)


def test_the_defaults_are_the_papers():
    assert TrustRegion() == TrustRegion(0.01, 10, 1e-5, 0.8, 15, "exact", None)


@pytest.mark.parametrize(
    ("argument", "wrong", "right"),
    [
        ("max_divergence", [0.0, -1.0, np.nan], [1e-9, 0.5]),
        ("backtrack_ratio", [0.0, 1.0, -0.5, 1.5, np.nan], [0.01, 0.99]),
        ("damping", [-1e-9], [0, 0.5]),
        ("product", ["Exact", None], ["exact", "finite_difference"]),
        ("conjugate_gradient_steps", [0, -1, 1.5, None], [1, 30]),
        ("max_backtracks", [0, -1, 1.5, None], [1, 30]),
        ("curvature_tasks", [0, -1, 1.5], [None, 1, 30]),
    ],
)
def test_bounds_of_the_settings(argument, wrong, right):
    for value in wrong:
        with pytest.raises((TypeError, ValueError), match=argument):
            TrustRegion(**{argument: value})
    for value in right:
        assert getattr(TrustRegion(**{argument: value}), argument) == value


def counted_product(matrix):
    """`(product, calls)`: the matrix times a vector, and the vectors that it was called with."""
    calls = []

    def product(x):
        calls.append(x.numpy())
        return tf.linalg.matvec(matrix, x)

    return product, calls


def test_conjugate_gradient_takes_as_many_iterations_as_there_are_eigenvalues():
    matrix, b = (
        np.diag([1.0, 1.0, 3.0, 3.0, 3.0]),
        tf.constant([1.0, -2.0, 3.0, 0.5, 1.0], tf.float64),
    )
    product, calls = counted_product(matrix)
    x, residual = trust_region.conjugate_gradient(product, b, 10)
    assert len(calls) == 2
    np.testing.assert_array_equal(calls[0], b)
    np.testing.assert_allclose(x, b / np.diag(matrix), rtol=1e-12)
    assert np.linalg.norm(residual) < 1e-5


@pytest.mark.parametrize(("iterations", "taken"), [(0, 0), (1, 1), (3, 3), (4, 4), (9, 4)])
def test_conjugate_gradient_takes_at_most_so_many_iterations(iterations, taken):
    matrix, b = np.diag([1.0, 2.0, 3.0, 4.0]), tf.ones([4], tf.float64)
    product, calls = counted_product(matrix)
    trust_region.conjugate_gradient(product, b, iterations)
    assert len(calls) == taken


def test_conjugate_gradient_stops_at_its_tolerance_on_the_squared_norm():
    product, calls = counted_product(np.diag([1.0, 5.0]))
    b = tf.constant([3.0, 4.0], tf.float64)  # of squared norm 25
    x, residual = trust_region.conjugate_gradient(product, b, 5, tolerance=25.0)
    assert calls == []
    np.testing.assert_array_equal(x, [0, 0])
    np.testing.assert_array_equal(residual, b)
    trust_region.conjugate_gradient(product, b, 5, tolerance=24.9)
    assert len(calls) == 1


def taken_step(
    settings, evaluate, gradient=(3.0, 4.0), matrix=((2.0, 0.0), (0.0, 2.0)), before=0.0
):
    """The step from w = [1, 2], and the full step s of H = 2 I, to be taken as w - s."""
    step = trust_region.step(
        settings,
        tf.constant([1.0, 2.0], tf.float64),
        tf.constant(before, tf.float64),
        tf.constant(gradient, tf.float64),
        evaluate,
        lambda v: tf.linalg.matvec(tf.constant(matrix, tf.float64), v),
    )
    direction = np.array(gradient) / (2 + settings.damping)
    length = np.sqrt(2 * settings.max_divergence / (direction @ gradient))
    return step, length * direction


def scalars(*values):
    return tuple(tf.constant(value, tf.float64) for value in values)


@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_a_full_step_goes_to_the_border_of_the_damped_region(damping):
    settings = TrustRegion(0.5, damping=damping)
    step, full = taken_step(settings, lambda w: scalars(-1.0, 0.5), before=-0.25)
    np.testing.assert_allclose(step.weights, [1.0, 2.0] - full, rtol=1e-8)
    received = [bool(step.accepted), int(step.backtracks)]
    received += [float(x) for x in (step.surrogate_before, step.surrogate, step.divergence)]
    assert received == [True, 0, -0.25, -1.0, 0.5]


def test_the_length_of_an_unfinished_solution_is_that_of_what_was_solved():
    """After one iteration x = c g and A x = g - r: the length is from x.A x, not from x.g."""
    settings = TrustRegion(0.5, conjugate_gradient_steps=1, damping=0.0)
    matrix, g = np.array([[3.0, 1.0], [1.0, 2.0]]), np.array([1.0, -2.0])
    step, _ = taken_step(settings, lambda w: scalars(-1.0, 0.0), g, matrix)
    x = (g @ g) / (g @ matrix @ g) * g
    full = np.sqrt(2 * 0.5 / (x @ matrix @ x)) * x
    np.testing.assert_allclose(step.weights, [1.0, 2.0] - full, rtol=1e-8)


@pytest.mark.parametrize(
    ("surrogate", "divergence", "accepted"),
    [
        (-1e-9, 0.5, True),
        (0.0, 0.25, False),  # no better than before
        (-1.0, 0.5000001, False),
        (-1.0, np.nan, False),
        (np.nan, 0.1, False),
    ],
)
def test_when_a_step_is_accepted(surrogate, divergence, accepted):
    settings = TrustRegion(0.5, max_backtracks=3)
    step, full = taken_step(settings, lambda w: scalars(surrogate, divergence))
    assert bool(step.accepted) == accepted
    expected = [1.0, 2.0] - accepted * full
    np.testing.assert_allclose(step.weights, expected, rtol=1e-5)
    if not accepted:
        assert (float(step.surrogate), float(step.divergence)) == (0.0, 0.0)
        assert int(step.backtracks) == 2


@pytest.mark.parametrize("needed", [0, 1, 3, 4])
def test_a_step_is_shortened_by_the_ratio_until_it_helps(needed):
    lengths = []
    settings = TrustRegion(0.5, backtrack_ratio=0.5, max_backtracks=4, damping=0.0)
    start = np.array([1.0, 2.0])

    def evaluate(w):
        lengths.append(np.linalg.norm(w - start))
        return scalars(-1.0 if len(lengths) > needed else 1.0, 0.0)

    step, full = taken_step(settings, evaluate)
    tried = min(needed + 1, 4)
    np.testing.assert_allclose(lengths, np.linalg.norm(full) * 0.5 ** np.arange(tried), rtol=1e-8)
    assert bool(step.accepted) == (needed < 4)
    assert int(step.backtracks) == min(needed, 3)
    expected = start - (full * 0.5**needed if needed < 4 else 0)
    np.testing.assert_allclose(step.weights, expected, rtol=1e-8)


def test_a_gradient_of_zero_leaves_the_weights_and_gives_numbers():
    zero = tf.zeros([2], tf.float64)
    start = tf.constant([1.0, 2.0], tf.float64)
    step = trust_region.step(
        TrustRegion(), start, zero[0], zero, lambda w: scalars(0.0, 0.0), lambda v: 2 * v
    )
    np.testing.assert_array_equal(step.weights, start)
    assert not bool(step.accepted)
