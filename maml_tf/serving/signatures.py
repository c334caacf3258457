"""What an exported learner answers: pure functions of a request's tensors, one a signature.

    adapt_and_predict(support_x, support_y, query_x, inner_steps) -> predictions
    adapt(support_x, support_y, inner_steps) -> weights            one flat tensor
    predict_with(weights, query_x) -> predictions
    adapt_and_predict_tasks(..., support_count, query_count)       one row is one task
    predict(query_x[, query_count]) -> predictions                 at the meta-learned weights

A request that cannot be answered (no support example, labels that the model has no output for,
numbers that are not finite) is an error that says so, and changes nothing for the next one. Only
`adapt_and_predict_tasks`, whose rows a server may have put together from several clients, answers
NaN for such a row and leaves the others alone. What normalises queries with each other must not be
put together at all: a scalar among the inputs (`inner_steps`, `query_count`) makes a server that
batches refuse it.
"""

import inspect

import keras
import numpy as np
import tensorflow as tf

from maml_tf import functional
from maml_tf.learners import checks
from maml_tf.serving import requests
from maml_tf.serving.flat_tensors import FlatTensors


class Signatures:
    """Functions of an exported learner over the plain variables of `module`.

    A Keras model would be saved along, with variables of its own: twice the size.

    Args:
        learner: a compiled `maml_tf.Learner`.
        inner_steps: int, the default number of steps.
        max_inner_steps: int; requests for more get as many, those for less than 0 none.
        x_spec: structure of `tf.TensorSpec` `[None, ...]`, the model's inputs.
        y_spec: structure of `tf.TensorSpec` `[None, ...]`, labels.
    """

    def __init__(self, learner, inner_steps, max_inner_steps, x_spec, y_spec):
        self._learner = learner
        self._default, self._most = inner_steps, max_inner_steps
        self._x, self._y = x_spec, y_spec
        model = learner.model
        x = keras.tree.map_structure(lambda s: keras.KerasTensor(s.shape, s.dtype.name), x_spec)
        self._outputs = model.compute_output_spec(x)
        # How many outputs integer labels choose from; None for other labels.
        chooses = isinstance(y_spec, tf.TensorSpec) and checks.is_sparse(learner.loss)
        self._classes = self._outputs.shape[-1] if chooses else None
        # Whether a prediction depends on the other queries of its request.
        self._transductive = learner.batch_norm == "transductive" and bool(
            functional.batch_norm_layers(model)
        )
        self.module = tf.Module(name="learner")
        self.module.weights = [tf.Variable(v.value, name="w") for v in model.trainable_variables]
        self.module.state = [tf.Variable(v.value, name="s") for v in model.non_trainable_variables]
        # Integers (seeds, which prediction does not use) are left out.
        floating = [s for s in self.module.state if s.dtype.is_floating]
        self._flat = FlatTensors([*self.module.weights, *floating])

    def all(self):
        """`tf.function`s and concrete functions by signature name."""
        one = self._concrete(self._adapt_and_predict, ("support_x", "support_y", "query_x"))
        return {
            "serving_default": one,
            "adapt_and_predict": one,
            "adapt": self._concrete(self._adapt, ("support_x", "support_y")),
            "predict_with": self._concrete(self._predict_with, ("query_x",), weights=True),
            "adapt_and_predict_tasks": self._concrete_tasks(),
            "predict": self._concrete_predict(),
        }

    def examples(self):
        """Small requests that every signature can answer: dicts of arrays by signature."""
        classes = self._classes
        count = classes or 5

        def of(structure, labels=False):
            def array(spec):
                shape = [count, *[1 if n is None else n for n in spec.shape[1:]]]
                full = np.zeros(shape, spec.dtype.as_numpy_dtype)
                if labels and classes is not None:
                    full += np.arange(count, dtype=full.dtype).reshape(-1, *[1] * (full.ndim - 1))
                return full

            return keras.tree.map_structure(array, structure)

        steps = np.array(self._default, np.int32)
        support = {
            **requests.entries("support_x", of(self._x)),
            **requests.entries("support_y", of(self._y, labels=True)),
        }
        query = requests.entries("query_x", of(self._x))
        task = {**support, **query, "inner_steps": steps}
        weights = np.zeros([self._flat.size], self._flat.dtype.as_numpy_dtype)
        counts = {n: np.array(count, np.int32) for n in ("support_count", "query_count")}
        row = {name: array[np.newaxis] for name, array in {**task, **counts}.items()}
        return {
            "serving_default": task,
            "adapt_and_predict": task,
            "adapt": {**support, "inner_steps": steps},
            "predict_with": {"weights": weights, **query},
            "adapt_and_predict_tasks": row,
            "predict": query
            | ({"query_count": counts["query_count"]} if self._transductive else {}),
        }

    # One task.

    def _adapt_and_predict(self, support_x, support_y, query_x, inner_steps):
        adapted = self._adapted(support_x, support_y, inner_steps)
        return self._predictions(adapted, query_x)

    def _adapt(self, support_x, support_y, inner_steps):
        return {"weights": self._adapted(support_x, support_y, inner_steps)}

    def _predict_with(self, weights, query_x):
        size = self._flat.size
        message = f"Expected the {size} weights that `adapt` gave."
        check = tf.debugging.assert_equal(tf.size(weights), size, message)
        return self._predictions(requests.after([check], weights), query_x)

    def _predict(self, query_x, query_count=None):
        weights, state = self._values()
        query_x = requests.checked_x("query_x", query_x)
        if query_count is not None:
            given = tf.shape(tf.nest.flatten(query_x)[0])[0]
            message = "Expected `query_count` to be the number of examples in `query_x`."
            check = tf.debugging.assert_equal(given, query_count, message)
            query_x = requests.after([check], query_x)
        y, _ = self._learner.predict_prepared(weights, state, query_x, training=False)
        return requests.entries("predictions", y)

    def _adapted(self, support_x, support_y, inner_steps):
        support_x, support_y = requests.checked_support(support_x, support_y, self._classes)
        weights, state = self._values()
        steps = tf.clip_by_value(inner_steps, 0, self._most)
        weights, state = self._learner.adapt_task_in_loop(
            weights, state, support_x, support_y, steps
        )
        state = self._learner.prepare_task(weights, state, support_x)
        return self._flatten(weights, state)

    def _predictions(self, flat, query_x):
        query_x = requests.checked_x("query_x", query_x)
        weights, state = self._unflatten(flat)
        y, _ = self._learner.predict_prepared(weights, state, query_x, training=False)
        return requests.entries("predictions", y)

    # Weights and state as one tensor.

    def _values(self):
        return (
            [tf.convert_to_tensor(w) for w in self.module.weights],
            [tf.convert_to_tensor(s) for s in self.module.state],
        )

    def _flatten(self, weights, state):
        state = [s for s, v in zip(state, self.module.state, strict=True) if v.dtype.is_floating]
        return self._flat.join([*weights, *state])

    def _unflatten(self, flat):
        tensors = iter(self._flat.split(flat))
        weights = [next(tensors) for _ in self.module.weights]
        others = [tf.convert_to_tensor(s) for s in self.module.state]
        return weights, [next(tensors) if s.dtype.is_floating else s for s in others]

    # Several tasks, one a row.

    def _tasks(self, support_x, support_y, query_x, inner_steps, support_count, query_count):
        def one(row):
            support_x, support_y, query_x, steps, supports, queries = row
            total = tf.shape(tf.nest.flatten(query_x)[0])[0]
            good = requests.is_good_row(
                support_x, support_y, query_x, supports, queries, self._classes
            )
            supports = tf.clip_by_value(supports, 1, tf.shape(tf.nest.flatten(support_x)[0])[0])
            queries = tf.clip_by_value(queries, 0, total)
            # What raises no error, in the place of what would; the answer is NaN all the same.
            support_x, support_y = tf.nest.map_structure(
                lambda t: requests.made_finite(t[:supports]), (support_x, support_y)
            )
            query_x = tf.nest.map_structure(lambda t: requests.made_finite(t[:queries]), query_x)
            if self._classes is not None:
                support_y = tf.clip_by_value(support_y, 0, self._classes - 1)
            y = self._predictions(self._adapted(support_x, support_y, steps), query_x)
            return {name: requests.padded(tensor, total, good) for name, tensor in y.items()}

        rows = (support_x, support_y, query_x, inner_steps, support_count, query_count)
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
            return self._predict(**_arguments(tensors, specs, structures))

        return tf.function(flat, autograph=False).get_concrete_function(**specs)

    def _concrete(self, function, parts, weights=False):
        """Traces a function of one task for tensors of `parts` and what else it takes."""
        specs, structures = self._specs(parts, axes=())
        if weights:
            specs["weights"] = tf.TensorSpec([None], self._flat.dtype, name="weights")
        steps = not weights

        def flat(*, inner_steps=None, **tensors):
            of_steps = {"inner_steps": inner_steps} if steps else {}
            return function(**_arguments(tensors, specs, structures), **of_steps)

        if steps:
            # A tensor as default: gRPC clients may leave the number of steps out.
            return _with_default(flat, specs, tf.constant(self._default, tf.int32))
        return tf.function(flat, autograph=False).get_concrete_function(**specs)

    def _concrete_tasks(self):
        specs, structures = self._specs(("support_x", "support_y", "query_x"), axes=(None,))
        for name in ("inner_steps", "support_count", "query_count"):
            specs[name] = tf.TensorSpec([None], tf.int32, name=name)

        def flat(**tensors):
            return self._tasks(**_arguments(tensors, specs, structures))

        return tf.function(flat, autograph=False).get_concrete_function(**specs)

    def _specs(self, parts, axes):
        """Specs by name of the tensors of `parts`, and their structures by part."""
        structures = {part: self._y if part == "support_y" else self._x for part in parts}
        specs = {}
        for part, structure in structures.items():
            for name, s in requests.entries(part, structure).items():
                specs[name] = tf.TensorSpec([*axes, *s.shape], s.dtype, name=name)
        return specs, structures


def _arguments(tensors, specs, structures):
    """The tensors of a request as structures by part; the others as they are, by name."""
    tensors = requests.of_shape(tensors, specs)
    parts = {part: requests.collect(tensors, part, s) for part, s in structures.items()}
    taken = {name for part, s in structures.items() for name in requests.entries(part, s)}
    return parts | {name: t for name, t in tensors.items() if name not in taken}


def _with_default(function, specs, default):
    """A `tf.function` of `specs` and `inner_steps`, whose default becomes the signature's.

    `tf.saved_model.save` reads defaults off the parameters of a function and wants them last.
    """
    specs = {**specs, "inner_steps": tf.TensorSpec([], tf.int32, name="inner_steps")}
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=default if name == "inner_steps" else inspect.Parameter.empty,
        )
        for name in specs
    ]

    def call(*tensors):
        return function(**dict(zip(specs, tensors, strict=True)))

    call.__signature__ = inspect.Signature(parameters)
    return tf.function(call, autograph=False, input_signature=list(specs.values()))
