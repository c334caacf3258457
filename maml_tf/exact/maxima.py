"""Max-pooling over windows side by side: with the ReLU before it, and its second derivative.

Symptoms, on a CPU:

- ReLU and its gradient go through all activations, of which max-pooling keeps one in four. As ReLU
  never decreases, the ReLU of the largest is the largest ReLU: it is taken after pooling, and what
  stands in the graph before it is pruned where nobody else uses it. A window whose largest value is
  at most zero has no derivative either way.
- For the same reason a batch normalisation without a scale need not be kept for the derivatives:
  what it normalised has its largest values in the same places.
- The kernel of the second derivative, which picks the elements in the places of the largest ones,
  takes seven times as long as that of the first derivative, which puts elements there. Ones put
  there are a mask, and a mean over each window of what the mask leaves is what was picked, but for
  a factor that is exact where a window has 2, 4, 8, ... elements.

On a GPU, where XLA compiles vectorised tasks, its kernels for both derivatives write zeros and add
to them. There the larger one of two elements at a time, and its place, are operations that XLA
fuses with what stands beside them.

`tests/exact/test_maxima.py` and, as for a GPU, `test_gpu.py` compare all of it with TensorFlow's
own, the former with central differences, too.
`python -m tests.benchmarks.replacements --kept max_pool` measures it; where it brings nothing any
more, this file may go.
"""

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import record

from maml_tf.exact import dispatch, registry

# What marks a gradient of a ReLU's result, with what the ReLU's own gradient makes of it.
_MARK = "_maml_tf_below_relu"
_NAME = "MaxPooling"  # under which tapes keep it


def install():
    """Replaces the gradient of ReLU, for what comes from a pooling of this file."""
    registry.correct("Relu", _relu_grad)


def fits(x, ksize, strides, padding, settings):
    """Whether `max_pool` takes what `tf.nn.max_pool` was given."""
    window, sizes = ksize[1:-1], x.shape[1:-1]
    if x.shape.rank != 4 or list(ksize) != list(strides) or None in x.shape[1:]:
        return False
    area = window[0] * window[1]
    # `_LargestInXla` keeps places in a byte; `_Largest` multiplies means by the area, exactly.
    possible = area < 256 if dispatch.inside_gpu_program() else not area & (area - 1)
    even = not any(length % size for length, size in zip(sizes, window, strict=True))
    return (
        ksize[0] == ksize[3] == 1
        and settings.get("data_format") in (None, "NHWC")
        and area > 1
        and possible
        and (padding == "VALID" or (padding == "SAME" and even))
        and all(length >= size for length, size in zip(sizes, window, strict=True))
        and x.dtype in (tf.float32, tf.float64)
        and dispatch.closed_forms_pay()
    )


def max_pool(original, x, window, name=None):
    """Max-pooling over windows that do not overlap, differentiable any number of times.

    Args:
        original: `tf.raw_ops.MaxPool` itself.
        x: `[batch, height, width, channels]`, float32 or float64.
        window: height and width, a product of twos; rows and columns that fill none are left out.
        name: of the operations.

    Returns:
        `[batch, height // window[0], width // window[1], channels]`.
    """
    with tf.name_scope(name or "max_pool"):
        rectified = _input_of(x, "Relu")
        below = x if rectified is None else rectified
        with record.stop_recording():
            kind = _LargestInXla if dispatch.inside_gpu_program() else _Largest
            largest = kind(original, below, window)
            y = largest.values
            largest = _before_normalisation(largest)
            positive = None
            if rectified is not None:
                positive = y = tf.nn.relu(y)

    def gradient(dy):
        if rectified is None:
            return [_put(largest, None, dy)]
        with record.stop_recording():
            own = kind(original, x, window)  # pruned where the ReLU takes what is marked
        dx = _put(own, None, dy)
        setattr(dx, _MARK, (x, _put(largest, positive, dy)))
        return [dx]

    record.record_operation(_NAME, [y], [x], gradient)
    return y


def _relu_grad(original, op, upstream):
    of, below = getattr(upstream, _MARK, (None, None))
    return below if of is not None and of is op.outputs[0] else original(op, upstream)


def _input_of(x, kind):
    """What went into the operation that made `x` in this graph, where it is of that type."""
    op = None if tf.executing_eagerly() else x.op
    return op.inputs[0] if op is not None and op.type == kind else None


