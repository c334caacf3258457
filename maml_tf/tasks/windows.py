"""Series as tasks: forecasting from the beginning of a series, and classes of its segments.

    |<------------- beginning ------------->|<- horizon ->|<- horizon ->|
    [   inputs   ][ horizon ]               |             |
        [   inputs   ][ horizon ]  support  |             |
                          [     inputs     ]|[  query 0  ]|
                                        [    inputs       ]|[  query 1  ]

A task is a stretch of one series. Its support are windows that lie in the beginning, whole. What
queries ask for lies behind it, so that nothing of the future is known when a task adapts.
"""

import dataclasses
import logging
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.tasks import group_sampling, group_splits, series_tables, splits, streams
from maml_tf.tasks import window_sampling as sampling
from maml_tf.tasks.episodes import Episodes
from maml_tf.tasks.groups import GroupTasks
from maml_tf.tasks.groups import groups as tasks_of_groups

_LOG = logging.getLogger(__name__)


def windows(
    series: Any,
    labels: Any = None,
    *,
    inputs: int,
    horizon: int | None = None,
    shots: int = 8,
    queries: int = 1,
    beginning: int | None = None,
    targets: Any = None,
    scale: bool = True,
    stretches: Literal["any", "first"] = "any",
    test_stretches: Literal["any", "first"] | None = None,
    stride: int | None = None,
    support: Literal["random", "first"] = "first",
    values: Any = None,
    groups: Any = None,
    time: Any = None,
    split: Any = (0.64, 0.16, 0.2),
    split_seed: int = 0,
    small: Literal["raise", "leave_out"] = "raise",
    draw: Literal["uniform", "size"] = "uniform",
    meta_batch: int = 4,
    seed: int = 0,
    start: int = 0,
    validation_tasks: int = 600,
    test_tasks: int = 600,
) -> "WindowTasks | GroupTasks":
    """Builds training, validation and test tasks of windows of one or many series.

    Forecasting, with `horizon`: a task is a stretch of a series, see the drawing above. Series of
    the test are in no other part. One series alone is cut in time: training has its beginning,
    the test its end.

    Classification of segments, with `labels`: a task is a series, its examples are windows of
    `inputs` points that do not overlap and have one label throughout; a label means the same in
    every series. The rest is as in `maml_tf.tasks.groups`.

    Args:
        series: array `[time]` (one series), `[series, time]` or `[series, time, channels]`, where
            what is missing at the end makes a series shorter; a list or a dict of arrays `[time]`
            or `[time, channels]`; or a `pandas.DataFrame` or the path of a CSV or Parquet file
            with a row for each point.
        labels: None, or what each point is: arrays `[time]` as series are given; or the name of a
            column.
        inputs: int, points that a window shows.
        horizon: int, points that are to be forecast.
        shots: int, S, windows of the support.
        queries: int, Q, windows asked for: of a forecast those that follow one another, each of
            which shows what was true until then.
        beginning: int or None, points of a stretch that its support is taken from; None stands for
            `inputs + shots * horizon`.
        targets: None, or list of int: the channels that are to be forecast, of several.
        scale: bool, whether each forecasting task is shifted and divided by mean and deviation of
            its beginning, for each channel: series of all sizes become alike.
        stretches: "any" or "first": where in a series a training stretch begins.
        test_stretches: the same for validation and test; None stands for "first" of many series
            and "any" of a single one.
        stride: int or None, points from one segment to the next; None stands for `inputs`.
        support: "first": the support are the first segments of a series, queries are later ones;
            "random": both from all.
        values: of a table, the column of values, or a list of columns; None stands for all others.
        groups: of a table, the column that says which series a row belongs to; None stands for one.
        time: of a table, the column of numbers or dates that orders the points of a series; None
            stands for the order of the rows.
        split: as in `maml_tf.tasks.groups`, by share or by list.
        split_seed: as there.
        small: what happens to series that are too short: "raise", or "leave_out" and log.
        draw: as there; "size" is by points.
        meta_batch: as there.
        seed: as there.
        start: as there.
        validation_tasks: as there.
        test_tasks: as there; as many as there are series in the test are one of each.

    Returns:
        Of forecasts `WindowTasks`, `(train, validation, test)`: `inputs["support_x"]` float32
        `[T, S, inputs]`, `inputs["support_y"]` `[T, S, horizon]`, `inputs["query_x"]` and `query_y`
        alike with Q windows; where points have channels, `[T, S, inputs, channels]` and
        `[T, S, horizon, targets]`. Of segments `maml_tf.tasks.GroupTasks`.

    Raises:
        FileNotFoundError, ImportError: as `maml_tf.tasks.groups`.
        TypeError: a setting is of another kind, or values are no numbers.
        ValueError: a setting is out of range, a value inside of a series is missing, a series is
            too short, a part is without series, or there are both labels and a horizon, or neither.

    Example:
        >>> hours = np.arange(24 * 20)
        >>> load = [np.sin(hours / 24 * 2 * np.pi + phase) for phase in range(30)]
        >>> sets = maml_tf.tasks.windows(load, inputs=48, horizon=24, shots=4)
        >>> train, validation, test = sets
        >>> inputs, query_y = next(iter(train))
        >>> inputs["support_x"].shape, inputs["support_y"].shape, query_y.shape
        (TensorShape([4, 4, 48]), TensorShape([4, 4, 24]), TensorShape([4, 1, 24]))
    """
    few = Episodes(
        ways=1,
        shots=shots,
        queries=queries,
        meta_batch=meta_batch,
        seed=seed,
        start=start,
        validation_tasks=validation_tasks,
        test_tasks=test_tasks,
    )
    inputs = arguments.integer("inputs", inputs, 1)
    arguments.choice("small", small, ("raise", "leave_out"))
    arguments.choice("draw", draw, ("uniform", "size"))
    check = splits.check_parts if isinstance(split, dict) else splits.check_fractions
    check("split", split, "series")
    splits.check_split_seed("split_seed", split_seed)
    if (labels is None) == (horizon is None):
        raise ValueError(
            "Expected `horizon`, to forecast, or `labels`, to classify segments. Received: "
            f"{'neither' if labels is None else 'both'}. Give one of them."
        )
    arguments.choice("support", support, ("random", "first"))
    arguments.choice("stretches", stretches, ("any", "first"))
    if test_stretches is not None:
        arguments.choice("test_stretches", test_stretches, ("any", "first"))
    if labels is not None:
        stride = inputs if stride is None else arguments.integer("stride", stride, inputs)
        data = series_tables.read(series, labels, values, groups, time)
        x, y, of = _segments(data, inputs, stride)
        return tasks_of_groups(
            x,
            y,
            of,
            kind="classification",
            support=support,
            split=split,
            split_seed=split_seed,
            small=small,
            draw=draw,
            shots=few.shots,
            queries=few.queries,
            meta_batch=few.meta_batch,
            seed=few.seed,
            start=few.start,
            validation_tasks=few.validation_tasks,
            test_tasks=few.test_tasks,
        )
    shape = sampling.Shape(
        inputs=inputs,
        horizon=arguments.integer("horizon", horizon, 1),
        beginning=_beginning(beginning, inputs, horizon, few.shots),
        shots=few.shots,
        queries=few.of("train")["queries"],
        scale=arguments.boolean("scale", scale),
    )
    data = series_tables.read(series, None, values, groups, time)
    shape = dataclasses.replace(shape, targets=_targets(targets, data.values[0]))
    parts, left_out = _parts(data, shape, split, split_seed, small)
    if any(map(len, left_out.values())):
        _LOG.warning("Series that are too short are left out: %s.", left_out)
    first = {"train": stretches, **dict.fromkeys(("validation", "test"), test_stretches)}
    drawn = {}
    for name, part in parts.items():
        kind = first[name] or ("any" if len(data.names) == 1 else "first")
        asked = {key: value for key, value in few.of(name).items() if key != "ways"}
        drawn[name] = (
            part,
            group_sampling.Draw(**asked, in_time=kind == "first", by_size=draw == "size"),
        )
    return WindowTasks(drawn, shape, left_out)


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
        last = None
        if draw.tasks is not None:
            last = streams.whole_batches(draw.tasks, draw.meta_batch) - 1
        batch = arguments.integer("batch", batch, 0, last)
        with tf.device("CPU:0"):  # where tf.data draws the batch itself
            chosen, first = sampling.places(some, self._shape, draw, draw.start + batch)
        chosen = chosen.numpy()
        return some.names[chosen], some.offsets[chosen] + first.numpy()


