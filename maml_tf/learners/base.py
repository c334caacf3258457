"""What all meta-learners share: a Keras model whose input is a task batch.

A method (one file beside this one) says how it adapts to a support set and how its meta-gradient
is made; `Learner` makes a `keras.Model` of it: `compile`, `fit`, `evaluate`, `predict`, `save`.
"""

import keras
import tensorflow as tf

from maml_tf import functional
from maml_tf.learners import checks, specs
from maml_tf.learners.adapted import adapted_model
from maml_tf.learners.batches import merge_tasks, parts
from maml_tf.learners.reports import Before, non_finite_error
from maml_tf.learners.train_function import make_compiled_loop
from maml_tf.task_map import choose, map_tasks

BATCH_NORM = ("transductive", "support", "moving")


class Learner(keras.Model):
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
        TypeError: `model` is not a `keras.Model`.
        ValueError: it is not built or has no trainable weights, or an unknown `batch_norm` or
            `task_map`.
    """

    def __init__(
        self, model, *, batch_norm="transductive", task_map="auto", parallel_tasks=None, name=None
    ):
        checks.check_model(model)
        checks.check_choice("batch_norm", batch_norm, BATCH_NORM)
        # The learner hands inputs on as they are: casting to its own policy would feed a float64
        # model float32.
        super().__init__(name=name, dtype=model.dtype_policy, autocast=False)
        self.model = model
        if getattr(model, "output_names", None):
            # By these Keras finds the loss and the metrics of each output.
            self.output_names = model.output_names
        self.batch_norm = batch_norm
        self.task_map = task_map
        self.parallel_tasks = parallel_tasks
        self._strategy = choose(task_map, model)
        self._inner_loss = None
        self._before = None
        self._bad_step = None
        self.built = True

    # What a method defines.

    def adapt_task(self, weights, state, support_x, support_y, *, inner_steps, training):
        """Adapts to one task, differentiably: `maml_tf.inner_loop.Adapted`."""
        raise NotImplementedError

    def adapt_task_in_loop(self, weights, state, support_x, support_y, inner_steps, observe=None):
        """Adapts to one task for prediction; see `maml_tf.inner_loop.adapt_in_loop`."""
        raise NotImplementedError

    def meta_gradient(self, inputs, query_y, sample_weight):
        """`(loss, gradients, state, predictions, predictions_before)` of a task batch."""
        raise NotImplementedError

    # One task.

    def inner_objective(self, support_x, support_y, training):
        """The support loss as `maml_tf.inner_loop` wants it."""

        def loss_of(y):
            if self._inner_loss is None:
                return self.compute_loss(y=support_y, y_pred=y, training=training)
            loss = tf.reduce_mean(self._inner_loss(support_y, y))
            return tf.add_n([loss, *[tf.cast(x, loss.dtype) for x in self.model.losses]])

        def objective(weights, state, step):
            del step
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
        checks.check_inputs(inputs)
        weights, state = self.initial_values()

        def one_task(task, index):
            del index
            support_x, support_y, query_x = parts(task)
            fast, after = self.adapt_task_in_loop(
                weights, state, support_x, support_y, self.inner_steps
            )
            y_pred, _ = self.predict_task(fast, after, support_x, query_x, training=False)
            return [], y_pred

        return self._map(one_task, inputs)[1]

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
        checks.check_inputs(inputs)
        weights, state = self.initial_values()

        def one_task(task, index):
            del index
            support_x, support_y, query_x = parts(task)

            def predict(fast, after):
                return self.predict_task(fast, after, support_x, query_x, training=False)[0]

            *_, path = self.adapt_task_in_loop(
                weights, state, support_x, support_y, inner_steps, observe=predict
            )
            return [], path

        return self._map(one_task, inputs)[1]

    def _map(self, function, tasks):
        return map_tasks(function, tasks, self._strategy, self.parallel_tasks)

    # Training and evaluation.

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        *,
        inner_loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        run_eagerly=False,
        steps_per_execution=1,
        jit_compile=False,
        auto_scale_loss=True,
    ):
        """Configures meta-training, as `keras.Model.compile` does.

        Args:
            optimizer: the outer (meta-) optimizer.
            loss: the outer loss, of the queries after adaptation; averaged over tasks.
            inner_loss: the loss that adaptation descends, of the support set; `loss` by default.
                One loss name, `keras.losses.Loss` or function.
            loss_weights: as in Keras.
            metrics: as in Keras; reported for the queries after adaptation and, with `_before`
                behind their names, at the initial weights.
            weighted_metrics: as in Keras.
            run_eagerly: as in Keras.
            steps_per_execution: training steps in one call of the compiled function. With
                `jit_compile`, XLA compiles all of them into one program.
            jit_compile: compile with XLA. Never by itself: on a CPU it makes small dense networks
                several times faster and convolutions slower, and where it would give a wrong
                second-order gradient (max-pooling) training refuses to start.
            auto_scale_loss: as in Keras.
        """
        super().compile(
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )
        self._inner_loss = None if inner_loss is None else keras.losses.get(inner_loss)
        self._inner_loss_config = inner_loss
        self._before = Before(self.model, loss, loss_weights, metrics, weighted_metrics)
        self._bad_step = tf.Variable(-1, dtype=tf.int64, trainable=False)

    def get_compile_config(self):
        """Arguments of `compile`, `inner_loss` among them."""
        config = super().get_compile_config()
        if config:
            config["inner_loss"] = keras.saving.serialize_keras_object(self._inner_loss_config)
        return config

    def compile_from_config(self, config):
        """Compiles with what `get_compile_config` returned and makes the optimizer's variables."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def train_step(self, data):
        """One meta-training step on one task batch `(inputs, query_y[, sample_weight])`."""
        inputs, query_y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        checks.check_task_batch(inputs, query_y)
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        # Where data end, the step must not happen in part, and counters do not depend on data.
        # A program that XLA compiled waits for all of its inputs anyway.
        with tf.control_dependencies([] if self.jit_compile else tf.nest.flatten(inputs)):
            loss, gradients, state, y_pred, y_before = self.meta_gradient(
                inputs, query_y, sample_weight
            )
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            for variable, value in zip(self.model.non_trainable_variables, state, strict=True):
                variable.assign(value)
            step = tf.cast(self.optimizer.iterations, tf.int64)
            bad = self._bad_step
            bad.assign(tf.where((bad < 0) & ~tf.math.is_finite(loss), step, bad))
            if len(tf.nest.flatten(y_pred)) > 1:
                self._merged_loss(query_y, y_pred, sample_weight)
            return self._report(loss, query_y, y_pred, y_before, sample_weight)

    def test_step(self, data):
        """Evaluates one task batch: adapts, predicts and reports before and after."""
        inputs, query_y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        checks.check_task_batch(inputs, query_y)
        y_pred = self(inputs, training=False)
        weights, state = self.initial_values()

        def before(task, index):
            del index
            support_x, _, query_x = parts(task)
            return [], self.predict_task(weights, state, support_x, query_x, training=False)[0]

        y_before = self._map(before, inputs)[1]
        loss = self._merged_loss(query_y, y_pred, sample_weight)
        return self._report(loss, query_y, y_pred, y_before, sample_weight)

    def _merged_loss(self, query_y, y_pred, sample_weight):
        """The query loss of all tasks at once; it keeps count of each output's loss, too."""
        y, y_pred = merge_tasks(query_y), merge_tasks(y_pred)
        return self.compute_loss(y=y, y_pred=y_pred, sample_weight=merge_tasks(sample_weight))

    def _report(self, loss, query_y, y_pred, y_before, sample_weight):
        y, weight = merge_tasks(query_y), merge_tasks(sample_weight)
        tasks = tf.shape(tf.nest.flatten(query_y)[0])[0]
        self._loss_tracker.update_state(loss, sample_weight=tasks)
        self._before.update(y, merge_tasks(y_before), weight, tasks)
        return self.compute_metrics(None, y, merge_tasks(y_pred), sample_weight=weight)

    def get_metrics_result(self):
        """Metrics after adaptation, and the same before it, `_before` behind their names."""
        results = super().get_metrics_result()
        return {**results, **self._before.results()} if self._before else results

    def reset_metrics(self):
        """Resets the metrics of both kinds."""
        super().reset_metrics()
        if self._before:
            self._before.reset()

    def make_train_function(self, force=False):
        """Builds what `fit` calls: several steps in one call, one XLA program with XLA."""
        if self.train_function is not None and not force:
            return
        super().make_train_function(force=True)
        ordinary = compiled = self.train_function
        several = self.steps_per_execution > 1 and self.jit_compile and not self.run_eagerly
        if several and self._distribute_strategy is None:
            compiled = make_compiled_loop(self)

        def checked(iterator):
            # `train_on_batch` and arrays of unknown length come as Python generators.
            in_graph = isinstance(iterator, tf.data.Iterator)
            logs = (compiled if in_graph else ordinary)(iterator)
            if int(self._bad_step) >= 0:
                step = int(self._bad_step)
                self._bad_step.assign(-1)
                raise non_finite_error(step, self)
            return logs

        self.train_function = checked

    def fit(self, x=None, y=None, *args, **kwargs):
        """`keras.Model.fit` over task batches; the first one is checked before training."""
        self.require_compiled("fit")
        checks.check_data(self, x, y)
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """`keras.Model.evaluate` over task batches."""
        self.require_compiled("evaluate")
        if not kwargs.get("_use_cached_eval_dataset"):
            checks.check_data(self, x, y)
        return super().evaluate(x, y, *args, **kwargs)

    # Your own data.

    def adapt(self, support_x, support_y, inner_steps=None):
        """An ordinary Keras model fitted to one task.

        Args:
            support_x: `[S, ...]`, labelled examples: NumPy arrays or tensors.
            support_y: `[S, ...]`, labels as the loss takes them.
            inner_steps: `int`; the learner's own number by default.

        Returns:
            A new `keras.Model`, a copy of the learner's model with adapted weights and compiled
            with the learner's loss and metrics. Its batch normalisation uses the mean and
            variance of the support set, whatever the learner's `batch_norm`, so that one may
            predict a single example.

        Raises:
            ValueError: examples and labels of different number, none at all, or labels that the
                model has no output for.
        """
        self.require_compiled("adapt")
        steps = checks.check_inner_steps(self.inner_steps if inner_steps is None else inner_steps)
        support_x = keras.tree.map_structure(tf.convert_to_tensor, support_x)
        support_y = keras.tree.map_structure(tf.convert_to_tensor, support_y)
        checks.check_support(self, support_x, support_y)

        return adapted_model(self, support_x, support_y, steps)

    def require_compiled(self, method):
        """Raises a ValueError where `method` needs a loss and `compile` gave none."""
        if not self.compiled or (self.loss is None and self._inner_loss is None):
            raise ValueError(
                f"`{method}` adapts by descending a loss, and this learner has none yet. Call "
                "`learner.compile(optimizer=..., loss=...)` first."
            )

    def export(self, filepath, *args, input_signature=None, **kwargs):
        """`keras.Model.export`: its endpoint takes a task batch without query labels.

        `maml_tf.serving.export` writes one that takes a single task, for TensorFlow Serving.
        """
        self.require_compiled("export")
        signature = input_signature or [specs.task_batch_spec(self)]
        return super().export(filepath, *args, input_signature=signature, **kwargs)

    def get_config(self):
        """Arguments of the constructor, the wrapped model among them."""
        return {
            "model": keras.saving.serialize_keras_object(self.model),
            "batch_norm": self.batch_norm,
            "task_map": self.task_map,
            "parallel_tasks": self.parallel_tasks,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        """A learner from what `get_config` returned."""
        config = {k: keras.saving.deserialize_keras_object(v) for k, v in config.items()}
        return cls(**config)
