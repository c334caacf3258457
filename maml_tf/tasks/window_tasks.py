"""What `tasks.windows` gives back of forecasts: three data sets, and what their series are."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.tasks import series_tables, splits, streams
from maml_tf.tasks import window_sampling as sampling


class Prepared(NamedTuple):
    """One series of somebody new, as a learner takes it; see `WindowTasks.prepare`.

    Attributes:
        support_x: array `[S, inputs, ...]`.
        support_y: array `[S, horizon, ...]`.
        query_x: array `[1, inputs, ...]`, the last points.
        mean: array `[1, ...]`, of the series.
        deviation: array `[1, ...]`, of the series.
    """

    support_x: np.ndarray
    support_y: np.ndarray
    query_x: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray

    def restore(self, prediction: Any) -> np.ndarray:
        """Predictions `[..., horizon, ...]` in the units of the series."""
        return np.asarray(prediction) * self.deviation + self.mean


class WindowTasks(tuple):
    """`(train, validation, test)` to unpack, which also knows the series and their scales.

    Attributes:
        left_out: dict by "train", "validation" and "test": array of the series that are too short.

    Example:
        >>> sets = maml_tf.tasks.windows(np.sin(np.ones([9, 1]) * np.arange(99)), inputs=4,
        ...                              horizon=2, shots=3)
        >>> mine = sets.prepare(10 + np.sin(np.arange(50)))
        >>> mine.support_x.shape, mine.support_y.shape, mine.query_x.shape
        ((3, 4), (3, 2), (1, 4))
        >>> print(bool(abs(mine.restore(mine.query_x)[0, -1] - (10 + np.sin(49))) < 1e-5))
        True
    """

    left_out: dict
    labels: None
    _drawn: dict
    _shape: sampling.Shape

    def __new__(cls, drawn, shape, left_out):
        """A tuple is made here, before `__init__`."""
        sets = [
            sampling.batches(drawn[n][0], shape, drawn[n][1]) if n in drawn else None
            for n in splits.NAMES
        ]
        made = super().__new__(cls, sets)
        made._drawn, made._shape, made.left_out = drawn, shape, left_out
        made.labels = None
        return made

    def groups(self, split: str) -> np.ndarray:
        """The series that tasks are taken from, array `[series]`, in the order of their names.

        Args:
            split: "train", "validation" or "test".

        Raises:
            ValueError: there is no such split.
        """
        arguments.choice("split", split, tuple(self._drawn))
        return self._drawn[split][0].names

    def group_names(self, split: str, batch: int = 0) -> np.ndarray:
        """Which series each task of a batch is of, array `[T]`.

        Args:
            split: as in `groups`.
            batch: int, place of the batch in that data set, from 0 on.

        Raises:
            TypeError: `batch` is not an integer.
            ValueError: there is no such split, or no such batch in it.
        """
        names, _ = self._places(split, batch)
        return names

    def beginnings(self, split: str, batch: int = 0) -> np.ndarray:
        """The points that each task of a batch may adapt to, scaled as its windows are.

        Args:
            split: as in `groups`.
            batch: as in `group_names`.

        Returns:
            float32 array `[T, beginning, ...]`.

        Raises:
            TypeError, ValueError: as `group_names`.
        """
        _, first = self._places(split, batch)
        points = np.asarray(self._drawn[split][0].points)
        found = tf.constant(points[first[:, np.newaxis] + np.arange(self._shape.beginning)])
        if self._shape.scale:
            mean, deviation = sampling.scale_of(found)
            found = (found - mean) / deviation
        return found.numpy()

    def prepare(self, series: Any) -> Prepared:
        """A series of somebody new, of which all is known up to now, for `learner.adapt`.

        Its support are windows spread evenly over all of it, and its query shows its last points;
        `restore` gives the forecast its units back.

        Args:
            series: array `[time]` or `[time, channels]`, of the kind that `windows` was given.

        Returns:
            `Prepared`.

        Raises:
            TypeError: it is of another kind.
            ValueError: it is too short, or a value is missing.
        """
        (points,) = series_tables.read([series], None, None, None, None).values
        kind = tuple(self._drawn["train"][0].points.shape[1:])
        least = self._shape.inputs + self._shape.horizon
        if points.shape[1:] != kind or len(points) < least:
            raise ValueError(
                f"Expected a series of at least inputs + horizon = {least} points of shape {kind}. "
                f"Received: {arguments.received('series', points)}. Give a longer one, with the "
                "channels of training."
            )
        shape = dataclasses.replace(self._shape, beginning=len(points), queries=0)
        stretch = tf.constant(points[np.newaxis])
        mean, deviation = tf.zeros_like(stretch[:, :1]), tf.ones_like(stretch[:, :1])
        if shape.scale:
            mean, deviation = sampling.scale_of(stretch)
        stretch = (stretch - mean) / deviation
        support_x, support_y, _, _ = sampling.cut(stretch, shape)
        mean, deviation = mean[0], deviation[0]
        if shape.targets is not None:
            mean, deviation = (tf.gather(t, shape.targets, axis=-1) for t in (mean, deviation))
        query_x = stretch[:, -shape.inputs :]
        found = (support_x[0], support_y[0], query_x, mean, deviation)
        return Prepared(*(t.numpy() for t in found))

    def _places(self, split, batch):
        """Names and first points of a batch's stretches."""
        arguments.choice("split", split, tuple(self._drawn))
        some, draw = self._drawn[split]
        index = streams.index_of(batch, draw.start, draw.tasks, draw.meta_batch)
        with tf.device("CPU:0"):  # where tf.data draws the batch itself
            chosen, first = sampling.places(some, self._shape, draw, index)
        chosen = chosen.numpy()
        return some.names[chosen], some.offsets[chosen] + first.numpy()
