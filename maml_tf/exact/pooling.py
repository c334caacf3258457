"""Max-pooling whose second derivative is right, also under XLA on the CPU.

Symptom: where a pooling leaves the shape as it is (strides of 1 with `padding="same"`, images of
1x1), the kernel of the second derivative takes the memory of its input for its output and clears
it first: in a graph the second derivative is zero, silently, unless somebody else holds that input
(as in eager mode, or in the first layer). So such a pooling pads its images itself: then what goes
in is larger than what comes out.

Symptom: the second-order gradient through max-pooling that XLA compiles for the CPU is off by up
to 2.7e-2; uncompiled it is right. Each element of a window as a strided slice and the larger one of
two at a time is the same function, whose derivatives take nothing but slices. Uncompiled that is
slower than TensorFlow's pooling, so it is done under XLA alone.

Canaries: `tests/exact/test_pooling.py` and `tests/exact/test_xla.py`. Once one fails, its part may
go, and `xla.py` with the latter.
"""

import itertools

import tensorflow as tf
from tensorflow.python.ops import gen_nn_ops

from maml_tf.exact import dispatch, maxima


def install():
    """Replaces max-pooling in two and three dimensions; that in one is one of them."""
    dispatch.install(gen_nn_ops, "max_pool", _max_pool)
    dispatch.install(tf.raw_ops, "MaxPool", _max_pool)
    dispatch.install(gen_nn_ops, "max_pool3d", _max_pool)
    dispatch.install(tf.raw_ops, "MaxPool3D", _max_pool)


def _max_pool(original, input, ksize, strides, padding, **settings):
    sizes = list(input.shape[1:-1])
    known = None not in sizes and padding in ("SAME", "VALID")
    last = settings.get("data_format") in (None, "NHWC", "NDHWC") and ksize[-1] == ksize[0] == 1
    compiled = dispatch.inside_xla() and not tf.config.list_physical_devices("GPU")
    if last and input.dtype.is_floating and not compiled and _may_keep_its_shape(sizes, strides):
        if all(k == s == 1 for k, s in zip(ksize, strides, strict=True)):
            return tf.identity(input, settings.get("name"))
        input, padding = _padded(input, ksize, strides, padding, settings), "VALID"
    elif maxima.fits(input, ksize, strides, padding, settings):
        return maxima.max_pool(original, input, ksize[1:-1], settings.get("name"))
    if not (known and last and compiled and input.dtype.is_floating):
        return original(input=input, ksize=ksize, strides=strides, padding=padding, **settings)
    return max_pool(input, ksize[1:-1], strides[1:-1], padding, name=settings.get("name"))


def _may_keep_its_shape(sizes, strides):
    """Whether a pooling may have as many results as it has elements."""
    return all(
        stride == 1 or length in (None, 1)
        for length, stride in zip(sizes, strides[1:-1], strict=True)
    )


def _padded(x, ksize, strides, padding, settings):
    """The images with what `padding` adds around them, for a pooling without padding."""
    explicit = settings.pop("explicit_paddings", None)
    if padding == "VALID":
        return x
    if padding == "EXPLICIT":
        pads = [explicit[i : i + 2] for i in range(0, len(explicit), 2)]
    else:
        lengths = zip(x.shape, tf.unstack(tf.shape(x)), strict=True)
        pads = []
        for (known, length), size, stride in zip(lengths, ksize, strides, strict=True):
            if size == stride == 1:
                pads.append([0, 0])
                continue
            length = length if known is None else known
            pad = (-(-length // stride) - 1) * stride + size - length
            pad = tf.maximum(pad, 0) if known is None else max(pad, 0)
            pads.append([pad // 2, pad - pad // 2])
    return tf.pad(x, pads, constant_values=-float("inf"))


def max_pool(x, window, strides, padding, name=None):
    """Max-pooling over windows of strided slices; of equal elements the first one is taken.

    Args:
        x: `[batch, *spatial, channels]`, floating.
        window: `int` of each spatial axis.
        strides: `int` of each spatial axis.
        padding: `"SAME"` or `"VALID"`.
        name: of the operations.

    Returns:
        `[batch, *new spatial, channels]`.
    """
    with tf.name_scope(name or "max_pool"):
        counts, pads = [], []
        for length, size, stride in zip(x.shape[1:-1], window, strides, strict=True):
            if padding == "SAME":
                count = -(-length // stride)
                pad = max((count - 1) * stride + size - length, 0)
            else:
                count, pad = (length - size) // stride + 1, 0
            counts.append(count)
            pads.append([pad // 2, pad - pad // 2])
        if any(sum(pad) for pad in pads):
            x = tf.pad(x, [[0, 0], *pads, [0, 0]], constant_values=-float("inf"))
        largest = None
        for offsets in itertools.product(*map(range, window)):
            part = x[
                (
                    slice(None),
                    *(
                        slice(begin, begin + (count - 1) * stride + 1, stride)
                        for begin, count, stride in zip(offsets, counts, strides, strict=True)
                    ),
                )
            ]
            largest = part if largest is None else tf.where(part > largest, part, largest)
        return largest
