"""First derivatives of convolutions, made of operations that LiteRT has: see `gradients`.

Each takes TensorFlow's own function, the operation and the gradient of what that gave, and gives
those of its inputs.
"""

import numpy as np
import tensorflow as tf

from maml_tf.serving.litert.windows import apart, placed, taps, windows_of


def conv2d(original, op, g):
    """Towards the image and the kernel `[height, width, channels / groups, filters]`."""
    x, kernel = op.inputs
    windows = windows_of(op, x.shape, kernel.shape[:2], g.shape[1:3])
    if windows is None:
        return original(op, g)
    groups = x.shape[3] // kernel.shape[2]
    if groups == 1:
        return _image_gradient(g, kernel, windows), _kernel_gradient(x, g, windows)
    parts = [tf.split(t, groups, axis=3) for t in (x, kernel, g)]
    of_image = [_image_gradient(g, k, windows) for _, k, g in zip(*parts, strict=True)]
    of_kernel = [_kernel_gradient(x, g, windows) for x, _, g in zip(*parts, strict=True)]
    return tf.concat(of_image, 3), tf.concat(of_kernel, 3)


def _image_gradient(g, kernel, windows):
    """`g` `[batch, *count, filters]` sent back through a kernel to `[batch, *image, channels]`."""
    if windows.strides == (1, 1) or windows.dilations != (1, 1):
        turned = tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])
        return tf.nn.conv2d(_around(g, windows), turned, 1, "VALID", dilations=windows.dilations)
    # Most of what a convolution would see there are zeros: this takes two thirds of its time.
    reach = [
        (c - 1) * s + n
        for c, s, n in zip(windows.count, windows.strides, windows.window, strict=True)
    ]
    shape = [g.shape[0], *reach, kernel.shape[2]]
    x = tf.nn.conv2d_transpose(g, kernel, shape, windows.strides, "VALID")
    for axis in (1, 2):
        x = placed(x, axis, -windows.pads[axis - 1][0], windows.image[axis - 1])
    return x


def _around(g, windows):
    """`g` with zeros between and around, so that a turned kernel meets what its taps saw."""
    for axis in (1, 2):
        _, (before, _) = windows.strides, windows.pads[axis - 1]
        reach = (windows.window[axis - 1] - 1) * windows.dilations[axis - 1]
        g = apart(g, axis, windows.strides[axis - 1])
        g = placed(g, axis, reach - before, windows.image[axis - 1] + reach)
    return g


def _kernel_gradient(x, g, windows):
    """Patches of `x` times `g`, summed over positions: `[height, width, channels, filters]`."""
    channels, filters = x.shape[3], g.shape[3]
    positions = g.shape[0] * g.shape[1] * g.shape[2]
    number = len(windows.offsets())
    patches = _patches(x, windows)
    product = tf.matmul(
        tf.reshape(patches, [positions, channels * number]),
        tf.reshape(g, [positions, filters]),
        transpose_a=True,
    )
    product = tf.reshape(product, [channels, *windows.window, filters])
    return tf.transpose(product, [1, 2, 0, 3])


def _patches(x, windows):
    """`[batch, *count, channels * taps]`, by a convolution whose kernels are 1 at one tap each.

    LiteRT does that five times faster than by slices.
    """
    if any(sum(pad) for pad in windows.pads):
        x = tf.pad(x, [[0, 0], *windows.pads, [0, 0]])
    number = len(windows.offsets())
    one_hot = np.eye(number).reshape(*windows.window, 1, number)
    kernel = np.tile(one_hot, [1, 1, x.shape[3], 1])
    return tf.nn.depthwise_conv2d(
        x, tf.constant(kernel, x.dtype), [1, *windows.strides, 1], "VALID", None, windows.dilations
    )


def conv2d_transposed(original, op, g):
    """Of `Conv2DBackpropInput`, which is what a transposed convolution is made of."""
    _, kernel, x = op.inputs
    windows = windows_of(op, g.shape, kernel.shape[:2], x.shape[1:3])
    if windows is None or g.shape[3] != kernel.shape[2]:
        return original(op, g)
    if any(sum(pad) for pad in windows.pads):
        padded = tf.pad(g, [[0, 0], *windows.pads, [0, 0]])
    else:
        padded = g
    of_x = tf.nn.conv2d(padded, kernel, windows.strides, "VALID", dilations=windows.dilations)
    return None, _kernel_gradient(g, x, windows), of_x


def depthwise(original, op, g):
    """Towards the image and the kernel `[height, width, channels, multiplier]`."""
    x, kernel = op.inputs
    windows = windows_of(op, x.shape, kernel.shape[:2], g.shape[1:3])
    if windows is None:
        return original(op, g)
    height, width, channels, multiplier = kernel.shape
    # Each of the channels * multiplier results sees one channel: as many kernels of one each.
    turned = tf.reshape(tf.reverse(kernel, [0, 1]), [height, width, channels * multiplier, 1])
    of_image = tf.nn.depthwise_conv2d(
        _around(g, windows), turned, [1, 1, 1, 1], "VALID", None, windows.dilations
    )
    if multiplier > 1:
        of_image = tf.reshape(of_image, [*of_image.shape[:3], channels, multiplier])
        of_image = tf.reduce_sum(of_image, -1)
    g = tf.reshape(g, [-1, channels, multiplier])
    of_kernel = [
        tf.reduce_sum(tf.reshape(part, [-1, channels, 1]) * g, 0) for part in taps(x, windows)
    ]
    return of_image, tf.reshape(tf.stack(of_kernel), kernel.shape)
