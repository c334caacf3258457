"""First derivatives made of operations that LiteRT has.

LiteRT runs the layers of common networks, but of most of them not the derivative: TensorFlow makes
an operation of its own for it (`Conv2DBackpropFilter`, `ReluGrad`, …) that LiteRT lacks. Here each
of them is the same function written out. What is replaced are registered gradients, and not layers,
so that whatever a model is made of keeps its forward operations; and they are replaced in the
thread that traces an export alone, while `in_place` is open.

Predicting needs first derivatives only: these here are as exact as TensorFlow's own in the first
order, and nobody should ask for the second.
"""

import contextlib
import threading

import numpy as np
import tensorflow as tf

from maml_tf.exact import dispatch, registry
from maml_tf.serving.litert import convolution_gradients, special
from maml_tf.serving.litert.windows import apart, placed, spread, taps, windows_of


class _Here(threading.local):
    depth = 0


_HERE = _Here()
_LOCK = threading.Lock()
_INSTALLED = []
# What `maml_tf.exact` has of these brings a derivative of its own, for the second order.
_KEPT = ("resize_bilinear", "ResizeBilinear", "batch_normalization", "max_pool", "MaxPool")


@contextlib.contextmanager
def in_place():
    """While open, this thread's gradients are made of operations that LiteRT has."""
    with _LOCK:
        if not _INSTALLED:
            for name, gradient in GRADIENTS.items():
                registry.correct(name, gradient, _HERE)
            special.install(_HERE)
            _INSTALLED.append(True)
    _HERE.depth += 1
    try:
        with dispatch.kept_here(*_KEPT):
            yield
    finally:
        _HERE.depth -= 1


# Of what an operation was given and gave, TensorFlow keeps what its own gradient uses, and no more.

# Activations.


def _relu(original, op, g):
    return tf.where(op.outputs[0] > 0, g, tf.zeros_like(g))


def _relu6(original, op, g):
    y = op.outputs[0]
    return tf.where((y > 0) & (y < 6), g, tf.zeros_like(g))


def _leaky_relu(original, op, g):
    alpha = float(np.float32(op.get_attr("alpha")))  # which TensorFlow keeps in float32
    return tf.where(op.inputs[0] > 0, g, alpha * g)


def _elu(original, op, g):
    y = op.outputs[0]
    return tf.where(y < 0, g * (y + 1), g)


_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def _selu(original, op, g):
    y = op.outputs[0]
    return tf.where(y < 0, g * (y + _SELU_SCALE * _SELU_ALPHA), _SELU_SCALE * g)


def _softsign(original, op, g):
    return g / tf.square(1 + tf.abs(op.inputs[0]))


def _softplus(original, op, g):
    return g * tf.sigmoid(op.inputs[0])


# Pooling.


def _max_pool(original, op, g):
    """To the first of the largest in each window, row by row, as TensorFlow's own."""
    x, y = op.inputs[0], op.outputs[0]
    windows = _pooled(op, g)
    if windows is None:
        return original(op, g)
    parts, free = [], None
    for seen in taps(x, windows, value=x.dtype.min):
        here = tf.equal(seen, y)
        if free is not None:
            here &= free
        parts.append(tf.where(here, g, tf.zeros_like(g)))
        free = ~here if free is None else free & ~here
    return spread(parts, windows)


def _avg_pool(original, op, g):
    windows = _pooled(op, g)
    if windows is None:
        return original(op, g)
    number = len(windows.offsets())
    # Pixels around the image do not count.
    counts = sum(t for t in _ones_seen(windows))
    return spread([g / tf.constant(counts, g.dtype)] * number, windows)


def _ones_seen(windows):
    """For each tap, 1 where it sees the image and 0 where it sees what is around: NumPy arrays."""
    (height, width), (down, right) = windows.count, windows.strides
    image = np.pad(np.ones(windows.image), windows.pads)
    for row, column in windows.offsets():
        rows = slice(row, row + (height - 1) * down + 1, down)
        columns = slice(column, column + (width - 1) * right + 1, right)
        yield image[rows, columns][np.newaxis, :, :, np.newaxis]


def _pooled(op, g):
    size = op.get_attr("ksize")
    if size[0] != 1 or size[3] != 1:
        return None
    return windows_of(op, op.inputs[0].shape, tuple(size[1:3]), g.shape[1:3])


# Slices, repetitions and resizing.


