"""Random streams of task batches: batch `index` of a stream is a function of (seed, index) alone.

No generator carries state from one batch to the next, so a resumed training starts at another
index, a second worker takes every other index, and validation is the same at every pass.
"""

import tensorflow as tf

from maml_tf import arguments

TRAIN, VALIDATION, TEST = 0, 1, 2

# Named, because "auto_select" may pick another generator on another device.
_GENERATOR = "philox"


def batch_seed(seed, stream, index):
    """Derives the seed of one batch.

    Args:
        seed: int, the seed the user gave.
        stream: int; batches of different streams have nothing in common (`TRAIN`, `VALIDATION`,
            `TEST`).
        index: int or int64 scalar tensor, the batch (or block of batches) in its stream.

    Returns:
        int64 tensor `[2]`, a seed for `split` and for TensorFlow's stateless random ops.
    """
    key = tf.constant([seed, stream], tf.int64)
    return tf.random.experimental.stateless_fold_in(key, tf.cast(index, tf.int64), alg=_GENERATOR)


def split(seed, num):
    """Splits a seed `[2]` into a list of `num` independent seeds `[2]`."""
    return tf.unstack(tf.random.experimental.stateless_split(seed, num, alg=_GENERATOR), num)


def uniform(seed, shape, low=0, high=1, dtype=tf.float32):
    """Draws from U[low, high): `shape`, float32, or integers where `dtype` is an integer one."""
    return tf.random.stateless_uniform(shape, seed, low, high, dtype, alg=_GENERATOR)


def whole_batches(tasks, meta_batch):
    """Returns how many batches of `meta_batch` hold `tasks` tasks, the last one filled up."""
    return -(-tasks // meta_batch)


def index_of(batch, start, tasks, meta_batch):
    """Returns the index in its stream of a batch of a data set, given its place there.

    Args:
        batch: int, place of the batch in the data set, from 0 on.
        start: int, index of the data set's first batch.
        tasks: int or None, how many tasks the data set has; None for no end.
        meta_batch: int, tasks a batch.

    Raises:
        TypeError: `batch` is not an integer.
        ValueError: the data set has no such batch.
    """
    last = None if tasks is None else whole_batches(tasks, meta_batch) - 1
    return start + arguments.integer("batch", batch, 0, last)


def check_counts(minimum=1, **counts):
    """Checks that arguments are integers of at least `minimum`.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: an argument is smaller than `minimum`.
    """
    for name, value in counts.items():
        arguments.integer(name, value, minimum)


def check_seed(seed):
    """Checks that `seed` is an integer that fits 64 bits, and gives it back as `int`.

    Raises:
        TypeError: it is not an integer.
        ValueError: it does not fit.
    """
    advice = "Give an integer that fits 64 bits, signed, such as seed=0."
    return arguments.integer("seed", seed, tf.int64.min, tf.int64.max, advice=advice)
