"""Gradients that TensorFlow registers and that are wrong, replaced for the calls of this library.

Symptoms:

- `SoftmaxCrossEntropyWithLogits`: the derivative of the logits' gradient with respect to the
  labels is left out, so that second order through soft labels that depend on weights
  (distillation, learned labels) silently loses a term (48 % in a test).
- `Cumprod`: divides by the elements, and gives zero where one of them is zero: the first
  derivative of `cumprod` and the second one of `prod`.
- `PadV2`: the derivative with respect to the value that it pads with is left out.
- `DynamicStitch`: of several values for one place only the last is taken, and all get a gradient.
- `BesselI1`: its derivative at zero is taken for 1; it is 1/2 (`keras.ops.i0`).

Canaries: `tests/exact/test_corrected.py`. Once one fails, its entry may go.
"""

import tensorflow as tf

from maml_tf.exact import registry


def install():
    """Puts them in the place of the registered ones, inside of `guards.refusals`."""
    for name, gradient in _CORRECTED.items():
        registry.correct(name, gradient)


def _softmax_cross_entropy_grad(original, op, loss_gradient, gradient_gradient):
    """The second output is softmax(logits) - labels, of which the labels are a part."""
    logits, labels = original(op, loss_gradient, gradient_gradient)
    return logits, labels if gradient_gradient is None else labels - gradient_gradient


def _cumprod_grad(original, op, gradient):
    """Without a division: dL/dx_k = (x_1 ... x_(k-1)) S_k, with S_k = g_k + x_(k+1) S_(k+1)."""
    axis = tf.get_static_value(op.inputs[1])
    x = op.inputs[0]
    if axis is None or x.shape.rank is None:
        return original(op, gradient)
    axis = int(axis) % x.shape.rank
    order = [i for i in range(x.shape.rank) if i != axis] + [axis]
    x, g = tf.transpose(x, order), tf.transpose(gradient, order)
    if op.get_attr("reverse"):
        x, g = tf.reverse(x, [-1]), tf.reverse(g, [-1])
    if op.get_attr("exclusive"):
        g = _later(g, 1)
    result = tf.math.cumprod(x, -1, exclusive=True) * _recurrence(_later(x, 1), g)
    if op.get_attr("reverse"):
        result = tf.reverse(result, [-1])
    return tf.transpose(result, [order.index(i) for i in range(len(order))]), None


def _recurrence(a, b):
    """S with S_k = b_k + a_k S_(k+1) along the last axis, in doubling steps."""
    length = a.shape[-1]
    # An unknown length: as many steps as the longest axis takes.
    for i in range(31 if length is None else max(length - 1, 0).bit_length()):
        b += a * _later(b, 2**i)
        a *= _later(a, 2**i)
    return b


def _later(x, count):
    """What stands `count` places further along the last axis; zero beyond its end."""
    count = tf.minimum(count, tf.shape(x)[-1])
    paddings = tf.concat([tf.zeros([x.shape.rank - 1, 2], tf.int32), [[0, count]]], 0)
    return tf.ensure_shape(tf.pad(x[..., count:], paddings), x.shape)


def _bessel_i1_grad(original, op, gradient):
    """I0(x) - I1(x) / x, and 1/2 at zero."""
    x = op.inputs[0]
    zero = tf.equal(x, 0)
    safe = tf.where(zero, tf.ones_like(x), x)
    derivative = tf.math.special.bessel_i0(x) - tf.math.special.bessel_i1(x) / safe
    return gradient * tf.where(zero, tf.cast(0.5, x.dtype), derivative)


def _pad_grad(original, op, gradient):
    """What is no gradient of the tensor is one of the value around it."""
    tensor, paddings, _ = original(op, gradient)
    inside = tf.pad(tf.ones_like(tensor), op.inputs[1])
    return tensor, paddings, tf.reduce_sum(gradient * (1 - inside))


def _dynamic_stitch_grad(original, op, gradient):
    """Nothing for a value in whose place another one was put afterwards."""
    indices = op.inputs[: len(op.inputs) // 2]
    counts = [tf.size(i) for i in indices]
    numbers = tf.split(tf.range(tf.add_n(counts)), counts)
    numbers = [tf.reshape(n, tf.shape(i)) for n, i in zip(numbers, indices, strict=True)]
    last = tf.dynamic_stitch(indices, numbers)
    values = original(op, gradient)[len(indices) :]
    kept = []
    for value, index, number in zip(values, indices, numbers, strict=True):
        taken = tf.cast(tf.gather(last, index) == number, value.dtype)
        more = tf.ones([tf.rank(value) - tf.rank(index)], tf.int32)
        kept.append(value * tf.reshape(taken, tf.concat([tf.shape(index), more], 0)))
    return [None] * len(indices) + kept


_CORRECTED = {
    "SoftmaxCrossEntropyWithLogits": _softmax_cross_entropy_grad,
    "Cumprod": _cumprod_grad,
    "BesselI1": _bessel_i1_grad,
    "PadV2": _pad_grad,
    "DynamicStitch": _dynamic_stitch_grad,
}
