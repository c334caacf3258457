"""Max-pooling whose second derivative is right under XLA on the CPU.

Symptom: the second-order gradient through max-pooling that XLA compiles for the CPU is off by up
to 2.7e-2; uncompiled it is right. Each element of a window as a strided slice and the larger one of
two at a time is the same function, whose derivatives take nothing but slices. Uncompiled that is
slower than TensorFlow's pooling, so it is done under XLA alone.

Canary: `tests/exact/test_xla.py`. Once it fails, XLA is mended and this file and `xla.py` may go.
"""

import itertools

import tensorflow as tf
from tensorflow.python.ops import gen_nn_ops

from maml_tf.exact import dispatch


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
    if not (known and last and compiled and input.dtype.is_floating):
        return original(input=input, ksize=ksize, strides=strides, padding=padding, **settings)
    return max_pool(input, ksize[1:-1], strides[1:-1], padding, name=settings.get("name"))


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
