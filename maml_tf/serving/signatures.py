"""What an exported learner answers: pure functions of a request's tensors, one a signature.

    adapt_and_predict(support_x, support_y, query_x, inner_steps) -> predictions
    adapt(support_x, support_y, inner_steps) -> weights            one flat tensor
    adapt_weighted(support_x, support_y, support_weight, inner_steps) -> weights       if asked for
    predict_with(weights, query_x) -> predictions
    adapt_and_predict_tasks(..., support_count, query_count)       one row is one task
    predict(query_x[, query_count]) -> predictions                 at the meta-learned weights

What is adapted is whatever the learner says: `weights` is all of it as one tensor where its numbers
are known beforehand, and else its tensors as they are (prototypes of any number of classes). A
learner that takes no steps has no `inner_steps`, and no `predict` where nothing predicts without a
support set.

What is computed, and which requests are refused, is `maml_tf.serving.answers`. What normalises
queries with each other must not be put together by a server: a scalar among the inputs
(`inner_steps`, `query_count`) makes one that batches refuse it.
"""

import inspect

import tensorflow as tf

from maml_tf.serving import examples, request_rows, requests, resources
from maml_tf.serving.answers import Answers


class Signatures:
    """The functions of an exported learner, traced under the names that a request gives tensors.

    Args:
        learner: a compiled `maml_tf.Learner`.
        inner_steps: int, the default number of steps.
        max_inner_steps: int; requests for more steps get as many.
        limits: `maml_tf.serving.requests.Limits`, how much a request may hold.
        x_spec: structure of `tf.TensorSpec` `[None, ...]`, the model's inputs.
        y_spec: structure of `tf.TensorSpec` `[None, ...]`, labels.
        weighted: bool, whether there is `adapt_weighted`.

    Raises:
        ValueError: inputs that the model or labels that the loss does not take.
    """

    def __init__(
        self, learner, inner_steps, max_inner_steps, limits, x_spec, y_spec, weighted=False
    ):
        self._answers = Answers(learner, inner_steps, max_inner_steps, limits, x_spec, y_spec)
        self._learner, self._default = learner, inner_steps
        self._x, self._y, self._weighted = x_spec, y_spec, weighted
        self.module = self._answers.module

    def all(self):
        """`tf.function`s and concrete functions by signature name.

        Raises:
            ValueError: an adaptation that cannot be traced for such inputs and labels, or that
                uses a resource which cannot be exported.
        """
        try:
            self._answers.look_at_what_is_adapted()
            adapt = self._concrete(self._answers.adapted, ("support_x", "support_y"))
            _concrete_of(adapt)
        except Exception as error:
            raise ValueError(
                "Expected a learner that adapts to the inputs and labels of the export. Received: "
                f"x_spec={self._x} and y_spec={self._y}, for which adaptation fails: {error}"
            ) from error
        one = self._concrete(self._answers.adapt_and_predict, ("support_x", "support_y", "query_x"))
        functions = {
            "serving_default": one,
            "adapt_and_predict": one,
            "adapt": adapt,
            "predict_with": self._concrete(self._answers.predict_with, ("query_x",), weights=True),
        }
        if all(None not in t.shape[1:] for t in tf.nest.flatten(self._answers.outputs)):
            # Answers of one shape for all rows.
            functions["adapt_and_predict_tasks"] = self._concrete_tasks()
        if self._weighted:
            more = {"support_weight": tf.TensorSpec([None], tf.float32, name="support_weight")}
            parts = ("support_x", "support_y")
            functions["adapt_weighted"] = self._concrete(self._answers.adapted, parts, more=more)
        if self._answers.unadapted() is not None:
            functions["predict"] = self._concrete_predict()
        resources.track(self.module, self._learner, [_concrete_of(f) for f in functions.values()])
        return functions

    def examples(self):
        """Small requests for every signature: dicts of arrays by signature."""
        adapted = self._answers.unadapted()
        weights = self._answers.weights.some()
        if adapted is not None:
            weights = {name: t.numpy() for name, t in self._answers.weights.pack(adapted).items()}
        return examples.requests_of(
            self._x,
            self._y,
            self._answers.labels,
            self._default,
            weights,
            self._answers.transductive,
        )

    def _concrete_predict(self):
        specs, structures = self._specs(("query_x",), axes=())
        if self._answers.transductive:
            specs["query_count"] = tf.TensorSpec([], tf.int32, name="query_count")

        def flat(**tensors):
            return self._answers.predict(**_parts(requests.of_shape(tensors, specs), structures))

        return tf.function(flat, autograph=False).get_concrete_function(**specs)

    def _concrete(self, function, parts, weights=False, more=None):
        """Traces a function of one task for tensors of `parts` and what else it takes."""
        specs, structures = self._specs(parts, axes=())
        specs |= more or {}
        if weights:
            specs |= self._answers.weights.specs()
        elif self._default is not None:
            specs["inner_steps"] = tf.TensorSpec([], tf.int32, name="inner_steps")

        def flat(**tensors):
            return function(**_parts(requests.of_shape(tensors, specs), structures))

        if "inner_steps" in specs:
            # A tensor as default: gRPC clients may leave the number of steps out.
            return _with_default(flat, specs, tf.constant(self._default, tf.int32))
        return tf.function(flat, autograph=False).get_concrete_function(**specs)

    def _concrete_tasks(self):
        specs, structures = self._specs(("support_x", "support_y", "query_x"), axes=(None,))
        counts = ["support_count", "query_count"]
        for name in counts if self._default is None else ["inner_steps", *counts]:
            specs[name] = tf.TensorSpec([None], tf.int32, name=name)

        support = [n for n in specs if n.startswith(("support_x", "support_y"))]
        query = [n for n in specs if n.startswith("query_x")]

        def flat(**tensors):
            # In the order of `specs`: the support set is what the others are compared with.
            tensors = requests.of_shape({name: tensors[name] for name in specs}, specs)
            return self._answers.tasks(
                **_parts(request_rows.checked_rows(tensors, support, query), structures)
            )

        return tf.function(flat, autograph=False).get_concrete_function(**specs)

    def _specs(self, parts, axes):
        """Specs by name of the tensors of `parts`, and their structures by part."""
        structures = {part: self._y if part == "support_y" else self._x for part in parts}
        specs = {}
        for part, structure in structures.items():
            for name, s in requests.entries(part, structure).items():
                specs[name] = tf.TensorSpec([*axes, *s.shape], s.dtype, name=name)
        return specs, structures


def _concrete_of(function):
    return getattr(function, "get_concrete_function", lambda: function)()


def _parts(tensors, structures):
    """The tensors of a request as structures by part; the others as they are, by name."""
    parts = {part: requests.collect(tensors, part, s) for part, s in structures.items()}
    taken = {name for part, s in structures.items() for name in requests.entries(part, s)}
    return parts | {name: t for name, t in tensors.items() if name not in taken}


def _with_default(function, specs, default):
    """A `tf.function` of `specs` whose `inner_steps`, the last, has a default as a signature.

    `tf.saved_model.save` reads defaults off the parameters of a function and wants them last.
    """
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=default if name == "inner_steps" else inspect.Parameter.empty,
        )
        for name in specs
    ]

    # `tf.saved_model.save` traces what it is given once more: here only the call of a function that
    # has been traced.
    traced = tf.function(function, autograph=False).get_concrete_function(**specs)

    def call(*tensors):
        return traced(**dict(zip(specs, tensors, strict=True)))

    call.__signature__ = inspect.Signature(parameters)
    return tf.function(call, autograph=False, input_signature=list(specs.values()))
