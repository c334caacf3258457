"""The paper's two networks for Omniglot (Finn et al., 2017, section 5.2 and its code)."""

import keras

from maml_tf.models import blocks


def conv4(
    ways: int, filters: int = 64, input_shape: tuple[int, int, int] = (28, 28, 1), seed: int = 0
) -> keras.Model:
    """Four strided convolutions: 112,005 trainable parameters at 5 ways.

    Each block is a 3x3 convolution with stride 2, batch normalisation with beta but no gamma and
    epsilon 1e-3, and ReLU; then the mean over height and width and a dense layer.

    Args:
        ways: classes of a task, the number of outputs.
        filters: of each convolution.
        input_shape: `(height, width, channels)`.
        seed: of the initial weights: Xavier uniform kernels, zero bias, last layer N(0, 1).

    Returns:
        A built `keras.Model`, `[batch, *input_shape]` float in [0, 1] to logits `[batch, ways]`.

    Raises:
        TypeError: a number is not an integer.
        ValueError: a number is too small, or `input_shape` has another length.
    """
    blocks.check(ways, input_shape, seed, filters=filters)
    layers = [keras.Input(input_shape)]
    for block in range(4):
        xavier = blocks.xavier(seed * 5 + block)
        layers += [
            keras.layers.Conv2D(filters, 3, 2, "same", kernel_initializer=xavier),
            blocks.batch_norm(),
            keras.layers.ReLU(),
        ]
    layers += [keras.layers.GlobalAveragePooling2D(), blocks.logits(ways, seed * 5 + 4)]
    return keras.Sequential(layers, name="conv4")


def dense5(ways: int, input_shape: tuple[int, ...] = (28, 28, 1), seed: int = 0) -> keras.Model:
    """Not convolutional, 784-256-128-64-64-ways: 247,109 trainable parameters at 5 ways.

    Each hidden layer is followed by batch normalisation (beta, no gamma) and ReLU.

    Args:
        ways: classes of a task, the number of outputs.
        input_shape: of one image, flattened here.
        seed: of the initial weights: Xavier uniform kernels, zero bias, last layer N(0, 1).

    Returns:
        A built `keras.Model`, `[batch, *input_shape]` float in [0, 1] to logits `[batch, ways]`.

    Raises:
        TypeError: a number is not an integer.
        ValueError: a number is too small, or `input_shape` has another length.
    """
    blocks.check(ways, input_shape, seed, rank=None)
    layers = [keras.Input(input_shape), keras.layers.Flatten()]
    for i, units in enumerate((256, 128, 64, 64)):
        xavier = blocks.xavier(seed * 5 + i)
        layers += [
            keras.layers.Dense(units, kernel_initializer=xavier),
            blocks.batch_norm(),
            keras.layers.ReLU(),
        ]
    return keras.Sequential([*layers, blocks.logits(ways, seed * 5 + 4)], name="dense5")
