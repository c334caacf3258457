"""Forecasting tasks from stretches of series: a whole task batch in a few ops."""

import dataclasses

import numpy as np
import tensorflow as tf

from maml_tf.tasks import group_sampling, streams


@dataclasses.dataclass(frozen=True)
class Stretches:
    """Series that stretches are taken from: point p of series s is `points[offsets[s] + p]`.

    Attributes:
        points: float32 tensor `[all points]` or `[all points, channels]`.
        offsets: int32 array `[series]`.
        sizes: int32 array `[series]`, points in each.
        names: array `[series]`.
    """

    points: tf.Tensor
    offsets: np.ndarray
    sizes: np.ndarray
    names: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """What a task is made of.

    Attributes:
        inputs: int, points that a window shows.
        horizon: int, points that follow it and are asked for.
        beginning: int, points of a stretch that the support is taken from.
        shots: int, S, windows of the support, spread evenly over the beginning.
        queries: int, Q, windows after one another whose targets follow the beginning.
        scale: bool, whether a task is shifted and divided by mean and deviation of its beginning.
        targets: int array of channels that are asked for, or None for all.
    """

    inputs: int
    horizon: int
    beginning: int
    shots: int
    queries: int
    scale: bool
    targets: np.ndarray | None = None

    @property
    def length(self):
        """Points of a stretch."""
        return self.beginning + self.queries * self.horizon

    def support(self):
        """First points of the support's windows in the stretch: int array `[S]`."""
        last = self.beginning - self.inputs - self.horizon
        return np.round(np.linspace(0, last, self.shots)).astype(np.int32)

    def query(self):
        """First points of the queries' windows: int array `[Q]`."""
        first = self.beginning - self.inputs
        return first + self.horizon * np.arange(self.queries, dtype=np.int32)


def cut(stretch, shape):
    """The windows of stretches.

    Args:
        stretch: tensor `[T, points]` or `[T, points, channels]`, of `shape.length` points.
        shape: a `Shape`.

    Returns:
        `(support_x, support_y, query_x, query_y)`, `[T, windows, points, ...]` each.
    """
    found = []
    for starts in (shape.support(), shape.query()):
        for part in (np.arange(shape.inputs), shape.inputs + np.arange(shape.horizon)):
            found.append(tf.gather(stretch, starts[:, np.newaxis] + part, axis=1))
    if shape.targets is not None:
        found[1::2] = [tf.gather(y, shape.targets, axis=-1) for y in found[1::2]]
    return found


def scale_of(beginning):
    """Mean and deviation of the points of beginnings, `[T, 1, ...]` both.

    Args:
        beginning: float32 tensor `[T, points, ...]`.
    """
    mean = tf.reduce_mean(beginning, axis=1, keepdims=True)
    deviation = tf.math.reduce_std(beginning, axis=1, keepdims=True)
    # Rounding makes a little of a series that never changes.
    varies = deviation > 1e-6 * tf.abs(mean)
    return mean, tf.where(varies, deviation, tf.ones_like(deviation))


def sample(stretches, shape, draw, index):
    """Draws one task batch.

    Args:
        stretches: a `Stretches`, all of at least `shape.length` points.
        shape: a `Shape`.
        draw: a `group_sampling.Draw`, with `in_time` for stretches that begin where the series do.
        index: int or int64 scalar tensor, the batch in its stream.

    Returns:
        A task batch `(inputs, query_y)`.
    """
    chosen, first = places(stretches, shape, draw, index)
    begin = tf.gather(stretches.offsets, chosen) + first
    stretch = tf.gather(stretches.points, begin[:, tf.newaxis] + tf.range(shape.length))
    if shape.scale:
        mean, deviation = scale_of(stretch[:, : shape.beginning])
        stretch = (stretch - mean) / deviation
    support_x, support_y, query_x, query_y = cut(stretch, shape)
    return {"support_x": support_x, "support_y": support_y, "query_x": query_x}, query_y


def places(stretches, shape, draw, index):
    """The series of each task and the first point of its stretch, int32 `[T]` both."""
    series_seed, first_seed = group_sampling.seeds(draw, index)
    chosen = group_sampling.choose(stretches, draw, series_seed, index)
    if draw.in_time:
        return chosen, tf.zeros_like(chosen)
    room = tf.gather(stretches.sizes, chosen) - shape.length + 1
    # A remainder of 31 random bits: uniform but for one part in 2³¹ / room.
    first = streams.uniform(first_seed, [draw.meta_batch], 0, 2**31 - 1, tf.int32) % room
    return chosen, first


def batches(stretches, shape, draw):
    """A data set of task batches; see `sample`."""
    return group_sampling.drawn(draw, lambda index: sample(stretches, shape, draw, index))
