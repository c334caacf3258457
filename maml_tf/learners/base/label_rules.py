"""Which labels a loss can take, and the words and the operation for those that it cannot.

A sparse classification loss takes whole numbers from 0 to the number of outputs - 1. Where these
rules come from, and where they are looked at, is `maml_tf.learners.base.labels`.
"""

import re

import numpy as np
import tensorflow as tf

# What an assertion says, to a client of an exported learner too; `labels.explained` reads it again.
_ASSERTED = "Expected {} to hold whole numbers in [0, {}), or {}. Received labels from and to:"
WAYS = (
    "Expected a task batch whose support sets all name the same number of classes: their "
    "predictions are one tensor. Batch tasks of as many classes together; other batches may have "
    "other numbers. Received: from and to classes ="
)
# In the place of a number of classes, where it is not known beforehand.
_ALL = "the number of classes of the support set"
PATTERN = re.escape(_ASSERTED).replace(r"\{\}", r"(.+?)") + r"\] \[(\S+)\] \[(\S+)\]"


class SameWays:
    """That all tasks of a batch have as many classes, where each tells how many by its labels.

    Args:
        support: support labels, `[T, S, ...]`.
    """

    # XLA, which cannot raise, has to be given the number: there is nothing to spoil.
    key = classes = None

    def __init__(self, support):
        self._support = support

    def check(self):
        """Raises a ValueError for concrete labels of tasks of different ways."""
        least, most = self._numbers()
        if int(least) != int(most):
            raise ValueError(f"{WAYS} [{int(least)}] [{int(most)}]")

    def assertion(self):
        """An operation that fails where tasks are of different ways."""
        least, most = self._numbers()
        return tf.debugging.Assert(tf.equal(least, most), [WAYS, least, most])

    def _numbers(self):
        counts = _ways_named(tf.convert_to_tensor(self._support))
        return tf.reduce_min(counts), tf.reduce_max(counts)


def _ways_named(support):
    """How many different labels there are in each row of `[T, S, ...]`: int32 `[T]`."""
    named = tf.sort(tf.reshape(support, [tf.shape(support)[0], -1]), axis=-1)
    return 1 + tf.reduce_sum(tf.cast(named[:, 1:] != named[:, :-1], tf.int32), -1)


class Rule:
    """Labels of one part of a task batch, and which of them there is an output for.

    Args:
        key: str, "support_y" or "query_y".
        path: tuple, where in that structure: empty for a learner of one output.
        values: array or tensor of labels.
        classes: int, outputs of the model; None for as many as the support set names.
        ignored: int, the label that the loss passes over, or None.
        support: support labels, `[T, S, ...]`, or `[1, S, ...]` of one task, where every class of a
            task must be among them; None where it need not.
    """

    def __init__(self, key, path, values, classes, ignored=None, support=None):
        self.key, self.path, self.classes, self.ignored = key, path, classes, ignored
        self.name = key + "".join(f"[{part!r}]" for part in path)
        self._values, self._support = values, support

    def check(self):
        """Raises a ValueError for concrete labels that break the rule."""
        values = np.asarray(self._values)
        if values.size:
            self._raise(*(np.asarray(x) for x in self._broken(tf.constant(values))))

    def assertion(self):
        """An operation that fails where labels break the rule; to be run before the step."""
        broken, lowest, highest = self._broken(tf.convert_to_tensor(self._values))
        text = _ASSERTED.format(self.name, self._told(), self.ignored)
        return tf.debugging.Assert(~broken, [text, lowest, highest])

    def spoiled(self):
        """The labels, those that break the rule replaced by one that makes the loss NaN in XLA."""
        values = tf.convert_to_tensor(self._values)
        return tf.where(self._wrong(values), tf.cast(self.classes, values.dtype), values)

    def _broken(self, values):
        wrong = self._wrong(values)
        if values.dtype == tf.bool:
            values = tf.cast(values, tf.int32)
        return tf.reduce_any(wrong), tf.reduce_min(values), tf.reduce_max(values)

    def _wrong(self, values):
        # As wide as the number of classes may need: uint8 does not hold 300.
        wide = values if values.dtype.is_floating else tf.cast(values, tf.int64)
        outputs = self._outputs(wide.dtype)
        wrong = (wide < 0) | (wide >= outputs)
        if self._support is not None and self.classes is not None:
            # A class without an example would be answered by NaN.
            wrong |= outputs != self.classes
        if values.dtype.is_floating:
            wrong |= values != tf.floor(values)  # NaN is among them
        if self.ignored is not None:
            wrong &= values != tf.cast(self.ignored, values.dtype)
        return wrong

    def _outputs(self, dtype):
        """How many classes there are, or for each task `[T, 1]` how many its support set names."""
        if self._support is None:
            return self.classes
        count = tf.cast(_ways_named(self._support), dtype)
        return tf.reshape(count, [-1, *[1] * (len(self._values.shape) - 1)])

    def _raise(self, broken, lowest, highest):
        if broken:
            raise error_of(self.name, self._told(), self.ignored, lowest, highest)

    def _told(self):
        """How many classes there are, in words where the support set tells it."""
        if self._support is None:
            return self.classes
        return _ALL if self.classes is None else f"{_ALL}, {self.classes}"


def error_of(name, classes, ignored, lowest, highest):
    """The error for labels between these two."""
    if str(classes).startswith(_ALL):
        return ValueError(
            f"Expected labels in [0, {classes}), whole numbers, every class of a task among its "
            f"support labels. Received: {name!r} with labels from {lowest} to {highest}. Number "
            "the classes of each task from 0, and leave none out."
        )
    passed = "" if ignored is None else f" (and {ignored}, which the loss passes over)"
    return ValueError(
        f"Expected labels in [0, {classes}), whole numbers, one for each of the {classes} outputs "
        f"of the model{passed}. Received: {name!r} with labels from {lowest} to {highest}. Number "
        "the classes of each task from 0, or build the model with more outputs."
    )
