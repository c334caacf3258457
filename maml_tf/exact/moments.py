"""Mean and variance whose derivatives of every order are exact.

Symptom: `tf.nn.moments` stops the gradient of the mean inside the variance. That is no error in a
first derivative (the term is zero there) but it drops a term of the second, so that the
meta-gradient through any Keras normalisation layer would be wrong by several per cent.

Canary: `tests/exact/test_moments.py`. Once it fails, TensorFlow is mended and this file may go.
"""

import tensorflow as tf


def moments(x, axes, shift=None, keepdims=False, name=None):
    """`tf.nn.moments` whose derivatives of every order are exact; the same values.

    Args:
        x: a tensor. float16 is computed in float32, as in TensorFlow.
        axes: the axes that are averaged over, a list of `int`.
        shift: not used, as in `tf.nn.moments`.
        keepdims: whether the result keeps the averaged axes with size 1.
        name: of the operations.

    Returns:
        `(mean, variance)` of the dtype of `x`.
    """
    del shift
    with tf.name_scope(name or "moments"):
        wide = tf.cast(x, tf.float32) if x.dtype == tf.float16 else x
        mean = tf.reduce_mean(wide, axes, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(wide, mean), axes, keepdims=keepdims)
        if not keepdims:
            mean = tf.squeeze(mean, axes)
        return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)
