"""Low-rank adaptation (LoRA) that goes on where it was when a model is saved, loaded or copied.

    y = x (W + alpha / rank * A B)        Hu et al. (2022), equation 3; W frozen, A and B train

Keras' `enable_lora(rank)` adds the factors A and B to a layer. When Keras saves such a layer it
writes W + alpha / rank * A B as its kernel, and when it loads one it sets A = B = 0, where both
have a gradient of zero for ever; `Dense` and `Embedding` forget alpha, too, and a configuration
tells nothing of the factors of a sublayer, such as those within an attention. Here they stand in
the configuration and in the file of a learner beside what Keras writes.
"""

import numpy as np

_KEY = "low_rank"


def described(model):
    """Which layers of a model have factors, as a configuration holds it.

    Args:
        model: a built `keras.Model`.

    Returns:
        List of `{"layer": int, "rank": int, "alpha": number}`, `layer` being the place among all
        layers, however deep; empty where there are none.
    """
    return [
        {"layer": i, "rank": layer.lora_rank, "alpha": layer.lora_alpha}
        for i, layer in enumerate(model._flatten_layers())
        if getattr(layer, "lora_enabled", False)
    ]


def enable(model, factors):
    """Adds factors to the layers of which `described` told, where they have none.

    Args:
        model: a built `keras.Model` of the same layers.
        factors: what `described` returned.

    Raises:
        ValueError: the model has other layers, or one that takes no such factors.
    """
    layers = model._flatten_layers()
    for one in factors:
        layer = layers[one["layer"]] if one["layer"] < len(layers) else None
        if not hasattr(layer, "enable_lora"):
            raise ValueError(
                f"Expected {model.name!r} to be made again with a layer that takes low-rank "
                f"factors as number {one['layer']}. Received: "
                f"{getattr(layer, 'name', f'{len(layers)} layers')!r}. Have `get_config` tell all "
                "arguments of each layer's constructor."
            )
        if not layer.lora_enabled:
            layer.enable_lora(one["rank"], lora_alpha=one["alpha"])
        layer.lora_alpha = one["alpha"]


def save(model, store):
    """Writes the variables of layers with factors, unmerged, into a `store` of Keras.

    Args:
        model: a built `keras.Model`.
        store: what `save_own_variables` of the layer that holds `model` was given.
    """
    for i, layer in _enabled(model):
        for j, variable in enumerate(_own(layer)):
            store[f"{_KEY}_{i}_{j}"] = variable.value


def load(model, store):
    """Has layers with factors load what `save` wrote, when Keras comes to them.

    Keras loads what holds a layer before the layer, and merges and clears the factors there; the
    layer's own loading is therefore followed, once, by that of its unmerged variables. Nothing
    happens for a file without them, from before they were written.

    Args:
        model: as in `save`.
        store: what `load_own_variables` of the layer that holds `model` was given.

    Returns:
        What else is in `store`, a dict.
    """
    rest = {key: store[key] for key in store.keys() if not key.startswith(_KEY)}  # noqa: SIM118
    for i, layer in _enabled(model):
        keys = [f"{_KEY}_{i}_{j}" for j in range(len(_own(layer)))]
        if all(key in store.keys() for key in keys):  # noqa: SIM118
            _then(layer, [np.asarray(store[key]) for key in keys])
    return rest


def _enabled(model):
    layers = enumerate(model._flatten_layers())
    return [(i, layer) for i, layer in layers if getattr(layer, "lora_enabled", False)]


def _own(layer):
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _then(layer, values):
    """Replaces the next `load_own_variables` of a layer by itself and these values."""

    def load_own_variables(store):
        del layer.__dict__["load_own_variables"]
        layer.load_own_variables(store)
        for variable, value in zip(_own(layer), values, strict=True):
            variable.assign(value)

    # An instance attribute shadows the method; not by the layer's own tracking of attributes.
    layer.__dict__["load_own_variables"] = load_own_variables
