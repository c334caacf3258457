"""Derivatives that TensorFlow lacks and that are easy: of softsign, of resizings, of slices in XLA.

Resizings are linear, so that the gradient of the gradient is the resizing itself. Under XLA the
gradient of `tf.slice` puts the slice into zeros by an operation (that of `keras.ops.slice_update`)
which has no gradient. They are put in place by `maml_tf.exact.registry`.
"""

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.ops import gen_image_ops

from maml_tf.exact import guards


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


def bilinear_grad(original, op, u):
    """Of what stands in a graph; eagerly TensorFlow forgets the inputs (see `exact.images`)."""
    del original
    if op.inputs is None:
        raise guards.refusal(
            "ResizeBilinearGrad", ": TensorFlow has no second derivative of it eagerly"
        )
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


def _dynamic_update_slice_grad(op, u):
    _, part, begin = op.inputs
    size = tf.shape(part, out_type=begin.dtype)
    # As the operation does it: what would stand out is moved inwards.
    begin = tf.clip_by_value(begin, 0, tf.shape(u, out_type=begin.dtype) - size)
    rest = gen_xla_ops.xla_dynamic_update_slice(u, tf.zeros_like(part), begin)
    return [rest, tf.slice(u, begin, size), None]


GIVEN = {
    "SoftsignGrad": _softsign_grad,
    "ResizeNearestNeighborGrad": _nearest_grad,
    "ResizeBicubicGrad": _bicubic_grad,
    "ScaleAndTranslateGrad": _scale_and_translate_grad,
    "CropAndResizeGradImage": _crop_and_resize_grad_image,
    "XlaDynamicUpdateSlice": _dynamic_update_slice_grad,
}
