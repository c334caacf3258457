"""What every inner optimizer is: a step size, clipping, decay, a step without side effects."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.inner.arithmetic import CLIPPINGS, Clipping

OPTIONS = ("weight_decay", *CLIPPINGS)


class InnerOptimizer:
    """What the inner loop asks of an update rule.

    Args:
        learning_rate: the inner step size (alpha of Finn et al., 2017), a positive number; a
            sequence or array `[steps]` of them: one for each inner step, the last one for all
            later ones; or a `keras.optimizers.schedules.LearningRateSchedule`, a function of the
            inner step, which Keras computes in float32.
        weight_decay: number of at least 0: before each step all weights that adapt are multiplied
            by `1 - learning_rate * weight_decay`, whatever the gradient (Loshchilov & Hutter,
            2019), as in Keras.
        clipvalue: positive number or None: every number of the inner gradient is held between
            its negative and itself.
        clipnorm: positive number or None: the gradient of each weight is scaled down to this norm
            where it is larger.
        global_clipnorm: positive number or None: the same for all weights that adapt together. It
            keeps the direction of the step, and a task with an outlier from running away.

    Raises:
        TypeError: a number that is none.
        ValueError: a step size that is not positive and finite, or none at all; another number out
            of range, or two kinds of clipping.
    """

    def __init__(
        self,
        learning_rate,
        *,
        weight_decay=0.0,
        clipvalue=None,
        clipnorm=None,
        global_clipnorm=None,
    ):
        self.learning_rate = _step_sizes(type(self).__name__, learning_rate)
        self.weight_decay = arguments.number("weight_decay", weight_decay, minimum=0)
        self.clipping = Clipping(clipvalue, clipnorm, global_clipnorm)

    def rate(self, step, dtype):
        """The step size of inner step `step` as a number or a scalar of `dtype`."""
        if isinstance(self.learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return tf.cast(self.learning_rate(step), dtype)
        if not isinstance(self.learning_rate, list):
            # Not tf.cast, which would make a float32 of the number first.
            return tf.constant(self.learning_rate, dtype)
        rates = tf.constant(self.learning_rate, dtype)
        return rates[tf.minimum(step, len(self.learning_rate) - 1)]

    def clipped(self, gradients):
        """The gradients of a step, clipped where that was asked for: list of tensors."""
        return self.clipping(gradients)

    def decayed(self, step, weights):
        """The weights that a step begins at, decayed where that was asked for: list of tensors."""
        if not self.weight_decay:
            return weights
        return [w - self.rate(step, w.dtype) * self.weight_decay * w for w in weights]

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
        # Learners that were saved without these options say nothing of them.
        decay = {"weight_decay": self.weight_decay} if self.weight_decay else {}
        return {"learning_rate": rate, **decay, **self.clipping.given}

    @classmethod
    def from_config(cls, config):
        """An inner optimizer from what `get_config` returned."""
        return cls(**config)


def known(owner, settings):
    """Options of `InnerOptimizer`, whose names are checked with those of the optimizer itself.

    Args:
        owner: the class that was called.
        settings: dict of what it takes beside its own arguments.

    Returns:
        `settings`.

    Raises:
        TypeError: there is none of such a name.
    """
    own = [name for name in arguments.of_constructor(owner) if name not in OPTIONS]
    arguments.known_options(owner.__name__, settings, [*own, *OPTIONS])
    return settings


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
