"""What all meta-learners share: a Keras model whose input is a task batch.

A method (one file beside this one) says how it adapts to a support set and how its meta-gradient
is made; `Learner` makes a `keras.Model` of it: `compile`, `fit`, `evaluate`, `predict`, `save`.
"""

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments, functional, low_rank, noise
from maml_tf.copying import from_model_config, model_config, seeds
from maml_tf.learners import batch_checks, checks, labels, meta_step, specs
from maml_tf.learners.adapted import adapted_model
from maml_tf.learners.batches import masks_of, parts, with_masks
from maml_tf.learners.trainer import Trainer
from maml_tf.task_map import STRATEGIES, check_parallel, choose, map_tasks

BATCH_NORM = ("transductive", "support", "moving")


class Learner(Trainer):
    """A meta-learner around a built Keras model; see `maml_tf.MAML` for a method.

    Letters for shapes: T tasks, S support examples and Q queries of each task.

    Args:
        model: a built `keras.Model` with trainable weights. The learner trains this very model:
            its variables are the meta-learned initial weights.
        batch_norm: what batch normalisation uses for the queries. Support examples are always
            normalised by the support set's own mean and variance.
            `"transductive"`: the mean and variance of the query set, as in Finn et al. (2017):
            a prediction depends on the other queries of its task.
            `"support"`: those of the support set under the adapted weights: a prediction depends
            on the support set and on its own query alone.
            `"moving"`: as Keras does: queries while training, the moving averages in prediction.
        task_map: `"loop"`, `"vectorized"` or `"auto"`; see `maml_tf.task_map`.
        parallel_tasks: tasks that the loop works on at the same time; the number of cores by
            default. Fewer take less memory.
        name: of the model.

    Raises:
        TypeError: `model` is not a `keras.Model`, or `parallel_tasks` not an integer.
        ValueError: it is not built or has no trainable weights, or an unknown `batch_norm` or
            `task_map`.
    """

    def __init__(
        self, model, *, batch_norm="transductive", task_map="auto", parallel_tasks=None, name=None
    ):
        checks.check_model(model)
        arguments.choice("batch_norm", batch_norm, BATCH_NORM)
        arguments.choice("task_map", task_map, STRATEGIES)
        super().__init__(model, name=checks.check_name(name))
        self.batch_norm = batch_norm
        self.task_map = task_map
        self.parallel_tasks = check_parallel(parallel_tasks)
        self._strategy = choose(task_map, model)
        self.built = True

    # What a method defines.

    def adapt_task(self, weights, state, support_x, support_y, *, inner_steps, training):
        """Adapts to one task, differentiably: `maml_tf.inner_loop.Adapted`."""
        raise NotImplementedError

    def adapt_task_in_loop(self, weights, state, support_x, support_y, inner_steps, observe=None):
        """Adapts to one task for prediction; see `maml_tf.inner_loop.adapt_in_loop`."""
        raise NotImplementedError

    def task_gradient(self, weights, state, task):
        """The gradient of one task's query loss after adaptation.

        Args:
            weights: list of tensors, the initial weights theta.
            state: list of tensors.
            task: dict of `inputs`, `query_y` and, where queries have weights, `sample_weight`.

        Returns:
            `(gradients, meta_step.Answers, state)`: in the order of `weights`, multiplied with
            the scale of the optimizer's loss; the answers after adaptation; the state after both.
        """
        support_x, support_y, query_x = parts(task["inputs"])
        then = meta_step.query_loss(self, task, training=True)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            adapted = self.adapt_task(
                weights,
                state,
                support_x,
                support_y,
                inner_steps=self.inner_steps,
                training=True,
            )
            answers, after = self.predict_task(
                *adapted[:2], support_x, query_x, training=True, then=then
            )
            scaled = self.optimizer.scale_loss(answers.loss)
        gradients = [
            tf.zeros_like(w) if g is None else tf.convert_to_tensor(g)
            for g, w in zip(tape.gradient(scaled, weights), weights, strict=True)
        ]
        return gradients, answers, after

    # One task.

    def inner_objective(self, support_x, support_y, training):
        """The support loss as `maml_tf.inner_loop` wants it."""

        def loss_of(y):
            if self._inner_loss is None:
                loss = self.compute_loss(y=support_y, y_pred=y, training=training)
                return meta_step.scalar_loss("loss", loss)
            loss = meta_step.scalar_loss("inner_loss", self._inner_loss(support_y, y))
            return tf.add_n([loss, *[tf.cast(x, loss.dtype) for x in self.model.losses]])

        def objective(weights, state, step):
            with noise.stream(step):
                return functional.call(
                    self.model,
                    weights,
                    state,
                    support_x,
                    training=training,
                    batch_norm="batch",
                    then=loss_of,
                )

        return objective

    def predict_task(self, weights, state, support_x, query_x, *, training, then=lambda y: y):
        """Predictions for the queries of one task at given weights, and the state after."""
        state = self.prepare_task(weights, state, support_x)
        return self.predict_prepared(weights, state, query_x, training=training, then=then)

    def prepare_task(self, weights, state, support_x):
        """The state with which queries are predicted at given weights."""
        if self.batch_norm == "support" and functional.batch_norm_layers(self.model):
            _, state = functional.call(
                self.model, weights, state, support_x, training=False, batch_norm="store"
            )
        return state

    def predict_prepared(self, weights, state, query_x, *, training, then=lambda y: y):
        """`predict_task` with the state that `prepare_task` gave."""
        mode = {"transductive": "batch", "support": "moving", "moving": None}[self.batch_norm]
        return functional.call(
            self.model, weights, state, query_x, training=training, batch_norm=mode, then=then
        )

    def initial_values(self):
        """The meta-learned weights and state as tensors."""
        checks.check_trained(self)
        model = self.model
        return (
            [tf.convert_to_tensor(v.value) for v in model.trainable_variables],
            [tf.convert_to_tensor(v.value) for v in model.non_trainable_variables],
        )

    # Task batches.

    def call(self, inputs, training=False):
        """Adapts to each task and predicts its queries.

        Args:
            inputs: `{"support_x": [T, S, ...], "support_y": [T, S, ...], "query_x": [T, Q, ...]}`.
            training: not used: adapting and predicting are deterministic, dropout is off.

        Returns:
            Predictions `[T, Q, ...]`.
        """
        del training
        self.require_compiled("call")

        def predict(weights, state, support_x, support_y, query_x):
            fast, after = self.adapt_task_in_loop(
                weights, state, support_x, support_y, self.inner_steps
            )
            y_pred, _ = self.predict_task(fast, after, support_x, query_x, training=False)
            return y_pred, masks_of(y_pred)

        return with_masks(*self._of_each_task(predict, inputs))

    def _of_each_task(self, function, inputs, **beside):
        """`function(weights, state, support_x, support_y, query_x, **beside)` of every task."""
        batch_checks.check_inputs(inputs)
        inputs, _ = labels.guarded(self, inputs)
        self._remember_labels(inputs["support_y"], axis=1)
        weights, state = self.initial_values()

        def one_task(task, index):
            with noise.stream(index):
                return [], function(weights, state, *parts(task), **{n: task[n] for n in beside})

        with noise.batch():
            return self.map_tasks(one_task, {**inputs, **beside})[1]

    def compute_output_spec(self, inputs, training=False):
        """Shapes and dtypes of the predictions, `[T, Q, ...]`."""
        del training
        query_x = inputs["query_x"]
        one = keras.tree.map_structure(
            lambda t: keras.KerasTensor(t.shape[1:], keras.backend.standardize_dtype(t.dtype)),
            query_x,
        )
        tasks = keras.tree.flatten(query_x)[0].shape[0]
        return keras.tree.map_structure(
            lambda t: keras.KerasTensor((tasks, *t.shape), t.dtype),
            self.model.compute_output_spec(one),
        )

    def predict_path(self, inputs, inner_steps):
        """Predictions at the initial weights and after each of `inner_steps` steps.

        Args:
            inputs: a task batch without query labels, as in `call`.
            inner_steps: `int`.

        Returns:
            Predictions `[T, inner_steps + 1, Q, ...]`.
        """
        self.require_compiled("predict_path")
        inner_steps = checks.check_inner_steps(inner_steps)

        def path(weights, state, support_x, support_y, query_x):
            def predict(fast, after):
                y_pred, _ = self.predict_task(fast, after, support_x, query_x, training=False)
                return y_pred, masks_of(y_pred)

            return self._observed(weights, state, support_x, support_y, inner_steps, predict)

        return with_masks(*self._of_each_task(path, inputs))

    def loss_path(self, inputs, query_y, inner_steps):
        """The query loss at the initial weights and after each of `inner_steps` steps.

        Args:
            inputs: as in `predict_path`.
            query_y: `[T, Q, ...]`.
            inner_steps: `int`.

        Returns:
            float `[T, inner_steps + 1]`.
        """
        self.require_compiled("loss_path")
        inner_steps = checks.check_inner_steps(inner_steps)

        def path(weights, state, support_x, support_y, query_x, query_y):
            then = meta_step.query_loss(self, {"query_y": query_y}, training=False)

            def loss(fast, after):
                return self.predict_task(
                    fast, after, support_x, query_x, training=False, then=then
                )[0].loss

            return self._observed(weights, state, support_x, support_y, inner_steps, loss)

        return self._of_each_task(path, inputs, query_y=query_y)

    def _observed(self, weights, state, support_x, support_y, inner_steps, observe):
        *_, observations = self.adapt_task_in_loop(
            weights, state, support_x, support_y, inner_steps, observe=observe
        )
        return observations

    def map_tasks(self, function, tasks):
        """`maml_tf.task_map.map_tasks` in this learner's way."""
        # Eagerly there is nothing to vectorise, and a loop is what one steps through.
        strategy = "loop" if tf.executing_eagerly() else self._strategy
        return map_tasks(function, tasks, strategy, self.parallel_tasks)

    # Your own data.

    def adapt(self, support_x, support_y, inner_steps=None):
        """An ordinary Keras model fitted to one task.

        Args:
            support_x: `[S, ...]`, labelled examples: NumPy arrays or tensors.
            support_y: `[S, ...]`, labels as the loss takes them.
            inner_steps: `int`; the learner's own number by default.

        Returns:
            A new `keras.Model`, a copy of the learner's model with adapted weights and compiled
            with the learner's loss and metrics; where Keras can make no copy that predicts the
            same, or would save it otherwise (low-rank factors, frozen sublayers), a
            `maml_tf.learners.adapted.AdaptedModel`. Its batch normalisation uses the mean
            and variance of the support set, whatever the learner's `batch_norm`, so that one may
            predict a single example.

        Raises:
            TypeError: nested lists in place of arrays, or labels that are no numbers.
            ValueError: examples and labels of different number, none at all, values that are not
                finite, or labels that the model has no output for.
            FloatingPointError: adaptation ran away: weights that are not finite.
        """
        self.require_compiled("adapt")
        steps = checks.check_inner_steps(self.inner_steps if inner_steps is None else inner_steps)
        support_x, support_y = batch_checks.check_support(self, support_x, support_y)
        self._remember_labels(support_y, axis=0)
        weights, state = self._adapting(support_x, support_y)(
            support_x, support_y, tf.constant(steps)
        )
        checks.check_adapted(self, weights, steps)
        return adapted_model(self, weights, state, support_x)

    def _adapting(self, support_x, support_y):
        """`_adapted` as a compiled function for support sets of that kind and of any size."""
        kind = str(specs.of_examples((support_x, support_y)))
        if kind not in self._adapt_functions:
            self._adapt_functions[kind] = tf.function(
                self._adapted, autograph=False, reduce_retracing=True
            )
        return self._adapt_functions[kind]

    def _adapted(self, support_x, support_y, steps):
        """Fast weights and the state to predict with, for any number of steps."""
        weights, state = self.initial_values()
        weights, state = self.adapt_task_in_loop(weights, state, support_x, support_y, steps)
        # One example has no mean and variance of its own: the support set's go along.
        _, state = functional.call(
            self.model, weights, state, support_x, training=False, batch_norm="store"
        )
        return weights, state

    def save(self, filepath, *args, **kwargs):
        """`keras.Model.save` to a `.keras` file.

        Raises:
            TypeError: `filepath` is no path.
            ValueError: another kind of file: HDF5 among them, which could not be loaded again.
        """
        checks.check_file(filepath)
        return super().save(filepath, *args, **kwargs)

    def save_own_variables(self, store):
        """As Keras calls it before it saves the model: adds what Keras would lose of it.

        That is low-rank factors, which it merges, and where the noise of dropout has come to.
        """
        super().save_own_variables(store)
        low_rank.save(self.model, store)
        for i, seed in enumerate(seeds(self.model)):
            store[f"seed_{i}"] = seed.value

    def load_own_variables(self, store):
        """As Keras calls it before it loads the model; files of before have nothing to add."""
        rest = low_rank.load(self.model, store)
        for i, seed in enumerate(seeds(self.model)):
            if f"seed_{i}" in rest:
                seed.assign(np.asarray(rest.pop(f"seed_{i}")))
        super().load_own_variables(rest)

    def export(self, filepath, *args, input_signature=None, **kwargs):
        """`keras.Model.export`: its endpoint takes a task batch without query labels.

        `maml_tf.serving.export` writes one that takes a single task, for TensorFlow Serving.
        """
        self.require_compiled("export")
        signature = input_signature or [specs.task_batch_spec(self)]
        return super().export(filepath, *args, input_signature=signature, **kwargs)

    def get_config(self):
        """Arguments of the constructor, the wrapped model among them, and what of it is frozen."""
        return {
            **model_config(self.model),
            "batch_norm": self.batch_norm,
            "task_map": self.task_map,
            "parallel_tasks": self.parallel_tasks,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        """A learner from what `get_config` returned."""
        return cls(**from_model_config(config))
