"""Small convolutions as matrix products: the same function, faster through its derivatives.

A meta-step differentiates each convolution of a few images a dozen times, mostly with respect to
its kernel, and for two shapes the kernels of TensorFlow's CPU convolutions spend more time on
preparing than on computing (`python -m tests.benchmarks.convolution` measures it):

- thin ones, of few taps times input channels (the first layer of a network for images): here a
  convolution with the identity kernel lays out the patches, once for all derivatives, and a
  matrix product does the rest (not of many large images, such as the 75 queries of a task at
  84x84, whose patches would be used twice only and take 57 MB until then);
- tiny ones, on images of few pixels and many channels (the last layers): here a constant 0/1
  matrix lays out the patches.

Where tasks are vectorised every task has filters of its own, and `tf.vectorized_map` would go
through the tasks in a loop at each convolution. There all of them are matrix products, of patches
that strided slices lay out: a product of matrices of all tasks is one operation.

`maml_tf.exact.operations` puts `convolution` in the place of `tf.nn.convolution` while a model
runs.
"""

import functools

import numpy as np
import tensorflow as tf

from maml_tf.exact import dispatch

# Measured on one core for 5 and 20 images; beyond them TensorFlow's own kernels win.
_THIN = 32  # taps * input channels
_PATCHES = 2**23  # elements of all patches; beyond, keeping them costs more than what they save
_TINY = 16  # pixels of an input image, with at least this many output channels per pixel:
_CHANNELS_PER_PIXEL = 2
# On an H100 (`NOTES.md`): rows of a product of which the gradient of a kernel is a sum.
_LEAST_ROWS, _MOST_ROWS = 256, 1024


def convolution(
    original,
    x,
    filters,
    strides=None,
    padding="VALID",
    data_format=None,
    dilations=None,
    name=None,
    **settings,
):
    """`tf.nn.convolution`, as matrix products where they are faster.

    Args:
        original: `tf.nn.convolution` itself, for all other shapes.
        x: `[batch, height, width, channels]`, or what else `original` takes.
        filters: `[kernel height, kernel width, channels, filters]`.
        strides: `int` or a pair of them.
        padding: `"VALID"` or `"SAME"`.
        data_format: `"NHWC"` or None, or what else `original` takes.
        dilations: `int` or a pair of them.
        name: of the operations.
        **settings: for `original`.

    Returns:
        `[batch, new height, new width, filters]`.
    """
    form = _form(x, filters, padding, data_format, dilations, strides)
    if form is None:
        return original(x, filters, strides, padding, data_format, dilations, name, **settings)
    strides = _pair(strides)
    taps = filters.shape[0] * filters.shape[1] * filters.shape[2]
    with tf.name_scope(name or "convolution"):
        if form == "thin":
            identity = np.eye(taps).reshape(*filters.shape[:3], taps)
            patches = original(x, tf.constant(identity, x.dtype), strides, padding, "NHWC")
            size = patches.shape[1:3]
        elif form == "sliced":
            patches = _sliced_patches(x, filters.shape[:2], strides, padding)
            size = patches.shape[1:3]
        else:
            matrix, size = _patch_matrix(x.shape[1:3], filters.shape[:2], strides, padding)
            pixels = tf.reshape(x, [-1, x.shape[1] * x.shape[2], x.shape[3]])
            patches = tf.matmul(tf.constant(matrix, x.dtype), pixels)
        product = _product(tf.reshape(patches, [-1, taps]), tf.reshape(filters, [taps, -1]))
        return tf.reshape(product, [-1, *size, filters.shape[3]])


def _product(rows, matrix):
    """`rows @ matrix`; on a GPU the gradient for the matrix is a sum of products of few rows.

    Of a product over many rows XLA makes several over a power of two of them, after it copied all
    into zeros that fill the last one up. Here they are as many as divide the rows.
    """
    count = rows.shape[0] if dispatch.inside_gpu_program() else None
    part = max(n for n in range(1, _MOST_ROWS + 1) if count % n == 0) if count else 0
    if not count or not _LEAST_ROWS <= part < count:
        return tf.matmul(rows, matrix)

    @tf.custom_gradient
    def product(x, k):
        return tf.matmul(x, k), lambda g: (product(g, tf.transpose(k)), transposed_product(x, g))

    @tf.custom_gradient
    def transposed_product(x, g):
        parts = [tf.reshape(t, [-1, part, t.shape[1]]) for t in (x, g)]
        total = tf.reduce_sum(tf.matmul(*parts, transpose_a=True), 0)
        return total, lambda u: (product(g, tf.transpose(u)), product(x, u))

    return product(rows, matrix)