def _beginning(beginning, inputs, horizon, shots):
    least = inputs + horizon
    if beginning is None:
        return inputs + shots * horizon
    return arguments.integer(
        "beginning",
        beginning,
        least,
        advice=f"Give at least inputs + horizon = {least} points, for one window of the support.",
    )


def _targets(targets, values):
    if targets is None:
        return None
    channels = 0 if values.ndim == 1 else values.shape[1]
    several = list(targets) if isinstance(targets, (list, tuple, np.ndarray)) else []
    if not several or not channels:
        raise ValueError(
            "Expected `targets` to be a list of channels, of series that have some. Received: "
            f"{arguments.received('targets', targets)}, series with points of shape "
            f"{values.shape[1:]}. Leave it out, or give series [time, channels]."
        )
    found = [arguments.integer(f"targets[{i}]", t, 0, channels - 1) for i, t in enumerate(several)]
    return np.array(found, np.int32)


def _parts(data, shape, split, split_seed, small):
    """`Stretches` by split, and the names of those that are too short."""
    if len(data.names) == 1:
        return _in_time(data, shape, split), {}
    points, offsets, sizes = series_tables.flat(data.values)
    order = np.argsort(data.names, kind="stable")
    every = sampling.Stretches(points, offsets[order], sizes[order], data.names[order])
    shares = group_splits.share(every, None, split, split_seed, "series")
    expected = "beginning + queries * horizon = {} points in every series"
    kept, left_out = group_splits.without_small(every, shares, [shape.length] * 3, small, expected)
    parts = {
        name: sampling.Stretches(points, every.offsets[p], every.sizes[p], every.names[p])
        for name, p in zip(splits.NAMES, kept, strict=True)
        if len(p)
    }
    return parts, left_out


