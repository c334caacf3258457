"""What a learner answers for task batches: predictions, and what they are on the way to them."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from maml_tf import functional, noise
from maml_tf.exact import keras_internals
from maml_tf.learners.base import batch_checks, checks, labels, meta_step
from maml_tf.learners.base.batches import masks_of, with_masks
from maml_tf.learners.base.task import Support
from maml_tf.learners.base.task_map import choose, task_mean
from maml_tf.learners.base.trainer import Trainer


class Predictor(Trainer):
    """The part of `maml_tf.Learner` that maps its methods over the tasks of a batch.

    T tasks of S support examples and Q queries each.
    """

    def call(self, inputs: dict[str, Any], training: bool = False) -> Any:
        """Adapts to each task and predicts its queries.

        Args:
            inputs: `{"support_x": [T, S, ...], "support_y": [T, S, ...], "query_x": [T, Q, ...]}`,
                and `"support_weight": [T, S]` where support examples have weights.
            training: not used: adapting and predicting are deterministic, dropout is off.

        Returns:
            Predictions `[T, Q, ...]`.
        """
        del training
        self.require_compiled("call")
        mode = self.mode(training=False)

        def predict(support, query_x):
            adapted = self.adapt_task(support, steps=self.inner_steps, mode=mode)
            return self._predictions(adapted, query_x)

        with keras_internals.own_precision():
            return with_masks(*self._of_each_task(predict, inputs))

    def predict_path(self, inputs: dict[str, Any], inner_steps: int | None) -> Any:
        """Predictions at the initial weights and after each of `inner_steps` steps.

        Args:
            inputs: a task batch without query labels, as in `call`.
            inner_steps: `int`; None for a learner that takes no steps.

        Returns:
            Predictions `[T, inner_steps + 1, Q, ...]`; `[T, 1, Q, ...]` without steps.
        """
        self.require_compiled("predict_path")
        steps = checks.check_steps(self, inner_steps)

        def path(support, query_x):
            return self.adapt_path(
                support, steps, self._observing(lambda a: self._predictions(a, query_x))
            )

        return with_masks(*self._of_each_task(path, inputs))

    def loss_path(self, inputs: dict[str, Any], query_y: Any, inner_steps: int | None) -> Any:
        """The query loss at the initial weights and after each of `inner_steps` steps.

        Args:
            inputs: as in `predict_path`.
            query_y: `[T, Q, ...]`.
            inner_steps: as in `predict_path`.

        Returns:
            float `[T, inner_steps + 1]`; `[T, 1]` without steps.
        """
        self.require_compiled("loss_path")
        steps = checks.check_steps(self, inner_steps)
        mode = self.mode(training=False)

        def path(support, query_x, query_y):
            then = meta_step.query_loss(self, {"query_y": query_y}, training=False)

            def loss(adapted):
                return self.predict_adapted(adapted, query_x, mode=mode, then=then).loss

            return self.adapt_path(support, steps, self._observing(loss))

        return self._of_each_task(path, inputs, query_y=query_y)

    def _predictions(self, adapted, query_x):
        return self.predict_adapted(
            adapted, query_x, mode=self.mode(training=False), then=lambda y: (y, masks_of(y))
        )

    @staticmethod
    def _observing(function):
        def observe(adapted):
            with functional.sealed():
                return function(adapted)

        return observe

    def _of_each_task(self, function, inputs, **beside):
        """`function(support, query_x, **beside)` of every task, `[T, ...]`."""
        batch_checks.check_inputs(inputs)
        inputs, _ = labels.guarded(self, inputs)
        self._remember_labels(inputs["support_y"], axis=1)
        values = self.initial_values()

        def one_task(task, index):
            with noise.stream(index), self.with_values(*values):
                others = {name: task[name] for name in beside}
                return [], function(Support.of(task), task["query_x"], **others)

        with noise.batch():
            return self.task_means(one_task, {**inputs, **beside})[1]

    def compute_output_spec(self, inputs: dict[str, Any], training: bool = False) -> Any:
        """Shapes and dtypes of the predictions, `[T, Q, ...]`."""
        del training
        query_x = inputs["query_x"]
        one = keras.tree.map_structure(
            lambda t: keras.KerasTensor(t.shape[1:], keras.backend.standardize_dtype(t.dtype)),
            query_x,
        )
        tasks = keras.tree.flatten(query_x)[0].shape[0]
        return keras.tree.map_structure(
            lambda t: keras.KerasTensor((tasks, *t.shape), t.dtype), self.output_spec(one)
        )

    def task_means(self, function: Callable[..., Any], tasks: Any) -> Any:
        """`maml_tf.learners.base.task_map.task_mean` in this learner's way."""
        # Eagerly there is nothing to vectorise, and a loop is what one steps through.
        strategy = "loop" if tf.executing_eagerly() else choose(self.task_map, self)
        return task_mean(function, tasks, strategy, self.parallel_tasks)
