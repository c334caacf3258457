"""Sine regression: y = A sin(x - phase), one amplitude A and one phase a task.

A ~ U[0.1, 5], phase ~ U[0, pi], x ~ U[-5, 5]: Finn, Abbeel & Levine 2017, "Model-Agnostic
Meta-Learning for Fast Adaptation of Deep Networks", section 5.1.
"""

import math

import tensorflow as tf

from maml_tf import arguments
from maml_tf.tasks import streams

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, math.pi)
X = (-5.0, 5.0)

# A training step takes less time than the dozen small ops that make a batch, so batches are made
# in blocks of about this many tasks, and a batch costs a slice.
_BLOCK_TASKS = 6400


def sinusoid(
    support: int = 10,
    query: int = 10,
    meta_batch: int = 25,
    seed: int = 0,
    start: int = 0,
    validation_tasks: int = 600,
    test_tasks: int = 600,
    test_support: int | None = None,
    test_query: int = 100,
    oracle: bool = False,
) -> tuple[tf.data.Dataset, tf.data.Dataset, tf.data.Dataset]:
    """Builds the training, validation and test tasks of sine regression.

    Every data set yields task batches `(inputs, query_y)`, float32, with static shapes:
    `inputs["support_x"]` and `inputs["support_y"]` `[meta_batch, support, 1]`,
    `inputs["query_x"]` and `query_y` `[meta_batch, query, 1]`.

    Args:
        support: int, S, points a task adapts to in training.
        query: int, Q, points its loss is taken on in training.
        meta_batch: int, T, tasks a batch, in all three data sets.
        seed: int; the same seed gives the same tasks.
        start: int, index of the first training batch: a training resumed after `n` steps takes
            `start=n` and sees what it would have seen. Validation and test do not depend on it.
        validation_tasks: int, tasks in `validation`, rounded up to whole batches.
        test_tasks: int, tasks in `test`, rounded up to whole batches.
        test_support: int or None, S in `validation` and `test`; None stands for `support`.
        test_query: int, Q in `validation` and `test`.
        oracle: bool; append the task's amplitude and phase to every x, which is then
            `[meta_batch, points, 3]`: the input of the paper's oracle.

    Returns:
        `(train, validation, test)`, each a `tf.data.Dataset`. `train` never ends; the others are
        finite and the same at every pass.

    Raises:
        TypeError: a number or `seed` is not an integer, or `oracle` neither True nor False.
        ValueError: a number of points, tasks or the meta-batch is below 1, or `start` below 0.

    Example:
        >>> train, validation, test = maml_tf.tasks.sinusoid(support=5)
        >>> inputs, query_y = next(iter(train))
        >>> inputs["support_x"].shape, query_y.shape
        (TensorShape([25, 5, 1]), TensorShape([25, 10, 1]))
    """
    test_support = support if test_support is None else test_support
    streams.check_counts(
        support=support,
        query=query,
        meta_batch=meta_batch,
        validation_tasks=validation_tasks,
        test_tasks=test_tasks,
        test_support=test_support,
        test_query=test_query,
    )
    streams.check_counts(minimum=0, start=start)
    streams.check_seed(seed)
    oracle = arguments.boolean("oracle", oracle)

    def batches(stream, support, query, first=0, tasks=None):
        return _batches(seed, stream, (meta_batch, support, query, oracle), first, tasks)

    return (
        batches(streams.TRAIN, support, query, first=start),
        batches(streams.VALIDATION, test_support, test_query, tasks=validation_tasks),
        batches(streams.TEST, test_support, test_query, tasks=test_tasks),
    )


def _batches(seed, stream, sizes, first, tasks):
    """Builds one stream: blocks made in one call each, cut into batches, from batch `first` on."""
    meta_batch = sizes[0]
    block = max(1, _BLOCK_TASKS // meta_batch)

    def make_block(index):
        return _sample(streams.batch_seed(seed, stream, index), block, *sizes)

    dataset = tf.data.Dataset.counter(first // block).map(make_block).unbatch().skip(first % block)
    if tasks is not None:
        dataset = dataset.take(streams.whole_batches(tasks, meta_batch))
    return dataset.prefetch(tf.data.AUTOTUNE)


def _sample(seed, block, meta_batch, support, query, oracle):
    """Draws `block` task batches at once: the task batch, each tensor with a leading `[block]`."""
    seeds = streams.split(seed, 3)
    points = support + query
    amplitude = streams.uniform(seeds[0], [block, meta_batch, 1, 1], *AMPLITUDE)
    phase = streams.uniform(seeds[1], [block, meta_batch, 1, 1], *PHASE)
    x = streams.uniform(seeds[2], [block, meta_batch, points, 1], *X)
    y = amplitude * tf.sin(x - phase)
    if oracle:
        task = tf.concat([amplitude, phase], axis=-1)
        x = tf.concat([x, tf.repeat(task, points, axis=2)], axis=-1)
    inputs = {
        "support_x": x[:, :, :support],
        "support_y": y[:, :, :support],
        "query_x": x[:, :, support:],
    }
    return inputs, y[:, :, support:]
