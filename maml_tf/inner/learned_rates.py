"""Inner steps whose sizes are meta-learned together with the initial weights.

    theta_{i+1} = theta_i - alpha_i * grad L_support(theta_i),     alpha_i trained as theta is

One alpha for every number, the same in all steps, is Meta-SGD (Li et al., 2017, arXiv 1707.09835,
equation 4); one for every tensor and step is what MAML++ learns (Antoniou et al., 2019, arXiv
1810.09502, LSLR in section 4).
"""

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.inner.arithmetic import Clipping

PER = ("weight", "tensor")


@keras.saving.register_keras_serializable("maml_tf")
class LearnedRates(keras.layers.Layer):
    """Gradient descent with step sizes that the outer loop trains.

    They may become zero or negative, where that is what helps; hold them to what you want by
    `constraint`.

    Args:
        learning_rate: positive number, at which all of them begin.
        per: `"weight"`, one for every number of the weights that adapt; or `"tensor"`.
        steps: `int`, how many inner steps have rates of their own (the last ones hold for all
            later steps); None for the same in all steps.
        constraint: a `keras.constraints.Constraint` or its name, of each variable; none by
            default.
        clipvalue: as in `maml_tf.inner_optimizers.InnerOptimizer`.
        clipnorm: as there.
        global_clipnorm: as there.
        **settings: of `keras.layers.Layer`: `dtype`, `name`, `trainable`.

    Raises:
        TypeError, ValueError: an argument of another kind or out of range.

    Example:
        >>> rates = maml_tf.inner_optimizers.LearnedRates(0.01, per="tensor")
        >>> learner = maml_tf.MAML(maml_tf.models.sinusoid_mlp(), rates)
        >>> len(learner.trainable_variables), len(learner.model.trainable_variables)
        (12, 6)
    """

    def __init__(
        self,
        learning_rate=0.01,
        per="weight",
        steps=None,
        *,
        constraint=None,
        clipvalue=None,
        clipnorm=None,
        global_clipnorm=None,
        **settings,
    ):
        super().__init__(**settings)
        self.clipping = Clipping(clipvalue, clipnorm, global_clipnorm)
        self.learning_rate = arguments.positive("learning_rate", learning_rate)
        self.per = arguments.choice("per", per, PER)
        self.steps = None if steps is None else arguments.integer("steps", steps, minimum=1)
        self.constraint = keras.constraints.get(constraint)
        self.rates = []

    def build(self, shapes):
        """Makes the rates for weights of these shapes, in their order."""
        self.rates = [
            self.add_weight(
                shape=(
                    *(() if self.steps is None else (self.steps,)),
                    *(shape if self.per == "weight" else ()),
                ),
                initializer=keras.initializers.Constant(self.learning_rate),
                constraint=self.constraint,
                name=f"rate_{i}",
            )
            for i, shape in enumerate(shapes)
        ]

    def init(self, weights):
        """Nothing is carried from step to step."""
        del weights
        return []

    def update(self, step, gradients, weights, slots):
        """See `maml_tf.inner_optimizers`."""
        moved = [
            w - tf.cast(self._rate(rate, step), g.dtype) * g
            for w, g, rate in zip(weights, self.clipping(gradients), self.rates, strict=True)
        ]
        return moved, slots

    def _rate(self, rate, step):
        rate = tf.convert_to_tensor(rate.value)
        return rate if self.steps is None else rate[tf.minimum(step, self.steps - 1)]

    def get_build_config(self):
        """None: the learner builds it, for its own weights."""
        return

    def get_config(self):
        """Arguments of the constructor."""
        return {
            **super().get_config(),
            "learning_rate": self.learning_rate,
            "per": self.per,
            "steps": self.steps,
            "constraint": keras.constraints.serialize(self.constraint),
            **self.clipping.given,
        }