def _before_normalisation(largest):
    """The largest elements of what was normalised, where these are in the same places."""
    below = _input_of(largest.of, "FusedBatchNormV3")
    if below is None or largest.of.value_index > 0:
        return largest
    scale = tf.get_static_value(largest.of.op.inputs[1])
    if scale is None or not (scale > 0).all():
        return largest
    return type(largest)(largest.pool, below, largest.window)


class _Largest:
    """The largest element of each window of a tensor, and its place."""

    def __init__(self, pool, of, window):
        self.pool, self.of, self.window = pool, of, window
        self.settings = {"ksize": [1, *window, 1], "strides": [1, *window, 1], "padding": "VALID"}
        self.values = pool(input=of, **self.settings)

    def put(self, y):
        """Zeros, and the elements of `y` in the places of the largest elements."""
        return tf.raw_ops.MaxPoolGrad(
            orig_input=self.of, orig_output=self.values, grad=y, **self.settings
        )

    def pick(self, x):
        """The elements of `x` in the places of the largest elements."""
        with tf.control_dependencies([x]):  # not before, or the mask would be kept until then
            ones = tf.identity(tf.ones_like(self.values))
        mean = tf.nn.avg_pool2d(x * self.put(ones), self.window, self.window, "VALID")
        return mean * (self.window[0] * self.window[1])


class _LargestInXla:
    """The same in operations on single elements, which XLA fuses with what stands beside them."""

    def __init__(self, pool, of, window):
        self.pool, self.of, self.window = pool, of, window
        self.size = [length // w for length, w in zip(of.shape[1:3], window, strict=True)]
        first, *others = self._elements(of)
        self.values, self.place = first, tf.zeros_like(first, tf.uint8)
        for i, element in enumerate(others, start=1):  # of equal ones the first
            is_larger = element > self.values
            self.place = tf.where(is_larger, tf.constant(i, tf.uint8), self.place)
            self.values = tf.maximum(self.values, element)

    def _elements(self, x):
        """The first element of each window, the second one, ...; each as `values`."""
        (rows, columns), (height, width) = self.size, self.window
        x = tf.slice(x, [0, 0, 0, 0], [-1, rows * height, columns * width, -1])
        x = tf.reshape(x, [-1, rows, height, columns, width, x.shape[3]])
        return [element for row in tf.unstack(x, axis=2) for element in tf.unstack(row, axis=3)]

    def put(self, y):
        """Zeros, and the elements of `y` in the places of the largest elements."""
        (rows, columns), (height, width) = self.size, self.window
        order = np.arange(height * width, dtype=np.uint8).reshape(1, 1, height, 1, width, 1)
        place, y = (t[:, :, tf.newaxis, :, tf.newaxis, :] for t in (self.place, y))
        x = tf.where(place == order, y, tf.zeros([], y.dtype))
        x = tf.reshape(x, [-1, rows * height, columns * width, y.shape[-1]])
        rest = [[0, o - n] for o, n in zip(self.of.shape[1:3], x.shape[1:3], strict=True)]
        return tf.pad(x, [[0, 0], *rest, [0, 0]])

    def pick(self, x):
        """The elements of `x` in the places of the largest elements."""
        zero = tf.zeros([], x.dtype)
        picked = [
            tf.where(self.place == tf.constant(i, tf.uint8), element, zero)
            for i, element in enumerate(self._elements(x))
        ]
        return sum(picked[1:], picked[0])


def _put(largest, positive, y):
    """`largest.put(y)`, of windows with a result above zero where there was a ReLU."""
    with record.stop_recording():
        x = largest.put(_where(positive, y))
    record.record_operation(_NAME, [x], [y], lambda upstream: [_pick(largest, positive, upstream)])
    return x


def _pick(largest, positive, x):
    """`largest.pick(x)`, of windows with a result above zero where there was a ReLU."""
    with record.stop_recording():
        y = _where(positive, largest.pick(x))
    record.record_operation(_NAME, [y], [x], lambda upstream: [_put(largest, positive, upstream)])
    return y


def _where(positive, y):
    return y if positive is None else tf.raw_ops.ReluGrad(gradients=y, features=positive)
