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
from maml_tf.inner.adaptive import Adagrad, Adam, RMSprop
from maml_tf.inner.learned_rates import LearnedRates
from maml_tf.inner.optimizer import InnerOptimizer, known

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "InnerOptimizer",
    "LearnedRates",
    "RMSprop",
    "build",
    "get",
]


@keras.saving.register_keras_serializable("maml_tf")
class SGD(InnerOptimizer):
    """Gradient descent, with momentum if asked: the paper's inner step (equation 1).

    `theta' = theta - learning_rate * gradient`. With `momentum` m, `velocity = m * velocity -
    learning_rate * gradient` and `theta' = theta + velocity`, starting from rest in every task.
    With `nesterov`, `theta' = theta + m * velocity - learning_rate * gradient`.

    Args:
        learning_rate: see `InnerOptimizer`. Mind how the loss is reduced: the paper's 0.4 for
            5-way Omniglot belongs to a sum over the ways and is 2.0 for Keras' mean.
        momentum: at least 0 and below 1.
        nesterov: bool, whether the step looks ahead; only with momentum.
        **settings: `weight_decay`, `clipvalue`, `clipnorm`, `global_clipnorm`, see
            `InnerOptimizer`.

    Raises:
        TypeError, ValueError: see `InnerOptimizer`; `momentum` alike.

    Example:
        >>> optimizer = SGD(0.1)
        >>> weights, _ = optimizer.update(0, [tf.constant([2.0])], [tf.constant([1.0])], [])
        >>> weights[0].numpy()
        array([0.8], dtype=float32)
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(learning_rate, **known(SGD, settings))
        self.momentum = arguments.number("momentum", momentum, minimum=0, below=1)
        self.nesterov = arguments.boolean("nesterov", nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError(
                "Expected momentum beside `nesterov`, which looks ahead by it. Received: "
                f"momentum={self.momentum}, nesterov=True. Give, for example, momentum=0.9."
            )

    def init(self, weights):
        """Velocities of zero, or nothing without momentum."""
        return [tf.zeros_like(w) for w in weights] if self.momentum else []

    def update(self, step, gradients, weights, slots):
        """See the class."""
        weights = self.decayed(step, weights)
        moves = [-self.rate(step, g.dtype) * g for g in self.clipped(gradients)]
        if self.momentum:
            slots = [self.momentum * v + m for v, m in zip(slots, moves, strict=True)]
            ahead = zip(slots, moves, strict=True)
            moves = [self.momentum * v + m for v, m in ahead] if self.nesterov else slots
        return [w + m for w, m in zip(weights, moves, strict=True)], slots

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        ahead = {"nesterov": True} if self.nesterov else {}
        return {**super().get_config(), "momentum": self.momentum, **ahead}


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
