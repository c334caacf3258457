"""What is to be predicted of rows that belong to groups: numbers, or classes with their labels."""

import numpy as np

from maml_tf import arguments
from maml_tf.tasks.data import column_values

KINDS = ("auto", "regression", "classification")


def targets(values, names, kind, row):
    """Targets as float32 `[rows, k]` and None, or as int32 `[rows]` and the labels.

    Args:
        values: array `[rows]` or `[rows, k]`, or a list of columns.
        names: list of the names of the columns; None for an array.
        kind: one of `KINDS`.
        row: function of a position to the words that name the row.
    """
    columns = values if isinstance(values, list) else [values]
    name = names[0] if names else "y"
    kind = _kind(columns[0], name, row) if kind == "auto" else kind
    if kind == "classification":
        if len(columns) > 1 or columns[0].ndim > 1 and columns[0].shape[1:] != (1,):
            raise ValueError(
                "Expected one class a row in a classification. Received: "
                f"{arguments.received('y', names or columns[0])}. Give one column, or "
                "kind='regression'."
            )
        found = column_values.keys(columns[0].reshape(-1), name, row, what="classes")
        labels, y = np.unique(found, return_inverse=True)
        if len(labels) < 2:
            raise ValueError(
                f"Expected at least two classes. Received: {labels.tolist()} in all rows of "
                f"{name!r}. Choose another column."
            )
        return y.astype(np.int32), labels
    if names is None and columns[0].ndim == 2:
        columns = list(columns[0].T)
    if columns[0].ndim != 1:
        raise ValueError(
            "Expected y to be numbers [rows] or [rows, k]. Received: "
            f"{arguments.received('y', columns[0])}. Reshape it."
        )
    called = names if names and len(names) == len(columns) else [name] * len(columns)
    numbers = [column_values.numbers(c, n, row) for c, n in zip(columns, called, strict=True)]
    return np.stack(numbers, axis=1), None


def _kind(values, name, row):
    """What y is where nobody says it."""
    if values.dtype.kind in "fMmc":
        return "regression"  # where dates and the like are refused as numbers
    if values.dtype.kind == "b":
        return "classification"
    if values.dtype.kind in "USO":
        return _kind_of_objects(values.ravel().tolist(), name, row)
    if values.dtype.kind in "iu":
        raise ValueError(
            "Expected `kind` where y are integers, which may be amounts or classes. Received: "
            f"{name!r} of dtype {values.dtype}, kind='auto'. Give kind='regression' or "
            "kind='classification'."
        )
    return "regression"


def _kind_of_objects(values, name, row):
    """A column of numbers is one of texts as soon as a single cell is mistyped."""
    texts = [i for i, v in enumerate(values) if isinstance(v, (str, bytes))]
    words = [i for i in texts if not _reads_as_number(values[i])]
    numbers = [v for v in values if isinstance(v, (int, float)) and v == v]
    if texts and (len(words) < len(texts) or numbers):
        shown = words[0] if words else texts[0]
        raise TypeError(
            "Expected y to be numbers, or classes with names that are none. Received: "
            f"{name!r} with the text {values[shown]!r} in {row(shown)}, and {len(words)} such "
            f"words in {len(values)} rows. Correct the cell, or give kind='classification'."
        )
    return "classification" if texts or isinstance(values[0], bool) else "regression"


def _reads_as_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
