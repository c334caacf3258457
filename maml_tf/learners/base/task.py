"""One task as a method sees it."""

from typing import Any, NamedTuple

import tensorflow as tf


class Support(NamedTuple):
    """The labelled examples of one task.

    Attributes:
        x: inputs, a structure of tensors `[S, ...]`.
        y: labels, a structure of tensors `[S, ...]`.
        weight: float `[S]`, how much each example counts beside the others, or None where all
            count the same. What has a weight of 0 may be padding: the result is that of the others
            alone.
    """

    x: Any
    y: Any
    weight: Any = None

    @classmethod
    def of(cls, inputs):
        """The support set among the inputs of one task, a dict."""
        return cls(inputs["support_x"], inputs["support_y"], inputs.get("support_weight"))

    @property
    def counted(self):
        """Which examples count: bool `[S]`, or None for all."""
        return None if self.weight is None else self.weight > 0

    @property
    def relative_weight(self):
        """Weights whose mean is 1, float `[S]`, or None."""
        if self.weight is None:
            return None
        count = tf.cast(tf.size(self.weight), self.weight.dtype)
        return self.weight * (count / tf.reduce_sum(self.weight))

    def at(self, indices):
        """The examples of these numbers, int32 `[n]`."""
        parts = [
            part if part is None else tf.nest.map_structure(lambda t: tf.gather(t, indices), part)
            for part in self
        ]
        return Support(*parts)


class Mode(NamedTuple):
    """How a network runs.

    Attributes:
        training: `bool`, whether layers run in training mode (dropout).
        batch_norm: what batch normalisation uses for queries; see `maml_tf.Learner`.
        counted: which queries count where they are normalised by their own mean and variance:
            bool `[Q]`, or None for all. The others may be padding.
    """

    training: bool
    batch_norm: str
    counted: Any = None

    @property
    def norm_of_queries(self):
        """`batch_norm` of `maml_tf.functional.call` for queries."""
        return {"transductive": "batch", "support": "moving", "moving": None}[self.batch_norm]
