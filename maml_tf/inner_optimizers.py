"""The update rule of one inner step, as a pure function of weights and gradients.

A Keras optimizer assigns variables; the inner loop may not, because the meta-gradient must flow
through every update. So an inner optimizer takes tensors and gives tensors back:

    slots = optimizer.init(weights)
    weights, slots = optimizer.update(step, gradients, weights, slots)

`step` counts the inner steps of one adaptation from 0; it is an `int` in an unrolled loop and an
int32 scalar tensor in a `tf.while_loop`. `learning_rate` may be one number or a sequence with one
number for each inner step (the last one holds for all later steps).
"""

import keras
import tensorflow as tf


class InnerOptimizer:
    """What the inner loop asks of an update rule.

    Args:
        learning_rate: the inner step size (alpha of Finn et al., 2017), a positive number, or a
            sequence of them: one for each inner step, the last one for all later ones.

    Raises:
        ValueError: a step size that is not a positive finite number.
    """

    def __init__(self, learning_rate):
        rates = learning_rate if isinstance(learning_rate, (list, tuple)) else [learning_rate]
        if not rates or not all(_is_positive(rate) for rate in rates):
            raise ValueError(
                f"`learning_rate` of {type(self).__name__} must be a positive number, or a "
                "non-empty sequence of them, one for each inner step. "
                f"Received: learning_rate={learning_rate!r}"
            )
        self.learning_rate = learning_rate

    def rate(self, step, dtype):
        """The step size of inner step `step` as a number or a scalar of `dtype`."""
        if not isinstance(self.learning_rate, (list, tuple)):
            # Not tf.cast, which would make a float32 of the number first.
            return tf.constant(self.learning_rate, dtype)
        rates = tf.constant([float(rate) for rate in self.learning_rate], dtype)
        return rates[tf.minimum(step, len(self.learning_rate) - 1)]

    def init(self, weights):
        """Slots (a flat list of tensors) before the first inner step."""
        raise NotImplementedError

    def update(self, step, gradients, weights, slots):
        """One inner step: `(new_weights, new_slots)`, lists in the order of `weights`."""
        raise NotImplementedError

    def get_config(self):
        """Arguments of the constructor."""
        return {"learning_rate": self.learning_rate}

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

    Example:
        >>> optimizer = SGD(0.1)
        >>> weights, _ = optimizer.update(0, [tf.constant([2.0])], [tf.constant([1.0])], [])
        >>> weights[0].numpy()
        array([0.8], dtype=float32)
    """

    def __init__(self, learning_rate=0.01, momentum=0.0):
        super().__init__(learning_rate)
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1). Received: momentum={momentum!r}")
        self.momentum = momentum

    def init(self, weights):
        """Velocities of zero, or nothing without momentum."""
        return [tf.zeros_like(w) for w in weights] if self.momentum else []

    def update(self, step, gradients, weights, slots):
        """See the class."""
        moves = [-self.rate(step, g.dtype) * g for g in gradients]
        if self.momentum:
            moves = slots = [self.momentum * v + m for v, m in zip(slots, moves, strict=True)]
        return [w + m for w, m in zip(weights, moves, strict=True)], slots

    def get_config(self):
        """Arguments of the constructor."""
        return {**super().get_config(), "momentum": self.momentum}


@keras.saving.register_keras_serializable("maml_tf")
class Adam(InnerOptimizer):
    """Adam (Kingma & Ba, 2015, algorithm 1) inside the task, from zero moments in every task.

    Args:
        learning_rate: see `InnerOptimizer`.
        beta_1: decay of the first moment, in [0, 1).
        beta_2: decay of the second moment, in [0, 1).
        epsilon: added under the root, so that its gradient exists where a gradient is zero;
            a positive number.
    """

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-8):
        super().__init__(learning_rate)
        if not (0 <= beta_1 < 1 and 0 <= beta_2 < 1 and _is_positive(epsilon)):
            raise ValueError(
                "`beta_1` and `beta_2` must be in [0, 1) and `epsilon` must be positive. "
                f"Received: beta_1={beta_1!r}, beta_2={beta_2!r}, epsilon={epsilon!r}"
            )
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def init(self, weights):
        """First moments, then second moments."""
        return [tf.zeros_like(w) for w in [*weights, *weights]]

    def update(self, step, gradients, weights, slots):
        """See the class."""
        n = len(weights)
        first = [self.beta_1 * m + (1 - self.beta_1) * g for m, g in zip(slots[:n], gradients)]  # noqa: B905
        second = [
            self.beta_2 * v + (1 - self.beta_2) * tf.square(g)
            for v, g in zip(slots[n:], gradients, strict=True)
        ]
        moved = []
        for w, m, v in zip(weights, first, second, strict=True):
            t = tf.cast(step, w.dtype) + 1
            m_hat = m / (1 - tf.constant(self.beta_1, w.dtype) ** t)
            v_hat = v / (1 - tf.constant(self.beta_2, w.dtype) ** t)
            # epsilon squared under the root: the derivative of sqrt at 0 is infinite.
            moved.append(w - self.rate(step, w.dtype) * m_hat / tf.sqrt(v_hat + self.epsilon**2))
        return moved, first + second

    def get_config(self):
        """Arguments of the constructor."""
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


def get(identifier):
    """An inner optimizer from itself, or from a number: the learning rate of plain `SGD`.

    Raises:
        TypeError: anything else, a Keras optimizer among it (it would assign variables).
    """
    if isinstance(identifier, InnerOptimizer):
        return identifier
    if isinstance(identifier, (int, float)) and not isinstance(identifier, bool):
        return SGD(identifier)
    raise TypeError(
        "`inner_optimizer` must be one of maml_tf.inner_optimizers (they update tensors, so that "
        "gradients flow through the update; a Keras optimizer assigns variables), for example "
        f"maml_tf.inner_optimizers.SGD(0.01). Received: inner_optimizer={identifier!r} of type "
        f"{type(identifier).__name__}"
    )


def _is_positive(value):
    return isinstance(value, (int, float)) and 0 < value < float("inf")