def _form(x, filters, padding, data_format, dilations, strides=None):
    plain = (
        data_format in (None, "NHWC")
        and padding in ("VALID", "SAME")
        and _pair(dilations) == (1, 1)
        and tf.is_tensor(x)
        and tf.is_tensor(filters)
        and len(filters.shape) == 4
        and len(x.shape) == 4
        and x.dtype in (tf.float32, tf.float64)
    )
    if not plain or None in (*x.shape[1:], *filters.shape) or x.shape[3] != filters.shape[2]:
        return None
    height, width, channels = x.shape[1:]
    # Patches must fit: `original` says so where they do not.
    fits = padding == "SAME" or (height >= filters.shape[0] and width >= filters.shape[1])
    if dispatch.inside_vectorized():
        return "sliced" if fits else None
    if tf.config.list_physical_devices("GPU"):
        return None
    taps = filters.shape[0] * filters.shape[1] * channels
    if taps <= _THIN and not _is_large(x.shape, taps, _pair(strides)):
        return "thin"
    pixels = height * width
    if pixels <= _TINY and fits and filters.shape[3] >= _CHANNELS_PER_PIXEL * pixels:
        return "tiny"
    return None


def _is_large(image, taps, strides):
    """Whether the patches of all images take too much memory; never where nobody counts images."""
    places = (image[0] or 0) * (image[1] // strides[0]) * (image[2] // strides[1])
    return places * taps > _PATCHES


def _pair(value):
    if value is None:
        return (1, 1)
    return (value, value) if isinstance(value, int) else tuple(value)


def _places(length, taps, stride, padding):
    """Along one axis: the number of patches, and the zeros in front of the image and behind it."""
    if padding == "VALID":
        return (length - taps) // stride + 1, 0, 0
    count = -(-length // stride)
    zeros = max((count - 1) * stride + taps - length, 0)
    return count, zeros // 2, zeros - zeros // 2


def _sliced_patches(x, kernel, strides, padding):
    """`[batch, new height, new width, taps * channels]` of slices, one for each tap.

    It and its transpose are each other's gradient. What TensorFlow makes of the gradients of slices
    and sums of them under XLA are operations that cannot be vectorised.
    """
    channels = x.shape[3]
    (height, top, bottom), (width, left, right) = (
        _places(*axis, padding) for axis in zip(x.shape[1:3], kernel, strides, strict=True)
    )
    size = (x.shape[1] + top + bottom, x.shape[2] + left + right)
    rows, columns = slice(top, top + x.shape[1]), slice(left, left + x.shape[2])
    taps = [(a, b) for a in range(kernel[0]) for b in range(kernel[1])]
    down, across = (height - 1) * strides[0] + 1, (width - 1) * strides[1] + 1

    @tf.custom_gradient
    def patches(x):
        padded = tf.pad(x, [[0, 0], [top, bottom], [left, right], [0, 0]])
        slices = [
            padded[:, a : a + down : strides[0], b : b + across : strides[1]] for a, b in taps
        ]
        return tf.concat(slices, -1), transposed

    @tf.custom_gradient
    def transposed(y):
        y = tf.reshape(y, [-1, height, 1, width, 1, len(taps) * channels])
        gaps = [[0, 0], [0, 0], [0, strides[0] - 1], [0, 0], [0, strides[1] - 1], [0, 0]]
        y = tf.reshape(tf.pad(y, gaps), [-1, height * strides[0], width * strides[1], y.shape[-1]])
        terms = [
            tf.pad(
                y[:, :down, :across, i * channels : (i + 1) * channels],
                [[0, 0], [a, size[0] - a - down], [b, size[1] - b - across], [0, 0]],
            )
            for i, (a, b) in enumerate(taps)
        ]
        return tf.add_n(terms)[:, rows, columns], patches

    return patches(x)


@functools.lru_cache(maxsize=256)
def _patch_matrix(image, kernel, strides, padding):
    """`[positions * taps, pixels]` of 0 and 1 that lays out patches, and the output's size."""
    starts, size = [], []
    for length, taps, stride in zip(image, kernel, strides, strict=True):
        count, before, _ = _places(length, taps, stride, padding)
        size.append(count)
        starts.append([i * stride - before for i in range(count)])
    matrix = np.zeros((*size, *kernel, *image), np.float32)
    for i, top in enumerate(starts[0]):
        for j, left in enumerate(starts[1]):
            for a in range(kernel[0]):
                for b in range(kernel[1]):
                    if 0 <= top + a < image[0] and 0 <= left + b < image[1]:
                        matrix[i, j, a, b, top + a, left + b] = 1
    return matrix.reshape(-1, image[0] * image[1]), tuple(size)
