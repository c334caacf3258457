"""Tasks that are groups of rows: a whole batch of them in a few ops, as a function of a seed."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from maml_tf.tasks import sampling, streams


@dataclasses.dataclass(frozen=True)
class Groups:
    """Rows by group: row r of group g, in time, is `x[order[offsets[g] + r]]`.

    Attributes:
        x: tensor or array `[rows, ...]`, or a structure of them.
        y: tensor or array `[rows, ...]`.
        order: int32 tensor `[rows in groups]`, positions in `x`.
        offsets: int32 array `[groups]`.
        sizes: int32 array `[groups]`, rows in each group.
        names: array `[groups]`, what the user calls each group.
    """

    x: Any
    y: Any
    order: Any
    offsets: np.ndarray
    sizes: np.ndarray
    names: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """How tasks are drawn from groups.

    Attributes:
        shots: int, S, support rows a task.
        queries: int, Q, query rows a task.
        meta_batch: int, T, tasks a batch.
        in_time: bool, whether the first rows of a group are the support and the queries are
            drawn from the later ones; otherwise both are drawn from all.
        by_size: bool, whether a group is drawn as often as it has rows, or as any other one.
            Where the tasks end and this is False, the groups take turns: so many tasks as there
            are groups are one of each.
        seed: int.
        stream: int, see `maml_tf.tasks.streams`.
        start: int, the first batch.
        tasks: int or None, how many tasks there are; None for no end.
    """

    shots: int
    queries: int
    meta_batch: int
    in_time: bool = False
    by_size: bool = False
    seed: int = 0
    stream: int = streams.TRAIN
    start: int = 0
    tasks: int | None = None


def batches(groups, draw):
    """A data set of task batches.

    Args:
        groups: a `Groups`, all with at least `draw.shots + draw.queries` rows.
        draw: a `Draw`.

    Returns:
        A `tf.data.Dataset` of `(inputs, query_y)`.
    """
    return drawn(draw, lambda index: sample(groups, draw, index))


def drawn(draw, make_batch):
    """A data set of what `make_batch` makes of the indices of a `Draw`'s batches."""
    if draw.tasks is None:
        indices = tf.data.Dataset.counter(draw.start)
    else:
        indices = tf.data.Dataset.range(streams.whole_batches(draw.tasks, draw.meta_batch))
    dataset = indices.map(make_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.prefetch(tf.data.AUTOTUNE)


def sample(groups, draw, index):
    """Draws one task batch, all its tasks at once.

    Args:
        groups: as in `batches`.
        draw: as in `batches`.
        index: int or int64 scalar tensor, the batch in its stream.

    Returns:
        A task batch `(inputs, query_y)`: x `[T, S, ...]` and `[T, Q, ...]`, y alike.
    """
    group_seed, row_seed = seeds(draw, index)
    chosen = choose(groups, draw, group_seed, index)
    place = tf.range(groups.sizes.max())
    score = streams.uniform(row_seed, [draw.meta_batch, len(place)])
    score = tf.where(place < tf.gather(groups.sizes, chosen)[:, tf.newaxis], score, -1.0)
    if draw.in_time:
        support = tf.tile(tf.range(draw.shots)[tf.newaxis], [draw.meta_batch, 1])
        later = tf.where(place >= draw.shots, score, -1.0)
        query = tf.sort(tf.math.top_k(later, draw.queries).indices, axis=1)
    else:
        drawn = tf.math.top_k(score, draw.shots + draw.queries).indices
        support, query = drawn[:, : draw.shots], drawn[:, draw.shots :]
    offset = tf.gather(groups.offsets, chosen)[:, tf.newaxis]
    support, query = (tf.gather(groups.order, offset + one) for one in (support, query))

    def of(rows, structure):
        return tf.nest.map_structure(lambda part: sampling.take(part, rows), structure)

    inputs = {
        "support_x": of(support, groups.x),
        "support_y": of(support, groups.y),
        "query_x": of(query, groups.x),
    }
    return inputs, of(query, groups.y)


def chosen_names(groups, draw, index):
    """What the groups are called that the tasks of one batch are drawn from: array `[T]`."""
    with tf.device("CPU:0"):  # where tf.data draws the batch itself
        return groups.names[choose(groups, draw, seeds(draw, index)[0], index).numpy()]


def seeds(draw, index):
    """Two seeds of a batch: of its groups, and of what is drawn within them."""
    return streams.split(streams.batch_seed(draw.seed, draw.stream, index), 2)


def choose(groups, draw, seed, index):
    """The group of each task: int32 `[T]`; a batch may hold one group twice.

    Args:
        groups: a `Groups`, or whatever else has their `sizes`.
        draw: a `Draw`.
        seed: int32 tensor `[2]`, the first of `seeds`.
        index: as in `sample`.
    """
    count = len(groups.sizes)
    if draw.by_size:
        last = np.cumsum(groups.sizes, dtype=np.int64)
        row = streams.uniform(seed, [draw.meta_batch], 0, last[-1], tf.int64)
        return tf.searchsorted(tf.constant(last), row, side="right")
    if draw.tasks is None:
        return streams.uniform(seed, [draw.meta_batch], 0, count, tf.int32)
    turn = tf.cast(index, tf.int64) * draw.meta_batch + tf.range(draw.meta_batch, dtype=tf.int64)
    return tf.cast(turn % count, tf.int32)


def select(groups, which):
    """Keeps some of the groups; the rows are not copied.

    Args:
        groups: a `Groups`.
        which: int array, positions of the groups to keep.
    """
    return dataclasses.replace(
        groups,
        offsets=groups.offsets[which],
        sizes=groups.sizes[which],
        names=groups.names[which],
    )


def rows_of(groups, position):
    """Positions in `groups.x` of the rows of one group, in time: int array `[rows of it]`."""
    first = groups.offsets[position]
    return np.asarray(groups.order)[first : first + groups.sizes[position]]
