"""What a file for LiteRT computes: pure functions of tensors of known shapes, one a signature.

    adapt(support_x, support_y, support_count[, inner_steps]) -> weights
    predict_with(weights, query_x, query_count) -> predictions
    adapt_and_predict(support_x, support_y, support_count, query_x, query_count[, inner_steps])
        -> predictions

LiteRT knows no error in the middle of a computation. What a SavedModel refuses is answered with NaN
throughout: counts out of range, numbers that are not finite, labels that the model has no output
for, an adaptation that runs away.
"""

import numpy as np
import tensorflow as tf

from maml_tf import functional
from maml_tf.learners.base import specs
from maml_tf.learners.base.task import Mode, Support
from maml_tf.serving import requests
from maml_tf.serving.adapted_tensors import AdaptedTensors
from maml_tf.serving.litert import gradients, operations, recurrent


class Functions:
    """The functions of a learner whose variables are constants.

    Args:
        learner: a compiled `maml_tf.Learner` that knows how many classes it predicts.
        max_inner_steps: int, or None for a learner that takes no steps.
        limits: `maml_tf.serving.requests.Limits`: the sizes S and Q of the inputs.
        batch_norm: as in `maml_tf.Learner`.
        x_spec: structure of `tf.TensorSpec` `[None, ...]`, the model's inputs.
        y_spec: structure of `tf.TensorSpec` `[None, ...]`, labels.

    Raises:
        ValueError: inputs that the model or labels that the loss does not take.
    """

    def __init__(self, learner, max_inner_steps, limits, batch_norm, x_spec, y_spec):
        self._learner, self._most, self._batch_norm = learner, max_inner_steps, batch_norm
        self._limits = limits
        self._x, self._y = x_spec, y_spec
        self._labels = specs.labels(learner, x_spec, y_spec)
        self._values = [
            [v.numpy() for v in variables]
            for variables in (learner.trainable_variables, learner.non_trainable_variables)
        ]
        self._among_queries = batch_norm == "transductive" and bool(
            functional.batch_norm_layers(learner.model)
        )
        self._weights = None  # `AdaptedTensors`, once they are known

    @property
    def are_classes(self):
        """Whether all labels are classes."""
        return None not in self._labels

    def all(self):
        """Concrete functions by signature.

        Raises:
            ValueError: an adaptation that cannot be traced for such inputs and labels, or whose
                result has no size that is known beforehand.
        """
        support = self._sized("support_x", self._x, self._limits.support)
        support |= self._sized("support_y", self._y, self._limits.support)
        support["support_count"] = _count("support_count")
        query = self._sized("query_x", self._x, self._limits.queries)
        query["query_count"] = _count("query_count")
        steps = {} if self._most is None else {"inner_steps": _count("inner_steps")}
        with recurrent.unrolled(operations.layers_of(self._learner)):
            return self._all(support, query, steps)

    def _all(self, support, query, steps):
        try:
            adapt = _traced(self._adapt, support | steps)
        except Exception as error:
            raise ValueError(
                "Expected a learner that adapts to the inputs and labels of the export. Received: "
                f"x_spec={self._x} and y_spec={self._y}, for which adaptation fails: {error}"
            ) from error
        _check_sizes(adapt.structured_outputs)
        weights = {
            name: tf.TensorSpec(t.shape, t.dtype, name=name)
            for name, t in adapt.structured_outputs.items()
        }
        return {
            "adapt": adapt,
            "predict_with": _traced(self._predict_with, weights | query),
            "adapt_and_predict": _traced(self._adapt_and_predict, support | query | steps),
        }

    def requests(self):
        """A task of made-up numbers, as requests by signature: dicts of arrays.

        That of `predict_with` lacks the weights, which are what `adapt` answers.
        """
        random = np.random.default_rng(0)

        def made_up(part, structure, size, known):
            sized = self._sized(part, structure, size)
            return {
                name: _made_up(random, spec, labels)
                for (name, spec), labels in zip(sized.items(), known, strict=True)
            }

        inputs = [None] * len(tf.nest.flatten(self._x))
        support = made_up("support_x", self._x, self._limits.support, inputs)
        support |= made_up("support_y", self._y, self._limits.support, self._labels)
        support["support_count"] = np.int32(self._limits.support)
        query = made_up("query_x", self._x, self._limits.queries, inputs)
        query["query_count"] = np.int32(self._limits.queries)
        if self._most is not None:
            support["inner_steps"] = np.int32(min(self._most, 1))
        return {"adapt": support, "predict_with": query, "adapt_and_predict": support | query}

    # What is asked, by name.

    def _adapt(self, tensors):
        adapted, good = self._adapted(tensors)
        return _nan_unless(good, self._weights.pack(adapted))

    def _predict_with(self, tensors):
        weights = {name: t for name, t in tensors.items() if name.startswith("weights")}
        good = _are_finite(weights.values())
        return self._predictions(self._weights.unpack(weights), tensors, good)

    def _adapt_and_predict(self, tensors):
        adapted, good = self._adapted(tensors)
        return self._predictions(adapted, tensors, good)

    def _adapted(self, tensors):
        """The adapted value, and whether it may be used: bool scalar."""
        count = tensors["support_count"]
        rows = tf.range(self._limits.support) < count
        x = requests.collect(tensors, "support_x", self._x)
        y = requests.collect(tensors, "support_y", self._y)
        good = (count >= 1) & (count <= self._limits.support)
        good &= _are_finite(tf.nest.flatten((x, y)), rows)
        flat_y = []
        for part, known in zip(tf.nest.flatten(y), self._labels, strict=True):
            if known is not None:
                named = requests.is_label(part, known)
                good &= tf.reduce_all(named | ~_along(rows, named))
                # A label without an output would end some kernels.
                part = tf.where(named, part, tf.zeros_like(part))
            flat_y.append(part)
        y = tf.nest.pack_sequence_as(y, flat_y)
        steps = tensors.get("inner_steps")
        if steps is not None:
            good &= steps >= 0
            steps = tf.clip_by_value(steps, 0, self._most)
        support = Support(_filled(x, rows), _filled(y, rows), tf.cast(rows, tf.float32))
        with self._scope():
            adapted = self._learner.adapt_task(support, steps=steps, mode=self._mode())
        if self._weights is None:
            self._weights = AdaptedTensors(adapted)
        return adapted, good & _are_finite(tf.nest.flatten(adapted))

    def _predictions(self, adapted, tensors, good):
        count = tensors["query_count"]
        rows = tf.range(self._limits.queries) < count
        x = requests.collect(tensors, "query_x", self._x)
        good &= (count >= 1) & (count <= self._limits.queries)
        good &= _are_finite(tf.nest.flatten(x), rows)
        with self._scope():
            y = self._learner.predict_adapted(
                adapted, _filled(x, rows), mode=self._mode(rows), then=lambda y: y
            )
        good &= _are_finite(tf.nest.flatten(y))
        y = tf.nest.map_structure(lambda t: tf.where(_along(rows, t), t, tf.zeros_like(t)), y)
        return _nan_unless(good, requests.entries("predictions", y))

    # The learner.

    def _mode(self, counted=None):
        return Mode(False, self._batch_norm, counted if self._among_queries else None)

    def _scope(self):
        return self._learner.with_values(*[[tf.constant(v) for v in vs] for vs in self._values])

    @staticmethod
    def _sized(part, structure, size):
        """Specs by name of a structure of examples, as many as the file takes."""
        return {
            name: tf.TensorSpec([size, *s.shape[1:]], s.dtype, name=name)
            for name, s in requests.entries(part, structure).items()
        }


