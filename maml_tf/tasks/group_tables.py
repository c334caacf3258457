"""What `tasks.groups` was given, checked and copied: x, y, the group and the order of each row."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.tasks import class_index, group_sampling, group_splits, group_targets
from maml_tf.tasks.data import column_values, tables


@dataclasses.dataclass(frozen=True)
class Data:
    """Rows, ready to be drawn from.

    Attributes:
        x: array `[rows, ...]`, or a structure of them.
        y: float32 `[rows, k]` or int32 `[rows]`.
        groups: array `[rows]` of integers or text.
        order: array `[rows]`, what rows of a group are sorted by; None for as they come.
        parts: array `[rows]` of words, or None.
        columns: names of the columns of x, a list or a dict of lists; None for arrays.
        targets: list of names of the columns of y; None for an array.
        labels: array `[classes]`, or None in regression.
    """

    x: Any
    y: np.ndarray
    groups: np.ndarray
    order: np.ndarray | None
    parts: np.ndarray | None
    columns: Any
    targets: list | None
    labels: np.ndarray | None

    def by_group(self):
        """Sorts the rows by group and time: `group_sampling.Groups`."""
        names, number = np.unique(self.groups, return_inverse=True)
        keys = (number,) if self.order is None else (self.order, number)
        order = np.lexsort(keys)  # stable: rows of one time stay in their order
        sizes = np.bincount(number, minlength=len(names))
        # On a machine with a GPU the arrays must not go there: tf.data runs on the CPU.
        with tf.device("CPU:0"):
            x, y = tf.nest.map_structure(class_index.held, (self.x, self.y))
            return group_sampling.Groups(
                x=x,
                y=y,
                order=tf.constant(order.astype(np.int32)),
                offsets=(np.cumsum(sizes) - sizes).astype(np.int32),
                sizes=sizes.astype(np.int32),
                names=names,
            )

    def arrays(self, given):
        """`(x, y)` of another table with the same columns; y is None where it has none."""
        table = None if self.columns is None else tables.open_table(given)
        if table is None:
            raise TypeError(
                "Expected a table with the columns that these tasks were made from. Received: "
                f"{arguments.received('table', given)}, for tasks of "
                f"{'arrays' if self.columns is None else 'a table'}. Give a `pandas.DataFrame` or "
                "the path of one, and arrays to the learner as they are."
            )
        x = _features(table, self.columns)
        if self.targets is None or not set(self.targets) <= set(table.columns):
            return x, None
        if self.labels is None:
            return x, _stack(table, self.targets)
        return x, self._numbered(table, self.targets[0])

    def _numbered(self, table, name):
        values = column_values.keys(table.column(name), name, table.row, what="classes")
        known = {label: i for i, label in enumerate(self.labels.tolist())}
        unknown = [v for v in np.unique(values).tolist() if v not in known]
        if unknown:
            raise ValueError(
                f"Expected classes that the tasks have, {self.labels.tolist()[:8]}. Received: "
                f"{unknown[:5]} in column {name!r}. Correct them, or drop these rows."
            )
        return np.array([known[v] for v in values.tolist()], np.int32)


def read(x, y, groups, features, kind, time, split):
    """Reads and checks what `tasks.groups` was given; see there.

    Returns:
        `Data`.
    """
    table = tables.open_table(x)
    source = _Columns(table, None if table is None else len(table))
    y_values, targets = source.target(y)
    named = [name for name in (groups, time, split) if tables.is_name(name)]
    if table is None:
        if features is not None:
            raise TypeError(
                "Expected no `features` where x are arrays. Received: "
                f"{arguments.received('features', features)}. Give x the columns that the model "
                "sees, or a `pandas.DataFrame`."
            )
        x, columns = _arrays(x), None
        source = _Columns(None, len(tf.nest.flatten(x)[0]))
    else:
        columns = _columns(table, features, targets or [], named)
    group_values, group_name = source.one(groups, "groups")
    found = column_values.keys(group_values, group_name, source.row, what="groups")
    order = parts = None
    if time is not None:
        order = column_values.order_in_time(*source.one(time, "time"), source.row)
    if group_splits.of_rows(split):
        parts = group_splits.words_of(*source.one(split, "split"), source.row)
    if table is not None:
        x = _features(table, columns)
    source.check_length(y_values, "y")
    y, labels = group_targets.targets(y_values, targets, kind, source.row)
    return Data(x, y, found, order, parts, columns, targets, labels)


class _Columns:
    """Finds what an argument means: a column of the table, or an array beside it."""

    def __init__(self, table, rows):
        self.table, self.rows = table, rows

    def row(self, position):
        return f"row {position}" if self.table is None else self.table.row(position)

    def one(self, given, role):
        """An array `[rows]` and its name."""
        if tables.is_name(given):
            self._check_table(given, role)
            tables.check_columns(self.table, [given], role)
            return self.table.column(given), given
        self._check_index(given, role)
        values = _array(role, given)
        self.check_length(values, role)
        if values.ndim != 1:
            raise ValueError(
                f"Expected `{role}` to have one value a row. Received: "
                f"{arguments.received(role, values)}. Give an array [rows]"
                f"{'' if self.table is None else ', or the name of a column'}."
            )
        return values, role

    def target(self, given):
        """Values of y, `[rows]`, `[rows, k]` or a list of columns; and the columns' names."""
        if tables.is_name(given):
            self._check_table(given, "y")
            given = [given]
        names = isinstance(given, list) and given and all(map(tables.is_name, given))
        # A list of as many texts as there are rows may be classes.
        if names and self.table is not None and len(given) != self.rows:
            tables.check_columns(self.table, given, "y")
            return [self.table.column(name) for name in given], list(given)
        self._check_index(given, "y")
        return _array("y", given), None

    def check_length(self, values, role):
        """Refuses an array of other rows than x has."""
        if isinstance(values, list):
            return
        if values.ndim == 0 or len(values) != self.rows:
            raise ValueError(
                f"Expected `{role}` to have a value for each of the {self.rows} rows of x. "
                f"Received: {arguments.received(role, values)}. Give arrays of one length."
            )

    def _check_table(self, given, role):
        if self.table is None:
            raise TypeError(
                f"Expected `{role}` to be an array [rows], as x is one. Received: "
                f"{arguments.received(role, given)}. Give the values, or a `pandas.DataFrame` as x."
            )

    def _check_index(self, given, role):
        """A series that was sorted or filtered since has the length and other rows."""
        if self.table is None or not tables.is_series(given) and not tables.is_frame(given):
            return
        if not given.index.equals(self.table.frame.index):
            raise ValueError(
                f"Expected `{role}` to have the index of x. Received: {role} with the index "
                f"{given.index[:5].tolist()} and so on, x with "
                f"{self.table.frame.index[:5].tolist()}: rows would be mixed up. Give the name of "
                "the column, or a series that was sorted and filtered as x was."
            )


