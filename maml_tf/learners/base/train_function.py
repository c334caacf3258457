"""Several training steps as one XLA program.

Keras runs `steps_per_execution` steps in one TensorFlow function but starts a compiled program for
each step. For small networks that start takes longer than the step, so here the batches are
collected first and the loop over them is compiled too.
"""

import tensorflow as tf


def make_compiled_loop(learner):
    """A function of a data iterator that runs `learner.steps_per_execution` steps under XLA.

    Fewer steps are run where the iterator ends early; it must yield batches of one shape.

    Raises:
        StopIteration: by the returned function, when the iterator has no batch left.
    """

    @tf.function(jit_compile=True, autograph=False)
    def run(batches, count):
        def body(i):
            learner.train_step(tf.nest.map_structure(lambda b: b[i], batches))
            return i + 1

        tf.while_loop(lambda i: i < count, body, [tf.constant(0)], parallel_iterations=1)
        return learner.get_metrics_result()

    @tf.function(autograph=False)
    def collect(iterator):
        spec = iterator.element_spec
        size = learner.steps_per_execution
        arrays = [
            tf.TensorArray(s.dtype, size=size, element_shape=s.shape, dynamic_size=False)
            for s in tf.nest.flatten(spec)
        ]

        def body(i, arrays, element):
            values = tf.nest.flatten(element.get_value())
            arrays = [a.write(i, v) for a, v in zip(arrays, values, strict=True)]
            following = tf.cond(i + 1 < size, iterator.get_next_as_optional, lambda: element)
            return i + 1, arrays, following

        count, arrays, _ = tf.while_loop(
            lambda i, arrays, element: (i < size) & element.has_value(),
            body,
            (tf.constant(0), arrays, iterator.get_next_as_optional()),
            parallel_iterations=1,
        )
        return tf.nest.pack_sequence_as(spec, [a.stack() for a in arrays]), count

    def function(iterator):
        batches, count = collect(iterator)
        if int(count) == 0:
            raise StopIteration
        return run(batches, count)

    return function
