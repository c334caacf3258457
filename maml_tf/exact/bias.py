"""The gradient of a convolution's bias, kept apart from that of its kernel.

Symptom: oneDNN, which TensorFlow runs on a CPU, computes the gradients of a bias and of a kernel by
one operation where both are taken of the same tensor. In a second-order graph that tensor has two
kernel gradients: the inner one, and one of the outer backward pass, which needs what the inner step
made of the bias. Which of the two is merged with the bias is left to chance. If it is the outer
one, the graph has a cycle and does not run: "InvalidArgumentError: 1391 nodes in a cycle".

Through a reshape the two tensors are not the same, and the values are.

Canary: `tests/exact/test_bias.py`, which shows the cycle. Once it fails, this file may go.
"""

import tensorflow as tf

from maml_tf.exact import dispatch, registry


def install():
    """Replaces the gradient of adding a bias, inside of `guards.refusals`."""
    registry.correct("BiasAdd", _bias_add_grad)


def _bias_add_grad(original, op, gradient):
    channels = gradient.shape[-1]
    plain = gradient.shape.rank == 4 and op.get_attr("data_format") == b"NHWC"
    # What is vectorised has no convolutions left that oneDNN could merge anything with.
    if not plain or channels is None or dispatch.inside_vectorized():
        return original(op, gradient)
    rows = tf.reshape(gradient, [-1, channels])
    return gradient, tf.raw_ops.BiasAddGrad(out_backprop=rows)
