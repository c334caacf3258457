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

A request that cannot be answered (no support example, more than the export's limit, labels that
the model has no output for, numbers that are not finite, steps below 0, an adaptation that runs
away) is an error that says so, and changes nothing for the next one: what is answered is finite.
Only `adapt_and_predict_tasks`, whose rows a server may have put together from several clients,
answers NaN for such a row and leaves the others alone. What normalises queries with each other must
not be put together at all: a scalar among the inputs (`inner_steps`, `query_count`) makes a server
that batches refuse it.
"""

import inspect

import tensorflow as tf

from maml_tf import functional
from maml_tf.learners.base import specs
from maml_tf.learners.base.task import Support
from maml_tf.serving import examples, requests, resources
from maml_tf.serving.adapted_tensors import AdaptedTensors


class Signatures:
    """Functions of an exported learner over the plain variables of `module`.

    A Keras model would be saved along, with variables of its own: twice the size.

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
        self._learner = learner
        self._default, self._most, self._limits = inner_steps, max_inner_steps, limits
        self._x, self._y, self._weighted = x_spec, y_spec, weighted
        self._outputs = specs.output_spec(learner, x_spec)
        self._labels = specs.labels(learner, x_spec, y_spec)
        # Whether a prediction depends on the other queries of its request.
        self._transductive = learner.batch_norm == "transductive" and bool(
            functional.batch_norm_layers(learner.model)
        )
        self.module = tf.Module(name="learner")
        self.module.weights = [tf.Variable(v.value, name="w") for v in learner.trainable_variables]
        self.module.state = [
            tf.Variable(v.value, name="s") for v in learner.non_trainable_variables
        ]
        self._weights = None  # `AdaptedTensors`, once they are known

    def all(self):
        """`tf.function`s and concrete functions by signature name.

        Raises:
            ValueError: an adaptation that cannot be traced for such inputs and labels, or that
                uses a resource which cannot be exported.
        """
        try:
            self._look_at_what_is_adapted()
            adapt = self._concrete(self._adapted, ("support_x", "support_y"))
            _concrete_of(adapt)
        except Exception as error:
            raise ValueError(
                "Expected a learner that adapts to the inputs and labels of the export. Received: "
                f"x_spec={self._x} and y_spec={self._y}, for which adaptation fails: {error}"
            ) from error
        one = self._concrete(self._adapt_and_predict, ("support_x", "support_y", "query_x"))
        functions = {
            "serving_default": one,
            "adapt_and_predict": one,
            "adapt": adapt,
            "predict_with": self._concrete(self._predict_with, ("query_x",), weights=True),
        }
        if all(None not in t.shape[1:] for t in tf.nest.flatten(self._outputs)):
            # Answers of one shape for all rows.
            functions["adapt_and_predict_tasks"] = self._concrete_tasks()
        if self._weighted:
            more = {"support_weight": tf.TensorSpec([None], tf.float32, name="support_weight")}
            parts = ("support_x", "support_y")
            functions["adapt_weighted"] = self._concrete(self._adapted, parts, more=more)
        if self._unadapted() is not None:
            functions["predict"] = self._concrete_predict()
        resources.track(self.module, self._learner, [_concrete_of(f) for f in functions.values()])
        return functions

    def examples(self):
        """Small requests for every signature: dicts of arrays by signature."""
        adapted = self._unadapted()
        weights = self._weights.some()
        if adapted is not None:
            weights = {name: t.numpy() for name, t in self._weights.pack(adapted).items()}
        return examples.requests_of(
            self._x, self._y, self._labels, self._default, weights, self._transductive
        )

    # One task.

    def _adapt_and_predict(self, support_x, support_y, query_x, inner_steps=None):
        adapted = self._adapted(support_x, support_y, inner_steps)
        return self._checked_predictions(adapted, query_x)

    def _predict_with(self, query_x, **weights):
        return self._checked_predictions(self._weights.checked(weights), query_x)

    def _predict(self, query_x, query_count=None):
        query_x = self._checked_query(query_x)
        if query_count is not None:
            given = requests.size(query_x)
            message = (
                "Expected `query_count` to be the number of examples in `query_x`. Give both as "
                "they are in one request. Received: query_count and examples ="
            )
            check = requests.expect(tf.equal(given, query_count), message, query_count, given)
            query_x = requests.after([check], query_x)
        return _finite_answer(self._predictions(self._weights.pack(self._unadapted()), query_x))

    def _adapted(self, support_x, support_y, inner_steps=None, support_weight=None):
        """What is adapted, by name, once the support set and it are good."""
        if support_weight is not None:
            support_weight = requests.checked_weight(support_weight, requests.size(support_x))
        support_x, support_y = requests.checked_support(
            support_x, support_y, self._labels, self._limits.support
        )
        if inner_steps is not None:
            check = requests.expect(
                inner_steps >= 0,
                "Expected inner_steps of at least 0. Give 0 for predictions without adaptation. "
                "Received: inner_steps =",
                inner_steps,
            )
            inner_steps = requests.after([check], inner_steps)
        adapted = self._weights.pack(
            self._adapt_unchecked(support_x, support_y, inner_steps, support_weight)
        )
        check = requests.expect(
            requests.are_finite(adapted.values()),
            "Expected an adaptation that stays finite. Ask for fewer steps, look for examples of "
            "another scale than in training, or export a learner with a smaller inner step size. "
            "Received: weights that are NaN or infinite; inner_steps =",
            "none" if inner_steps is None else inner_steps,
        )
        return requests.after([check], adapted)

    def _adapt_unchecked(self, support_x, support_y, inner_steps, weight=None):
        steps = None if inner_steps is None else tf.minimum(inner_steps, self._most)
        with self._scope():
            return self._learner.adapt_task(
                Support(support_x, support_y, weight),
                steps=steps,
                mode=self._learner.mode(training=False),
            )

    def _checked_query(self, query_x):
        query_x = requests.checked_x("query_x", query_x, self._limits.queries, "max_queries")
        count = requests.size(query_x)
        message = (
            "Expected at least one query. Leave the request out. Received: examples in query_x ="
        )
        return requests.after([requests.expect(count >= 1, message, count)], query_x)

    def _checked_predictions(self, weights, query_x):
        return _finite_answer(self._predictions(weights, self._checked_query(query_x)))

    def _predictions(self, weights, query_x):
        with self._scope():
            y = self._learner.predict_adapted(
                self._weights.unpack(weights),
                query_x,
                mode=self._learner.mode(training=False),
                then=lambda y: y,
            )
        return requests.entries("predictions", y)

    # The learner at the variables of the module, and what is adapted as tensors by name.

    def _scope(self):
        values = (
            [tf.convert_to_tensor(v) for v in vs] for vs in (self.module.weights, self.module.state)
        )
        return self._learner.with_values(*values)

    def _unadapted(self):
        with self._scope():
            return self._learner.unadapted()

    def _look_at_what_is_adapted(self):
        """Learns of which tensors the adapted value consists."""
        adapted = self._unadapted()
        if adapted is None:
            support = (self._x, self._y)
            traced = tf.function(
                lambda x, y: self._adapt_unchecked(
                    x, y, None if self._default is None else tf.constant(0)
                ),
                autograph=False,
            )
            adapted = traced.get_concrete_function(*support).structured_outputs
        self._weights = AdaptedTensors(adapted)

    # Several tasks, one a row.

    def _tasks(self, support_x, support_y, query_x, support_count, query_count, inner_steps=None):
        def one(row):
            support_x, support_y, query_x, supports, queries, *steps = row
            total = requests.size(query_x)
            good = requests.is_good_row(
                support_x, support_y, query_x, supports, queries, self._labels, self._limits
            )
            good &= tf.reduce_all([s >= 0 for s in steps])
            most = tf.minimum(requests.size(support_x), self._limits.support)
            supports = tf.clip_by_value(supports, 1, tf.maximum(most, 1))
            queries = tf.clip_by_value(queries, 0, tf.minimum(total, self._limits.queries))
            # What raises no error, in the place of what would; the answer is NaN all the same.
            support_x, support_y = requests.zeros_unless(
                good, tf.nest.map_structure(lambda t: t[:supports], (support_x, support_y))
            )
            query_x = requests.zeros_unless(
                good, tf.nest.map_structure(lambda t: t[:queries], query_x)
            )
            steps = tf.where(good, steps[0], 0) if steps else None
            weights = self._weights.pack(self._adapt_unchecked(support_x, support_y, steps))
            good &= requests.are_finite(weights.values())
            y = self._predictions(weights, query_x)
            good &= requests.are_finite(y.values())
            return {name: requests.padded(tensor, total, good) for name, tensor in y.items()}

        rows = (support_x, support_y, query_x, support_count, query_count)
        rows += () if inner_steps is None else (inner_steps,)
        answer = {
            name: tf.TensorSpec([None, *t.shape[1:]], t.dtype)
            for name, t in requests.entries("predictions", self._outputs).items()
        }
        return tf.map_fn(one, rows, fn_output_signature=answer, parallel_iterations=2)

    # Concrete functions.

    def _concrete_predict(self):
        specs, structures = self._specs(("query_x",), axes=())
        if self._transductive:
            specs["query_count"] = tf.TensorSpec([], tf.int32, name="query_count")

        def flat(**tensors):
            return self._predict(**_parts(requests.of_shape(tensors, specs), structures))

        return tf.function(flat, autograph=False).get_concrete_function(**specs)

    def _concrete(self, function, parts, weights=False, more=None):
        """Traces a function of one task for tensors of `parts` and what else it takes."""
        specs, structures = self._specs(parts, axes=())
        specs |= more or {}
        if weights:
            specs |= self._weights.specs()
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
            return self._tasks(**_parts(requests.checked_rows(tensors, support, query), structures))

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


def _finite_answer(predictions):
    """Predictions by name, once they are finite: JSON has no other numbers."""
    checks = [requests.finite(n, t) for n, t in predictions.items() if t.dtype.is_floating]
    return requests.after(checks, predictions)


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
