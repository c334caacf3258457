"""Reptile (Nichol, Achiam & Schulman, 2018, arXiv 1803.02999), algorithm 1, batched.

    inner loop:  phi_t = U^k(theta): k steps of `inner_optimizer`, each on a minibatch of task t
    outer loop:  theta <- theta + epsilon * mean_t (phi_t - theta)

theta - phi_t takes the place of a gradient, so that any Keras optimizer makes the outer step: with
`SGD(epsilon)` it is the one above. No loss of the queries is differentiated, and nothing twice.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from maml_tf import arguments, functional
from maml_tf.learners.base import meta_step
from maml_tf.learners.base.gradient_learner import GradientLearner
from maml_tf.learners.base.task import Support


@keras.saving.register_keras_serializable("maml_tf")
class Reptile(GradientLearner):
    """Moves the initial weights to where tasks end; fit it to task batches, adapt it to a task.

    It learns from the support sets alone: give more shots in training than at test (the paper: 10
    to 15 for 1 and 5), and few queries, which only tell how it does.

    Args:
        model: see `maml_tf.Learner`.
        inner_optimizer: see `maml_tf.MAML`; the paper's is Adam without momentum,
            `maml_tf.inner_optimizers.Adam(1e-3, beta_1=0)`.
        inner_steps: `int` k; with 1 it is joint training on all tasks.
        inner_batch: `int`, support examples of one inner step, drawn without replacement until
            all were used, then anew; None for all of them in each step.
        seed: `int`, of the order in which they are drawn. Prediction takes one and the same order
            for every task.
        **settings: `adaptable` (the others stay as they are) and those of `maml_tf.Learner`.

    Raises:
        TypeError, ValueError: see `maml_tf.MAML`; an inner optimizer that would learn.

    Example:
        >>> train, validation, test = maml_tf.tasks.sinusoid()
        >>> learner = maml_tf.Reptile(maml_tf.models.sinusoid_mlp(), 0.02, inner_steps=5)
        >>> learner.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
        >>> history = learner.fit(train, steps_per_epoch=10, verbose=0)
    """

    # What moves theta is no derivative.
    first_order = True

    def __init__(
        self,
        model: keras.Model,
        inner_optimizer: Any,
        inner_steps: int = 5,
        *,
        inner_batch: int | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(model, inner_optimizer, inner_steps, **settings)
        self._check_inner_optimizer()
        if inner_batch is not None:
            inner_batch = arguments.integer("inner_batch", inner_batch, minimum=1)
        self.inner_batch = inner_batch
        self.seed = arguments.integer("seed", seed, minimum=0, maximum=2**63 - 1)
        self._order: Any = None if inner_batch is None else keras.random.SeedGenerator(seed)

    def _check_inner_optimizer(self):
        """Refuses rates that nothing would train."""
        if getattr(self.inner_optimizer, "trainable_variables", None):
            raise ValueError(
                "Expected an inner optimizer without trainable variables: the outer step moves the "
                "weights that adapt, and nothing else. Received: inner_optimizer="
                f"{self.inner_optimizer!r}. Give one that learns to `MAML`, or a fixed one here "
                "(`trainable=False` where it has learned)."
            )

    def task_gradient(self, task: dict[str, Any]) -> tuple[list[Any], meta_step.Answers]:
        """Theta - phi_t of the weights that adapt, zero of others; see `Learner`."""
        mode = self.mode(training=True)
        adapted = self.adapt_task(Support.of(task["inputs"]), steps=self.inner_steps, mode=mode)
        moved = {
            id(variable): theta - phi
            for variable, theta, phi in zip(
                self.inner_variables(),
                functional.values_of(self.inner_variables()),
                self.values_at(adapted)[0],
                strict=True,
            )
        }
        then = meta_step.query_loss(self, task, training=True)
        answers = self.predict_adapted(adapted, task["inputs"]["query_x"], mode=mode, then=then)
        variables = self.trainable_variables
        return [moved.get(id(v), tf.zeros(v.shape, v.dtype)) for v in variables], answers

    def inner_objective(
        self, support: Support, training: bool
    ) -> Callable[..., tuple[Any, list[Any]]]:
        """See `GradientLearner`; the loss of minibatch number `step`."""
        if self.inner_batch is None:
            return super().inner_objective(support, training)
        seed = tf.cast(self._order.next(), tf.int32) if training else tf.constant([self.seed, 0])

        def objective(weights, state, step):
            part = self._part(support, seed, step)
            return super(Reptile, self).inner_objective(part, training)(weights, state, step)

        return objective

    def _part(self, support, seed, step):
        """The examples of a step: a piece of one order after another of those that count."""
        total = tf.shape(tf.nest.flatten(support.x)[0])[0]
        if support.weight is None:
            return support.at(self._chosen(seed, step, total))
        size = tf.minimum(self.inner_batch, total)
        counted = tf.maximum(tf.reduce_sum(tf.cast(support.counted, tf.int32)), 1)
        # Those of weight 0 stand behind the others, and fill up a minibatch that they would miss.
        behind = tf.argsort(tf.cast(~support.counted, tf.int32), stable=True)
        part = support.at(tf.gather(behind, self._chosen(seed, step, counted, size)))
        filling = tf.range(size) >= counted
        return part._replace(weight=tf.where(filling, tf.zeros_like(part.weight), part.weight))

    def _chosen(self, seed, step, count, width=None):
        """Numbers below `count` of the examples of a step: a piece of one order after another.

        As many as `inner_batch` and `count` allow, or `width`, the last ones then being filling.
        """
        size = tf.minimum(self.inner_batch, count)
        first = tf.cast(step, tf.int32) * size
        orders = [self._shuffled(seed, first // count + i, count) for i in range(2)]
        places = first % count + tf.range(size if width is None else width)
        return tf.gather(tf.concat(orders, 0), tf.minimum(places, 2 * count - 1))

    @staticmethod
    def _shuffled(seed, number, count):
        seed = tf.random.experimental.stateless_fold_in(seed, number)
        return tf.argsort(tf.random.stateless_uniform([count], seed))