def _made_up(random, spec, known):
    if known is not None:
        return (
            (np.arange(np.prod(spec.shape)) % (known.classes or 1))
            .reshape(spec.shape)
            .astype(spec.dtype.as_numpy_dtype)
        )
    if spec.dtype.is_floating:
        return random.uniform(size=spec.shape).astype(spec.dtype.as_numpy_dtype)
    return np.zeros(spec.shape, spec.dtype.as_numpy_dtype)


def _count(name):
    return tf.TensorSpec([], tf.int32, name=name)


def _traced(function, signature):
    """`function` of a dict of tensors as a concrete function."""

    def flat(**tensors):
        with gradients.in_place():
            return function(tensors)

    return tf.function(flat, autograph=False).get_concrete_function(**signature)


def _check_sizes(adapted):
    for name, t in adapted.items():
        if not t.shape.is_fully_defined():
            raise ValueError(
                "Expected a learner that adapts to something of a known size, because a file for "
                f"LiteRT has fixed shapes. Received: one whose `{name}` are of shape {t.shape}. "
                "Serve it by `maml_tf.serving.export`."
            )


def _along(rows, t):
    """`rows` `[n]` in as many axes as `t` `[n, ...]` has."""
    return tf.reshape(rows, [-1, *[1] * (t.shape.rank - 1)])


def _filled(structure, rows):
    """Examples whose padding is the first one: whatever was there, it is as harmless as that.

    They pass through a matrix, because LiteRT lets inputs have other shapes than the file says,
    and refuses here what has another number of elements.
    """

    def filled(t):
        flat = tf.reshape(t, [t.shape[0], t.shape[1:].num_elements()])
        return tf.reshape(tf.where(rows[:, tf.newaxis], flat, flat[:1]), t.shape)

    return tf.nest.map_structure(filled, structure)


def _are_finite(tensors, rows=None):
    """Whether all floating numbers are finite, in the rows that count: bool scalar."""
    good = tf.constant(True)
    for t in tensors:
        if t.dtype.is_floating:
            # LiteRT lacks `is_finite`; what is not a number is not below anything.
            finite = tf.abs(t) <= t.dtype.max
            good &= tf.reduce_all(finite if rows is None else finite | ~_along(rows, t))
    return good


def _nan_unless(good, tensors):
    return {
        name: tf.where(good, t, tf.constant(float("nan"), t.dtype)) if t.dtype.is_floating else t
        for name, t in tensors.items()
    }
