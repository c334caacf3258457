"""Sliding windows over images, of operations that LiteRT has: slices, padding, sums.

A window of a convolution or a pooling has taps, its elements. `taps` gives what each tap sees of an
image at every position, `spread` is the transpose of that: it puts what stands at the positions
back to where each tap saw it, and adds up.
"""

import itertools
from typing import NamedTuple

import tensorflow as tf


class Windows(NamedTuple):
    """Where windows lie on an image; each attribute is a pair, for height and width.

    Attributes:
        image: int, pixels of the image.
        window: int, taps of the window.
        strides: int, pixels between neighbouring windows.
        dilations: int, pixels between neighbouring taps.
        pads: `(before, after)`, pixels around the image.
        count: int, how many windows.
    """

    image: tuple
    window: tuple
    strides: tuple
    dilations: tuple
    pads: tuple
    count: tuple

    def offsets(self):
        """Row and column of each tap in its window, row by row."""
        rows, columns = (
            range(0, n * d, d) for n, d in zip(self.window, self.dilations, strict=True)
        )
        return list(itertools.product(rows, columns))


def windows_of(op, image, window, count):
    """The `Windows` of an operation of TensorFlow, or None where its channels are not last.

    Args:
        op: a convolution or pooling.
        image: `[batch, height, width, channels]`, a shape.
        window: `(int, int)`, height and width of the window.
        count: `(int, int)`, height and width of what the operation gives.
    """
    if op.get_attr("data_format") != b"NHWC" or None in [*image[1:3], *count]:
        return None
    image, strides = tuple(image[1:3]), tuple(op.get_attr("strides")[1:3])
    dilations = (1, 1) if "Pool" in op.type else tuple(op.get_attr("dilations")[1:3])
    padding = op.get_attr("padding")
    if padding == b"EXPLICIT":
        explicit = op.get_attr("explicit_paddings")
        pads = ((explicit[2], explicit[3]), (explicit[4], explicit[5]))
    elif padding == b"SAME":
        reach = [(n - 1) * d + 1 for n, d in zip(window, dilations, strict=True)]
        total = [
            max((c - 1) * s + r - length, 0)
            for c, s, r, length in zip(count, strides, reach, image, strict=True)
        ]
        pads = tuple((t // 2, t - t // 2) for t in total)
    else:
        pads = ((0, 0), (0, 0))
    return Windows(image, tuple(window), strides, dilations, pads, tuple(count))


def taps(x, windows, value=0.0):
    """What each tap sees: list of `[batch, *count, channels]`, row by row.

    Args:
        x: `[batch, *image, channels]`.
        windows: `Windows`.
        value: float, that of the pixels around the image.
    """
    if any(sum(pad) for pad in windows.pads):
        x = tf.pad(x, [[0, 0], *windows.pads, [0, 0]], constant_values=value)
    (height, width), (down, right) = windows.count, windows.strides
    return [
        x[
            :,
            row : row + (height - 1) * down + 1 : down,
            column : column + (width - 1) * right + 1 : right,
        ]
        for row, column in windows.offsets()
    ]


def spread(parts, windows):
    """The transpose of `taps`: `[batch, *image, channels]`.

    Args:
        parts: list of `[batch, *count, channels]`, one for each tap.
        windows: `Windows`.
    """
    total = None
    for part, (row, column) in zip(parts, windows.offsets(), strict=True):
        part = apart(apart(part, 1, windows.strides[0]), 2, windows.strides[1])
        for axis, offset in ((1, row), (2, column)):
            before = offset - windows.pads[axis - 1][0]
            part = placed(part, axis, before, windows.image[axis - 1])
        total = part if total is None else total + part
    return total


def apart(x, axis, stride):
    """`x` with `stride - 1` zeros between the elements along an axis."""
    if stride == 1:
        return x
    shape, length = x.shape.as_list(), x.shape[axis]
    outer = 1
    for size in shape[: axis + 1]:
        outer *= size
    # By three axes: LiteRT pads no more than five.
    x = tf.pad(tf.reshape(x, [outer, 1, -1]), [[0, 0], [0, stride - 1], [0, 0]])
    x = tf.reshape(x, [*shape[:axis], length * stride, *shape[axis + 1 :]])
    return _cut(x, axis, 0, (length - 1) * stride + 1)


def placed(x, axis, before, length):
    """`x` along an axis of `length` elements, from element `before` on; what is beyond is cut."""
    start, stop = max(-before, 0), min(x.shape[axis], length - before)
    if stop <= start:
        shape = x.shape.as_list()
        return tf.zeros([*shape[:axis], length, *shape[axis + 1 :]], x.dtype)
    x = _cut(x, axis, start, stop)
    first = max(before, 0)
    pads = [[0, 0]] * len(x.shape)
    pads[axis] = [first, length - first - x.shape[axis]]
    return tf.pad(x, pads) if sum(pads[axis]) else x


def _cut(x, axis, start, stop):
    if (start, stop) == (0, x.shape[axis]):
        return x
    return x[(*[slice(None)] * axis, slice(start, stop))]
