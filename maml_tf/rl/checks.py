"""Errors of a meta-policy before work begins: what was expected, what came, what to do."""

import keras
import tensorflow as tf

from maml_tf import arguments, functional
from maml_tf.inner import loop as inner_loop
from maml_tf.inner import optimizers as inner_optimizers
from maml_tf.learners.base import specs
from maml_tf.rl import trust_region

_OF_FIT = ("callbacks", "verbose", "initial_epoch")
# What `keras.Model.fit` takes beside these: None and False ask for nothing.
_OF_BATCHES = (
    "batch_size",
    "class_weight",
    "sample_weight",
    "shuffle",
    "validation_batch_size",
    "validation_data",
    "validation_freq",
    "validation_split",
    "validation_steps",
    "x",
    "y",
)


def check_policy(policy):
    """Refuses what is no built `keras.Model` with weights to train, or has penalties."""
    if not isinstance(policy, keras.Model):
        raise TypeError(
            "Expected `policy` to be a `keras.Model` as described in `maml_tf.rl.policies`. "
            f"Received: {arguments.received('policy', policy)}. Use "
            "`maml_tf.rl.policies.gaussian(observation_size, action_size)`."
        )
    if hasattr(policy, "inner_steps"):
        raise TypeError(
            "Expected `policy` to be a policy, not a meta-policy. Received: "
            f"policy={policy.name!r} (of type {type(policy).__name__}). Give its `policy`."
        )
    if not policy.built or not policy.trainable_variables:
        raise ValueError(
            "Expected `policy` to be a built model with weights to train. Received: "
            f"policy={policy.name!r}, built={policy.built}, with "
            f"{len(policy.trainable_variables)} of them. Call it once on observations, or thaw it."
        )
    check_penalties(policy)


def check_penalties(policy):
    """Refuses a policy with penalties: the losses of `maml_tf.rl.objectives` have no such term."""
    weights = [v.path for v in policy.trainable_variables if v.regularizer is not None]
    layers = [
        layer.name
        for layer in policy._flatten_layers()
        if getattr(layer, "activity_regularizer", None) is not None
    ]
    found = ""
    if weights:
        found = f"regularizers of the weights {weights}"
    elif layers:
        found = f"activity regularizers of the layers {layers}"
    elif added := _added_losses(policy):
        found = f"{added} of `add_loss`"
    if found:
        raise ValueError(
            "Expected `policy` to have no penalties: neither the inner nor the outer loss of "
            f"reinforcement learning would count them. Received: policy={policy.name!r} with "
            f"{found}. Leave them out; to keep weights small, use a constraint or a Keras "
            "optimizer with `weight_decay`."
        )


def _added_losses(policy):
    """How many losses the policy adds when it acts."""
    spec = specs.x_spec(policy) if getattr(policy, "inputs", None) else None
    if not isinstance(spec, tf.TensorSpec) or None in spec.shape[1:] or spec.dtype == tf.string:
        return len(policy.losses)  # those of its last call
    weights = [tf.convert_to_tensor(v) for v in policy.trainable_variables]
    state = [tf.convert_to_tensor(v) for v in policy.non_trainable_variables]
    x = tf.zeros([1, *spec.shape[1:]], spec.dtype)
    return functional.call(
        policy, weights, state, x, training=False, then=lambda y: len(policy.losses)
    )[0]


def check_trained(learner):
    """Refuses a policy whose trainable weights are others than when it was compiled."""
    variables = learner.policy.trainable_variables
    if learner.compiled and [id(v) for v in variables] != learner._trained:
        raise ValueError(
            "Expected the trainable weights that the policy had when the meta-policy was compiled. "
            f"Received: {[v.path for v in variables]}, after a layer was frozen or thawed. As in "
            "Keras, call `learner.compile(...)` again."
        )


