"""The update rule of one inner step, as a pure function of weights and gradients.

A Keras optimizer assigns variables; the inner loop may not, because the meta-gradient must flow
through every update. So an inner optimizer takes tensors and gives tensors back:

    slots = optimizer.init(weights)
    weights, slots = optimizer.update(step, gradients, weights, slots)

`step` counts the inner steps of one adaptation from 0; it is an `int` in an unrolled loop and an
int32 scalar tensor in a `tf.while_loop`. `learning_rate` may be one number, a sequence with one
number for each inner step (the last one holds for all later steps), or a schedule of Keras.

An inner optimizer that learns is a `keras.layers.Layer` with these two methods: what its
`build(shapes)` adds by `add_weight` is trained by the outer loop, and saved and exported with the
learner. `LearnedRates` is one.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.inner.learned_rates import LearnedRates

__all__ = ["SGD", "Adam", "InnerOptimizer", "LearnedRates", "build", "get"]


class InnerOptimizer:
    """What the inner loop asks of an update rule.

    Args:
        learning_rate: the inner step size (alpha of Finn et al., 2017), a positive number; a
            sequence or array `[steps]` of them: one for each inner step, the last one for all
            later ones; or a `keras.optimizers.schedules.LearningRateSchedule`, a function of the
            inner step, which Keras computes in float32.

    Raises:
        TypeError: a step size that is not a number.
        ValueError: one that is not positive and finite, or none at all.
    """

    def __init__(self, learning_rate):
        self.learning_rate = _step_sizes(type(self).__name__, learning_rate)

    def rate(self, step, dtype):
        """The step size of inner step `step` as a number or a scalar of `dtype`."""
        if isinstance(self.learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return tf.cast(self.learning_rate(step), dtype)
        if not isinstance(self.learning_rate, list):
            # Not tf.cast, which would make a float32 of the number first.
            return tf.constant(self.learning_rate, dtype)
        rates = tf.constant(self.learning_rate, dtype)
        return rates[tf.minimum(step, len(self.learning_rate) - 1)]

    def init(self, weights):
        """Slots (a flat list of tensors) before the first inner step."""
        raise NotImplementedError

    def update(self, step, gradients, weights, slots):
        """One inner step: `(new_weights, new_slots)`, lists in the order of `weights`."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        rate = self.learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = keras.saving.serialize_keras_object(rate)
        return {"learning_rate": rate}

    @classmethod
    def from_config(cls, config):
        """An inner optimizer from what `get_config` returned."""
        return cls(**config)


@keras.saving.register_keras_serializable("maml_tf")
class SGD(InnerOptimizer):
    """Gradient descent, with momentum if asked: the paper's inner step (equation 1).

    `theta' = theta - learning_rate * gradient`. With `momentum` m, `velocity = m * velocity -
    learning_rate * gradient` and `theta' = theta + velocity`, starting from rest in every task.

    Args:
        learning_rate: see `InnerOptimizer`. Mind how the loss is reduced: the paper's 0.4 for
            5-way Omniglot belongs to a sum over the ways and is 2.0 for Keras' mean.
        momentum: at least 0 and below 1.

    Raises:
        TypeError, ValueError: see `InnerOptimizer`; `momentum` alike.

    Example:
        >>> optimizer = SGD(0.1)
        >>> weights, _ = optimizer.update(0, [tf.constant([2.0])], [tf.constant([1.0])], [])
        >>> weights[0].numpy()
        array([0.8], dtype=float32)
    """

    def __init__(self, learning_rate: Any = 0.01, momentum: float = 0.0) -> None:
        super().__init__(learning_rate)
        self.momentum = arguments.number("momentum", momentum, minimum=0, below=1)

    def init(self, weights):
        """Velocities of zero, or nothing without momentum."""
        return [tf.zeros_like(w) for w in weights] if self.momentum else []

    def update(self, step, gradients, weights, slots):
        """See the class."""
        moves = [-self.rate(step, g.dtype) * g for g in gradients]
        if self.momentum:
            moves = slots = [self.momentum * v + m for v, m in zip(slots, moves, strict=True)]
        return [w + m for w, m in zip(weights, moves, strict=True)], slots

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "momentum": self.momentum}


