"""What `compile` chooses for a learner, and what the learner does with one task batch.

A step of training takes the meta-gradient of the batch (`maml_tf.learners.base.meta_step`), lets
the outer optimizer apply it, and reports losses and metrics after and before adaptation; a step of
evaluation reports the same.
"""

from typing import Any

import keras
import tensorflow as tf

from maml_tf import arguments, noise
from maml_tf.learners.base import batch_checks, checks, labels, meta_step, specs, weight_checks
from maml_tf.learners.base.batches import number_of_tasks, query_weights
from maml_tf.learners.base.reports import Before, merged


class BatchSteps(keras.Model):
    """The part of `maml_tf.Learner` that trains and evaluates on a batch of T tasks of Q queries.

    Args:
        model: the built `keras.Model` whose weights are meta-learned.
        name: of the learner.
    """

    # How many steps of adaptation; None for a method that takes none: it has no "before".
    inner_steps: Any = None
    # Whether support labels are numbers of classes, whatever the loss is.
    labels_are_classes = False
    # Whether the meta-gradient has no second derivatives in it.
    first_order = False

    def __init__(self, model, name=None):
        # The learner hands inputs on as they are: casting to its own policy would feed a float64
        # model float32.
        super().__init__(name=name, dtype=model.dtype_policy, autocast=False)
        self.model = model
        if getattr(model, "output_names", None):
            # By these Keras finds the loss and the metrics of each output.
            self.output_names = model.output_names
        self._inner_loss = None
        self._before = None
        self._report_before = True
        self._bad_step = None
        self._class_weight = None
        self._adapt_functions = {}
        # Labels of support examples `[None, ...]` as adaptation saw them last; None before that.
        self._support_y_spec = None
        # Which weights are trained: those that there are when it is compiled.
        self._trained = None

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        *,
        inner_loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool = False,
        auto_scale_loss: bool = True,
        report_before: bool = True,
    ) -> None:
        """Configures meta-training, as `keras.Model.compile` does.

        Args:
            optimizer: the outer (meta-) optimizer.
            loss: the outer loss, of the queries after adaptation; averaged over tasks.
            inner_loss: the loss that adaptation descends, of the support set; `loss` by default.
                One loss name, `keras.losses.Loss` or function; its mean over the examples that
                count, if it gives one number for each.
            loss_weights: as in Keras.
            metrics: as in Keras; reported for the queries after adaptation and, with `_before`
                behind their names, at the initial weights.
            weighted_metrics: as in Keras.
            run_eagerly: as in Keras.
            steps_per_execution: training steps in one call of the compiled function. With
                `jit_compile`, XLA compiles all of them into one program.
            jit_compile: compile with XLA. Never by itself: on a CPU it makes small dense networks
                several times faster and convolutions slower. Where it would give a wrong
                second-order gradient (max-pooling of images of unknown size) training refuses to
                start.
            auto_scale_loss: as in Keras.
            report_before: whether training predicts the queries at the initial weights, too, and
                reports loss and metrics there, with `_before` behind their names. A step without
                takes 0.84 to 0.95 of the time. Evaluation always does.

        Raises:
            TypeError: an inner optimizer as `optimizer`, an `inner_loss` that is no loss, or
                settings that are not of their kind.
            ValueError: no such `inner_loss`, `steps_per_execution` below 1, or
                `jit_compile="auto"`.
        """
        checks.check_compile(
            optimizer, run_eagerly, steps_per_execution, jit_compile, auto_scale_loss
        )
        self._report_before = arguments.boolean("report_before", report_before)
        inner_loss = checks.check_inner_loss(inner_loss)
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
        self._inner_loss = _loss_object(inner_loss, self.variable_dtype)
        self._inner_loss_config = inner_loss
        if self.inner_steps is not None:
            self._before = Before(self.model, metrics, weighted_metrics)
        self._class_weight, self._adapt_functions = None, {}
        self._trained = [id(v) for v in self.trainable_variables]
        self._bad_step = tf.Variable(-1, dtype=tf.int64, trainable=False)

    def get_compile_config(self):
        """Arguments of `compile`, `inner_loss` among them, and the labels that were seen."""
        config = super().get_compile_config()
        if config:
            config["inner_loss"] = keras.saving.serialize_keras_object(self._inner_loss_config)
            config |= {} if self._report_before else {"report_before": False}
            if self._support_y_spec is not None:
                config["support_y"] = specs.to_config(self._support_y_spec)
        return config

    def compile_from_config(self, config):
        """Compiles with what `get_compile_config` returned and makes the optimizer's variables."""
        config = dict(config)
        self._support_y_spec = specs.from_config(config.pop("support_y", None))
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def train_step(self, data):
        """One meta-training step on one task batch `(inputs, query_y[, sample_weight])`."""
        inputs, query_y, weight = self._checked_batch(data, self._class_weight)
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        # Where data end, the step must not happen in part, and counters do not depend on data.
        # A program that XLA compiled waits for all of its inputs anyway.
        waits = [] if self.jit_compile else tf.nest.flatten(inputs)
        with tf.control_dependencies(waits), noise.batch():
            made = meta_step.meta_gradient(self, inputs, query_y, weight)
            gradients = [self.scaled(g) for g in made.gradients]
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            kept = zip(self.non_trainable_variables, made.state, made.same, strict=True)
            for variable, value, same in kept:
                if not same:
                    variable.assign(value)
            step = tf.cast(self.optimizer.iterations, tf.int64)
            bad, loss = self._bad_step, made.after.loss
            bad.assign(tf.where((bad < 0) & ~tf.math.is_finite(loss), step, bad))
            return self._report(query_y, made.after, made.before, weight)

    def meta_gradient(self, inputs, query_y, sample_weight=None):
        """The meta-gradient of a task batch; nothing is assigned.

        Args:
            inputs: `{"support_x": [T, S, ...], "support_y": [T, S, ...], "query_x": [T, Q, ...]}`.
            query_y: `[T, Q, ...]`.
            sample_weight: `[T, Q]`, `[T]` or None.

        Returns:
            `(loss, gradients, state, predictions, predictions_before)`: the query loss averaged
            over tasks; gradients in the order of `trainable_variables`; the state after this
            batch, in the order of `non_trainable_variables`; predictions `[T, Q, ...]` after and
            before adaptation, the latter None for a method that takes no steps, and where
            `compile` was told `report_before=False`.
        """
        weight = query_weights(query_y, sample_weight)
        made = meta_step.meta_gradient(self, inputs, query_y, weight)
        before = made.before and made.before.y_pred
        return made.after.loss, made.gradients, made.state, made.after.y_pred, before

    def scaled(self, loss):
        """A loss, or its gradient, times the scale of an optimizer of half precision."""
        return loss if self._scale() is None else loss * tf.cast(self._scale(), loss.dtype)

    def unscaled(self, gradient):
        """A gradient of what `scaled` gave as that of the loss itself."""
        return (
            gradient if self._scale() is None else gradient / tf.cast(self._scale(), gradient.dtype)
        )

    def _scale(self):
        one = tf.ones([])
        scale = self.optimizer.scale_loss(one)
        return None if scale is one else scale

    def test_step(self, data):
        """Evaluates one task batch: adapts, predicts and reports before and after.

        The loss is the one that is trained: of the queries, averaged over tasks, with the model's
        penalties at the adapted weights (at the initial ones in `loss_before`).
        """
        inputs, query_y, weight = self._checked_batch(data)
        return self._report(query_y, *meta_step.answers(self, inputs, query_y, weight), weight)

    def _checked_batch(self, data, class_weight=None):
        inputs, query_y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        batch_checks.check_task_batch(inputs, query_y)
        checks.check_loss(self, "train_step")
        weight_checks.check_sample_weight(query_y, sample_weight)
        inputs, query_y = labels.guarded(self, inputs, query_y)
        self._remember_labels(inputs["support_y"], axis=1)
        return inputs, query_y, query_weights(query_y, sample_weight, class_weight)

    def _remember_labels(self, support_y, axis):
        """Keeps what support labels look like: an export takes such ones, too."""
        self._support_y_spec = specs.of_examples(support_y, axis)

    def _report(self, query_y, after, before, weight):
        tasks = number_of_tasks(query_y)
        counters = self._compile_loss.metrics
        for counter, loss in zip(counters, after.losses, strict=True):
            counter.update_state(loss, sample_weight=tasks)
        self._loss_tracker.update_state(after.loss, sample_weight=tasks)
        if before is not None:
            names = ["loss", *(c.name for c in counters)]
            losses = dict(zip(names, [before.loss, *before.losses], strict=True))
            self._before.update(losses, query_y, before, weight, tasks)
        results = self.compute_metrics(None, *merged(query_y, after, weight))
        others = self._before.results() if self._before and before is None else ()
        return {name: value for name, value in results.items() if name not in others}

    def get_metrics_result(self):
        """Metrics after adaptation, and the same before it, `_before` behind their names."""
        results = super().get_metrics_result()
        return {**results, **self._before.results()} if self._before else results

    def reset_metrics(self):
        """Resets the metrics of both kinds."""
        super().reset_metrics()
        if self._before:
            self._before.reset()

    def unbuilt_metrics(self):
        """What counts metrics, after adaptation and before it, and has no variables yet."""
        models = [self, self._before.counter] if self._before else [self]
        metrics = [model._compile_metrics for model in models]
        return [m for m in metrics if m is not None and not m.built]


def _loss_object(loss, dtype):
    """A loss name, function or object as an object, which knows masks and takes the mean."""
    loss = None if loss is None else keras.losses.get(loss)
    if loss is None or isinstance(loss, keras.losses.Loss):
        return loss
    return _FunctionLoss(loss, dtype=dtype)


class _FunctionLoss(keras.losses.Loss):
    def __init__(self, function, dtype):
        super().__init__(name="inner_loss", dtype=dtype)
        self.call = function