def _strided_slice(original, op, g):
    """Zeros between and around what was cut out."""
    x = op.inputs[0]
    bounds = [tf.get_static_value(t) for t in op.inputs[1:]]
    if None in x.shape or any(b is None for b in bounds):
        return original(op, g)
    cuts = _cuts(op, x.shape.as_list(), *bounds)
    if cuts is None:
        return original(op, g)
    g = tf.reshape(g, [len(range(*cut)) for cut in cuts])
    for axis, (begin, end, stride) in enumerate(cuts):
        count = len(range(begin, end, stride))
        if stride < 0:
            g = tf.reverse(g, [axis])
            begin, stride = begin + (count - 1) * stride, -stride
        g = placed(apart(g, axis, stride), axis, begin, x.shape[axis])
    return g, None, None, None


def _cuts(op, shape, begin, end, strides):
    """`(begin, end, stride)` of each axis of the input; None for a slice of no element."""
    masks = {name: op.get_attr(f"{name}_mask") for name in _MASKS}
    cuts, number = [], len(begin)
    added = [i for i in range(number) if masks["new_axis"] >> i & 1]
    for i in range(number):
        if i in added and not masks["ellipsis"] >> i & 1:
            continue
        if masks["ellipsis"] >> i & 1:
            later = sum(1 for j in range(i + 1, number) if j not in added)
            while len(cuts) < len(shape) - later:
                cuts.append((0, shape[len(cuts)], 1))
            continue
        length = shape[len(cuts)]
        if masks["shrink_axis"] >> i & 1:
            start = int(begin[i]) % length
            cuts.append((start, start + 1, 1))
            continue
        start = None if masks["begin"] >> i & 1 else int(begin[i])
        stop = None if masks["end"] >> i & 1 else int(end[i])
        cuts.append(slice(start, stop, int(strides[i])).indices(length))
    cuts += [(0, length, 1) for length in shape[len(cuts) :]]
    return None if any(len(range(*cut)) == 0 for cut in cuts) else cuts


_MASKS = ("begin", "end", "ellipsis", "new_axis", "shrink_axis")


def _tile(original, op, g):
    """A sum over the repetitions, one axis after the other: LiteRT sums over no more than five."""
    x = op.inputs[0]
    if None in [*x.shape, *g.shape] or 0 in x.shape:
        return original(op, g)
    shape = g.shape.as_list()
    for axis, length in enumerate(x.shape):
        number, shape[axis] = shape[axis] // length, length
        if number > 1:
            inner = int(np.prod(shape[axis:]))
            g = tf.reduce_sum(tf.reshape(g, [-1, number, inner]), 1)
    return tf.reshape(g, x.shape), None


def _resize(original, op, g):
    """A resizing is linear in rows and in columns: here their matrices, transposed."""
    x = op.inputs[0]
    if None in [*x.shape, *g.shape]:
        return original(op, g)
    rows, columns = (
        _resizing_matrix(op.type, before, after, op)
        for before, after in zip(x.shape[1:3], g.shape[1:3], strict=True)
    )
    batch, height, width, channels = g.shape
    g = tf.matmul(tf.constant(rows.T, g.dtype), tf.reshape(g, [batch, height, width * channels]))
    g = tf.reshape(g, [batch * x.shape[1], width, channels])
    g = tf.matmul(tf.constant(columns.T, g.dtype), g)
    # A bilinear resizing gives float32 whatever it is given.
    return tf.cast(tf.reshape(g, x.shape), x.dtype), None


def _resizing_matrix(kind, before, after, op):
    """`[after, before]`: what a resizing makes of each row alone."""
    resize = {
        "ResizeBilinear": tf.raw_ops.ResizeBilinear,
        "ResizeNearestNeighbor": tf.raw_ops.ResizeNearestNeighbor,
    }[kind]
    with tf.init_scope():
        image = np.eye(before, dtype=np.float32)[np.newaxis, :, np.newaxis, :]
        seen = resize(
            images=tf.constant(image),
            size=[after, 1],
            align_corners=op.get_attr("align_corners"),
            half_pixel_centers=op.get_attr("half_pixel_centers"),
        )
        return seen.numpy()[0, :, 0]


GRADIENTS = {
    "Relu": _relu,
    "Relu6": _relu6,
    "LeakyRelu": _leaky_relu,
    "Elu": _elu,
    "Selu": _selu,
    "Softsign": _softsign,
    "Softplus": _softplus,
    "Conv2D": convolution_gradients.conv2d,
    "Conv2DBackpropInput": convolution_gradients.conv2d_transposed,
    "DepthwiseConv2dNative": convolution_gradients.depthwise,
    "MaxPool": _max_pool,
    "AvgPool": _avg_pool,
    "StridedSlice": _strided_slice,
    "Tile": _tile,
    "ResizeBilinear": _resize,
    "ResizeNearestNeighbor": _resize,
}
