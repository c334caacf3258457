"""What inner optimizers share: clipping of the gradient, roots that have a derivative, dtypes.

All of it is differentiated by the meta-gradient, so that it has to be finite where a gradient is
zero, and where the usual formula has a derivative that is not.
"""

import numpy as np
import tensorflow as tf

from maml_tf import arguments

CLIPPINGS = ("clipvalue", "clipnorm", "global_clipnorm")


class Clipping:
    """Clipping of the gradient of an inner step, with the words of Keras' optimizers.

    Args:
        clipvalue: positive number: every number of a gradient is held between its negative and
            itself. What is cut off has no derivative.
        clipnorm: positive number: the gradient of each weight whose norm is larger is scaled down
            to that norm.
        global_clipnorm: positive number: the same for the norm of all of them together.

    Raises:
        TypeError: one of them is no number.
        ValueError: one is not positive and finite, or there are two.
    """

    def __init__(self, clipvalue=None, clipnorm=None, global_clipnorm=None):
        values = zip(CLIPPINGS, (clipvalue, clipnorm, global_clipnorm), strict=True)
        self.given = {
            name: arguments.positive(name, value) for name, value in values if value is not None
        }
        if len(self.given) > 1:
            shown = " and ".join(f"{name}={value}" for name, value in self.given.items())
            raise ValueError(
                "Expected at most one of `clipvalue`, `clipnorm` and `global_clipnorm`. Received: "
                f"{shown}. Leave one out."
            )

    def __call__(self, gradients):
        """The gradients, clipped: a list of tensors of the same shapes and dtypes."""
        if "clipvalue" in self.given:
            bounds = [tf.constant(self.given["clipvalue"], g.dtype) for g in gradients]
            return [
                tf.maximum(tf.minimum(g, b), -b) for g, b in zip(gradients, bounds, strict=True)
            ]
        if "clipnorm" in self.given:
            return [_scaled([g], self.given["clipnorm"])[0] for g in gradients]
        if "global_clipnorm" in self.given:
            return _scaled(gradients, self.given["global_clipnorm"])
        return gradients


def _scaled(gradients, largest):
    """Gradients whose norm, together, is at most `largest`."""
    wide = [tf.cast(g, width(g.dtype)) for g in gradients]
    # Where their squares would be infinite they are made smaller first, and not clipped to nothing.
    peak = tf.reduce_max(tf.stack([tf.reduce_max(tf.abs(g)) for g in wide]))
    unit = tf.stop_gradient(tf.where(peak > 1e18, peak, tf.ones_like(peak)))
    wide = [g / unit for g in wide]
    square = tf.add_n([tf.reduce_sum(tf.square(g)) for g in wide])
    over = square > tf.square(largest / unit)
    # The root is taken of what is positive: at a gradient of zero it has no derivative.
    root = tf.math.rsqrt(tf.where(over, square, tf.ones_like(square)))
    factor = tf.where(over, tf.constant(largest, square.dtype) * root, unit)
    return [tf.cast(w * factor, g.dtype) for w, g in zip(wide, gradients, strict=True)]


def width(dtype):
    """The dtype of moments and norms: in half precision 0.999 is 1, 1e-8 is 0 and 300² infinite."""
    return tf.float32 if dtype.size == 2 else dtype


def root_of(square):
    """The square root, with a derivative of 0 at 0, where that of `tf.sqrt` is infinite."""
    # Where a processor flushes what is below the smallest normal number, its root is 0 too.
    positive = square > np.finfo(square.dtype.as_numpy_dtype).tiny
    root = tf.sqrt(tf.where(positive, square, tf.ones_like(square)))
    return tf.where(positive, root, tf.zeros_like(root))
