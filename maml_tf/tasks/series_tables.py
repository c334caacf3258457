"""What `tasks.windows` was given, checked and copied: series by name, each an array in time."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.tasks.data import column_values, tables


class Series(NamedTuple):
    """One series or many.

    Attributes:
        values: list of float32 arrays `[time]` or `[time, channels]`, all of one kind.
        labels: list of arrays `[time]` of integers or text, or None.
        names: array of integers or text, what each is called.
    """

    values: list
    labels: list | None
    names: np.ndarray


def read(series, labels, values, groups, time):
    """Reads and checks what `tasks.windows` was given; see there.

    Returns:
        `Series`, in the order of their names where these are of a table.
    """
    table = tables.open_table(series)
    if table is not None:
        return _of_table(table, labels, values, groups, time)
    given = {"values": values, "groups": groups, "time": time}
    given = {name: value for name, value in given.items() if value is not None}
    if given:
        raise TypeError(
            "Expected names of columns only where `series` is a table. Received: "
            f"{', '.join(arguments.received(n, v) for n, v in given.items())}. Leave them out, or "
            "give a `pandas.DataFrame`."
        )
    names, arrays = _named(series)
    arrays = [_one(array, name) for name, array in zip(names, arrays, strict=True)]
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1:
        raise ValueError(
            "Expected series of as many channels. Received: shapes of one point "
            f"{sorted(shapes)}. Give arrays [time], or [time, channels], that are alike."
        )
    return Series(arrays, _labels(labels, arrays, names), np.array(names))


def _named(series):
    """Names and arrays."""
    if isinstance(series, Mapping):
        names, arrays = list(series), list(series.values())
        if len({type(name) for name in names}) > 1:
            names = [str(name) for name in names]
    elif isinstance(series, (list, tuple)) and series and np.ndim(series[0]) > 0:
        arrays, names = list(series), list(range(len(series)))
    else:
        array = np.asarray(series)
        # One series is an array [time]; of two axes they are [series, time].
        arrays = [array] if array.ndim == 1 else list(array) if array.ndim in (2, 3) else []
        arrays = arrays if array.size else []
        names = list(range(len(arrays)))
    if not arrays:
        raise ValueError(
            "Expected an array [time] or [series, time] or [series, time, channels], a list or a "
            f"dict of arrays, or a table. Received: {arguments.received('series', series)}. Give "
            "one of these."
        )
    return names, arrays


def _one(given, name):
    """One series as float32, without what is missing at its end."""
    array = np.asarray(given)
    if array.ndim not in (1, 2) or array.dtype.kind not in "biuf":
        raise TypeError(
            f"Expected each series to be numbers [time] or [time, channels]. Received: "
            f"{arguments.received(f'series {name!r}', array)}. Convert it."
        )
    there = np.flatnonzero(~np.isnan(array.astype(float).reshape(len(array), -1)).all(axis=1))
    # Series of several lengths in one array are filled up at their ends.
    array = array[: there[-1] + 1] if there.size else array[:0]
    narrow = column_values.narrow(array)
    column_values.check_finite(narrow, f"series {name!r}", lambda row: f"point {row}")
    if len(array):
        column_values.check_told_apart(array, f"series {name!r}")
    return narrow


def _labels(labels, arrays, names):
    if labels is None:
        return None
    found = labels
    if isinstance(labels, Mapping):
        missing = [name for name in names if name not in labels]
        if missing:
            raise ValueError(
                f"Expected `labels` for every series. Received: none for {missing[:5]}. Add them."
            )
        found = [labels[name] for name in names]
    found = [np.asarray(one) for one in found]
    lengths = [(name, len(a)) for name, a in zip(names, arrays, strict=True)]
    if len(found) != len(arrays):
        raise ValueError(
            f"Expected `labels` for each of {len(arrays)} series. Received: {len(found)} arrays. "
            "Give one array [time] for each."
        )
    for one, (name, length) in zip(found, lengths, strict=True):
        if one.ndim != 1 or len(one) < length:
            raise ValueError(
                f"Expected a label for each of the {length} points of series {name!r}. Received: "
                f"{arguments.received('labels', one)}. Give an array [time]."
            )
    return [
        column_values.keys(one[:length], f"labels of {name!r}", _point, what="labels")
        for one, (name, length) in zip(found, lengths, strict=True)
    ]


def _point(position):
    return f"point {position}"


def _of_table(table, labels, values, groups, time):
    """Rows are points: those of one group are a series, in the order of time."""
    chosen = [n for n in (groups, time, labels) if n is not None]
    tables.check_columns(table, chosen, "groups, time and labels")
    single = values is not None and tables.is_name(values)
    columns = [values] if single else values
    if columns is None:
        columns = [name for name in table.columns if name not in chosen]
        single = len(columns) == 1
    if not columns:
        raise ValueError(
            f"Expected columns of values. Received: values={values!r}, a table of "
            f"{table.columns}. Name them by `values`."
        )
    tables.check_columns(table, list(columns), "values")
    points = np.stack(
        [column_values.numbers(table.column(c), c, table.row) for c in columns], axis=1
    )
    points = points[:, 0] if single else points
    names, number = np.array([0]), np.zeros(len(table), int)
    if groups is not None:
        found = column_values.keys(table.column(groups), groups, table.row, what="groups")
        names, number = np.unique(found, return_inverse=True)
    keys: tuple[Any, ...] = (number,)
    if time is not None:
        moment = column_values.order_in_time(table.column(time), time, table.row)
        keys = (moment, number)
        _check_moments(moment, number, names, time)
    order = np.lexsort(keys)
    ends = np.cumsum(np.bincount(number, minlength=len(names)))[:-1]
    marks = None
    if labels is not None:
        found = column_values.keys(table.column(labels), labels, table.row, what="labels")
        marks = np.split(found[order], ends)
    return Series(np.split(points[order], ends), marks, names)


def _check_moments(moment, number, names, time):
    """Two rows of one moment are two series in one, or a row that is there twice."""
    both = np.stack([number.astype(np.float64), moment.astype(np.float64)])
    order = np.lexsort(both[::-1])
    same = np.flatnonzero((np.diff(both[:, order], axis=1) == 0).all(axis=0))
    if same.size:
        name = names[number[order[same[0]]]].item()
        raise ValueError(
            f"Expected one row for each moment of a series. Received: {time!r} with one moment "
            f"twice in series {name!r}, rows {sorted(order[same[0] : same[0] + 2].tolist())}, and "
            f"{same.size - 1} more. Drop one of them, or name by `groups` what tells them apart."
        )


def flat(series):
    """All points one behind the other, on the CPU, and where each series begins.

    Args:
        series: list of arrays `[time, ...]`.

    Returns:
        `(points, offsets, lengths)`: a tensor, and two int32 arrays.
    """
    lengths = np.array([len(one) for one in series], np.int32)
    with tf.device("CPU:0"):
        points = tf.constant(np.concatenate(series))
    return points, (np.cumsum(lengths) - lengths).astype(np.int32), lengths
