"""What an exported learner computes of a request's tensors, each answer with its checks.

A request that cannot be answered (no support example, more than the export's limit, labels that
the model has no output for, numbers that are not finite, steps below 0, an adaptation that runs
away) is an error that says so, and changes nothing for the next one: what is answered is finite.
Only `tasks`, whose rows a server may have put together from several clients, answers NaN for such
a row and leaves the others alone.
"""

import tensorflow as tf

from maml_tf import functional
from maml_tf.learners.base import specs
from maml_tf.learners.base.task import Support
from maml_tf.serving import request_rows, requests
from maml_tf.serving.adapted_tensors import AdaptedTensors


class Answers:
    """Functions of an exported learner over the plain variables of `module`.

    A Keras model would be saved along, with variables of its own: twice the size.

    Args:
        learner: a compiled `maml_tf.Learner`.
        inner_steps: int, the default number of steps; None for a learner that takes none.
        max_inner_steps: int; requests for more steps get as many.
        limits: `maml_tf.serving.requests.Limits`, how much a request may hold.
        x_spec: structure of `tf.TensorSpec` `[None, ...]`, the model's inputs.
        y_spec: structure of `tf.TensorSpec` `[None, ...]`, labels.

    Raises:
        ValueError: inputs that the model or labels that the loss does not take.
    """

    def __init__(self, learner, inner_steps, max_inner_steps, limits, x_spec, y_spec):
        self._learner = learner
        self._default, self._most, self._limits = inner_steps, max_inner_steps, limits
        self._x, self._y = x_spec, y_spec
        self.outputs = specs.output_spec(learner, x_spec)
        self.labels = specs.labels(learner, x_spec, y_spec)
        # Whether a prediction depends on the other queries of its request.
        self.transductive = learner.batch_norm == "transductive" and bool(
            functional.batch_norm_layers(learner.model)
        )
        self.module = tf.Module(name="learner")
        self.module.weights = [tf.Variable(v.value, name="w") for v in learner.trainable_variables]
        self.module.state = [
            tf.Variable(v.value, name="s") for v in learner.non_trainable_variables
        ]
        self.weights = None  # `AdaptedTensors`, once they are known

    def look_at_what_is_adapted(self):
        """Learns of which tensors the adapted value consists."""
        adapted = self.unadapted()
        if adapted is None:
            support = (self._x, self._y)
            traced = tf.function(
                lambda x, y: self._adapt_unchecked(
                    x, y, None if self._default is None else tf.constant(0)
                ),
                autograph=False,
            )
            adapted = traced.get_concrete_function(*support).structured_outputs
        self.weights = AdaptedTensors(adapted)

    def adapt_and_predict(self, support_x, support_y, query_x, inner_steps=None):
        """Predictions of one task, once the support set, the queries and they are good."""
        adapted = self.adapted(support_x, support_y, inner_steps)
        return self._checked_predictions(adapted, query_x)

    def predict_with(self, query_x, **weights):
        """Predictions with what `adapted` gave."""
        return self._checked_predictions(self.weights.checked(weights), query_x)

    def predict(self, query_x, query_count=None):
        """Predictions at the meta-learned weights."""
        query_x = self._checked_query(query_x)
        if query_count is not None:
            given = requests.size(query_x)
            message = (
                "Expected `query_count` to be the number of examples in `query_x`. Give both as "
                "they are in one request. Received: query_count and examples ="
            )
            check = requests.expect(tf.equal(given, query_count), message, query_count, given)
            query_x = requests.after([check], query_x)
        return _finite_answer(self._predictions(self.weights.pack(self.unadapted()), query_x))

    def adapted(self, support_x, support_y, inner_steps=None, support_weight=None):
        """What is adapted, by name, once the support set and it are good."""
        if support_weight is not None:
            support_weight = requests.checked_weight(support_weight, requests.size(support_x))
        support_x, support_y = requests.checked_support(
            support_x, support_y, self.labels, self._limits.support
        )
        if inner_steps is not None:
            check = requests.expect(
                inner_steps >= 0,
                "Expected inner_steps of at least 0. Give 0 for predictions without adaptation. "
                "Received: inner_steps =",
                inner_steps,
            )
            inner_steps = requests.after([check], inner_steps)
        adapted = self.weights.pack(
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

    def tasks(self, support_x, support_y, query_x, support_count, query_count, inner_steps=None):
        """Predictions of several tasks, one a row; NaN for a row that is wrong."""

        def one(row):
            support_x, support_y, query_x, supports, queries, *steps = row
            total = requests.size(query_x)
            good = request_rows.is_good_row(
                support_x, support_y, query_x, supports, queries, self.labels, self._limits
            )
            good &= tf.reduce_all([s >= 0 for s in steps])
            most = tf.minimum(requests.size(support_x), self._limits.support)
            supports = tf.clip_by_value(supports, 1, tf.maximum(most, 1))
            queries = tf.clip_by_value(queries, 0, tf.minimum(total, self._limits.queries))
            # What raises no error, in the place of what would; the answer is NaN all the same.
            support_x, support_y = request_rows.zeros_unless(
                good, tf.nest.map_structure(lambda t: t[:supports], (support_x, support_y))
            )
            query_x = request_rows.zeros_unless(
                good, tf.nest.map_structure(lambda t: t[:queries], query_x)
            )
            steps = tf.where(good, steps[0], 0) if steps else None
            weights = self.weights.pack(self._adapt_unchecked(support_x, support_y, steps))
            good &= requests.are_finite(weights.values())
            y = self._predictions(weights, query_x)
            good &= requests.are_finite(y.values())
            return {name: request_rows.padded(tensor, total, good) for name, tensor in y.items()}

        rows = (support_x, support_y, query_x, support_count, query_count)
        rows += () if inner_steps is None else (inner_steps,)
        answer = {
            name: tf.TensorSpec([None, *t.shape[1:]], t.dtype)
            for name, t in requests.entries("predictions", self.outputs).items()
        }
        return tf.map_fn(one, rows, fn_output_signature=answer, parallel_iterations=2)

    def unadapted(self):
        """The value before adaptation; None where nothing predicts without a support set."""
        with self._scope():
            return self._learner.unadapted()

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
                self.weights.unpack(weights),
                query_x,
                mode=self._learner.mode(training=False),
                then=lambda y: y,
            )
        return requests.entries("predictions", y)

    def _scope(self):
        values = (
            [tf.convert_to_tensor(v) for v in vs] for vs in (self.module.weights, self.module.state)
        )
        return self._learner.with_values(*values)


def _finite_answer(predictions):
    """Predictions by name, once they are finite: JSON has no other numbers."""
    checks = [requests.finite(n, t) for n, t in predictions.items() if t.dtype.is_floating]
    return requests.after(checks, predictions)
