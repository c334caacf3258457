"""Functions that LiteRT lacks, made of operations that it has: the error function.

They stand in for TensorFlow's in the thread that traces an export alone (`gradients.in_place`).
"""

import math

import tensorflow as tf
from tensorflow.python.ops import math_ops

from maml_tf.exact import dispatch

# x P(x^2) / Q(x^2) for |x| up to 4, where erf is 1 in float32: the coefficients are those by which
# Eigen and XLA compute it, the highest power first.
_BOUND = 4.0
_ABOVE = (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06)
_ABOVE += (-5.69250639462346e-05, -7.34990630326855e-04, -2.95459980854025e-03)
_ABOVE += (-1.60960333262415e-02,)
_BELOW = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03)
_BELOW += (-7.37332916720468e-03, -1.42647390514189e-02)


def install(here):
    """Has TensorFlow's own names lead here.

    Args:
        here: a `threading.local` whose `depth` is above 0 where LiteRT's operations are wanted.
    """

    def replace(module, name, ours):
        def replacement(original, x, name=None):
            x = tf.convert_to_tensor(x)
            # Of other precisions an export is refused anyway.
            return ours(x) if here.depth and x.dtype == tf.float32 else original(x, name)

        dispatch.install(module, name, replacement)

    # `tf.nn.gelu` calls those of the first, `keras.ops` those of the second.
    for module in (math_ops, tf.math):
        replace(module, "erf", erf)
        replace(module, "erfc", lambda x: 1 - erf(x))


@tf.custom_gradient
def erf(x):
    """The error function of a float32 tensor, to some units in the last place.

    Its derivative is written out, so that it is as exact: that of the quotient would not be.
    """

    def gradient(g):
        return g * (2 / math.sqrt(math.pi)) * tf.exp(-tf.square(x))

    bounded = tf.clip_by_value(x, -_BOUND, _BOUND)
    squared = tf.square(bounded)
    return bounded * _polynomial(_ABOVE, squared) / _polynomial(_BELOW, squared), gradient


def _polynomial(coefficients, x):
    value = tf.fill(tf.shape(x), coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value
