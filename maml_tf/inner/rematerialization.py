"""Inner steps that are computed again in the backward pass: memory then holds only their inputs.

A gradient that is written by hand, as `tf.custom_gradient` has it, is one of the inputs alone: what
a function closes over gets none, and nobody is told. So what stands in the place of variables
(`maml_tf.functional.in_place_of`) becomes an input here: rates that an inner optimizer learns,
weights that do not adapt.
"""

import contextlib

import keras
import tensorflow as tf
from tensorflow.python.eager import record

from maml_tf.exact import dispatch, keras_internals, loops


def rematerialized(step_function):
    """An inner step that keeps only its inputs for the backward pass and runs again there.

    Args:
        step_function: what `maml_tf.inner_loop.gradient_step` gives:
            `(step, weights, state, slots) -> (weights, state, slots, loss)`.

    Returns:
        A function of the same arguments and results.
    """
    read = _read_variables()

    def wrapped(step, weights, state, slots):
        inputs = [list(weights), list(state), list(slots), list(read.values())]
        flat = tf.nest.flatten(inputs)
        # Integers (seeds, counters) have no gradient: they come in by closure.
        floating = [i for i, t in enumerate(flat) if t.dtype.is_floating]
        structure = []

        def run(*tensors):
            full = _filled(flat, floating, tensors)
            *arguments, values = tf.nest.pack_sequence_as(inputs, full)
            with _in_place(dict(zip(read, values, strict=True))):
                outputs = step_function(step, *arguments)
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


def loops_here():
    """Whether steps are better taken by `rematerialized_loop`: in a graph.

    What is vectorised over tasks afterwards has no loops: not all that is in them could be.
    """
    return not tf.executing_eagerly() and not dispatch.inside_vectorized()


def rematerialized_loop(step_function, steps):
    """All inner steps as a loop of the graph, which a second loop goes through backward.

    The first keeps what each step began with; the second one runs each step again from there and
    takes its gradient. So neither memory nor the graph holds more than one step's operations.

    Args:
        step_function: as in `rematerialized`; its `step` is an int32 scalar here.
        steps: `int`, at least 1.

    Returns:
        A function `(weights, state, slots) -> (weights, state, losses)`, losses `[steps]`.
    """
    # Integers stay where they are, in the scope around: they have no gradient.
    read = {v: t for v, t in _read_variables().items() if tf.as_dtype(t.dtype).is_floating}

    def wrapped(weights, state, slots):
        given = [list(weights), list(state), list(slots)]
        flat = [tf.convert_to_tensor(t) for t in tf.nest.flatten(given)]
        floating = [i for i, t in enumerate(flat) if t.dtype.is_floating]
        values = [tf.convert_to_tensor(v) for v in read.values()]

        def run(step, tensors, values):
            with _in_place(dict(zip(read, values, strict=True))):
                *after, loss = step_function(step, *tf.nest.pack_sequence_as(given, tensors))
            return tf.nest.flatten(after), loss

        last, count = [], len(floating)

        @tf.custom_gradient
        def looped(*tensors):
            begin, values = _filled(flat, floating, tensors[:count]), list(tensors[count:])
            end, losses, kept = _forward(run, steps, begin, values)
            # Integers (seeds, counters) have no gradient: they go out by closure.
            last[:] = end

            def backward(*upstream):
                *above, above_losses = upstream
                return _backward(run, steps, kept, floating, values, above, above_losses)

            return [*(end[i] for i in floating), losses], backward

        *numbers, losses = looped(*(flat[i] for i in floating), *values)
        weights, state, _ = tf.nest.pack_sequence_as(given, _filled(last, floating, numbers))
        return weights, state, losses

    return wrapped


def _forward(run, steps, begin, values):
    """Runs all steps: what they end with, their losses `[steps]`, what each began with, stacked."""
    # Of which type a loss is only a step can say.
    run = tf.function(run, autograph=False).get_concrete_function(
        tf.TensorSpec([], tf.int32),
        *tf.nest.map_structure(tf.TensorSpec.from_tensor, [list(begin), values]),
    )
    losses = tf.TensorArray(run.structured_outputs[1].dtype, steps, element_shape=[])
    arrays = [tf.TensorArray(t.dtype, steps, element_shape=t.shape) for t in begin]

    def body(step, tensors, arrays, losses):
        arrays = [a.write(step, t) for a, t in zip(arrays, tensors, strict=True)]
        tensors, loss = run(step, *loops.carried(tensors), values)
        return step + 1, tensors, arrays, losses.write(step, loss)

    # No tape is to know of this: the way back is `_backward`.
    with record.stop_recording():
        _, end, arrays, losses = tf.while_loop(
            lambda step, *_: step < steps,
            body,
            (tf.constant(0), list(begin), arrays, losses),
            parallel_iterations=1,
            maximum_iterations=steps,
        )
        return end, losses.stack(), [array.stack() for array in arrays]


def _backward(run, steps, kept, floating, values, above, above_losses):
    """Gradients of what floats at the beginning and of `values`, from those of the end."""
    count = len(floating)

    def body(step, above, sums):
        above, sums = loops.carried(above, sums)
        begin = [stack[step] for stack in kept]
        inputs = [*(begin[i] for i in floating), *values]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            end, loss = run(step, _filled(begin, floating, inputs[:count]), values)
        gradients = tape.gradient(
            [*(end[i] for i in floating), loss],
            inputs,
            output_gradients=[*above, above_losses[step]],
        )
        pairs = zip(inputs, gradients, strict=True)
        below = [tf.zeros_like(t) if g is None else tf.convert_to_tensor(g) for t, g in pairs]
        # Of the variables a step reads but a few: the sums of the others are handed on.
        found = zip(sums, gradients[count:], strict=True)
        return step - 1, below[:count], [s if g is None else s + g for s, g in found]

    _, below, sums = tf.while_loop(
        lambda step, *_: step >= 0,
        body,
        (tf.constant(steps - 1), list(above), [tf.zeros_like(v) for v in values]),
        parallel_iterations=1,
        maximum_iterations=steps,
    )
    return [*below, *sums]


def _filled(tensors, places, values):
    """The list with `values` at `places`."""
    filled = list(tensors)
    for place, value in zip(places, values, strict=True):
        filled[place] = value
    return filled


def _read_variables():
    """Tensors that stand in the place of variables, by the ids of these.

    Those of the network, too, though the first step is given them: an optimizer may read them.
    """
    scope = keras_internals.open_scope()
    return {} if scope is None else dict(scope.state_mapping)


@contextlib.contextmanager
def _in_place(mapping):
    """While open, the tensors of `mapping` stand in the place of the variables of these ids."""
    if not mapping:
        yield
        return
    scope = keras.StatelessScope(collect_losses=True)
    scope.state_mapping = {**keras_internals.open_scope().state_mapping, **mapping}
    with scope:
        yield


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
