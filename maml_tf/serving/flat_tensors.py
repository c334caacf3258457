"""Tensors of several shapes and types as one vector, which a client keeps and gives back."""

import tensorflow as tf


class FlatTensors:
    """Joins tensors into a vector `[size]`, and splits such a vector again.

    Args:
        like: list of tensors or variables of floating types, whose shapes and dtypes are meant.

    Attributes:
        size: int, the numbers in all tensors.
        dtype: the widest of the dtypes, in which each of them is exact.

    Example:
        >>> flat = FlatTensors([tf.zeros([2, 2]), tf.zeros([3])])
        >>> flat.join([tf.ones([2, 2]), tf.zeros([3])]).numpy()
        array([1., 1., 1., 1., 0., 0., 0.], dtype=float32)
    """

    def __init__(self, like):
        self._like = [tf.TensorSpec(t.shape, t.dtype) for t in like]
        self._sizes = [s.shape.num_elements() for s in self._like]
        self.size = sum(self._sizes)
        self.dtype = max((s.dtype for s in self._like), key=lambda dtype: dtype.size)

    def join(self, tensors):
        """The vector of `tensors`, a list in the order and shapes of `like`."""
        return tf.concat([tf.reshape(tf.cast(t, self.dtype), [-1]) for t in tensors], 0)

    def split(self, vector):
        """The list of tensors in the shapes and dtypes of `like` whose vector is `[size]`."""
        if len(self._sizes) == 1:
            # TensorFlow takes a split into one part out of the graph, and has the reshape of a
            # vector of another size fail before the check of its size that it is to wait for.
            missing = tf.maximum(self.size - tf.size(vector), 0)
            vector = tf.pad(vector, [[0, missing]])[: self.size]
        parts = tf.split(vector, self._sizes)
        return [
            tf.cast(tf.reshape(part, s.shape), s.dtype)
            for part, s in zip(parts, self._like, strict=True)
        ]
