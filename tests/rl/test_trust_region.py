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
