"""Inner optimizers whose steps are scaled by the gradients of the same task before.

Where a weight has had no gradient at all, the sum v of its squares is 0, and the root of v has no
derivative. The step has one: it is `learning_rate * gradient / epsilon` there, to first order. That
is what the meta-gradient gets here; plain differentiation, PyTorch's too, gives NaN.
"""

from typing import Any

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.inner.arithmetic import root_of, width
from maml_tf.inner.optimizer import InnerOptimizer, known


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
        **settings: `weight_decay` (with which it is AdamW), `clipvalue`, `clipnorm`,
            `global_clipnorm`, see `InnerOptimizer`.

    Raises:
        TypeError, ValueError: see `InnerOptimizer`; the other numbers alike.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        **settings: Any,
    ) -> None:
        super().__init__(learning_rate, **known(Adam, settings))
        self.beta_1 = arguments.number("beta_1", beta_1, minimum=0, below=1)
        self.beta_2 = arguments.number("beta_2", beta_2, minimum=0, below=1)
        self.epsilon = arguments.positive("epsilon", epsilon)

    def init(self, weights):
        """First moments, then second moments."""
        return [tf.zeros_like(w, width(w.dtype)) for w in [*weights, *weights]]

    def update(self, step, gradients, weights, slots):
        """See the class."""
        n = len(weights)
        weights = self.decayed(step, weights)
        gradients = [tf.cast(g, width(g.dtype)) for g in self.clipped(gradients)]
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
            move = self.rate(step, v.dtype) * m_hat / (root_of(v_hat) + self.epsilon)
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


@keras.saving.register_keras_serializable("maml_tf")
class RMSprop(InnerOptimizer):
    """RMSprop (Tieleman & Hinton, 2012) inside the task, from zero in every task.

    With v the running mean of the gradient's square, `v = rho * v + (1 - rho) * gradient**2`,
    `theta' = theta - learning_rate * gradient / (sqrt(v) + epsilon)`, as in PyTorch; Keras adds
    epsilon inside the root. v is not corrected for its start at zero: the first step of a weight is
    `learning_rate / sqrt(1 - rho)` long, 3.2 times the rate, whatever its gradient.

    Args:
        learning_rate: see `InnerOptimizer`.
        rho: decay of v, in [0, 1).
        momentum: at least 0 and below 1: moves add up as in `SGD`.
        epsilon: added to the root; a positive number.
        **settings: `weight_decay`, `clipvalue`, `clipnorm`, `global_clipnorm`, see
            `InnerOptimizer`.

    Raises:
        TypeError, ValueError: see `InnerOptimizer`; the other numbers alike.

    Example:
        >>> optimizer, weight = RMSprop(0.1, rho=0.75), tf.constant([2.0])
        >>> weights, _ = optimizer.update(0, [weight], [weight], optimizer.init([weight]))
        >>> weights[0].numpy()
        array([1.8], dtype=float32)
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-8,
        **settings: Any,
    ) -> None:
        super().__init__(learning_rate, **known(RMSprop, settings))
        self.rho = arguments.number("rho", rho, minimum=0, below=1)
        self.momentum = arguments.number("momentum", momentum, minimum=0, below=1)
        self.epsilon = arguments.positive("epsilon", epsilon)

    def init(self, weights):
        """Means of squares, then moves where there is momentum."""
        zeros = [tf.zeros_like(w, width(w.dtype)) for w in weights]
        return zeros + zeros if self.momentum else zeros

    def update(self, step, gradients, weights, slots):
        """See the class."""
        n = len(weights)
        weights = self.decayed(step, weights)
        gradients = [tf.cast(g, width(g.dtype)) for g in self.clipped(gradients)]
        squares = [
            self.rho * v + (1 - self.rho) * tf.square(g)
            for v, g in zip(slots[:n], gradients, strict=True)
        ]
        moves = _scaled(self, step, gradients, squares)
        if self.momentum:
            moves = [self.momentum * m + d for m, d in zip(slots[n:], moves, strict=True)]
        moved = [w - tf.cast(m, w.dtype) for w, m in zip(weights, moves, strict=True)]
        return moved, squares + moves if self.momentum else squares

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        own = {"rho": self.rho, "momentum": self.momentum, "epsilon": self.epsilon}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("maml_tf")
class Adagrad(InnerOptimizer):
    """AdaGrad (Duchi et al., 2011) inside the task: steps become shorter as gradients add up.

    With v the sum of the gradient's squares in this task, `theta' = theta - learning_rate *
    gradient / (sqrt(v) + epsilon)`, as in PyTorch; Keras adds epsilon inside the root.

    Args:
        learning_rate: see `InnerOptimizer`.
        initial_accumulator_value: number of at least 0, at which v begins: Keras' 0.1 keeps the
            first step of a small gradient small. With 0 it is as long as the rate.
        epsilon: added to the root; a positive number.
        **settings: `weight_decay`, `clipvalue`, `clipnorm`, `global_clipnorm`, see
            `InnerOptimizer`.

    Raises:
        TypeError, ValueError: see `InnerOptimizer`; the other numbers alike.

    Example:
        >>> optimizer, weight = Adagrad(0.5, initial_accumulator_value=0.0), tf.constant([2.0])
        >>> weights, _ = optimizer.update(0, [weight], [weight], optimizer.init([weight]))
        >>> weights[0].numpy()
        array([1.5], dtype=float32)
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-8,
        **settings: Any,
    ) -> None:
        super().__init__(learning_rate, **known(Adagrad, settings))
        self.initial_accumulator_value = arguments.number(
            "initial_accumulator_value", initial_accumulator_value, minimum=0
        )
        self.epsilon = arguments.positive("epsilon", epsilon)

    def init(self, weights):
        """Sums of squares."""
        first = self.initial_accumulator_value
        return [tf.zeros_like(w, width(w.dtype)) + first for w in weights]

    def update(self, step, gradients, weights, slots):
        """See the class."""
        weights = self.decayed(step, weights)
        gradients = [tf.cast(g, width(g.dtype)) for g in self.clipped(gradients)]
        squares = [v + tf.square(g) for v, g in zip(slots, gradients, strict=True)]
        moves = _scaled(self, step, gradients, squares)
        return [w - tf.cast(m, w.dtype) for w, m in zip(weights, moves, strict=True)], squares

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            **super().get_config(),
            "initial_accumulator_value": self.initial_accumulator_value,
            "epsilon": self.epsilon,
        }


def _scaled(optimizer, step, gradients, squares):
    """The moves: rate times gradient by the root of its squares."""
    return [
        optimizer.rate(step, g.dtype) * g / (root_of(v) + optimizer.epsilon)
        for g, v in zip(gradients, squares, strict=True)
    ]
