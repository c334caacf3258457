"""What a learner adapts to, as tensors by name that a client keeps and gives back."""

import tensorflow as tf

from maml_tf.serving import requests
from maml_tf.serving.flat_tensors import FlatTensors


class AdaptedTensors:
    """Adapted values as the entries `weights` of requests and answers.

    All of it is one vector where its numbers are known beforehand; otherwise (prototypes of any
    number of classes) its tensors stay as they are, `weights` or `weights_0`, `weights_1`, ….

    Args:
        adapted: an adapted value, or the specs of one.
    """

    def __init__(self, adapted):
        self._spec = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), adapted)
        parts = tf.nest.flatten(self._spec)
        whole = all(s.dtype.is_floating and s.shape.is_fully_defined() for s in parts)
        self._flat = FlatTensors(parts) if whole else None

    def specs(self):
        """Dict of `tf.TensorSpec` by name."""
        if self._flat is not None:
            return {"weights": tf.TensorSpec([None], self._flat.dtype, name="weights")}
        entries = requests.entries("weights", self._spec)
        return {n: tf.TensorSpec(s.shape, s.dtype, name=n) for n, s in entries.items()}

    def pack(self, adapted):
        """Dict of tensors by name of an adapted value."""
        if self._flat is not None:
            return {"weights": self._flat.join(tf.nest.flatten(adapted))}
        return requests.entries("weights", adapted)

    def unpack(self, weights):
        """The adapted value of such a dict."""
        if self._flat is not None:
            tensors = self._flat.split(weights["weights"])
            return tf.nest.pack_sequence_as(self._spec, tensors)
        return requests.collect(weights, "weights", self._spec)

    def checked(self, weights):
        """Such a dict, once its numbers are finite and as many as `pack` gave."""
        checks = [requests.finite(n, t) for n, t in weights.items() if t.dtype.is_floating]
        if self._flat is not None:
            wanted, given = self._flat.size, tf.size(weights["weights"])
            message = (
                f"Expected the {wanted} weights that `adapt` gave. Give all of them back. "
                "Received: as many as"
            )
            checks.insert(0, requests.expect(tf.equal(given, wanted), message, given))
        return requests.after(checks, weights)

    def some(self):
        """Arrays by name, zeros, of any size where it is free."""
        zeros = tf.nest.map_structure(
            lambda s: tf.zeros([5 if n is None else n for n in s.shape], s.dtype), self._spec
        )
        return {name: tensor.numpy() for name, tensor in self.pack(zeros).items()}
