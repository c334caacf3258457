"""What `tasks.groups` gives back: three data sets, and what is known of groups and columns."""

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.tasks import group_sampling, group_tables, splits, streams


class GroupTasks(tuple):
    """`(train, validation, test)` to unpack, which also knows the groups, columns and classes.

    Attributes:
        columns: names of the model's inputs in their order, or a dict of such lists; None where
            arrays were given.
        labels: array `[classes]`, what the classes are called that y numbers from 0; None in
            regression.
        left_out: dict by "train", "validation" and "test": array of the groups with too few rows.

    Example:
        >>> x, y = np.ones([40, 2]), np.arange(40.0)
        >>> sets = maml_tf.tasks.groups(x, y, np.arange(40) // 4, shots=1, queries=2)
        >>> sets.groups("test").tolist(), sets.group_names("test", batch=0).tolist()
        ([0, 5], [0, 5, 0, 5])
    """

    columns: list | dict | None
    labels: np.ndarray | None
    left_out: dict
    _drawn: dict
    _data: group_tables.Data

    def __new__(cls, drawn, data, left_out):
        """A tuple is made here, before `__init__`."""
        sets = [
            group_sampling.batches(*drawn[name]) if name in drawn else None for name in splits.NAMES
        ]
        made = super().__new__(cls, sets)
        made._drawn, made._data, made.left_out = drawn, data, left_out
        made.columns, made.labels = data.columns, data.labels
        return made

    def groups(self, split: str) -> np.ndarray:
        """The groups that tasks are drawn from, array `[groups]`, in the order of their names.

        Args:
            split: "train", "validation" or "test".

        Raises:
            ValueError: there is no such split.
        """
        return self._of(split)[0].names

    def group_names(self, split: str, batch: int = 0) -> np.ndarray:
        """Which group each task of a batch is, array `[T]`.

        Args:
            split: as in `groups`.
            batch: int, place of the batch in that data set, from 0 on.

        Raises:
            TypeError: `batch` is not an integer.
            ValueError: there is no such split, or no such batch in it.
        """
        some, draw = self._of(split)
        index = streams.index_of(batch, draw.start, draw.tasks, draw.meta_batch)
        return group_sampling.chosen_names(some, draw, index)

    def rows(self, split: str) -> dict:
        """All rows of the groups of a split, as the model sees them, in the order of time.

        Args:
            split: as in `groups`.

        Returns:
            A dict by group of `(x, y)`, arrays (or structures) `[rows, ...]`.

        Raises:
            ValueError: there is no such split.
        """
        some, _ = self._of(split)
        found = {}
        for i, name in enumerate(some.names.tolist()):
            rows = group_sampling.rows_of(some, i)
            found[name] = tf.nest.map_structure(
                lambda part, rows=rows: np.asarray(part)[rows], (self._data.x, self._data.y)
            )
        return found

    def arrays(self, table: str | os.PathLike | Any) -> tuple:
        """Another table, such as of somebody new, as the model takes it: for `learner.adapt`.

        Args:
            table: a `pandas.DataFrame` or a path, with the columns that `groups` saw; that of `y`
                may be missing.

        Returns:
            `(x, y)`, arrays (or structures) `[rows, ...]`; y is None where its column is missing.

        Raises:
            TypeError, ValueError: as `groups`; these tasks are not of a table, or there is a class
                that `groups` has not seen.
        """
        return self._data.arrays(table)

    def normalization(self, keep: str | None = None) -> Any:
        """The first layer of a model: mean 0 and variance 1 over all rows of the training groups.

        What is constant there is only shifted. The numbers belong to the layer's configuration,
        so that they are saved, copied and exported with the model.

        Args:
            keep: of several inputs, the name (of a dict) of the one whose layer is wanted.

        Returns:
            A `keras.layers.Normalization`; where x is a structure, one of layers, with None for
            integers.

        Raises:
            ValueError: there is no such input.
        """
        some, _ = self._drawn["train"]
        rows = _rows_in(some)
        if keep is not None:
            known = self._data.x if isinstance(self._data.x, dict) else {}
            arguments.choice("keep", keep, tuple(known))
            return _normalization(self._data.x[keep], rows)
        return tf.nest.map_structure(lambda part: _normalization(part, rows), self._data.x)

    def denormalization(self) -> keras.layers.Layer:
        """The last layer of a regression: from mean 0 and variance 1 to the units of y.

        Returns:
            A `keras.layers.Rescaling` by mean and standard deviation over the training groups.

        Raises:
            ValueError: these tasks are a classification.
        """
        mean, deviation = self.target_scale()
        return keras.layers.Rescaling(deviation.tolist(), mean.tolist(), name="denormalization")

    def target_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of y over all rows of the training groups.

        Returns:
            Two float64 arrays `[k]`; a deviation of 0 is given as 1.

        Raises:
            ValueError: these tasks are a classification.
        """
        if self.labels is not None:
            raise ValueError(
                "Expected tasks of regression, whose y has a scale. Received: a classification of "
                f"{len(self.labels)} classes. Leave this layer out."
            )
        y = np.asarray(self._data.y)[_rows_in(self._drawn["train"][0])].astype(np.float64)
        mean, variance = _moments(y)
        return mean, np.sqrt(variance)

    def _of(self, split):
        arguments.choice("split", split, tuple(self._drawn))
        return self._drawn[split]


def _rows_in(some):
    return np.concatenate([group_sampling.rows_of(some, i) for i in range(len(some.names))])


def _normalization(part, rows):
    part = np.asarray(part)
    if part.dtype.kind not in "f" and part.dtype != np.uint8:
        return None
    values = part[rows].astype(np.float64)
    mean, variance = _moments(values / 255.0 if part.dtype == np.uint8 else values)
    return keras.layers.Normalization(mean=mean.tolist(), variance=variance.tolist())


def _moments(values):
    """Mean and variance along the last axis, float64; a variance of 0 is given as 1."""
    axes = tuple(range(values.ndim - 1))
    mean, variance = values.mean(axes), values.var(axes)
    # Beside float32's rounding of the values themselves, a column that never changes has some.
    constant = variance <= (np.finfo(np.float32).eps * np.abs(mean)) ** 2
    return mean, np.where(constant, 1.0, variance)
