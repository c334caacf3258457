"""The inner loop as one value: how it steps, how often, what it changes, and what is kept of it.

Learners and meta-policies hold one and ask it for their inner steps; the arithmetic is that of
`maml_tf.inner_loop`.
"""

import dataclasses
from typing import Any

from maml_tf.inner import loop as inner_loop


@dataclasses.dataclass(frozen=True)
class InnerLoop:
    """What of adaptation is the same for all tasks.

    Attributes:
        optimizer: one of `maml_tf.inner_optimizers`.
        steps: `int`, the number of inner steps, where nobody asks for another one.
        adaptable: list of `bool`, which weights adapt; None for all.
        constraints: list of `keras.constraints.Constraint` or None for each weight; None for none.
        first_order: `bool`, inner gradients are constants in the meta-gradient.
        rematerialize: `bool`, activations are computed again in the backward pass.

    Example:
        >>> loop = InnerLoop(maml_tf.inner_optimizers.SGD(0.25), steps=2)
        >>> half = loop.adapt(lambda w, state, step: (tf.reduce_sum(w[0] ** 2), state),
        ...                   [tf.constant([2.0, 3.0])], [])
        >>> half.weights[0].numpy()
        array([0.5 , 0.75], dtype=float32)
    """

    optimizer: Any
    steps: int = 1
    adaptable: Any = None
    constraints: Any = None
    first_order: bool = False
    rematerialize: bool = False

    def adapt(self, objective, weights, state, steps=None):
        """Unrolled steps, which can be differentiated; see `maml_tf.inner_loop.adapt`.

        Args:
            objective: `objective(weights, state, step) -> (loss, state)`.
            weights: list of tensors.
            state: list of tensors.
            steps: `int`, in the place of `self.steps`.

        Returns:
            `maml_tf.inner_loop.Adapted`.
        """
        return inner_loop.adapt(
            objective,
            weights,
            state,
            self.optimizer,
            self.steps if steps is None else steps,
            adaptable=self.adaptable,
            constraints=self.constraints,
            first_order=self.first_order,
            rematerialize=self.rematerialize,
        )

    def adapt_in_loop(self, objective, weights, state, steps=None, observe=None):
        """Steps in a loop of the graph; see `maml_tf.inner_loop.adapt_in_loop`.

        Args:
            objective: as in `adapt`.
            weights: as in `adapt`.
            state: as in `adapt`.
            steps: `int` or int32 scalar, in the place of `self.steps`.
            observe: `observe(weights, state) -> tensors`, at the start and after each step.

        Returns:
            `(weights, state)`, and with `observe` observations `[steps + 1, ...]`.
        """
        return inner_loop.adapt_in_loop(
            objective,
            weights,
            state,
            self.optimizer,
            self.steps if steps is None else steps,
            adaptable=self.adaptable,
            constraints=self.constraints,
            observe=observe,
        )

    def step(self, objective, number, weights, state, slots):
        """One step by itself, for callers that keep what goes from step to step.

        Args:
            objective: as in `adapt`.
            number: `int` or int32 scalar, from 0.
            weights: as in `adapt`.
            state: as in `adapt`.
            slots: list of tensors; those of `initial_slots` before the first step.

        Returns:
            `(weights, state, slots)`.
        """
        step = inner_loop.gradient_step(
            objective,
            self.optimizer,
            self.adaptable,
            first_order=True,
            constraints=self.constraints,
        )
        return step(number, weights, state, slots)[:3]

    def initial_slots(self, weights):
        """What the optimizer carries to the first step: list of tensors."""
        return inner_loop.initial_slots(self.optimizer, weights, self.adaptable)

    def fast(self, weights):
        """Those of `weights` that adapt."""
        return inner_loop.select(weights, self.adaptable)

    def among(self, weights, fast):
        """`weights` with `fast` in the place of those that adapt."""
        return inner_loop.merge(weights, fast, self.adaptable)
