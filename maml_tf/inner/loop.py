"""Adaptation to one task: gradient steps as a pure function of the weights (Finn et al., 2017).

    theta_0 = theta,   theta_{i+1} = theta_i - alpha * grad L_support(theta_i)        (equation 1)

`adapt` takes weights and gives weights; it assigns nothing. A `tf.GradientTape` around it that
watches the initial weights sees every step, which makes the meta-gradient exact (second order);
with `first_order=True` the inner gradients are constants to it (section 5.2 of the paper).
"""

from typing import NamedTuple

import tensorflow as tf

from maml_tf import arguments, exact, functional
from maml_tf.exact import loops
from maml_tf.inner.adaptable import adaptable_weights, weight_constraints
from maml_tf.inner.rematerialization import loops_here, rematerialized, rematerialized_loop

__all__ = [
    "Adapted",
    "adapt",
    "adapt_in_loop",
    "adaptable_weights",
    "gradient_step",
    "initial_slots",
    "weight_constraints",
]


class Adapted(NamedTuple):
    """What adapting to one task gives back."""

    weights: list  # the fast weights, in the order of the initial ones
    state: list  # the model's state after the last step
    losses: tf.Tensor  # [steps], the support loss before each step


def adapt(
    objective,
    weights,
    state,
    optimizer,
    steps,
    *,
    adaptable=None,
    constraints=None,
    first_order=False,
    rematerialize=False,
):
    """Takes `steps` gradient steps from `weights`, in a way that can be differentiated.

    They are unrolled, but for several rematerialized steps in a graph, which are a loop there.

    Args:
        objective: `objective(weights, state, step) -> (loss, state)`: the support loss (a scalar)
            at these weights. `step` is the number of the inner step, an `int`, or an int32 scalar
            where the steps are a loop.
        weights: list of tensors, the initial weights theta.
        state: list of tensors, handed from step to step.
        optimizer: one of `maml_tf.inner_optimizers`, or any object with `init(weights)` and
            `update(step, gradients, weights, slots)`; where its attribute `takes_loss` is True,
            `update` is given the support loss, too, as `loss`.
        steps: `int`, at least 0.
        adaptable: list of `bool`, which weights adapt; all of them by default.
        constraints: list in the order of `weights`, what each weight is put through after every
            step (a `keras.constraints.Constraint`, or None for a free one); none by default.
        first_order: treat the inner gradients as constants in the meta-gradient.
        rematerialize: keep only the weights of each step and compute everything else again in the
            backward pass: memory then does not grow with `steps` by a step's activations. Of what
            `objective` and `optimizer` use beside their arguments, only the variables that
            `maml_tf.functional.in_place_of` is open for then have a gradient.

    Returns:
        `Adapted`.

    Raises:
        TypeError: `steps` is not an integer, a switch is neither True nor False, or `optimizer` or
            `objective` is of another kind.
        ValueError: `steps` is negative, `adaptable` does not fit the weights, or the loss is no
            scalar or depends on none of the weights that adapt.

    Example:
        >>> optimizer = maml_tf.inner_optimizers.SGD(0.25)
        >>> adapted = adapt(lambda w, state, step: (tf.reduce_sum(w[0] ** 2), state),
        ...                 [tf.constant([2.0, 3.0])], [], optimizer, steps=2)
        >>> adapted.weights[0].numpy()
        array([0.5 , 0.75], dtype=float32)
    """
    steps = arguments.integer("steps", steps, minimum=0)
    step_function = gradient_step(objective, optimizer, adaptable, first_order, constraints)
    slots = initial_slots(optimizer, weights, adaptable)
    if arguments.boolean("rematerialize", rematerialize):
        if steps > 1 and loops_here():
            return Adapted(*rematerialized_loop(step_function, steps)(weights, state, slots))
        step_function = rematerialized(step_function)
    losses = []
    for step in range(steps):
        weights, state, slots, loss = step_function(step, weights, state, slots)
        losses.append(loss)
    return Adapted(weights, state, tf.stack(losses) if losses else tf.zeros([0]))


def adapt_in_loop(
    objective,
    weights,
    state,
    optimizer,
    steps,
    *,
    adaptable=None,
    constraints=None,
    observe=None,
):
    """Takes `steps` steps in a `tf.while_loop`: for prediction, where nothing differentiates it.

    The graph is as large for a hundred steps as for one, and `steps` may be known only at run
    time (an input of an exported model).

    Args:
        objective: as in `adapt`.
        weights: as in `adapt`.
        state: as in `adapt`.
        optimizer: as in `adapt`.
        steps: int32 scalar or `int`.
        adaptable: as in `adapt`.
        constraints: as in `adapt`.
        observe: `observe(weights, state) -> tensor or structure`, evaluated at the initial
            weights and after each step.

    Returns:
        `(weights, state)`, or with `observe` `(weights, state, observations)`, observations
        stacked along a new first axis, `[steps + 1, ...]`.

    Raises:
        TypeError, ValueError: as in `adapt`; a tensor of steps is checked by its dtype and rank.
    """
    _check_steps(steps)
    step_function = gradient_step(
        objective, optimizer, adaptable, first_order=True, constraints=constraints
    )
    slots = initial_slots(optimizer, weights, adaptable)
    steps = tf.convert_to_tensor(steps, tf.int32)
    before = [] if observe is None else observe(weights, state)
    arrays = [
        tf.TensorArray(o.dtype, size=steps + 1, element_shape=o.shape).write(0, o)
        for o in tf.nest.flatten(before)
    ]

    def body(step, weights, state, slots, arrays):
        weights, state, slots, _ = step_function(step, *loops.carried(weights, state, slots))
        if observe is not None:
            observed = tf.nest.flatten(observe(weights, state))
            arrays = [a.write(step + 1, o) for a, o in zip(arrays, observed, strict=True)]
        return step + 1, weights, state, slots, arrays

    _, weights, state, _, arrays = tf.while_loop(
        lambda step, *_: step < steps,
        body,
        (tf.constant(0), list(weights), list(state), slots, arrays),
        parallel_iterations=1,
    )
    if observe is None:
        return weights, state
    observed = tf.nest.pack_sequence_as(before, [array.stack() for array in arrays])
    return weights, state, observed


