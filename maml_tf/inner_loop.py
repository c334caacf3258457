"""Adaptation to one task: gradient steps as a pure function of the weights (Finn et al., 2017).

    theta_0 = theta,   theta_{i+1} = theta_i - alpha * grad L_support(theta_i)        (equation 1)

`adapt` takes weights and gives weights; it assigns nothing. A `tf.GradientTape` around it that
watches the initial weights sees every step, which makes the meta-gradient exact (second order);
with `first_order=True` the inner gradients are constants to it (section 5.2 of the paper).
"""

import re
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments, exact


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
    """Takes `steps` gradient steps from `weights`, unrolled, so that they can be differentiated.

    Args:
        objective: `objective(weights, state, step) -> (loss, state)`: the support loss (a scalar)
            at these weights. `step` is the number of the inner step.
        weights: list of tensors, the initial weights theta.
        state: list of tensors, handed from step to step.
        optimizer: one of `maml_tf.inner_optimizers`.
        steps: `int`, at least 0.
        adaptable: list of `bool`, which weights adapt; all of them by default.
        constraints: list in the order of `weights`, what each weight is put through after every
            step (a `keras.constraints.Constraint`, or None for a free one); none by default.
        first_order: treat the inner gradients as constants in the meta-gradient.
        rematerialize: keep only the weights of each step and compute everything else again in the
            backward pass: memory then does not grow with `steps` by a step's activations.

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
    if arguments.boolean("rematerialize", rematerialize):
        step_function = _rematerialized(step_function)
    slots = initial_slots(optimizer, weights, adaptable)
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
        weights, state, slots, _ = step_function(step, weights, state, slots)
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


def adaptable_weights(choice, model):
    """Which trainable weights of a model the inner loop changes, as `adapt` takes it.

    Args:
        choice: None for all of them; a function of a variable; a regular expression searched in
            `variable.path`; or a list of `bool` in the order of `model.trainable_variables`.
        model: a built `keras.Model`.

    Returns:
        List of `bool` in the order of `model.trainable_variables`, or None for all.

    Raises:
        TypeError: a choice of another kind, or a list of anything but `bool`.
        ValueError: a choice of no weight, a list of another length, or text that is empty (it
            would be found in every path) or no regular expression.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="head")])
        >>> adaptable_weights("head/bias", model)
        [False, True]
    """
    variables = model.trainable_variables
    expected = (
        f"Expected `adaptable` to choose at least one of the {len(variables)} trainable weights "
        f"{[v.path for v in variables]}."
    )
    given = arguments.received("adaptable", choice)
    advice = (
        "Give a function of a variable, a regular expression on its path, a list of "
        f"{len(variables)} booleans, or None for all."
    )
    if choice is None:
        return None
    if isinstance(choice, str):
        chosen = [found is not None for found in _search(choice, variables, expected, advice)]
    elif callable(choice) and not isinstance(choice, (type, keras.layers.Layer)):
        chosen = [bool(choice(v)) for v in variables]
    elif isinstance(choice, (list, tuple)) or np.ndim(choice) == 1:
        if not all(isinstance(one, (bool, np.bool_)) for one in choice):
            raise TypeError(f"{expected} Received: {given}, not of truth values. {advice}")
        chosen = [bool(one) for one in choice]
    else:
        raise TypeError(f"{expected} Received: {given}. {advice}")
    if len(chosen) != len(variables) or not any(chosen):
        raise ValueError(f"{expected} Received: {given}, which gives {chosen}. {advice}")
    return chosen


def _search(pattern, variables, expected, advice):
    if not pattern:
        raise ValueError(f"{expected} Received: adaptable='', which is in every path. {advice}")
    try:
        return [re.search(pattern, v.path) for v in variables]
    except re.error as error:
        raise ValueError(
            f"{expected} Received: adaptable={pattern!r}, which is no regular expression: {error}. "
            f"{advice}"
        ) from None


def weight_constraints(model):
    """What the layers of a model hold their weights to, as `adapt` takes it.

    Args:
        model: a built `keras.Model`.

    Returns:
        List in the order of `model.trainable_variables`, or None where all weights are free.
    """
    constraints = [variable.constraint for variable in model.trainable_variables]
    return constraints if any(c is not None for c in constraints) else None


def initial_slots(optimizer, weights, adaptable=None):
    """What `optimizer` carries to the first inner step, for the weights that adapt.

    Args:
        optimizer: as in `adapt`.
        weights: as in `adapt`.
        adaptable: as in `adapt`.

    Returns:
        List of tensors.
    """
    return optimizer.init(_select(weights, adaptable))


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
        fast = _select(weights, adaptable)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(fast)
            loss, state = objective(_merge(weights, fast, adaptable), state, step)
        _check_scalar(loss)
        with exact.refusals():
            gradients = _dense(tape.gradient(loss, fast), fast)
        if first_order:
            gradients = [tf.stop_gradient(g) for g in gradients]
        fast, slots = optimizer.update(step, gradients, fast, slots)
        if constraints is not None:
            # As a Keras optimizer does after each of its steps.
            rules = _select(constraints, adaptable)
            fast = [w if rule is None else rule(w) for w, rule in zip(fast, rules, strict=True)]
        return _merge(weights, fast, adaptable), state, slots, loss

    return step_function


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


def _select(weights, adaptable):
    if adaptable is None:
        return list(weights)
    if len(adaptable) != len(weights):
        raise ValueError(
            f"Expected `adaptable` to have one truth value for each of the {len(weights)} weights. "
            f"Received: {len(adaptable)}, {adaptable!r}. Make it as long as `weights`."
        )
    return [w for w, adapts in zip(weights, adaptable, strict=True) if adapts]


def _merge(weights, fast, adaptable):
    if adaptable is None:
        return list(fast)
    fast = iter(fast)
    return [next(fast) if adapts else w for w, adapts in zip(weights, adaptable, strict=True)]


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


def _rematerialized(step_function):
    """`step_function` that keeps only its inputs for the backward pass and runs again there."""

    def wrapped(step, weights, state, slots):
        inputs = [list(weights), list(state), list(slots)]
        flat = tf.nest.flatten(inputs)
        # Integers (seeds, counters) have no gradient: they come in by closure.
        floating = [i for i, t in enumerate(flat) if t.dtype.is_floating]
        structure = []

        def run(*tensors):
            full = list(flat)
            for i, t in zip(floating, tensors, strict=True):
                full[i] = t
            outputs = step_function(step, *tf.nest.pack_sequence_as(inputs, full))
            structure[:] = [outputs]
            # State may come back as it was given, a tensor of another graph.
            return [tf.identity(output) for output in tf.nest.flatten(outputs)]

        @tf.custom_gradient
        def checkpointed(*tensors):
            outputs = run(*tensors)

            def backward(*upstream):
                again = _after(upstream, tensors)
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(again)
                    targets = run(*again)
                pairs = [
                    (t, u) for t, u in zip(targets, upstream, strict=True) if t.dtype.is_floating
                ]
                return tape.gradient(
                    [t for t, _ in pairs],
                    again,
                    output_gradients=[u for _, u in pairs],
                    unconnected_gradients=tf.UnconnectedGradients.ZERO,
                )

            return outputs, backward

        outputs = checkpointed(*[flat[i] for i in floating])
        return tf.nest.pack_sequence_as(structure[0], outputs)

    return wrapped


def _after(signals, tensors):
    """Copies of `tensors` that exist only once `signals` do.

    Otherwise the executor would run the second forward pass along with the first one, and the
    graph optimizer or XLA would merge the two: nothing would be saved.
    """
    signals = [s for s in signals if s.dtype.is_floating]
    # XLA knows no control dependencies, so the values depend on a signal too, in a way that no
    # compiler can simplify: where the upstream gradient is NaN, so is everything.
    signal = tf.reshape(signals[0], [-1])[0]
    with tf.control_dependencies(signals):
        return [
            tf.where(tf.math.is_nan(signal), tf.cast(signal, t.dtype), tf.identity(t))
            for t in tensors
        ]
