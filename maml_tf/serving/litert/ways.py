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
        self._view, self.ways = _but_for(learner, ways=ways), ways

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
    behind = learner if getattr(learner, "backbone", None) is None else learner.learner
    return isinstance(behind, EmbeddingLearner) and getattr(behind, "ways", 0) is None


def up_to(learner, ways):
    """A learner that `is_free`, with its backbone where it has one, of up to so many classes."""
    if getattr(learner, "backbone", None) is None:
        return UpTo(learner, ways)
    return _but_for(learner, learner=UpTo(learner.learner, ways))


def _but_for(learner, /, **attributes):
    """The learner itself but for some attributes, which another thread must not see."""
    view = object.__new__(type(learner))
    view.__dict__.update({**learner.__dict__, **attributes})
    return view
