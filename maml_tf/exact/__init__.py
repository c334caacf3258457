"""What TensorFlow gets wrong in second derivatives, or computes slowly, put right.

Each entry is a file of its own that says the symptom, names the canary test that fails once the
platform is mended, and says when it may go:

- `moments`: mean and variance, whose second derivative lacks a term;
- `images`: bilinear and area resizing and HSV to RGB, whose derivatives are declared away;
- `ctc`: a loss that is differentiated once;
- `second_derivatives`: gradients that TensorFlow lacks, most of them of gradients;
- `registry`: what is wrong or missing beyond them is refused by name, as `guards` words it;
- `corrected`: gradients of TensorFlow that are wrong (soft labels, products with zeros);
- `handwritten`: gradients written by hand, which forget weights, and `tf.recompute_grad`;
- `python_functions`: Python code in a graph, which has no derivative to rely on;
- `keras_operations`: functions of `keras.ops` that are wrong at single points;
- `pooling` and `xla`: max-pooling, which XLA differentiates wrongly on the CPU;
- `convolution`: small convolutions as matrix products, which are faster;
- `maxima`: max-pooling over windows side by side, after ReLU or before it, which is faster;
- `normalization`: batch normalisation with derivatives in closed form, which are faster, and
  without a bias before it, which it takes away;
- `sums`: gradients are added up without assignments, and without the zeros of ReLU;
- `products`: gradients of kernels over few examples, of many tasks under XLA, which are faster;
- `loops`: what a loop carries, of which an optimizer may make a loop that runs once only;
- `bias`: the gradient of a bias, of which oneDNN may make a graph that does not run;
- `primitives`: what oneDNN makes for the gradients of kernels is kept, which is faster.

`operations` puts them in place while a model runs; a gradient is taken inside of `refusals`.
"""

import contextlib
import threading

from tensorflow.python.ops import nn_ops

from maml_tf.exact import (
    bias,
    convolution,
    corrected,
    ctc,
    dispatch,
    guards,
    handwritten,
    images,
    keras_operations,
    maxima,
    moments,
    normalization,
    pooling,
    primitives,
    products,
    python_functions,
    registry,
    sums,
    xla,
)

__all__ = ["operations", "refusals"]

_LOCK = threading.Lock()
_INSTALLED = []


@contextlib.contextmanager
def operations():
    """While open, this thread computes with the operations of this package.

    Raises:
        NotImplementedError: as in `refusals`, of a function within the graph, whose gradient
            TensorFlow makes when it is called.
    """
    _install()
    with guards.calling(), dispatch.replaced_here():
        yield


@contextlib.contextmanager
def refusals(jit_compile=False, first_order=False):
    """While open, a gradient that TensorFlow lacks, or would get wrong, raises.

    To be put around every `tape.gradient`, the inner and the outer one.

    Args:
        jit_compile: whether XLA is going to compile what is traced.
        first_order: whether second derivatives are left out.

    Raises:
        NotImplementedError: naming the operation, while the gradient is traced.
    """
    _install()
    with guards.refusals():
        yield
    xla.refuse_wrong_xla(jit_compile, first_order)


def _install():
    """Once in a process, at the first use: importing this package changes nothing."""
    with _LOCK:
        if not _INSTALLED:
            dispatch.install(nn_ops, "convolution_internal", convolution.convolution)
            entries = (moments, images, ctc, pooling, registry, corrected, keras_operations)
            faster = (normalization, maxima, sums, products, primitives)
            for entry in (*entries, *faster, bias, handwritten, python_functions):
                entry.install()
            _INSTALLED.append(True)
