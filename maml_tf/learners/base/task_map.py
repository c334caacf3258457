"""One function applied to all tasks of a meta-batch.

Two ways, both with the same results:

- `"loop"`: a `tf.while_loop` over tasks, a few of them at the same time. What is summed (the
  meta-gradient) is summed as the loop goes, so memory does not grow with the number of tasks.
  On a CPU it is the faster way for convolutions: one task per core, one thread per operation.
- `"vectorized"`: `tf.vectorized_map`. The faster way for small dense networks, above all under
  XLA, and under XLA on a GPU for plain convolutions, too, which are products of matrices then
  (`maml_tf.exact.convolution`); memory grows with the tasks. Other convolutions with per-task
  weights fall back to slow loops, and control flow (`tf.cond`, `tf.while_loop`) often cannot be
  vectorised at all.

`"auto"` takes the way that is likely to be faster, and the loop where the other one fails.
"""

import logging
import os

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.exact import dispatch, products

STRATEGIES = ("auto", "loop", "vectorized")

# More tasks at the same time than any machine has cores; TensorFlow aborts at far larger numbers.
MOST_PARALLEL = 4096

_CONTROL_FLOW = {"If", "StatelessIf", "Case", "StatelessCase", "While", "StatelessWhile"}
_LOG = logging.getLogger(__name__)
_LOGGED: set[str] = set()


def choose(strategy, model):
    """Resolves `"auto"` where the layers of a model tell what it should be.

    Args:
        strategy: one of `STRATEGIES`.
        model: a built `keras.Model`. Convolutions and recurrent layers go task by task, but plain
            convolutions that XLA compiles for a GPU; what is made of matrices and vectors, also
            where attention keeps them in kernels of rank 3, is left to `map_tasks`, which
            vectorises it if it can.

    Returns:
        One of `STRATEGIES`.

    Raises:
        ValueError: another name.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"`task_map` must be one of {STRATEGIES}. Received: {strategy!r}")
    if strategy != "auto":
        return strategy
    flat = list(model._flatten_layers())
    looping = any(isinstance(layer, keras.layers.RNN) for layer in flat)
    compiled = getattr(model, "jit_compile", False)
    on_gpu = compiled and bool(tf.config.list_physical_devices("GPU"))
    # Their kernels of any rank are matrices in an einsum: an attention's are of rank 3.
    products = {
        id(v)
        for layer in flat
        if isinstance(layer, keras.layers.EinsumDense) or (on_gpu and _is_plain(layer))
        for v in layer.trainable_variables
    }
    small = all(len(v.shape) <= 2 or id(v) in products for v in model.trainable_variables)
    return "auto" if small and not looping else "loop"


def _is_plain(layer):
    """Whether a layer is a convolution that can be a product of all tasks' matrices."""
    return (
        isinstance(layer, keras.layers.Conv2D)
        and layer.groups == 1
        and set(layer.dilation_rate) == {1}
        and layer.data_format == "channels_last"
    )


def check_parallel(parallel):
    """Checks how many tasks are worked on at the same time; returns it.

    Args:
        parallel: `int` from 1 to `MOST_PARALLEL`, or None for the number of cores.

    Raises:
        TypeError: it is no integer.
        ValueError: it is out of range.
    """
    return (
        None
        if parallel is None
        else arguments.integer("parallel_tasks", parallel, 1, MOST_PARALLEL)
    )


