"""Trust region policy optimisation (Schulman et al., 2015): the outer step of Finn et al. (2017).

The step s maximises the linearised surrogate g.s under s.H.s / 2 <= delta, where H is the second
derivative of the mean Kullback-Leibler divergence: H x = g by conjugate gradients, scaled to the
border of the region, then shortened until the surrogate really falls and the divergence really
stays within delta; where no length will do, the weights stay as they are.

Everything works on vectors: a list of weights is flattened by the caller.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from maml_tf import arguments


@dataclasses.dataclass(frozen=True)
class TrustRegion:
    """Settings of the outer step; the defaults are the paper's.

    Attributes:
        max_divergence: delta, nats.
        conjugate_gradient_steps: iterations of the solver.
        damping: added to the diagonal of H.
        backtrack_ratio: by which the step is shortened.
        max_backtracks: how many lengths are tried.
        product: `"exact"`, nested tapes, or `"finite_difference"` of gradients as in the
            authors' code.
        curvature_tasks: how many tasks H is formed from; all of them by default. The gradient
            and the tests of a step always use all.

    Raises:
        TypeError: a value of another type.
        ValueError: a value out of range, an unknown `product`.
    """

    max_divergence: float = 0.01
    conjugate_gradient_steps: int = 10
    damping: float = 1e-5
    backtrack_ratio: float = 0.8
    max_backtracks: int = 15
    product: str = "exact"
    curvature_tasks: int | None = None

    def __post_init__(self):
        """Checks the values."""
        arguments.positive("max_divergence", self.max_divergence)
        arguments.integer("conjugate_gradient_steps", self.conjugate_gradient_steps, minimum=1)
        arguments.number("damping", self.damping, minimum=0)
        arguments.number("backtrack_ratio", self.backtrack_ratio, above=0, below=1)
        arguments.integer("max_backtracks", self.max_backtracks, minimum=1)
        arguments.choice("product", self.product, ("exact", "finite_difference"))
        if self.curvature_tasks is not None:
            arguments.integer("curvature_tasks", self.curvature_tasks, minimum=1)


class Step(NamedTuple):
    """What one step of the trust region did."""

    weights: tf.Tensor  # [P], the new weights, or the old ones where no step was accepted
    accepted: tf.Tensor  # bool
    backtracks: tf.Tensor  # int32, how often the step was shortened
    surrogate_before: tf.Tensor  # what is minimised, at the old weights
    surrogate: tf.Tensor  # and at the new ones
    divergence: tf.Tensor  # nats, between the old policy and the new one


def step(
    settings: TrustRegion,
    weights: Any,
    surrogate: Any,
    gradient: Any,
    evaluate: Callable[[Any], Any],
    product: Callable[[Any], Any],
) -> Step:
    """One step of the trust region.

    Args:
        settings: `TrustRegion`.
        weights: float `[P]`.
        surrogate: scalar, what is minimised, at `weights`.
        gradient: float `[P]`, its gradient.
        evaluate: `evaluate(weights) -> (surrogate, divergence)`, scalars.
        product: `product(x) -> H x`, `[P]` to `[P]`, without damping.

    Returns:
        `Step`.
    """

    def damped(x):
        return product(x) + settings.damping * x

    steps = settings.conjugate_gradient_steps
    direction, residual = conjugate_gradient(damped, gradient, steps)
    # The damped product with the direction, which the solver knows: no need to form it again.
    curvature = tf.tensordot(direction, gradient - residual, 1)
    scale = tf.sqrt(2 * settings.max_divergence / (curvature + 1e-8))
    return _backtrack(settings, weights, scale * direction, surrogate, evaluate)


def conjugate_gradient(
    product: Callable[[Any], Any], b: Any, iterations: int, tolerance: float = 1e-10
) -> tuple[Any, Any]:
    """Solves `A x = b` for a symmetric positive definite A (Hestenes and Stiefel, 1952).

    Args:
        product: `product(x) -> A x`, `[P]` to `[P]`.
        b: float `[P]`.
        iterations: `int`, at most.
        tolerance: stops where the squared norm of the residual is below.

    Returns:
        `(x, b - A x)`, each float `[P]`.
    """

    def unfinished(i, x, residual, direction, squared):
        return (i < iterations) & (squared > tolerance)

    def body(i, x, residual, direction, squared):
        image = product(direction)
        length = squared / tf.tensordot(direction, image, 1)
        x += length * direction
        residual -= length * image
        following = tf.tensordot(residual, residual, 1)
        direction = residual + following / squared * direction
        return i + 1, x, residual, direction, following

    start = (tf.constant(0), tf.zeros_like(b), b, b, tf.tensordot(b, b, 1))
    return tf.while_loop(unfinished, body, start, parallel_iterations=1)[1:3]


def _backtrack(settings, weights, full_step, before, evaluate):
    def unfinished(k, *_):
        return k < settings.max_backtracks

    def body(k, accepted, backtracks, *old):
        candidate = weights - settings.backtrack_ratio ** tf.cast(k, weights.dtype) * full_step
        surrogate, divergence = evaluate(candidate)
        # False for NaN too: a poisoned step is never taken.
        good = (surrogate < before) & (divergence <= settings.max_divergence)
        new = (candidate, surrogate, divergence)
        kept = [tf.where(good, n, o) for n, o in zip(new, old, strict=True)]
        following = tf.where(good, settings.max_backtracks, k + 1)
        return following, good, k, *kept

    zero = tf.zeros([], weights.dtype)
    start = (tf.constant(0), tf.constant(False), tf.constant(0), weights, before, zero)
    _, accepted, backtracks, new, surrogate, divergence = tf.while_loop(
        unfinished, body, start, parallel_iterations=1
    )
    return Step(new, accepted, backtracks, before, surrogate, divergence)
