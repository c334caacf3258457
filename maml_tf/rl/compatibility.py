"""Whether a policy can act in an environment: told before training begins, not by bad rollouts."""

import tensorflow as tf

from maml_tf.rl import policies


def check(policy, environment):
    """Compares a policy with what an environment shows and takes.

    Args:
        policy: as described in `maml_tf.rl.policies`.
        environment: one of `maml_tf.rl.environments`.

    Raises:
        ValueError: observations that are no vectors, a policy of other observations, of another
            number or kind of actions, or whose outputs describe no distribution.
    """
    observation, action = environment.observation_spec(), environment.action_spec()
    _check_observation(policy, observation)
    if tf.nest.is_nested(action):
        raise ValueError(
            "Expected an environment of one action, a vector or an integer. Received: "
            f"action_spec={action}. Wrap the environment so that it takes one."
        )
    weights = [tf.convert_to_tensor(v) for v in policy.trainable_variables]
    zeros = tf.zeros([1, *observation.shape], observation.dtype)
    outputs = policies.apply(policy, weights, zeros)
    if not isinstance(outputs, dict) or set(outputs) != {"loc", "log_scale"}:
        policies.distribution(outputs)  # tells which outputs there should be
    received = {name: tuple(output.shape) for name, output in outputs.items()}
    if tf.as_dtype(action.dtype).is_integer:
        _check_choice(action, received)
    else:
        _check_vector(action, received)


def _check_observation(policy, spec):
    if tf.nest.is_nested(spec) or len(spec.shape) != 1 or not _is_number(spec.dtype):
        raise ValueError(
            "Expected an environment whose observations are vectors [O], which the baseline of the "
            f"advantages is made for. Received: observation_spec={spec}. Wrap the environment, "
            "such as in `gymnasium.wrappers.FlattenObservation`; images need a vector of features."
        )
    inputs = getattr(policy, "inputs", None)
    if inputs and (len(inputs) != 1 or not _fits(inputs[0].shape, spec.shape)):
        raise ValueError(
            f"Expected a policy of the environment's observations, [batch, {spec.shape[0]}]. "
            f"Received: a policy of inputs {[tuple(i.shape) for i in inputs]}. Make it with "
            f"observation_size={spec.shape[0]}."
        )


def _is_number(dtype):
    dtype = tf.as_dtype(dtype)
    return dtype.is_floating or dtype.is_integer or dtype.is_bool


def _fits(shape, observation):
    return tf.TensorShape(shape[1:]).is_compatible_with(tf.TensorShape(observation))


def _check_choice(spec, received):
    """Integers: one of them, of as many as there are logits, from 0 on."""
    first, last = (int(b) if b is not None else None for b in _bounds(spec))
    number = None if last is None else last - first + 1
    if tuple(spec.shape) or first not in (0, None):
        raise ValueError(
            "Expected an environment of one discrete action, counted from 0, or of continuous "
            f"ones. Received: action_spec={spec}. Wrap the environment so that it takes one."
        )
    if set(received) != {"logits"} or number not in (None, received["logits"][-1]):
        raise ValueError(
            f"Expected a policy for the environment's {number} discrete actions, with logits of "
            f"shape (1, {number}). Received: a policy with outputs {received}. Use "
            f"`maml_tf.rl.policies.categorical(observation_size, {number})`."
        )


def _check_vector(spec, received):
    """Vectors: of as many entries as the policy's mean and standard deviation have."""
    shape = (1, *spec.shape)
    if len(shape) != 2:
        raise ValueError(
            "Expected an environment whose actions are vectors [A] or one integer. Received: "
            f"action_spec={spec}. Wrap the environment so that it takes a vector."
        )
    if received != {"loc": shape, "log_scale": shape}:
        raise ValueError(
            f"Expected a policy for the environment's actions of {shape[1]} entries, with loc and "
            f"log_scale of shape {shape}. Received: a policy with outputs {received}. Use "
            f"`maml_tf.rl.policies.gaussian(observation_size, {shape[1]})`."
        )


def _bounds(spec):
    return getattr(spec, "minimum", None), getattr(spec, "maximum", None)