def map_tasks(function, tasks, strategy, parallel=None, jit_compile=False):
    """Applies `function(task, index) -> (summed, stacked)` to every task.

    Args:
        function: gets one task (the structure of `tasks` without its first axis) and its index
            (int32 scalar), and returns two structures of tensors.
        tasks: structure of tensors `[tasks, ...]`.
        strategy: `"loop"`; `"vectorized"`; or `"auto"`: vectorised, or the loop where `function`
            has control flow or cannot be vectorised (`logging` says why, once for each reason).
        parallel: how many tasks the loop works on at the same time; the number of cores by
            default. More tasks in flight take more memory.
        jit_compile: compile `function` with XLA, one program that the loop runs for each task.

    Returns:
        `(sums, stacks)`: the first structure added up over tasks, the second one stacked,
        `[tasks, ...]`.

    Raises:
        ValueError: `parallel` is out of range, or `"vectorized"` was asked for and fails.
    """
    parallel = check_parallel(parallel)
    flat = tf.nest.flatten(tasks)
    count = flat[0].shape[0] if flat[0].shape[0] is not None else tf.shape(flat[0])[0]
    indices = tf.range(count)
    if jit_compile:
        function = tf.function(function, autograph=False, jit_compile=True)
    parallel = min(parallel or os.cpu_count() or 1, count if isinstance(count, int) else 2**31)
    if strategy == "loop":
        return _loop(function, tasks, count, parallel)
    if strategy == "vectorized":
        return _vectorized(function, tasks, indices)
    try:
        return _vectorized(function, tasks, indices, control_flow=False)
    except _NotVectorizedError as error:
        results = _loop(function, tasks, count, parallel)
        if str(error) not in _LOGGED:
            _LOGGED.add(str(error))
            _LOG.info("Tasks go one by one, not vectorised: %s", error)
        return results


def task_mean(function, tasks, strategy, parallel=None, jit_compile=False):
    """`map_tasks`, with the mean over tasks in the place of the sum.

    Args:
        function: as in `map_tasks`.
        tasks: as in `map_tasks`.
        strategy: as in `map_tasks`.
        parallel: as in `map_tasks`.
        jit_compile: as in `map_tasks`.

    Returns:
        `(means, stacks)`.

    Raises:
        ValueError: as in `map_tasks`.

    Example:
        >>> value_and_gradient = lambda x, index: ((x**2, 2 * x), {"x": x})
        >>> (value, gradient), _ = task_mean(value_and_gradient, tf.constant([1.0, 3.0]), "loop")
        >>> float(value), float(gradient)
        (5.0, 4.0)
    """
    sums, stacks = map_tasks(function, tasks, strategy, parallel, jit_compile)
    count = tf.shape(tf.nest.flatten(tasks)[0])[0]
    return tf.nest.map_structure(lambda s: s / tf.cast(count, s.dtype), sums), stacks


class _NotVectorizedError(ValueError):
    pass


def _vectorized(function, tasks, indices, control_flow=True):
    """`tf.vectorized_map` and a sum; without `control_flow` it is left where there is any."""
    reasons, own, structures = [], [], []

    def one(element):
        graph = tf.compat.v1.get_default_graph()
        before = len(graph.get_operations())
        try:
            with dispatch.vectorized_here():
                result = function(*element)
        except Exception as error:
            own.append(error)
            raise
        found = set() if control_flow else _types(graph, before) & _CONTROL_FLOW
        if found:
            reasons.append(f"the model has control flow (operations {sorted(found)})")
            raise _NotVectorizedError
        # What the function hands on as it came from outside is made something of its own: under
        # XLA it would otherwise be copied without what it is made of.
        summed, stacked = tf.nest.map_structure(tf.identity, result)
        structures.append(summed)
        return [products.apart(t) for t in tf.nest.flatten(summed)], stacked

    try:
        terms, stacked = tf.vectorized_map(one, (tasks, indices))
    except Exception as error:
        if own:
            raise
        # The message is long and tells of what is inside of TensorFlow; its end is what went wrong.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reasons.append(f"it says {type(error).__name__}: {' '.join(lines[-1:])[:200]}")
        raise _NotVectorizedError(
            "Expected a model and a loss that can be mapped over tasks by `tf.vectorized_map`. "
            f'Received ones of which {reasons[0]}. Use `task_map="auto"` or `"loop"`.'
        ) from error
    sums = [products.sum_over_tasks(*parts) for parts in terms]
    return tf.nest.pack_sequence_as(structures[-1], sums), stacked


def _types(graph, before):
    """Types of the operations of `graph` from number `before` on, and of what they call."""
    library = {f.signature.name: f.node_def for f in graph.as_graph_def().library.function}
    nodes = [op.node_def for op in graph.get_operations()[before:]]
    types, seen = set(), set()
    while nodes:
        node = nodes.pop()
        types.add(node.op)
        for attribute in node.attr.values():
            for called in (attribute.func, *attribute.list.func):
                if called.name in library and called.name not in seen:
                    seen.add(called.name)
                    nodes.extend(library[called.name])
    return types


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
