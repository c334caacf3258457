"""One function applied to all tasks of a meta-batch.

Two ways, both with the same results:

- `"loop"`: a `tf.while_loop` over tasks, a few of them at the same time. What is summed (the
  meta-gradient) is summed as the loop goes, so memory does not grow with the number of tasks.
  On a CPU it is the faster way for convolutions: one task per core, one thread per operation.
- `"vectorized"`: `tf.vectorized_map`. The faster way for small dense networks, above all under
  XLA; memory grows with the tasks. Convolutions with per-task weights fall back to slow loops.
"""

import os

import keras
import tensorflow as tf

STRATEGIES = ("auto", "loop", "vectorized")


def choose(strategy, model):
    """Resolves `"auto"`: vectorised for networks of matrices and vectors, else the loop.

    Args:
        strategy: one of `STRATEGIES`.
        model: a built `keras.Model`. Kernels of rank 3 and more are convolutions; recurrent
            layers loop inside; both go task by task.

    Raises:
        ValueError: another name.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"`task_map` must be one of {STRATEGIES}. Received: {strategy!r}")
    if strategy != "auto":
        return strategy
    looping = any(isinstance(layer, keras.layers.RNN) for layer in model._flatten_layers())
    small = all(len(v.shape) <= 2 for v in model.trainable_variables)
    return "vectorized" if small and not looping else "loop"


def map_tasks(function, tasks, strategy, parallel=None, jit_compile=False):
    """Applies `function(task, index) -> (summed, stacked)` to every task.

    Args:
        function: gets one task (the structure of `tasks` without its first axis) and its index
            (int32 scalar), and returns two structures of tensors.
        tasks: structure of tensors `[tasks, ...]`.
        strategy: `"loop"` or `"vectorized"`.
        parallel: how many tasks the loop works on at the same time; the number of cores by
            default. More tasks in flight take more memory.
        jit_compile: compile `function` with XLA, one program that the loop runs for each task.

    Returns:
        `(sums, stacks)`: the first structure added up over tasks, the second one stacked,
        `[tasks, ...]`.
    """
    flat = tf.nest.flatten(tasks)
    count = flat[0].shape[0] if flat[0].shape[0] is not None else tf.shape(flat[0])[0]
    indices = tf.range(count)
    if jit_compile:
        function = tf.function(function, autograph=False, jit_compile=True)
    if strategy == "vectorized":
        summed, stacked = tf.vectorized_map(lambda e: function(e[0], e[1]), (tasks, indices))
        return tf.nest.map_structure(lambda t: tf.reduce_sum(t, 0), summed), stacked
    return _loop(function, tasks, count, parallel or os.cpu_count() or 1)


def _loop(function, tasks, count, parallel):
    def one(i):
        return function(tf.nest.map_structure(lambda t: t[i], tasks), i)

    if tf.executing_eagerly():
        results = [one(tf.constant(i)) for i in range(int(count))]
        sums, stacks = zip(*results, strict=True)
        return (
            tf.nest.map_structure(lambda *t: tf.add_n(t), *sums),
            tf.nest.map_structure(lambda *t: tf.stack(t), *stacks),
        )
    # Traced once, here, where the structures and shapes of the results are read off.
    one = tf.function(one, autograph=False).get_concrete_function(tf.TensorSpec([], tf.int32))
    summed, stacked = one.structured_outputs
    sums = tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), summed)
    arrays = [
        tf.TensorArray(s.dtype, size=count, element_shape=s.shape) for s in tf.nest.flatten(stacked)
    ]

    def body(i, sums, arrays):
        terms, outputs = one(i)
        sums = tf.nest.map_structure(tf.add, sums, terms)
        outputs = tf.nest.flatten(outputs)
        return i + 1, sums, [a.write(i, o) for a, o in zip(arrays, outputs, strict=True)]

    _, sums, arrays = tf.while_loop(
        lambda i, *_: i < count,
        body,
        (tf.constant(0), sums, arrays),
        parallel_iterations=parallel,
    )
    return sums, tf.nest.pack_sequence_as(stacked, [array.stack() for array in arrays])
