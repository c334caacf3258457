"""What the configuration of a Keras model does not tell, written beside it and put in place again.

Keras tells of outer layers alone whether they are frozen, merges low-rank factors, and makes some
models with the policy that is set at the moment.
"""

from copy import deepcopy

import keras

from maml_tf import low_rank


def frozen(model):
    """What of a model is frozen, which its configuration tells of outer layers alone.

    Args:
        model: a built `keras.Model`.

    Returns:
        `{"layers": [bool, ...], "variables": [bool, ...]}`: whether each layer, however deep, and
        each of `model.variables` trains. None where all of them do.
    """
    trainable = {
        "layers": [bool(layer._trainable) for layer in model._flatten_layers()],
        "variables": [bool(v.trainable) for v in model.variables],
    }
    # Statistics and seeds never train, whatever is frozen.
    never = {id(v) for layer in model._flatten_layers() for v in layer._non_trainable_variables}
    kept = [
        t
        for t, v in zip(trainable["variables"], model.variables, strict=True)
        if id(v) not in never
    ]
    return None if all(trainable["layers"]) and all(kept) else trainable


def freeze(model, trainable):
    """Freezes in a model what `frozen` found in one of the same layers.

    Args:
        model: a built `keras.Model`.
        trainable: what `frozen` returned; None leaves the model as it is.

    Raises:
        ValueError: the model has other layers or variables than that one.
    """
    if trainable is None:
        return
    layers, variables = model._flatten_layers(), model.variables
    if (len(layers), len(variables)) != tuple(len(trainable[n]) for n in ("layers", "variables")):
        raise ValueError(
            f"Expected {type(model).__name__} {model.name!r} to be made again with "
            f"{len(trainable['layers'])} layers and "
            f"{len(trainable['variables'])} variables, of which some are frozen. Received: "
            f"{len(layers)} and {len(variables)}. Have `get_config` tell all arguments of each "
            "layer's constructor."
        )
    for variable, trains in zip(variables, trainable["variables"], strict=True):
        variable.trainable = trains
    for layer, trains in zip(layers, trainable["layers"], strict=True):
        # Not by the setter, which would freeze or thaw all that is below.
        layer._trainable = trains


def kept_by_keras(model):
    """Whether what is frozen comes back where Keras saves and loads a model by itself.

    Args:
        model: a built `keras.Model`.

    Returns:
        `bool`; False for a model with low-rank factors, which Keras merges.
    """
    if frozen(model) is None:
        return True
    if low_rank.described(model):
        return False
    try:
        config = keras.saving.serialize_keras_object(model)
        again = keras.saving.deserialize_keras_object(config)
    except Exception:
        # Whatever a constructor raises: what Keras cannot load it does not load otherwise.
        return True
    return _training(again) == _training(model)


def _training(model):
    """Which of the variables of a model train, as places among them."""
    trained = {id(v) for v in model.trainable_variables}
    return [i for i, v in enumerate(model.variables) if id(v) in trained]


def model_config(model, name="model"):
    """How a model stands in the configuration of a learner that wraps it.

    Args:
        model: a built `keras.Model`.
        name: str, the argument of the learner's constructor that takes it.

    Returns:
        Dict of the serialized model and, where something of it is frozen or has low-rank factors,
        of what `frozen` and `maml_tf.low_rank.described` found.
    """
    beside = {"frozen": frozen(model), "low_rank": low_rank.described(model)}
    return {
        name: keras.saving.serialize_keras_object(model),
        **{key: value for key, value in beside.items() if value},
    }


def from_model_config(config, name="model"):
    """The arguments of a learner's constructor from a configuration with a `model_config`."""
    # A copy, because Keras empties the configuration of a functional model as it reads it.
    config = {k: deepcopy(v) if isinstance(v, dict) else v for k, v in config.items()}
    trainable, factors = config.pop("frozen", None), config.pop("low_rank", ())
    policy = (config[name].get("config") or {}).get("dtype")
    arguments = {k: keras.saving.deserialize_keras_object(v) for k, v in config.items()}
    if policy is not None:
        # Keras makes sequential and functional models with the policy that is set at the moment,
        # and the optimizer of another policy cannot take the state that was saved.
        arguments[name].dtype_policy = keras.dtype_policies.get(policy)
    low_rank.enable(arguments[name], factors)
    freeze(arguments[name], trainable)
    return arguments


def seeds(model):
    """States of the seed generators of a model's layers, which Keras does not save.

    Args:
        model: a built `keras.Model`.

    Returns:
        List of `keras.Variable`.
    """
    return [v for v in model.variables if v.path.endswith("seed_generator_state")]
