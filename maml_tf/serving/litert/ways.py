"""A learner of any number of classes as one of a known largest number, for fixed shapes."""

import tensorflow as tf

from maml_tf.learners.base.embedding_learner import EmbeddingLearner


class UpTo:
    """A learner whose tasks have up to so many classes.

    Of a class without support examples nothing is known: it is left out of the head, and its
    prediction is the lowest number there is, which softmax takes for impossible.

    Args:
        learner: a `maml_tf.learners.EmbeddingLearner` whose `ways` are None.
        ways: int, the most classes.
    """

    def __init__(self, learner, ways):
        # The learner itself but for one attribute, which another thread must not see.
        view = object.__new__(type(learner))
        view.__dict__.update({**learner.__dict__, "ways": ways})
        self._view, self.ways = view, ways

    def __getattr__(self, name):
        return getattr(self._view, name)

    def adapt_task(self, support, *, steps, mode):
        """As the learner's, with `classes`: which of them there are, 1 or 0."""
        adapted = self._view.adapt_task(support, steps=steps, mode=mode)
        named = tf.one_hot(tf.cast(tf.reshape(support.y, [-1]), tf.int32), self.ways)
        there = tf.reduce_max(named * support.weight[:, tf.newaxis], 0) > 0

        def known(part):
            rows = tf.reshape(there, [-1, *[1] * (part.shape.rank - 1)])
            return tf.where(rows, part, tf.zeros_like(part))

        head = tf.nest.map_structure(known, adapted["head"])
        return {**adapted, "head": head, "classes": tf.cast(there, tf.float32)}

    def predict_adapted(self, adapted, query_x, *, mode, then):
        """As the learner's."""
        there = adapted["classes"] > 0
        return self._view.predict_adapted(
            {name: part for name, part in adapted.items() if name != "classes"},
            query_x,
            mode=mode,
            then=lambda y: then(tf.where(there, y, y.dtype.min)),
        )


def is_free(learner):
    """Whether a learner has as many classes as its support set names."""
    return isinstance(learner, EmbeddingLearner) and getattr(learner, "ways", 0) is None
