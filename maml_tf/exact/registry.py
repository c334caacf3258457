"""Derivatives that TensorFlow lacks or gets wrong, by the type of the operation.

Three kinds, looked for in all of TensorFlow's registered gradients (which operations does each
one emit, and what is known of those?):

- `_GIVEN`: gradients of gradients that TensorFlow lacks and that are easy: they are registered
  where a derivative was an error before, for everybody. Softsign, and resizings, which are linear.
- `_LOST`: operations that are declared not differentiable though they have derivatives, silently;
  and the two of projective transformations, whose registered gradient is that of the inverse
  transformation and no derivative of anything. Inside of `refusals` they raise.
- What else has no derivative (CTC, LRN, dilation, fractional pooling, cuDNN's recurrent layers)
  raises in TensorFlow; `refusals` says it in words.

Canary: `tests/exact/test_registry.py` fails for each entry that TensorFlow has put right.
"""

import contextlib
import functools
import re
import threading

import tensorflow as tf
from tensorflow.python.framework import op_def_registry, ops
from tensorflow.python.ops import gen_image_ops


class _Here(threading.local):
    depth = 0


HERE = _Here()

# By type, what to do about it.
_LOST = {
    "HSVToRGB": "HSV to RGB",
    "ImageProjectiveTransformV2": "a projective transformation of images",
    "ImageProjectiveTransformV3": "a projective transformation of images",
    "ExtractGlimpse": "glimpses",
    "RandomShuffle": "a random shuffle",
    "RandomCrop": "a random crop",
    "DrawBoundingBoxes": "drawn boxes",
    "SparseAddGrad": "the second derivative of a sum of sparse tensors",
    "SparseConcat": "the concatenation of sparse tensors",
    "FakeQuantWithMinMaxArgsGradient": "the second derivative of simulated quantisation",
    "FakeQuantWithMinMaxVarsGradient": "the second derivative of simulated quantisation",
    "FakeQuantWithMinMaxVarsPerChannelGradient": "the second derivative of simulated quantisation",
}


def install():
    """Registers what is missing, and puts guards before what is lost."""
    registered = ops.gradient_registry.list()
    for name, gradient in _GIVEN.items():
        if name not in registered:
            ops.RegisterGradient(name)(gradient)
    correct("ResizeBilinearGrad", _bilinear_grad)
    for name, what in _LOST.items():
        definition = op_def_registry.get(name)
        if name in registered and definition is not None:
            entry = ops.gradient_registry._registry[name]
            entry["type"] = _guarded(entry["type"], definition, what)


def correct(name, gradient, here=HERE):
    """Puts `gradient(original, op, *upstream)` in the place of one, inside of `refusals`.

    Args:
        name: type of the operation.
        gradient: gets the registered gradient and what that was called with.
        here: a `threading.local` whose `depth` is above 0 where it is to be used, in the place of
            `refusals`.
    """
    entry = ops.gradient_registry._registry[name]
    original = entry["type"]

    @functools.wraps(original)
    def corrected(op, *upstream):
        if here.depth:
            return gradient(original, op, *upstream)
        if original is None:  # declared not differentiable
            return [None] * len(op_def_registry.get(name).input_arg)
        return original(op, *upstream)

    entry["type"] = corrected


def _guarded(original, definition, what):
    """The registered gradient `original`, None for none, that raises inside of `refusals`."""

    def gradient(op, *upstream):
        if HERE.depth:
            raise refusal(
                definition.name, f": TensorFlow gets the derivative of {what} wrong, silently"
            )
        if original is None:
            # Not by `op.inputs`, which TensorFlow forgets where nobody should need them.
            arguments = definition.input_arg
            number = sum(op.get_attr(a.number_attr) if a.number_attr else 1 for a in arguments)
            return [None] * number
        return original(op, *upstream)

    return gradient


@contextlib.contextmanager
def refusals():
    """While open, this thread's gradients raise where TensorFlow has none, or a wrong one.

    Raises:
        NotImplementedError: naming the operation.
    """
    HERE.depth += 1
    try:
        yield
    except LookupError as error:
        missing = re.search(r"no entry for: (\w+)|op type: (\w+)", str(error))
        if missing is None:
            raise
        name = missing.group(1) or missing.group(2)
        raise refusal(name, ", for which TensorFlow has no derivative") from error
    finally:
        HERE.depth -= 1


def refusal(name, why):
    """The error that names an operation and says what to do.

    Args:
        name: of the operation.
        why: what is wrong with it, the end of a sentence.
    """
    second = "Grad" in name or "Back" in name or "second" in why
    order = (
        "Use `first_order=True`, or another layer or loss"
        if second
        else "Use another layer or loss, or keep it before the first weights"
    )
    return NotImplementedError(
        "Expected a model and a loss whose operations have the derivatives that meta-learning "
        f"needs. Received one that is differentiated through `{name}`{why}. {order}."
    )


def _softsign_grad(op, u):
    g, x = op.inputs
    scale = 1 / (1 + tf.abs(x)) ** 2
    return [u * scale, -2 * u * g * tf.sign(x) * scale / (1 + tf.abs(x))]


def _size(op):
    """Height and width of the gradient that a resizing's gradient was given."""
    return tf.shape(op.inputs[0])[1:3]


def _attributes(op, *names):
    return {name: op.get_attr(name) for name in names}


def _nearest_grad(op, u):
    settings = _attributes(op, "align_corners", "half_pixel_centers")
    return [gen_image_ops.resize_nearest_neighbor(u, _size(op), **settings), None]


def _bilinear_grad(original, op, u):
    """Of what stands in a graph; eagerly TensorFlow forgets the inputs (see `exact.images`)."""
    del original
    if op.inputs is None:
        raise refusal("ResizeBilinearGrad", ": TensorFlow has no second derivative of it eagerly")
    settings = _attributes(op, "align_corners", "half_pixel_centers")
    return [gen_image_ops.resize_bilinear(u, _size(op), **settings), None]


def _bicubic_grad(op, u):
    settings = _attributes(op, "align_corners", "half_pixel_centers")
    return [gen_image_ops.resize_bicubic(u, _size(op), **settings), None]


def _scale_and_translate_grad(op, u):
    settings = _attributes(op, "kernel_type", "antialias")
    kernel = settings.pop("kernel_type")
    settings["kernel_type"] = kernel.decode() if isinstance(kernel, bytes) else kernel
    scale, translation = op.inputs[2:]
    y = gen_image_ops.scale_and_translate(u, _size(op), scale, translation, **settings)
    return [y, None, None, None]


def _crop_and_resize_grad_image(op, u):
    g, boxes, indices, _ = op.inputs
    method = op.get_attr("method")
    method = method.decode() if isinstance(method, bytes) else method
    crops = gen_image_ops.crop_and_resize(u, boxes, indices, _size(op), method=method)
    # Bilinear in g and u, so the boxes have here the derivative that they have in the first order.
    return [crops, gen_image_ops.crop_and_resize_grad_boxes(g, u, boxes, indices), None, None]


_GIVEN = {
    "SoftsignGrad": _softsign_grad,
    "ResizeNearestNeighborGrad": _nearest_grad,
    "ResizeBicubicGrad": _bicubic_grad,
    "ScaleAndTranslateGrad": _scale_and_translate_grad,
    "CropAndResizeGradImage": _crop_and_resize_grad_image,
}
