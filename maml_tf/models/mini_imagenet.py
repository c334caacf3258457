"""Networks for mini-ImageNet: the paper's (section 5.2 and its code), and a residual one."""

from collections.abc import Sequence

import keras

from maml_tf import arguments
from maml_tf.models import blocks


def conv4_max_pool(
    ways: int, filters: int = 32, input_shape: tuple[int, int, int] = (84, 84, 3), seed: int = 0
) -> keras.Model:
    """Four convolutions with max-pooling: 32,773 trainable parameters at 5 ways.

    Each block is a 3x3 convolution, batch normalisation with beta but no gamma and epsilon 1e-3,
    ReLU and 2x2 max-pooling; then all 5 x 5 x `filters` features and a dense layer.

    Args:
        ways: classes of a task, the number of outputs.
        filters: of each convolution.
        input_shape: `(height, width, channels)`, each side at least 16.
        seed: of the initial weights: Xavier uniform kernels, zero bias, last layer N(0, 1).

    Returns:
        A built `keras.Model`, `[batch, *input_shape]` float in [0, 1] to logits `[batch, ways]`.

    Raises:
        TypeError: a number is not an integer.
        ValueError: a number is too small, or `input_shape` has another length.

    Example:
        >>> maml_tf.models.conv4_max_pool(ways=5).count_params() - 2 * 4 * 32  # moving statistics
        32773
    """
    blocks.check(ways, input_shape, seed, side=16, filters=filters)
    layers = [keras.Input(input_shape)]
    for block in range(4):
        layers += [
            keras.layers.Conv2D(
                filters, 3, padding="same", kernel_initializer=blocks.xavier(seed * 5 + block)
            ),
            blocks.batch_norm(),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(2),
        ]
    layers += [keras.layers.Flatten(), blocks.logits(ways, seed * 5 + 4)]
    return keras.Sequential(layers, name="conv4_max_pool")


def resnet12(
    ways: int,
    filters: Sequence[int] = (64, 128, 256, 512),
    input_shape: tuple[int, int, int] = (84, 84, 3),
    seed: int = 0,
) -> keras.Model:
    """A residual network of 12 convolutions, as in Oreshkin et al. (2018) and most papers since.

    Four blocks of three 3x3 convolutions, each with batch normalisation, and leaky ReLU (0.1)
    between them; a 1x1 convolution with batch normalisation around them; leaky ReLU and 2x2
    max-pooling after the sum. Then the mean over height and width and a dense layer: 8.0 million
    trainable parameters at 5 ways, 12.4 with `filters=(64, 160, 320, 640)` (Lee et al. 2019).
    No regularisation of its own: no DropBlock, no weight decay.

    Args:
        ways: classes of a task, the number of outputs.
        filters: of the convolutions of each block.
        input_shape: `(height, width, channels)`, each side at least 2 to the number of blocks, 16.
        seed: of the initial weights: He normal kernels, Xavier uniform last layer, zero bias.

    Returns:
        A built `keras.Model`, `[batch, *input_shape]` float in [0, 1] to logits `[batch, ways]`.

    Raises:
        TypeError: a number is not an integer.
        ValueError: a number is too small, or `input_shape` has another length.
    """
    if not isinstance(filters, (list, tuple)) or not filters:
        raise TypeError(
            "Expected `filters` to be a sequence with one number for each block. Received: "
            f"{arguments.received('filters', filters)}. Give, for example, (64, 128, 256, 512)."
        )
    each = {f"filters[{block}]": count for block, count in enumerate(filters)}
    blocks.check(ways, input_shape, seed, side=2 ** len(filters), **each)
    seeds = iter(range(100 * seed, 100 * seed + 4 * len(filters) + 1))
    inputs = x = keras.Input(input_shape)
    for count in filters:
        shortcut = _conv_norm(x, count, 1, next(seeds))
        for layer in range(3):
            x = _conv_norm(x, count, 3, next(seeds))
            x = keras.layers.LeakyReLU(0.1)(x) if layer < 2 else x
        x = keras.layers.LeakyReLU(0.1)(keras.layers.Add()([x, shortcut]))
        x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(ways, kernel_initializer=blocks.xavier(next(seeds)))(x)
    return keras.Model(inputs, outputs, name="resnet12")


def _conv_norm(x, filters, size, seed):
    he = keras.initializers.HeNormal(seed=seed)
    # The normalisation's beta does what a bias would.
    x = keras.layers.Conv2D(filters, size, padding="same", use_bias=False, kernel_initializer=he)(x)
    return keras.layers.BatchNormalization()(x)
