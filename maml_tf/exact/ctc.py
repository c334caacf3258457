"""CTC, whose loss TensorFlow differentiates once.

Symptom: the gradient is a closed form in what a scan over time gives, of which the second
derivative fails with a message about shapes, and eagerly is silently lost. It is refused by name.

Canary: `tests/exact/test_registry.py`. Once it fails, TensorFlow is mended and this file may go.
"""

import tensorflow as tf
from tensorflow.python.ops import ctc_ops

from maml_tf.exact import dispatch, guards


def install():
    """Replaces the one function in which `tf.nn.ctc_loss` and Keras' CTC end."""
    dispatch.install(ctc_ops, "ctc_loss_dense", _ctc_loss)


def _ctc_loss(original, labels, logits, *arguments, **settings):
    """The same loss and gradient; the gradient of that raises."""

    @tf.custom_gradient
    def once(gradient, logits):
        del logits  # an input, so that a tape which watches it comes by here

        def backward(upstream):
            raise guards.refusal("ctc_loss", ", which has no second derivative")

        return tf.identity(gradient), backward

    @tf.custom_gradient
    def loss(logits):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(logits)
            y = original(labels, logits, *arguments, **settings)

        def backward(upstream):
            return once(tape.gradient(y, logits, output_gradients=upstream), logits)

        return tf.identity(y), backward

    return loss(tf.convert_to_tensor(logits))
