"""What learners by gradients share: an inner loss, an inner loop, and fast weights.

What adapting gives is a dict of two lists of tensors of one task:

    fast: the fast weights, of the trainable weights of the model those that adapt
    state: of its other variables those that are floating and may change, such as moving averages;
        frozen weights, of which a pretrained network may have millions, are no part of it
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from maml_tf import arguments, functional, noise
from maml_tf.inner import loop as inner_loop
from maml_tf.inner import optimizers as inner_optimizers
from maml_tf.inner.adaptable import chosen_weights, constraints_of, still_chosen
from maml_tf.inner.description import InnerLoop
from maml_tf.learners.base import adapted as adapted_models
from maml_tf.learners.base import checks, meta_step, output_losses, support_weights
from maml_tf.learners.base.learner import Learner
from maml_tf.learners.base.task import Mode, Support


class GradientLearner(Learner):
    """A learner that adapts by steps of an inner optimizer on the loss of the support set.

    What adapts are weights of the model. A method in which something else does, such as a vector
    that the network reads beside its inputs, says so by `inner_variables`, and by `run` how the
    network runs with it.

    Args:
        model: see `maml_tf.Learner`.
        inner_optimizer: one of `maml_tf.inner_optimizers`, or a number: the step size of plain
            gradient descent.
        inner_steps: `int`, steps in training and prediction.
        adaptable: which trainable weights the inner loop changes; see `maml_tf.MAML`.
        rematerialize: compute the activations of inner steps again in the backward pass.
        **settings: see `maml_tf.Learner`.

    Raises:
        TypeError, ValueError: see `maml_tf.Learner`; a setting of another kind or out of range.
    """

    def __init__(
        self,
        model: keras.Model,
        inner_optimizer: Any,
        inner_steps: int = 1,
        *,
        adaptable: Callable[[Any], bool] | str | Sequence[bool] | None = None,
        rematerialize: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(model, **settings)
        self.inner_optimizer = inner_optimizers.get(inner_optimizer)
        self.inner_steps = checks.check_inner_steps(inner_steps)
        self.rematerialize = arguments.boolean("rematerialize", rematerialize)
        self._choice, self._adaptable, self._settled = adaptable, None, False
        if self._adapts_the_model():
            self.build_inner_loop()
        # Otherwise when it is compiled or loaded: a subclass has not made its variables yet.

    def build_inner_loop(self) -> None:
        """Settles what adapts, and makes the variables of an inner optimizer that learns.

        To be called when all of `inner_variables` exist; `compile` and loading do so.

        Raises:
            TypeError, ValueError: an `adaptable` that does not fit `inner_variables`, or an inner
                optimizer that was made for other weights.
        """
        if not self._settled:
            self._adaptable = chosen_weights(self._choice, self.inner_variables())
            self._settled = True
        adapting = inner_loop.select(self.inner_variables(), self.adaptable)
        inner_optimizers.build(self.inner_optimizer, adapting)

    def compile(self, *args: Any, **settings: Any) -> None:
        """See `maml_tf.Learner`."""
        self.build_inner_loop()
        super().compile(*args, **settings)

    def load_own_variables(self, store: Any) -> None:
        """As Keras calls it before it loads the model."""
        self.build_inner_loop()
        super().load_own_variables(store)

    @property
    def adaptable(self) -> Any:
        """Which of `inner_variables()` the inner loop changes: list of `bool`, or None for all."""
        if not self._settled:
            return self._choice
        return still_chosen(self._adaptable, self.inner_variables())

    @property
    def inner_loop(self) -> InnerLoop:
        """`maml_tf.inner.description.InnerLoop` of this learner."""
        return InnerLoop(
            self.inner_optimizer,
            self.inner_steps,
            adaptable=self.adaptable,
            constraints=constraints_of(self.inner_variables()),
            first_order=self.first_order,
            rematerialize=self.rematerialize,
        )

    # Where the inner loop begins, what runs there, and which loss it descends.

    def inner_variables(self) -> list[Any]:
        """The variables whose values adaptation begins at, a list: what trains of the model.

        Of them `adaptable` chooses, their constraints hold after every inner step, and a learned
        inner optimizer has rates for them.
        """
        return self.model.trainable_variables

    def start(self) -> tuple[list[Any], list[Any]]:
        """`(weights, state)` at which adaptation begins: of `inner_variables` and of the model."""
        return (
            functional.values_of(self.inner_variables()),
            functional.values_of(self.model.non_trainable_variables),
        )

    def run(
        self, weights: Sequence[Any], state: Sequence[Any], x: Any, **settings: Any
    ) -> tuple[Any, list[Any]]:
        """`(predictions, state)` at given weights; see `maml_tf.functional.call`.

        Args:
            weights: list of tensors in the order of `inner_variables`.
            state: list of tensors in the order of `model.non_trainable_variables`.
            x: `[n, ...]`.
            **settings: of `maml_tf.functional.call`.
        """
        return functional.call(self.model, weights, state, x, **settings)

    def inner_objective(
        self, support: Support, training: bool
    ) -> Callable[..., tuple[Any, list[Any]]]:
        """The support loss as `maml_tf.inner_loop` wants it.

        Args:
            support: `maml_tf.learners.base.task.Support`.
            training: `bool`.

        Returns:
            `objective(weights, state, step) -> (loss, state)`.
        """

        def objective(weights, state, step):
            with noise.stream(step):
                return self.run(
                    weights,
                    state,
                    support.x,
                    training=training,
                    batch_norm="batch",
                    counted=support.counted,
                    then=lambda y: self.support_loss(support, y, training),
                )

        return objective

    def support_loss(self, support: Support, y_pred: Any, training: bool) -> Any:
        """The inner loss of predictions for the support set, penalties among it: a scalar.

        Where examples have weights, it is their weighted mean, so that padding changes nothing; of
        a loss of Keras that adds up, `reduction="sum"`, the weighted sum.
        """
        if self._inner_loss is None:
            losses = output_losses.losses_of(self.loss, self.model, y_pred)
            weight = support_weights.of_outputs(support, y_pred, losses)
            loss = self.compute_loss(
                y=support.y, y_pred=y_pred, sample_weight=weight, training=training
            )
            return meta_step.scalar_loss("loss", loss)
        weight = support_weights.of_outputs(support, y_pred, [self._inner_loss])
        loss = self._inner_loss(support.y, y_pred, sample_weight=weight)
        loss = meta_step.scalar_loss("inner_loss", loss)
        return tf.add_n([loss, *[tf.cast(x, loss.dtype) for x in self.losses]])

    # One task; see `Learner`.

    def adapt_task(self, support: Support, *, steps: Any, mode: Mode) -> Any:
        """See `Learner`: the fast weights (equation 1 of Finn et al., 2017, for `SGD`)."""
        weights, state = self.start()
        if mode.training or _is_zero(steps):
            # Where nothing is to be differentiated a step that is not taken needs no loop.
            objective = self.inner_objective(support, mode.training)
            weights, state, _ = self.inner_loop.adapt(objective, weights, state, steps)
        else:
            objective = self.inner_objective(support, training=False)
            weights, state = self.inner_loop.adapt_in_loop(objective, weights, state, steps)
        return self._prepared(weights, state, support, mode)

    def adapt_path(self, support: Support, steps: Any, observe: Callable[[Any], Any]) -> Any:
        """See `Learner`."""
        mode = self.mode(training=False)

        def prepared(weights, state):
            with functional.sealed():
                return observe(self._prepared(weights, state, support, mode))

        objective = self.inner_objective(support, training=False)
        *_, observations = self.inner_loop.adapt_in_loop(
            objective, *self.start(), steps, observe=prepared
        )
        return observations

    def predict_adapted(
        self, adapted: Any, query_x: Any, *, mode: Mode, then: Callable[[Any], Any]
    ) -> Any:
        """See `Learner`."""
        answer, state = self.run(
            *self.values_at(adapted),
            query_x,
            training=mode.training,
            batch_norm=mode.norm_of_queries,
            counted=mode.counted,
            then=then,
        )
        functional.assign(self.model.non_trainable_variables, state)
        return answer

    def unadapted(self) -> Any:
        """See `Learner`: the meta-learned weights."""
        return self._adapted_value(*self.start())

    def values_at(self, adapted: Any) -> tuple[list[Any], list[Any]]:
        """`(weights, state)`, as `start` gives them, at an adapted value."""
        weights, state = self.start()
        carried = iter(adapted["state"])
        pairs = zip(self._carried(), state, strict=True)
        state = [next(carried) if kept else s for kept, s in pairs]
        return self.inner_loop.among(weights, adapted["fast"]), state

    def adapted_model(self, adapted: Any, support_x: Any) -> keras.Model:
        """See `Learner`: where weights of the model adapt, the model with them and its state."""
        if not self._adapts_the_model():
            return super().adapted_model(adapted, support_x)
        with self.with_values(*self.initial_values()):
            values = self.values_at(adapted)
        return adapted_models.adapted_model(self, *values, support_x)

    def _prepared(self, weights, state, support, mode):
        """The adapted value, with the state that queries are predicted with."""
        if mode.batch_norm == "support" and functional.batch_norm_layers(self.model):
            _, state = self.run(
                weights,
                state,
                support.x,
                training=False,
                batch_norm="store",
                counted=support.counted,
            )
        # Integers, such as seeds, are nothing that was learned: they go on from task to query.
        functional.assign(self.model.non_trainable_variables, state)
        return self._adapted_value(weights, state)

    def _adapted_value(self, weights, state):
        kept = [s for kept, s in zip(self._carried(), state, strict=True) if kept]
        return {"fast": self.inner_loop.fast(weights), "state": kept}

    def _carried(self):
        """Which of the model's other variables go along in an adapted value: list of `bool`.

        Integers, such as seeds, do not, and neither does what is frozen.
        """
        layers = self.model._flatten_layers()
        fixed = {id(v) for layer in layers for v in layer._trainable_variables}
        for layer in functional.batch_norm_layers(self.model):
            if not layer.trainable:  # which Keras then normalises by its moving averages
                fixed |= {id(v) for v in layer.variables}
        return [
            "float" in v.dtype and id(v) not in fixed for v in self.model.non_trainable_variables
        ]

    def _adapts_the_model(self):
        """Whether what adapts are weights of the model."""
        return type(self).inner_variables is GradientLearner.inner_variables


def _is_zero(steps):
    return not tf.is_tensor(steps) and steps == 0