@keras.saving.register_keras_serializable("maml_tf")
class Adam(InnerOptimizer):
    """Adam (Kingma & Ba, 2015, algorithm 1) inside the task, from zero moments in every task.

    With m and v the running means of the gradient and of its square, both corrected for their
    start at zero, `theta' = theta - learning_rate * m / (sqrt(v) + epsilon)`, as in PyTorch.
    Keras adds its epsilon to the root before it corrects ("epsilon hat" in the paper): its step
    t is ours with `epsilon / sqrt(1 - beta_2**t)`, 32 times as large in the first step.

    Where a weight has had no gradient at all, v is 0 and the root has no derivative, but the step
    has: `-learning_rate * m / epsilon` is its linear part. That is what the meta-gradient gets
    here; plain differentiation, PyTorch's too, gives NaN.

    Args:
        learning_rate: see `InnerOptimizer`.
        beta_1: decay of the first moment, in [0, 1).
        beta_2: decay of the second moment, in [0, 1).
        epsilon: added to the root; a positive number.

    Raises:
        TypeError, ValueError: see `InnerOptimizer`; the other numbers alike.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(learning_rate)
        self.beta_1 = arguments.number("beta_1", beta_1, minimum=0, below=1)
        self.beta_2 = arguments.number("beta_2", beta_2, minimum=0, below=1)
        self.epsilon = arguments.positive("epsilon", epsilon)

    def init(self, weights):
        """First moments, then second moments."""
        return [tf.zeros_like(w, _wide(w.dtype)) for w in [*weights, *weights]]

    def update(self, step, gradients, weights, slots):
        """See the class."""
        n = len(weights)
        gradients = [tf.cast(g, _wide(g.dtype)) for g in gradients]
        first = [self.beta_1 * m + (1 - self.beta_1) * g for m, g in zip(slots[:n], gradients)]  # noqa: B905
        second = [
            self.beta_2 * v + (1 - self.beta_2) * tf.square(g)
            for v, g in zip(slots[n:], gradients, strict=True)
        ]
        moved = []
        for w, m, v in zip(weights, first, second, strict=True):
            t = tf.cast(step, v.dtype) + 1
            m_hat = m / (1 - tf.constant(self.beta_1, v.dtype) ** t)
            v_hat = v / (1 - tf.constant(self.beta_2, v.dtype) ** t)
            move = self.rate(step, v.dtype) * m_hat / (_root(v_hat) + self.epsilon)
            moved.append(w - tf.cast(move, w.dtype))
        return moved, first + second

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


def get(identifier: Any) -> Any:
    """An inner optimizer from itself, or from step sizes: those of plain `SGD`.

    Args:
        identifier: an `InnerOptimizer`; a `keras.layers.Layer` with `init` and `update` as it has
            them, whose variables are meta-learned; or what `learning_rate` may be.

    Raises:
        TypeError: anything else, a Keras optimizer among it (it would assign variables).
        ValueError: a step size that is not positive and finite.
    """
    if isinstance(identifier, InnerOptimizer) or _learns(identifier):
        return identifier
    schedule = keras.optimizers.schedules.LearningRateSchedule
    if isinstance(identifier, (list, tuple, np.ndarray, schedule)):
        return SGD(identifier)
    if arguments.is_number(identifier):
        return SGD(identifier)
    raise TypeError(
        "Expected `inner_optimizer` to be one of maml_tf.inner_optimizers (they update tensors, so "
        "that gradients flow through the update; a Keras optimizer assigns variables), or the step "
        f"size of plain SGD. Received: {arguments.received('inner_optimizer', identifier)}. Give, "
        "for example, maml_tf.inner_optimizers.SGD(0.01)."
    )


def build(optimizer, variables):
    """Makes the variables of an inner optimizer that learns; nothing of another one.

    Args:
        optimizer: what `get` gives.
        variables: list of `keras.Variable`, those that adapt.

    Raises:
        ValueError: it was built for other weights.
    """
    if not _learns(optimizer):
        return
    shapes = [tuple(v.shape) for v in variables]
    if not optimizer.built:
        optimizer.build(shapes)
        optimizer.built_for = shapes
    elif getattr(optimizer, "built_for", shapes) != shapes:
        raise ValueError(
            f"Expected an inner optimizer of its own for the weights of shapes {shapes}. Received: "
            f"{optimizer.name!r}, which was built for {optimizer.built_for}. Make a new one."
        )


def _learns(optimizer):
    methods = ("init", "update")
    return isinstance(optimizer, keras.layers.Layer) and all(
        callable(getattr(optimizer, m, None)) for m in methods
    )


def _step_sizes(owner, given):
    """A `float`, a list of them or a schedule: whatever JSON or Keras can store."""
    if isinstance(given, dict) and "class_name" in given:  # of a configuration
        given = keras.saving.deserialize_keras_object(given)
    if isinstance(given, keras.optimizers.schedules.LearningRateSchedule):
        return given
    several = isinstance(given, (list, tuple)) or np.ndim(given) == 1
    advice = f"Give {owner}(0.01), or {owner}([0.02, 0.01]) with one step size for each inner step."
    if several and len(given) == 0:
        raise ValueError(
            "Expected `learning_rate` to be a positive number, or one for each inner step. "
            f"Received: learning_rate={given!r}. {advice}"
        )
    if not several:
        return arguments.positive("learning_rate", given, advice=advice)
    return [
        arguments.positive(f"learning_rate[{i}]", rate, advice=advice)
        for i, rate in enumerate(given)
    ]


def _wide(dtype):
    """The dtype of moments: in half precision 0.999 is 1 and 1e-8 is 0."""
    return tf.float32 if dtype.size == 2 else dtype


def _root(square):
    """The square root, with a derivative of 0 at 0, where that of `tf.sqrt` is infinite."""
    # Where a processor flushes what is below the smallest normal number, its root is 0 too.
    positive = square > np.finfo(square.dtype.as_numpy_dtype).tiny
    root = tf.sqrt(tf.where(positive, square, tf.ones_like(square)))
    return tf.where(positive, root, tf.zeros_like(root))