def outer_optimizer(optimizer, policy):
    """The `TrustRegion` or Keras optimizer that `compile` was given, by name or not at all.

    Args:
        optimizer: `TrustRegion`, `keras.optimizers.Optimizer`, name of one, or None.
        policy: which it is to train.

    Raises:
        TypeError: something else.
        ValueError: an unknown name, or a trust region for a policy with constraints.
    """
    if optimizer is None:
        optimizer = trust_region.TrustRegion()
    if isinstance(optimizer, str):
        return _optimizer_of_name(optimizer)
    if not isinstance(optimizer, (trust_region.TrustRegion, keras.optimizers.Optimizer)):
        raise TypeError(
            "Expected `optimizer` to be a `maml_tf.rl.TrustRegion` or a Keras optimizer. "
            f"Received: {arguments.received('optimizer', optimizer)}. Give "
            "`maml_tf.rl.TrustRegion()` or `keras.optimizers.Adam(1e-3)`."
        )
    rules = inner_loop.weight_constraints(policy)
    if rules is not None and isinstance(optimizer, trust_region.TrustRegion):
        held = [v.path for v in policy.trainable_variables if v.constraint is not None]
        # Putting weights through them after the step would leave the region it was accepted in.
        raise ValueError(
            "Expected a policy without constraints for a trust region, whose step knows none. "
            f"Received: policy={policy.name!r} with constraints of {held}. Leave them out, or use "
            "a Keras optimizer, which keeps them: `keras.optimizers.Adam(1e-3)`."
        )
    return optimizer


def _optimizer_of_name(name):
    try:
        return keras.optimizers.get(name)
    except ValueError:
        known = [
            key.lower()
            for key, kind in vars(keras.optimizers).items()
            if isinstance(kind, type) and issubclass(kind, keras.optimizers.Optimizer)
        ]
        known = sorted(set(known) - {"optimizer", "lossscaleoptimizer"})
    return arguments.choice("optimizer", name, known)


def check_fit(options):
    """Refuses arguments of `keras.Model.fit` that mean nothing where an environment is given.

    Args:
        options: dict, what `fit` was given beside the environment and the numbers of iterations.

    Returns:
        Those of them that Keras' loop uses.

    Raises:
        TypeError: an argument of batches, an unknown one, or callbacks that are none.
    """
    given = {
        name: value
        for name, value in options.items()
        if not (name in _OF_BATCHES and (value is None or value is False))
    }
    wrong = [name for name in given if name not in _OF_FIT]
    if wrong:
        shown = ", ".join(arguments.received(name, given[name]) for name in wrong)
        raise TypeError(
            f"Expected only {', '.join(f'`{n}`' for n in _OF_FIT)} beside `steps_per_epoch` and "
            "`epochs`: `fit` draws rollouts, as many as the environment says, and takes no "
            f"batches. Received: {shown}. Leave it out; make another number of tasks or rollouts "
            "by `environment.resized`, and evaluate by `maml_tf.rl.evaluation.evaluate`."
        )
    _check_callbacks(given.get("callbacks"))
    if "initial_epoch" in given:
        given["initial_epoch"] = arguments.integer("initial_epoch", given["initial_epoch"], 0)
    return given


def _check_callbacks(callbacks):
    kinds = (keras.callbacks.Callback, keras.callbacks.CallbackList)
    if callbacks is None or isinstance(callbacks, kinds):
        return
    many = isinstance(callbacks, (list, tuple))
    if not many or not all(isinstance(one, kinds[0]) for one in callbacks):
        raise TypeError(
            "Expected `callbacks` to be a list of `keras.callbacks.Callback`. Received: "
            f"{arguments.received('callbacks', callbacks)}. Give, for example, "
            "`[keras.callbacks.CSVLogger('log.csv')]`."
        )


def fixed_optimizer(identifier):
    """`maml_tf.inner_optimizers.get`, without those that learn.

    Raises:
        NotImplementedError: an inner optimizer with variables, which no outer step of a
            meta-policy would train.
    """
    optimizer = inner_optimizers.get(identifier)
    if isinstance(optimizer, keras.layers.Layer):
        raise NotImplementedError(
            "Expected an inner optimizer of fixed step sizes: the outer steps of a meta-policy "
            "train the policy alone. Received: "
            f"{arguments.received('inner_optimizer', identifier)}, which learns. Give, for "
            "example, maml_tf.inner_optimizers.SGD(0.1)."
        )
    return optimizer
