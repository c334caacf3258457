"""What all meta-learners share: a Keras model whose input is a task batch.

A learner turns a support set into a value, and a value and a query into a prediction; the outer
loop trains whatever variables that takes. A method (one file beside this one) says how; `Learner`
makes a `keras.Model` of it: `compile`, `fit`, `evaluate`, `predict`, `adapt`, `save`, `export`.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from numpy.typing import ArrayLike

from maml_tf import arguments, functional
from maml_tf.learners.base import adapted as adapted_models
from maml_tf.learners.base import batch_checks, checks, meta_step, specs, weight_checks
from maml_tf.learners.base.predictor import Predictor
from maml_tf.learners.base.saving import SavesNetwork
from maml_tf.learners.base.task import Mode, Support
from maml_tf.learners.base.task_map import STRATEGIES, check_parallel

BATCH_NORM = ("transductive", "support", "moving")


class Learner(SavesNetwork, Predictor):
    """A meta-learner around a built Keras model; see `maml_tf.MAML` for a method.

    Letters for shapes: T tasks, S support examples and Q queries of each task.

    A method defines `adapt_task` and `predict_adapted`, and more of the hooks below where it needs
    to. While a hook runs, tensors stand in the place of all variables of the learner (see
    `maml_tf.functional.in_place_of`): layers are called and variables read as in any Keras layer,
    what is assigned is the state of this one task, and gradients flow to what was read.

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
        task_map: `"loop"`, `"vectorized"` or `"auto"`; see `maml_tf.learners.base.task_map`.
        parallel_tasks: tasks that the loop works on at the same time; the number of cores by
            default. Fewer take less memory.
        name: of the model.

    Raises:
        TypeError: `model` is not a `keras.Model`, or `parallel_tasks` not an integer.
        ValueError: it is not built or has no trainable weights, or an unknown `batch_norm` or
            `task_map`.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        batch_norm: str = "transductive",
        task_map: str = "auto",
        parallel_tasks: int | None = None,
        name: str | None = None,
    ) -> None:
        checks.check_model(model)
        arguments.choice("batch_norm", batch_norm, BATCH_NORM)
        arguments.choice("task_map", task_map, STRATEGIES)
        super().__init__(model, name=checks.check_name(name))
        self.batch_norm = batch_norm
        self.task_map = task_map
        self.parallel_tasks = check_parallel(parallel_tasks)
        self.built = True

    # What a method defines, of one task; see the class.

    def adapt_task(self, support: Support, *, steps: Any, mode: Mode) -> Any:
        """Turns a support set into a value.

        Args:
            support: `maml_tf.learners.base.task.Support`.
            steps: how many steps of adaptation; `int`, or an int32 scalar where `mode` is not
                that of training, None for a learner that takes none. At 0 nothing is learned.
            mode: `maml_tf.learners.base.task.Mode`; differentiable where it is that of training.

        Returns:
            Any structure of tensors: what adapting made, and nothing of what it began with. What
            stands under the key `"state"` of a dict is state, such as the mean and variance of the
            support set: one who goes on to train an adapted model does not train it.
        """
        raise NotImplementedError

    def predict_adapted(
        self, adapted: Any, query_x: Any, *, mode: Mode, then: Callable[[Any], Any]
    ) -> Any:
        """Predicts queries by an adapted value.

        Args:
            adapted: what `adapt_task` returned.
            query_x: `[Q, ...]`.
            mode: `maml_tf.learners.base.task.Mode`.
            then: a function of the predictions, to be called while adapted weights are in place.

        Returns:
            `then(predictions [Q, ...])`.
        """
        raise NotImplementedError

    def adapt_path(self, support: Support, steps: Any, observe: Callable[[Any], Any]) -> Any:
        """What is seen of an adapted value on the way: one look where there are no steps.

        Args:
            support: as in `adapt_task`.
            steps: as in `adapt_task`.
            observe: a function of an adapted value to a structure of tensors.

        Returns:
            Observations `[steps + 1, ...]`, the first of the value at 0 steps; or `[1, ...]`.
        """
        seen = observe(self.adapt_task(support, steps=steps, mode=self.mode(training=False)))
        return tf.nest.map_structure(lambda t: t[tf.newaxis], seen)

    def task_loss(self, task: dict[str, Any]) -> meta_step.Answers:
        """The outer loss of one task, in training.

        Args:
            task: dict of `inputs`, `query_y` and, where queries have weights, `sample_weight`.

        Returns:
            `maml_tf.learners.base.meta_step.Answers`, whose `loss` is to be differentiated.
        """
        mode = self.mode(training=True)
        adapted = self.adapt_task(Support.of(task["inputs"]), steps=self.inner_steps, mode=mode)
        then = meta_step.query_loss(self, task, training=True)
        return self.predict_adapted(adapted, task["inputs"]["query_x"], mode=mode, then=then)

    def task_gradient(self, task: dict[str, Any]) -> tuple[list[Any], meta_step.Answers]:
        """What one task adds to the meta-gradient: here the gradient of `task_loss`.

        Args:
            task: as in `task_loss`.

        Returns:
            `(gradients, maml_tf.learners.base.meta_step.Answers)`, gradients in the order of
            `trainable_variables`.
        """
        weights = functional.values_of(self.trainable_variables)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            answers = self.task_loss(task)
            scaled = self.scaled(answers.loss)
        gradients = tape.gradient(
            scaled, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return [self.unscaled(tf.convert_to_tensor(g)) for g in gradients], answers

    def adapted_model(self, adapted: Any, support_x: Any) -> keras.Model:
        """What `adapt` gives: a compiled `keras.Model` that predicts by an adapted value."""
        return adapted_models.seen_through(self, adapted, support_x)

    def unadapted(self) -> Any:
        """The adapted value that needs no support set; None where there is none."""
        return

    def mode_of_adapt(self) -> Mode:
        """`maml_tf.learners.base.task.Mode` of what `adapt` gives, which may predict one example.

        That has no mean and variance of its own: those of the support set go along.
        """
        return Mode(training=False, batch_norm="support")

    def example_spec(self) -> Any:
        """What the examples of a task are: structure of `keras.KerasTensor` `[None, ...]`.

        Those of the model; None where it does not know them, and `adapt` and exports have to be
        told, or to see, what they are.
        """
        return specs.inputs_of(self.model)

    def output_spec(self, x: Any) -> Any:
        """Predictions of one task for inputs of these specs: `keras.KerasTensor`s `[Q, ...]`."""
        return self.model.compute_output_spec(x)

    # For methods.

    def mode(self, training: bool) -> Mode:
        """`maml_tf.learners.base.task.Mode` of this learner."""
        return Mode(training, self.batch_norm)

    def with_values(
        self, weights: Sequence[Any], state: Sequence[Any]
    ) -> contextlib.AbstractContextManager[Any]:
        """While open, tensors stand in the place of all variables; see `functional.in_place_of`.

        Args:
            weights: tensors in the order of `trainable_variables`.
            state: tensors in the order of `non_trainable_variables`.
        """
        variables = [*self.trainable_variables, *self.non_trainable_variables]
        return functional.in_place_of(variables, [*weights, *state])

    def initial_values(self) -> tuple[list[Any], list[Any]]:
        """Weights and state of the learner as tensors, in the order of its variables."""
        checks.check_trained(self)
        return (
            functional.values_of(self.trainable_variables),
            functional.values_of(self.non_trainable_variables),
        )

    # Your own data.

    def adapt(
        self,
        support_x: Any,
        support_y: Any,
        inner_steps: int | None = None,
        *,
        support_weight: ArrayLike | None = None,
    ) -> keras.Model:
        """An ordinary Keras model fitted to one task.

        Args:
            support_x: `[S, ...]`, labelled examples: NumPy arrays or tensors.
            support_y: `[S, ...]`, labels as the loss takes them.
            inner_steps: `int`; the learner's own number by default. None where it takes no steps.
            support_weight: float `[S]`, how much each example counts beside the others; all the
                same by default.

        Returns:
            A new `keras.Model` that predicts for this task, compiled with the learner's loss and
            metrics. Where adapting gives weights of the learner's model, it is a copy of that
            model; where Keras can make no copy that predicts the same, or would save it otherwise
            (low-rank factors, frozen sublayers), and for other methods, it is a model of
            `maml_tf.learners.base.adapted_models`. Its batch normalisation uses the mean
            and variance of the support set, whatever the learner's `batch_norm`, so that one may
            predict a single example.

        Raises:
            TypeError: nested lists in place of arrays, or labels that are no numbers.
            ValueError: examples and labels of different number, none at all, values that are not
                finite, or labels that the model has no output for.
            FloatingPointError: adaptation ran away: values that are not finite.
        """
        self.require_compiled("adapt")
        steps = checks.check_steps(self, inner_steps, default=self.inner_steps)
        if support_weight is not None:
            weight_checks.check_support_weight(support_weight, support_y, ("support",))
            support_weight = tf.convert_to_tensor(support_weight)
        support_x, support_y = batch_checks.check_support(
            self, support_x, support_y, support_weight
        )
        self._remember_labels(support_y, axis=0)
        support = Support(support_x, support_y, support_weight)
        adapted = self._adapting(support)(support, None if steps is None else tf.constant(steps))
        checks.check_adapted(self, adapted, steps)
        return self.adapted_model(adapted, support_x)

    def _adapting(self, support):
        """`_adapted` as a compiled function for support sets of that kind and of any size."""
        kind = str(specs.of_examples([part for part in support if part is not None]))
        if kind not in self._adapt_functions:
            self._adapt_functions[kind] = tf.function(
                self._adapted, autograph=False, reduce_retracing=True
            )
        return self._adapt_functions[kind]

    def _adapted(self, support, steps):
        """The adapted value, for any number of steps."""
        mode = self.mode_of_adapt()
        with self.with_values(*self.initial_values()):
            return self.adapt_task(support, steps=steps, mode=mode)

    # Files.

    def export(self, filepath: Any, *args: Any, input_signature: Any = None, **kwargs: Any) -> Any:
        """`keras.Model.export`: its endpoint takes a task batch without query labels.

        `maml_tf.serving.export` writes one that takes a single task, for TensorFlow Serving.
        """
        self.require_compiled("export")
        signature = input_signature or [specs.task_batch_spec(self)]
        return super().export(filepath, *args, input_signature=signature, **kwargs)
