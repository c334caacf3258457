"""What the paper's networks have in common."""

import keras

from maml_tf import arguments


def xavier(seed):
    """Xavier uniform, the initial values of hidden kernels."""
    return keras.initializers.GlorotUniform(seed=seed)


def batch_norm():
    """Batch normalisation with beta but no gamma."""
    return keras.layers.BatchNormalization(scale=False, epsilon=1e-3)


def logits(ways, seed):
    """The last layer, with initial weights from N(0, 1)."""
    normal = keras.initializers.RandomNormal(stddev=1.0, seed=seed)
    return keras.layers.Dense(ways, kernel_initializer=normal)


def check(ways, input_shape, seed, *, rank=3, side=1, **filters):
    """Checks the settings that the networks have in common.

    Args:
        ways: int, at least 1.
        input_shape: `rank` integers, or any number of at least one where `rank` is None.
        seed: int, at least 0.
        rank: int or None.
        side: int, the smallest height and width.
        **filters: int, at least 1, by the name of the argument.

    Raises:
        TypeError: a number is not an integer.
        ValueError: a number is too small, or `input_shape` has another length.
    """
    arguments.integer("ways", ways, 1)
    arguments.integer("seed", seed, 0)
    for name, given in filters.items():
        arguments.integer(name, given, 1)
    example = "(84, 84, 3)" if side > 1 else "(28, 28, 1)"
    sequence = isinstance(input_shape, (list, tuple))
    if not sequence or not input_shape or rank not in (None, len(input_shape)):
        raise ValueError(
            "Expected `input_shape` to be (height, width, channels). Received: "
            f"{arguments.received('input_shape', input_shape)}. Give it without the number of "
            f"images, such as input_shape={example}."
        )
    for axis, length in enumerate(input_shape):
        least = side if axis < 2 and rank == 3 else 1
        advice = f"Give, for example, input_shape={example}; received was {input_shape!r}."
        arguments.integer(f"input_shape[{axis}]", length, least, advice=advice)
