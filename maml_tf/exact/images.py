"""Operations on images, differentiable as often as asked.

Symptoms:

- `ResizeBilinearGrad` is declared not differentiable, so that second order through
  `UpSampling2D(interpolation="bilinear")`, `Resizing` and `tf.image.resize` silently loses a term
  (54 % of a meta-gradient).
- `tf.image.resize(method="area")` has no derivative at all.
- `HSVToRGB` is declared not differentiable: even the first derivative is silently lost.

(Bicubic, Lanczos and nearest resizing and `crop_and_resize` lack second derivatives, too, but
loudly: they get one in `maml_tf.exact.second_derivatives`.)

Canaries: `tests/exact/test_images.py`. Once one fails, its replacement may go.
"""

import tensorflow as tf
from tensorflow.python.ops import gen_image_ops

from maml_tf.exact import dispatch


def install():
    """Replaces them under all names that look them up in a module when they are called."""
    for name, raw, replacement in (
        ("resize_bilinear", "ResizeBilinear", _resize_bilinear),
        ("resize_area", "ResizeArea", _resize_area),
        ("hsv_to_rgb", "HSVToRGB", _hsv_to_rgb),
    ):
        dispatch.install(gen_image_ops, name, replacement)
        dispatch.install(tf.raw_ops, raw, replacement)
    dispatch.install(tf.image, "hsv_to_rgb", _hsv_to_rgb)


def _resize_bilinear(
    original, images, size, align_corners=False, half_pixel_centers=False, name=None
):
    """Linear in the images, R x: its gradient is R^T g, and the gradient of that is R again."""
    settings = {"align_corners": align_corners, "half_pixel_centers": half_pixel_centers}

    def resized(x, size, name=None):
        @tf.custom_gradient
        def resize(x):
            return original(images=x, size=size, name=name, **settings), lambda g: transposed(g, x)

        return resize(x)

    def transposed(g, x):
        @tf.custom_gradient
        def transpose(g):
            gradient = gen_image_ops.resize_bilinear_grad(g, x, **settings)
            # The size is read off `g`: in a nested function and in `tf.map_fn` a tensor of the
            # forward pass is out of reach here.
            return gradient, lambda u: resized(u, tf.shape(g)[1:3])

        return transpose(g)

    images = tf.convert_to_tensor(images)
    if not images.dtype.is_floating:
        return original(images=images, size=size, name=name, **settings)
    return resized(images, size, name)


def _resize_area(original, images, size, align_corners=False, name=None):
    """A product with two matrices, one for rows and one for columns."""
    images = tf.convert_to_tensor(images)
    if not images.dtype.is_floating:
        return original(images=images, size=size, align_corners=align_corners, name=name)
    images = tf.cast(images, tf.float32)
    size = tf.convert_to_tensor(size)

    def matrix(new, old):
        # What becomes of the unit vectors, [old, new]: the other axis is only copied.
        identity = tf.eye(old, dtype=tf.float32)[:, :, tf.newaxis, tf.newaxis]
        resized = original(images=identity, size=tf.stack([new, 1]), align_corners=align_corners)
        return tf.reshape(resized, tf.stack([old, new]))

    shape = tf.shape(images)
    rows, columns = matrix(size[0], shape[1]), matrix(size[1], shape[2])
    resized = tf.einsum("nhwc,hi,wj->nijc", images, rows, columns)
    new = tf.get_static_value(size)
    resized.set_shape([images.shape[0], *([None, None] if new is None else new), images.shape[3]])
    return resized


def _hsv_to_rgb(original, images, name=None):
    """Piecewise linear in hue: v - v s max(0, min(k, 4 - k, 1)), k = (n + 6 hue) mod 6."""
    with tf.name_scope(name or "hsv_to_rgb"):
        images = tf.convert_to_tensor(images)
        hue, saturation, value = (images[..., i : i + 1] for i in range(3))
        k = tf.math.floormod(tf.constant([5, 3, 1], images.dtype) + 6 * hue, 6)
        part = tf.clip_by_value(tf.minimum(k, 4 - k), 0, 1)
        return value - value * saturation * part
