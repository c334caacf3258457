"""Inner steps that are computed again in the backward pass: memory then holds only their inputs.

A gradient that is written by hand, as `tf.custom_gradient` has it, is one of the inputs alone: what
a function closes over gets none, and nobody is told. So what stands in the place of variables
(`maml_tf.functional.in_place_of`) becomes an input here: rates that an inner optimizer learns,
weights that do not adapt.
"""

import contextlib

import keras
import tensorflow as tf

from maml_tf.exact import keras_internals


def rematerialized(step_function):
    """An inner step that keeps only its inputs for the backward pass and runs again there.

    Args:
        step_function: what `maml_tf.inner_loop.gradient_step` gives:
            `(step, weights, state, slots) -> (weights, state, slots, loss)`.

    Returns:
        A function of the same arguments and results.
    """
    scope = keras_internals.open_scope()
    # Those of the network, too, though the first step is given them: an optimizer may read them.
    read = {} if scope is None else dict(scope.state_mapping)

    def wrapped(step, weights, state, slots):
        inputs = [list(weights), list(state), list(slots), list(read.values())]
        flat = tf.nest.flatten(inputs)
        # Integers (seeds, counters) have no gradient: they come in by closure.
        floating = [i for i, t in enumerate(flat) if t.dtype.is_floating]
        structure = []

        def run(*tensors):
            full = list(flat)
            for i, t in zip(floating, tensors, strict=True):
                full[i] = t
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
