"""What TensorFlow gets wrong in second derivatives, or computes slowly, put right.

Each entry is a file of its own that says the symptom, names the canary test that fails once the
platform is mended, and says when it may go. `operations` puts them in place while a model runs.
"""

import contextlib
import functools

import tensorflow as tf

from maml_tf.exact import convolution
from maml_tf.exact.moments import moments
from maml_tf.exact.xla import refuse_wrong_xla

__all__ = ["moments", "operations", "refuse_wrong_xla"]


@contextlib.contextmanager
def operations():
    """While open, the operations of this package stand in the place of TensorFlow's."""
    originals = tf.nn.moments, tf.nn.convolution
    tf.nn.moments = moments
    tf.nn.convolution = functools.partial(convolution.convolution, tf.nn.convolution)
    try:
        yield
    finally:
        tf.nn.moments, tf.nn.convolution = originals
