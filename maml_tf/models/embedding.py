"""A network without a last layer, for learners that compare embeddings."""

from typing import Literal

import keras

from maml_tf import arguments
from maml_tf.models import blocks

POOLING = ("max", "stride")


def embedding(
    filters: int = 64,
    input_shape: tuple[int, int, int] = (28, 28, 1),
    pooling: Literal["max", "stride"] = "max",
    seed: int = 0,
) -> keras.Model:
    """Four blocks of convolution, batch normalisation, ReLU and pooling (Snell et al., 2017).

    28x28 pixels become 64 numbers, 84x84 become 1,600.

    Args:
        filters: of each 3x3 convolution.
        input_shape: `(height, width, channels)`.
        pooling: `"max"`, 2x2 as in the paper; or `"stride"`: convolutions with stride 2 and a mean
            over height and width at the end, as Finn et al. (2017) have them for Omniglot, in a
            quarter of the time.
        seed: of the initial weights: Xavier uniform kernels, zero bias.

    Returns:
        A built `keras.Model`, `[batch, *input_shape]` float in [0, 1] to embeddings `[batch, D]`.

    Raises:
        TypeError: a number is not an integer.
        ValueError: a number is too small, `input_shape` has another length, or an unknown
            `pooling`.
    """
    arguments.choice("pooling", pooling, POOLING)
    blocks.check(1, input_shape, seed, side=16 if pooling == "max" else 1, filters=filters)
    stride = 2 if pooling == "stride" else 1
    layers = [keras.Input(input_shape)]
    for block in range(4):
        xavier = blocks.xavier(seed * 5 + block)
        layers += [
            keras.layers.Conv2D(filters, 3, stride, "same", kernel_initializer=xavier),
            keras.layers.BatchNormalization(epsilon=1e-3),
            keras.layers.ReLU(),
        ]
        if pooling == "max":
            layers.append(keras.layers.MaxPooling2D())
    end = keras.layers.GlobalAveragePooling2D() if stride == 2 else keras.layers.Flatten()
    return keras.Sequential([*layers, end], name="embedding")
