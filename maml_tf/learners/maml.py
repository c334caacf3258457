"""Model-agnostic meta-learning (Finn, Abbeel & Levine, 2017, arXiv 1703.03400), algorithms 1, 2.

    inner loop:  theta'_t = theta - alpha * grad_theta L_support,t(theta), `inner_steps` times  (1)
    outer loop:  theta <- theta - beta * grad_theta mean_t L_query,t(theta'_t)

Both stand in `GradientLearner.adapt_task` and `Learner.task_gradient`, which other methods share.
theta are the weights of `model`, alpha is the rate of `inner_optimizer`, beta that of the
optimizer given to `compile`, t a task of the meta-batch. The outer gradient goes through the inner
steps (second order); `first_order=True` leaves the second derivatives out (section 5.2).
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from maml_tf import arguments
from maml_tf.learners.base.gradient_learner import GradientLearner


@keras.saving.register_keras_serializable("maml_tf")
class MAML(GradientLearner):
    """MAML around any built Keras model: fit it to task batches, adapt it to a task.

    Args:
        model: a built `keras.Model`; its weights are the initial weights that are meta-learned.
        inner_optimizer: one of `maml_tf.inner_optimizers`, or a number: the step size of plain
            gradient descent.
        inner_steps: gradient steps on the support set, in training and prediction. `adapt`,
            `maml_tf.evaluation` and exports may take other numbers.
        first_order: leave out the second derivatives: about half the time, no longer exact.
        adaptable: which trainable weights the inner loop changes; all by default. A function of
            a variable (`lambda v: "head" in v.path`), a regular expression searched in
            `variable.path`, or a list of `bool` in the order of `model.trainable_variables`.
            The others are still meta-learned by the outer loop.
        rematerialize: compute the activations of inner steps again in the backward pass instead
            of keeping them: memory no longer grows with `inner_steps`, for about a third more
            time.
        batch_norm: see `maml_tf.learners.Learner`.
        task_map: see `maml_tf.learners.Learner`.
        parallel_tasks: see `maml_tf.learners.Learner`.
        name: of the model.

    Raises:
        TypeError, ValueError: see `maml_tf.learners.Learner`; an `adaptable` that chooses no
            weight or does not fit the model.

    What state does: layers run on the support set in training mode while the learner trains, and
    with `training=False` (dropout off) in `evaluate`, `predict` and `adapt`; batch normalisation
    follows `batch_norm` alone. State that a task changes (moving averages, seeds) goes from step
    to step within the task; after a training step the model keeps its mean over the tasks, and
    of integers (seeds, counters) that of the first task. Each task draws its own dropout masks.

    Example:
        >>> train, validation, test = maml_tf.tasks.sinusoid()
        >>> learner = maml_tf.MAML(maml_tf.models.sinusoid_mlp(), 0.01, inner_steps=1)
        >>> learner.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mse")
        >>> history = learner.fit(train, steps_per_epoch=10, verbose=0)
    """

    def __init__(
        self,
        model: keras.Model,
        inner_optimizer: Any,
        inner_steps: int = 1,
        first_order: bool = False,
        *,
        adaptable: Callable[[Any], bool] | str | Sequence[bool] | None = None,
        rematerialize: bool = False,
        batch_norm: str = "transductive",
        task_map: str = "auto",
        parallel_tasks: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            model,
            inner_optimizer,
            inner_steps,
            adaptable=adaptable,
            rematerialize=rematerialize,
            batch_norm=batch_norm,
            task_map=task_map,
            parallel_tasks=parallel_tasks,
            name=name,
        )
        self.first_order = arguments.boolean("first_order", first_order)
