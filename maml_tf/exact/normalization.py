"""Batch normalisation with derivatives of the first and second order in closed form.

Symptom: Keras normalises a batch by a mean, a variance and arithmetic. Of its second derivative
TensorFlow makes some forty operations, each of which goes through all activations; at 84x84 they
took half of a meta-step. Here one kernel normalises, one gives the first derivative, and the
second one is three terms. With x^ the normalised x, r the inverse standard deviation, and upstream
dy of the first derivative g and u of the second one, for every channel:

    g  = dL/dx = s r P(dy),    P(v) = v - mean(v) - x^ mean(v x^)
    d<u, g>/d(dy) = s r P(u) =: h
    d<u, g>/dx    = -r (mean(dy x^) h + mean(u x^) g + mean(u g) x^)

`mean(dy x^)` and `mean(u x^)` come out of the kernel that computes g and h. In float32 these are
TensorFlow's fused kernels; in float64, which they lack, and in programs that XLA compiles for a
GPU the same formulas in plain operations.

A bias that was added to x just before leaves with the mean. So it is x without it that is
normalised, and what depends on the bias are moving averages alone: its gradient is zero, of which
arithmetic would leave rounding, at the price of a sum and of a broadcast of all activations.

`tests/exact/test_normalization.py` compares all of it with central differences and with the plain
operations, `test_gpu.py` what is made for a GPU with TensorFlow's own derivatives. TensorFlow has a
second derivative of its fused kernel, too, which is slower than what it replaces here; once it is
faster, this file may go.
"""

import tensorflow as tf
from keras.src.backend.tensorflow import nn
from tensorflow.python.eager import record
from tensorflow.python.ops import gen_nn_ops

from maml_tf.exact import dispatch

# What marks a mean and a variance as those of a tensor over all axes but the last one.
_MARK = "_maml_tf_moments_of"
# What marks a sum as one of a tensor and a bias: the two.
_TERMS = "_maml_tf_terms"
_NAME = "BatchNormalization"  # under which tapes keep it


def install():
    """Replaces what Keras normalises a batch with."""
    dispatch.install(nn, "moments", _moments)
    dispatch.install(nn, "batch_normalization", _batch_normalization)
    dispatch.install(gen_nn_ops, "bias_add", _bias_add)


def _bias_add(original, value, bias, data_format="NHWC", name=None):
    total = original(value, bias, data_format=data_format, name=name)
    if data_format == "NHWC":
        setattr(total, _TERMS, (value, bias))
    return total


def _moments(original, x, axes, keepdims=False, synchronized=False):
    mean, variance = original(x, axes, keepdims=keepdims, synchronized=synchronized)
    if not keepdims and not synchronized and _fits(x) and sorted(axes) == [0, 1, 2]:
        setattr(mean, _MARK, x)
        setattr(variance, _MARK, x)
    return mean, variance


def _batch_normalization(original, x, mean, variance, axis, offset=None, scale=None, epsilon=1e-3):
    own = getattr(mean, _MARK, None) is x and getattr(variance, _MARK, None) is x
    if not (own and axis in (-1, 3)):
        return original(x, mean, variance, axis, offset=offset, scale=scale, epsilon=epsilon)
    x, *biases = getattr(x, _TERMS, (x,))
    if not dispatch.inside_gpu_program() or None in x.shape[1:]:
        return batch_normalization(x, scale, offset, epsilon, biases)
    # What is to be summed over several axes XLA may lay out anew, in a copy of all activations.
    rows = tf.reshape(x, [-1, 1, 1, x.shape[3]])
    rows = batch_normalization(rows, scale, offset, epsilon, biases)
    return tf.reshape(rows, [-1, *x.shape[1:]])


def _fits(x):
    return (
        x.shape.rank == 4
        and x.shape[-1] is not None
        and x.dtype in (tf.float32, tf.float64)
        and dispatch.closed_forms_pay()
    )


def batch_normalization(x, scale, offset, epsilon, biases=()):
    """`scale * (x - mean) / sqrt(variance + epsilon) + offset`, differentiable any number of times.

    Args:
        x: `[batch, height, width, channels]`, float32 or float64.
        scale: `[channels]`, or None for 1.
        offset: `[channels]`, or None for 0.
        epsilon: `float`, above 0.
        biases: list of `[channels]`, what `x` may be added to without a change: their gradient is
            zero.

    Returns:
        As `x`.
    """
    fused = x.dtype == tf.float32 and not dispatch.inside_gpu_program()
    kernels = (_Fused if fused else _Plain)(epsilon)
    s = tf.ones(x.shape[-1:], x.dtype) if scale is None else scale
    o = tf.zeros(x.shape[-1:], x.dtype) if offset is None else offset
    trained = {"scale": scale is not None, "offset": offset is not None}
    with record.stop_recording():
        y, statistics = kernels.forward(x, s, o)

    def gradient(dy):
        dx, ds, do = _first(kernels, statistics, trained, dy, x, s)
        given = [g for g, t in ((ds, scale), (do, offset)) if t is not None]
        return [dx, *given, *[tf.zeros_like(b) for b in biases]]

    given = [t for t in (scale, offset) if t is not None]
    record.record_operation(_NAME, [y], [x, *given, *biases], gradient)
    return y