def _array(role, given):
    try:
        return np.asarray(given)
    except ValueError:
        raise ValueError(
            f"Expected `{role}` to be one array. Received: parts of different shapes. Give an "
            "array whose rows are alike."
        ) from None


def _columns(table, features, targets, named):
    """Names of the columns of x: a list, or a dict of lists."""
    if features is None:
        left = [name for name in table.columns if name not in (*targets, *named)]
        if not left:
            raise ValueError(
                "Expected columns beside those of y and groups, for the model to see. Received: a "
                f"table of {table.columns}. Add some, or name them by `features=[...]`."
            )
        return left
    several = features if isinstance(features, Mapping) else {"": features}
    for name, some in several.items():
        if isinstance(some, (str, bytes)) or not np.iterable(some) or len(list(some)) == 0:
            raise TypeError(
                "Expected `features` to be a list of columns, or a dict of such lists. Received: "
                f"{arguments.received('features', features)}. Give, for example, "
                f"features={table.columns[:2]}{f' for {name!r}' if name else ''}."
            )
        tables.check_columns(table, list(some), "features")
        answers = [column for column in some if column in targets]
        if answers:
            raise ValueError(
                f"Expected `features` without what is to be predicted. Received: {answers} in "
                "both. Leave it out of one of them."
            )
    if isinstance(features, Mapping):
        return {name: list(some) for name, some in features.items()}
    return list(features)


def _features(table, columns):
    if isinstance(columns, dict):
        return {name: _features(table, some) for name, some in columns.items()}
    tables.check_columns(table, columns, "features")
    return _stack(table, columns)


def _stack(table, columns):
    """float32 `[rows, columns]`."""
    return np.stack([column_values.numbers(table.column(c), c, table.row) for c in columns], axis=1)


def _arrays(x):
    """Copies of the arrays of x, checked."""
    # A list of lists of numbers is one array; a list of arrays are several inputs.
    if isinstance(x, list) and not any(hasattr(part, "shape") for part in x):
        x = _array("x", x)
    parts = tf.nest.flatten(x)
    if not parts:
        raise ValueError("Expected x with examples. Received: nothing. Give an array [rows, ...].")
    arrays = [_one_input(part, i, len(parts)) for i, part in enumerate(parts)]
    lengths = {len(a) for a in arrays}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(
            "Expected inputs of as many rows, at least one. Received: x with "
            f"{[len(a) for a in arrays]} rows. Give arrays of one length."
        )
    return tf.nest.pack_sequence_as(x, arrays)


def _one_input(part, i, count):
    name = "x" if count == 1 else f"x[{i}]"
    array = _array(name, part)
    if array.ndim == 0 or array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        kind = "" if array.ndim else " with an axis of rows"
        raise TypeError(
            f"Expected {name} to be numbers{kind}. Received: {arguments.received(name, array)}. "
            "Give an array [rows, ...] of numbers, or a `pandas.DataFrame`."
        )
    array = array[:, np.newaxis] if array.ndim == 1 else array
    if 0 in array.shape[1:]:
        raise ValueError(
            f"Expected {name} to have something in every row. Received: an array of shape "
            f"{array.shape}. Give it a column at least."
        )
    if array.dtype.kind in "iu":
        return array.copy()
    narrow = column_values.narrow(array)
    column_values.check_finite(narrow, name, lambda row: f"row {row}")
    if len(array) and array.ndim == 2:
        column_values.check_told_apart(array, name)
    return narrow