def initial_slots(optimizer, weights, adaptable=None):
    """What `optimizer` carries to the first inner step, for the weights that adapt.

    Args:
        optimizer: as in `adapt`.
        weights: as in `adapt`.
        adaptable: as in `adapt`.

    Returns:
        List of tensors.
    """
    return optimizer.init(select(weights, adaptable))


def gradient_step(objective, optimizer, adaptable=None, first_order=False, constraints=None):
    """One inner step, for callers that keep what goes from step to step themselves.

    Args:
        objective: as in `adapt`.
        optimizer: as in `adapt`; its slots before the first step are those of `initial_slots`.
        adaptable: as in `adapt`.
        first_order: as in `adapt`.
        constraints: as in `adapt`.

    Returns:
        A function `(step, weights, state, slots) -> (weights, state, slots, loss)`.

    Raises:
        TypeError, ValueError: as in `adapt`.
    """
    _check_parts(objective, optimizer)
    first_order = arguments.boolean("first_order", first_order)

    def step_function(step, weights, state, slots):
        fast = select(weights, adaptable)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(fast)
            loss, state = objective(merge(weights, fast, adaptable), state, step)
        _check_scalar(loss)
        with exact.refusals():
            gradients = _dense(tape.gradient(loss, fast), fast)
        if first_order:
            gradients = [tf.stop_gradient(g) for g in gradients]
        given = {"loss": loss} if getattr(optimizer, "takes_loss", False) else {}
        with functional.sealed():
            fast, slots = optimizer.update(step, gradients, fast, slots, **given)
        if constraints is not None:
            # As a Keras optimizer does after each of its steps.
            rules = select(constraints, adaptable)
            fast = [w if rule is None else rule(w) for w, rule in zip(fast, rules, strict=True)]
        return merge(weights, fast, adaptable), state, slots, loss

    return step_function


def select(weights, adaptable):
    """Those of a list that adapt.

    Args:
        weights: list.
        adaptable: list of `bool`, or None for all.

    Returns:
        List.

    Raises:
        ValueError: `adaptable` is of another length.
    """
    if adaptable is None:
        return list(weights)
    if len(adaptable) != len(weights):
        raise ValueError(
            f"Expected `adaptable` to have one truth value for each of the {len(weights)} weights. "
            f"Received: {len(adaptable)}, {adaptable!r}. Make it as long as `weights`."
        )
    return [w for w, adapts in zip(weights, adaptable, strict=True) if adapts]


def merge(weights, fast, adaptable):
    """A list with `fast` in the place of those of `weights` that adapt; `select` undone."""
    if adaptable is None:
        return list(fast)
    fast = iter(fast)
    return [next(fast) if adapts else w for w, adapts in zip(weights, adaptable, strict=True)]


def _check_steps(steps):
    """Checks a number of steps that may be known only at run time."""
    if not tf.is_tensor(steps):
        arguments.integer("steps", steps, minimum=0)
    elif not steps.dtype.is_integer or steps.shape.rank not in (0, None):
        raise TypeError(
            "Expected `steps` to be an integer scalar. Received: a tensor of shape "
            f"{steps.shape} and dtype {steps.dtype.name}. Give an `int` or an int32 scalar."
        )


def _check_parts(objective, optimizer):
    if not callable(objective):
        raise TypeError(
            "Expected `objective` to be a function `(weights, state, step) -> (loss, state)`. "
            f"Received: {arguments.received('objective', objective)}. Give a function."
        )
    # A Keras optimizer has neither; another object may have both and be of no class of ours.
    if isinstance(optimizer, type) or not (
        hasattr(optimizer, "init") and hasattr(optimizer, "update")
    ):
        raise TypeError(
            "Expected `optimizer` to be one of maml_tf.inner_optimizers, which update tensors. "
            f"Received: {arguments.received('optimizer', optimizer)}. Give, for example, "
            "maml_tf.inner_optimizers.SGD(0.01)."
        )


def _check_scalar(loss):
    """The gradient of a vector would be that of its sum: steps as many times too large."""
    shape = tf.convert_to_tensor(loss).shape
    if shape.rank not in (0, None):
        raise ValueError(
            f"Expected an inner loss that is a scalar. Received: a loss of shape {shape}, one "
            'value for each example. Give the loss another reduction than "none", such as '
            '"sum_over_batch_size", or take the mean of it.'
        )


def _dense(gradients, weights):
    if all(g is None for g in gradients):
        raise ValueError(
            "Expected an inner loss that is differentiable with respect to the weights that "
            "adapt. Received: one that depends on none of them: its gradient is None for all "
            f"{len(weights)}. Use a loss that does not round, compare or take an argmax, or have "
            "`adaptable` choose weights that the loss uses."
        )
    return [
        tf.zeros_like(w) if g is None else tf.convert_to_tensor(g)
        for g, w in zip(gradients, weights, strict=True)
    ]