def _first(kernels, statistics, trained, dy, x, s):
    """`(dL/dx, dL/dscale, dL/doffset)` for `dy`, differentiable."""
    with record.stop_recording():
        first = kernels.backward(dy, x, s, statistics)

    def gradient(u, us, uo):
        upstream = [u, us if trained["scale"] else None, uo if trained["offset"] else None]
        return _second(kernels, statistics, upstream, [dy, x, s], first)

    record.record_operation(_NAME, first, [dy, x, s], gradient)
    return first


def _second(kernels, statistics, upstream, inputs, first):
    """What `upstream` of the first derivative gives for its inputs `dy`, `x` and `scale`."""
    with record.stop_recording():
        second = _second_values(kernels, statistics, upstream, inputs, first)
    tensors = [*[t for t in upstream if t is not None], *inputs]

    def gradient(*third):
        # Nobody's meta-step comes here; who does is answered by plain operations.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tensors)
            values = _plain_second(kernels, tensors, upstream)
        return tape.gradient(values, tensors, third, tf.UnconnectedGradients.ZERO)

    record.record_operation(_NAME, second, tensors, gradient)
    return second


def _second_values(kernels, statistics, upstream, inputs, first):
    u, us, uo = upstream
    dy, x, s = inputs
    g, ds, do = first
    h, dsu, _ = kernels.backward(u, x, s, statistics)
    n = _count(x)
    r = kernels.inverse_deviation(statistics) / n  # as all sums below are to be means
    zeros = tf.zeros_like(s)
    to_dy = h if uo is None else h + uo
    if us is None:
        inner = r * tf.reduce_sum(u * g, [0, 1, 2])
        along, to_scale = g * (r * dsu), zeros
    else:
        # P(dy), of which g is a multiple that may be zero.
        p = dy + kernels.affine(x, -ds / n, -do / n, statistics)
        to_scale = n * r * tf.reduce_sum(u * p, [0, 1, 2])
        inner = s * r * to_scale
        along = p * (n * r * (s * r * dsu - us))
        to_dy += kernels.affine(x, us, zeros, statistics)
    # By differences, of which no optimizer makes a sum of three (see `sums.py`).
    to_x = kernels.affine(x, -inner, zeros, statistics) - along - h * (r * ds)
    return [to_dy, to_x, to_scale]


def _plain_second(kernels, tensors, upstream):
    """`_second` by TensorFlow's own derivatives."""
    given, inputs = list(tensors[:-3]), tensors[-3:]
    plain = _Plain(kernels.epsilon)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        dy, x, s = inputs
        values = plain.backward(dy, x, s, plain.statistics(x))
        pairs = [(v, given.pop(0)) for v, u in zip(values, upstream, strict=True) if u is not None]
    values, given = zip(*pairs, strict=True)
    return tape.gradient(values, inputs, given, tf.UnconnectedGradients.ZERO)


def _count(x):
    """How many entries are normalised together."""
    entries = x.shape[:3].num_elements()
    return tf.cast(tf.size(x) // x.shape[3] if entries is None else entries, x.dtype)


def _means(*terms):
    """Of each `[batch, height, width, channels]` its mean in every channel."""
    if not dispatch.inside_gpu_program():
        return [tf.reduce_mean(t, [0, 1, 2]) for t in terms]
    # In one sum: beside another one XLA does not fuse a product, but writes it out first.
    return tf.split(tf.reduce_mean(tf.concat(terms, -1), [0, 1, 2]), len(terms))


class _Plain:
    """The kernels in plain operations, which TensorFlow can differentiate itself."""

    def __init__(self, epsilon):
        self.epsilon = epsilon

    def statistics(self, x):
        mean = tf.reduce_mean(x, [0, 1, 2])
        return mean, tf.reduce_mean(tf.square(x - mean), [0, 1, 2])

    def inverse_deviation(self, statistics):
        return tf.math.rsqrt(statistics[1] + self.epsilon)

    def affine(self, x, s, o, statistics):
        return (x - statistics[0]) * (s * self.inverse_deviation(statistics)) + o

    def forward(self, x, s, o):
        statistics = self.statistics(x)
        return self.affine(x, s, o, statistics), statistics

    def backward(self, dy, x, s, statistics):
        r = self.inverse_deviation(statistics)
        normalised = (x - statistics[0]) * r
        beside, along = _means(dy, dy * normalised)
        n = _count(x)
        return s * r * (dy - beside - normalised * along), n * along, n * beside


class _Fused:
    """TensorFlow's fused kernels, of float32."""

    def __init__(self, epsilon):
        self.epsilon = epsilon

    def inverse_deviation(self, statistics):
        return tf.math.rsqrt(statistics[1] + self.epsilon)

    def affine(self, x, s, o, statistics):
        mean, variance, _ = statistics
        return tf.raw_ops.FusedBatchNormV3(
            x=x, scale=s, offset=o, mean=mean, variance=variance, epsilon=self.epsilon,
            is_training=False,
        )[0]  # fmt: skip

    def forward(self, x, s, o):
        y, _, _, *statistics = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=s, offset=o, mean=[], variance=[], epsilon=self.epsilon, is_training=True
        )
        return y, statistics

    def backward(self, dy, x, s, statistics):
        mean, variance, reserved = statistics
        return tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=dy, x=x, scale=s, reserve_space_1=mean, reserve_space_2=variance,
            reserve_space_3=reserved, epsilon=self.epsilon, is_training=True,
        )[:3]  # fmt: skip
