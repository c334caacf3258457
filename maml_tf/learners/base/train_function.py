"""The functions of a data iterator that Keras' training loop calls.

Keras runs `steps_per_execution` steps in one TensorFlow function but starts a compiled program for
each step. For small networks that start takes longer than the step, so `make_compiled_loop`
collects the batches first and compiles the loop over them, too. To ask an iterator for a batch
takes a third as long as the step of such a network, so `in_blocks` has tf.data put the batches of
one call together where that changes nothing else.

Keras has one function for all batches. Called with tensors of different ranks, such as labels with
and without a last axis of 1, TensorFlow traces it for tensors of which no axis is known, so
`by_rank` keeps one for each.
"""

import itertools

import keras
import tensorflow as tf

from maml_tf.exact import keras_internals
from maml_tf.learners.base.batches import merge_tasks


def by_rank(make):
    """A function of a data iterator that is made anew for batches of other ranks.

    Args:
        make: a function of what batches look like, a structure with shapes and dtypes, to what is
            called with the iterator.

    Returns:
        A function of a `tf.data.Iterator`, or of another iterable of batches.
    """
    made = {}

    def function(iterator):
        if isinstance(iterator, tf.data.Iterator):
            spec = iterator.element_spec
        elif isinstance(iterator, (list, tuple)):  # of one batch, as `predict_on_batch` has it
            spec = iterator[0]
        else:
            spec = next(iterator)
            iterator = itertools.chain([spec], iterator)
        ranks = str(keras.tree.map_structure(_rank, spec))
        if ranks not in made:
            made[ranks] = make(spec)
        return made[ranks](iterator)

    return function


def make_variables(learner, spec, *, training):
    """Makes the variables of a learner's metrics, and of its optimizer, for batches of these specs.

    TensorFlow traces a function that makes variables while it is traced twice, and tracing is what
    the first step of training takes.

    Args:
        learner: a compiled `maml_tf.Learner`.
        spec: what has shapes and dtypes, in the structure of a task batch with labels.
        training: `bool`, whether the optimizer is needed.
    """
    if learner._distribute_strategy is not None:
        return  # Keras has made them in its scope.
    if training and not learner.optimizer.built:
        learner.optimizer.build(learner.trainable_variables)
    metrics = learner.unbuilt_metrics()
    if not metrics:
        return
    try:
        inputs, query_y, _ = keras.utils.unpack_x_y_sample_weight(spec)
        inputs, query_y = keras.tree.map_structure(_symbolic, (inputs, query_y))
        y_pred = learner.compute_output_spec(inputs)
        keras_internals.compute_output_spec(
            lambda *both: [m.update_state(*map(merge_tasks, both)) for m in metrics],
            query_y,
            y_pred,
        )
    except Exception:
        # What is wrong with the data or the model the step itself says in better words.
        return


def _symbolic(tensor):
    return keras.KerasTensor(tensor.shape, keras.backend.standardize_dtype(tensor.dtype))


def _rank(tensor):
    shape = getattr(tensor, "shape", None)
    return None if shape is None else tf.TensorShape(shape).rank


def in_blocks(learner, data, steps_per_epoch):
    """A data set of blocks: the batches of one call of `make_compiled_loop`, put together.

    Args:
        learner: a compiled `maml_tf.Learner` that runs several steps in one program.
        data: what `fit` was given.
        steps_per_epoch: as given to `fit`.

    Returns:
        A `tf.data.Dataset`, or None where `data` is something else, where its batches have no one
        shape, or where Keras counts its elements as steps: without `steps_per_epoch`, and where
        their number is known.
    """
    if steps_per_epoch is None or not isinstance(data, tf.data.Dataset) or data.cardinality() >= 0:
        return None
    specs = tf.nest.flatten(data.element_spec)
    if not all(isinstance(s, tf.TensorSpec) and s.shape.is_fully_defined() for s in specs):
        return None
    return data.batch(learner.steps_per_execution).prefetch(1)


def one_batch(spec):
    """What a batch looks like, of what a block does."""
    return tf.nest.map_structure(lambda s: tf.TensorSpec(s.shape[1:], s.dtype), spec)


def _filled(block, size):
    """A block of `size` batches, those that are missing copies of its first, and how many it had.

    XLA compiles for one shape.
    """
    count = tf.nest.flatten(block)[0].shape[0]
    if count < size:
        block = tf.nest.map_structure(
            lambda b: tf.concat([b, tf.repeat(b[:1], size - count, 0)], 0), block
        )
    return block, tf.constant(count)


def make_compiled_loop(learner):
    """A function of a data iterator that runs `learner.steps_per_execution` steps under XLA.

    Fewer steps are run where the iterator ends early; it must yield batches of one shape, or, while
    `learner.reads_blocks`, blocks of them as `in_blocks` makes them.

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
        if learner.reads_blocks:
            return run(*_filled(next(iterator), learner.steps_per_execution))
        batches, count = collect(iterator)
        if int(count) == 0:
            raise StopIteration
        return run(batches, count)

    return function
