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
from typing import Any, Literal

import numpy as np

from maml_tf import arguments
from maml_tf.tasks import group_sampling, group_splits, series_tables, splits
from maml_tf.tasks import window_sampling as sampling
from maml_tf.tasks.episodes import Episodes
from maml_tf.tasks.group_tasks import GroupTasks
from maml_tf.tasks.groups import groups as tasks_of_groups
from maml_tf.tasks.window_tasks import WindowTasks

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
) -> WindowTasks | GroupTasks:
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
