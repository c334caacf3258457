"""Inner steps that are computed again in the backward pass: memory then holds only their inputs."""

import tensorflow as tf


def rematerialized(step_function):
    """An inner step that keeps only its inputs for the backward pass and runs again there.

    Args:
        step_function: what `maml_tf.inner_loop.gradient_step` gives:
            `(step, weights, state, slots) -> (weights, state, slots, loss)`.

    Returns:
        A function of the same arguments and results.
    """

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
