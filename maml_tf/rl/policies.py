"""Policies: Keras models whose outputs are the parameters of a distribution over actions.

A policy is any built `keras.Model` from observations `[batch, ...]` to a dict:

- `{"loc": [batch, A], "log_scale": [batch, A]}`: a Gaussian with diagonal covariance;
- `{"logits": [batch, N]}`: a categorical distribution over N discrete actions.

`gaussian` is the network of Finn et al. (2017), section 5.3: two hidden layers of 100 ReLU units,
a standard deviation that does not depend on the observation and adapts with everything else. With
`context` the network sees free parameters beside the observation; a meta-policy that adapts only
these is the paper's context vector (appendix C.2, after Rei, 2015).
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from maml_tf import arguments, functional
from maml_tf.rl._tf_agents import tfp

__all__ = ["categorical", "gaussian"]

_SMALLEST_LOG_SCALE = math.log(1e-6)
_GAUSSIAN, _CATEGORICAL = {"loc", "log_scale"}, {"logits"}


class _Vector(keras.layers.Layer):
    """A trained vector, the same for every row of the input: `[batch, ...]` to `[batch, units]`."""

    def __init__(self, units, initial=0.0, **kwargs):
        super().__init__(**kwargs)
        self.units, self.initial = units, initial

    def build(self, input_shape):
        """Makes the vector."""
        self.vector = self.add_weight(
            name="vector",
            shape=(self.units,),
            initializer=keras.initializers.Constant(self.initial),
        )
        self.built = True

    def call(self, inputs):
        """The vector for every row."""
        return tf.broadcast_to(self.value(), [tf.shape(inputs)[0], self.units])

    def value(self):
        """The vector as the output holds it, `[units]`."""
        return tf.convert_to_tensor(self.vector)

    def compute_output_shape(self, input_shape):
        """`[batch, units]`."""
        return (input_shape[0], self.units)

    def get_config(self):
        """What `from_config` makes it from."""
        return super().get_config() | {"units": self.units, "initial": self.initial}


@keras.saving.register_keras_serializable("maml_tf")
class Context(_Vector):
    """Free parameters beside the input, which adapt in place of the weights (appendix C.2).

    `[batch, ...]` to `[batch, units]`, the same for every row. Its gradient is not zero where the
    vector is: the weights that it meets are not.

    Args:
        units: `int`, size of the vector.
        initial: `float`, the value of its entries at the beginning.
    """


@keras.saving.register_keras_serializable("maml_tf")
class LogScale(_Vector):
    """Logarithm of a standard deviation that no observation changes: `[batch, O]` to `[batch, A]`.

    Args:
        units: `int`, A.
        initial: `float`, the value of its entries at the beginning.
        minimum: `float`, what the output never goes below (its gradient is zero there).
    """

    def __init__(
        self, units: int, initial: float = 0.0, minimum: float = _SMALLEST_LOG_SCALE, **kwargs: Any
    ) -> None:
        super().__init__(units, initial, **kwargs)
        self.minimum = minimum

    def value(self) -> Any:
        """The vector, bounded."""
        return tf.maximum(super().value(), self.minimum)

    def get_config(self) -> dict[str, Any]:
        """What `from_config` makes it from."""
        return super().get_config() | {"minimum": self.minimum}


def gaussian(
    observation_size: int,
    action_size: int,
    hidden: Sequence[int] = (100, 100),
    *,
    log_scale: float = 0.0,
    output_scale: float = 1.0,
    context: int = 0,
    seed: int = 0,
    **kwargs: Any,
) -> keras.Model:
    """The paper's policy for continuous actions (section 5.3).

    Args:
        observation_size: `int`, O.
        action_size: `int`, A.
        hidden: sizes of the hidden layers, ReLU, Glorot-uniform weights, zero bias.
        log_scale: `float`, logarithm of the standard deviation at the beginning.
        output_scale: `float`, factor on the Glorot-uniform weights of the means. Below 1 the first
            policy does little but explore: where the weights as drawn happen to drive the state
            away, meta-training may never come back from it.
        context: `int`, C, size of a trained vector that is concatenated to every observation, zero
            at the beginning; none by default. Its layer is called `"context"`.
        seed: `int`, of the initial weights.
        **kwargs: `dtype` of the layers; `name` of the model.

    Returns:
        `keras.Model`, `[batch, O]` to `{"loc": [batch, A], "log_scale": [batch, A]}`.

    Raises:
        TypeError: an argument of another type, or that is not known.
        ValueError: a size or scale out of range.

    Example:
        >>> distribution(gaussian(2, 2)(tf.zeros([3, 2]))).sample(seed=[0, 1]).shape
        TensorShape([3, 2])

        Only the context vector adapts:

        >>> learner = maml_tf.rl.MetaPolicy(gaussian(2, 2, context=8), 0.5, adaptable="context")
    """
    arguments.integer("action_size", action_size, minimum=1)
    log_scale = arguments.number("log_scale", log_scale)
    output_scale = arguments.positive("output_scale", output_scale)
    inputs, x, dtype, name = _trunk(observation_size, hidden, context, seed, kwargs)
    loc = _dense(action_size, "loc", seed + len(hidden), dtype, scale=output_scale)(x)
    scale = LogScale(action_size, initial=log_scale, name="log_scale", dtype=dtype)(inputs)
    outputs = {"loc": loc, "log_scale": scale}
    return keras.Model(inputs, outputs, name=name or "gaussian_policy")


def categorical(
    observation_size: int,
    actions: int,
    hidden: Sequence[int] = (100, 100),
    *,
    context: int = 0,
    seed: int = 0,
    **kwargs: Any,
) -> keras.Model:
    """The same network for `actions` discrete actions.

    Args:
        observation_size: `int`, O.
        actions: `int`, N.
        hidden: as in `gaussian`.
        context: as in `gaussian`.
        seed: as in `gaussian`.
        **kwargs: as in `gaussian`.

    Returns:
        `keras.Model`, `[batch, O]` to `{"logits": [batch, N]}`.

    Raises:
        TypeError: as in `gaussian`.
        ValueError: as in `gaussian`; fewer than two actions.
    """
    arguments.integer("actions", actions, minimum=2)
    inputs, x, dtype, name = _trunk(observation_size, hidden, context, seed, kwargs)
    logits = _dense(actions, "logits", seed + len(hidden), dtype)(x)
    return keras.Model(inputs, {"logits": logits}, name=name or "categorical_policy")


def _trunk(observation_size, hidden, context, seed, kwargs):
    dtype, name = kwargs.pop("dtype", None), kwargs.pop("name", None)
    if kwargs:
        raise TypeError(
            f"Expected only `dtype` and `name` beside the other arguments. Received: {kwargs}. "
            "Remove what is not known, or correct its spelling."
        )
    arguments.integer("observation_size", observation_size, minimum=1)
    context = arguments.integer("context", context, minimum=0)
    seed = arguments.integer("seed", seed, minimum=0)
    if not isinstance(hidden, (list, tuple)):
        raise TypeError(
            "Expected `hidden` to be a sequence of sizes. Received: "
            f"{arguments.received('hidden', hidden)}. Give one for each hidden layer, such as "
            "hidden=(100, 100)."
        )
    for size in hidden:
        arguments.integer("hidden", size, minimum=1)
    inputs = keras.Input((observation_size,), dtype=dtype, name="observation")
    x = inputs
    if context:
        vector = Context(context, name="context", dtype=dtype)(inputs)
        x = keras.layers.Concatenate(name="observation_and_context", dtype=dtype)([inputs, vector])
    for i, units in enumerate(hidden):
        x = _dense(units, f"hidden_{i}", seed + i, dtype, "relu")(x)
    return inputs, x, dtype, name


def _dense(units, name, seed, dtype, activation=None, scale=1.0):
    # Glorot-uniform times `scale`, which Keras takes as a factor on the variance.
    initializer = keras.initializers.VarianceScaling(scale**2, "fan_avg", "uniform", seed=seed)
    return keras.layers.Dense(
        units, activation, kernel_initializer=initializer, name=name, dtype=dtype
    )


def distribution(outputs: dict[str, Any]) -> Any:
    """The distribution over actions that a policy's outputs describe.

    Args:
        outputs: dict of tensors `[..., A]` as at the top of this file.

    Returns:
        A `tfp.distributions.Distribution`, batch shape `[...]`.

    Raises:
        ValueError: other keys.
    """
    keys = set(outputs) if isinstance(outputs, dict) else None
    if keys == _GAUSSIAN:
        return tfp.distributions.MultivariateNormalDiag(
            outputs["loc"], tf.exp(outputs["log_scale"])
        )
    if keys == _CATEGORICAL:
        return tfp.distributions.Categorical(outputs["logits"])
    raise ValueError(
        f"Expected a policy whose outputs are a dict with the keys {sorted(_GAUSSIAN)} or "
        f"{sorted(_CATEGORICAL)}. Received: {sorted(keys) if keys else type(outputs).__name__}. "
        "Name the outputs of its last layers so, as `maml_tf.rl.policies.gaussian` does."
    )


def apply(
    policy: keras.Model,
    weights: Sequence[Any],
    observation: Any,
    state: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """The policy's outputs at given weights; nothing of the policy is assigned.

    Args:
        policy: a built `keras.Model` as described at the top of this file.
        weights: list of tensors in the order of `policy.trainable_variables`.
        observation: `[batch, ...]`.
        state: list of tensors or variables in the order of `policy.non_trainable_variables`;
            those of the policy by default.

    Returns:
        Dict of tensors `[batch, ...]`.
    """
    state = policy.non_trainable_variables if state is None else state
    state = [tf.convert_to_tensor(v) for v in state]
    outputs, _ = functional.call(policy, weights, state, observation, training=False)
    return outputs


def apply_tasks(policy: keras.Model, weights: Sequence[Any], observation: Any) -> dict[str, Any]:
    """`apply` with weights of its own for every task, all tasks at once.

    Args:
        policy: as in `apply`.
        weights: list of tensors, each `[T, ...]`.
        observation: `[T, batch, ...]`.

    Returns:
        Dict of tensors `[T, batch, ...]`.
    """
    return tf.vectorized_map(lambda e: apply(policy, e[0], e[1]), (list(weights), observation))