def _in_time(data, shape, split):
    """One series: the parts are its beginning, its middle and its end."""
    if isinstance(split, dict):
        raise ValueError(
            "Expected several series where `split` lists them. Received: one series, "
            f"split={split!r}. Give three shares of its time."
        )
    (points,) = data.values
    ends = np.round(np.cumsum(split) * len(points)).astype(int)
    parts = {}
    for name, begin, end, part in zip(splits.NAMES, [0, *ends], ends, split, strict=False):
        if name == "validation" and part == 0:
            continue
        if end - begin < shape.length:
            raise ValueError(
                f"Expected at least beginning + queries * horizon = {shape.length} points in the "
                f"{name} split. Received: {end - begin} of the {len(points)} points of one series. "
                "Give a shorter `beginning`, other shares, or a longer series."
            )
        flat, offsets, sizes = series_tables.flat([points[begin:end]])
        parts[name] = sampling.Stretches(flat, offsets, sizes, data.names)
    return parts


def _segments(data, inputs, stride):
    """Windows with one label each, their labels, and the series that each is of."""
    x, y, of = [], [], []
    for values, labels, name in zip(data.values, data.labels, data.names, strict=True):
        for first in range(0, len(values) - inputs + 1, stride):
            inside = slice(first, first + inputs)
            if (labels[inside] == labels[first]).all():
                x.append(values[inside])
                y.append(labels[first])
                of.append(name)
    if not x:
        raise ValueError(
            f"Expected windows of inputs={inputs} points that have one label throughout. Received: "
            "none in any series. Give shorter windows."
        )
    return np.stack(x), np.array(y), np.array(of)
