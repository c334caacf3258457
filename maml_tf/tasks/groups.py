"""Groups as tasks: every person, machine, shop, sensor or site is a task, its rows the examples.

    subject  age  jitter  score        tasks.groups("patients.csv", "score", "subject", shots=10)
    1        72   .0066   28.2
    1        72   .0030   28.4         a task: 10 rows of one subject to adapt to, and others of the
    2        58   .0048   12.1         same subject whose scores are asked for

Whole groups are held out, so that a test says how well the model does on somebody it has never
seen, after so many labelled rows.
"""

import logging
import os
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.tasks import group_sampling, group_splits, group_tables, splits, streams
from maml_tf.tasks.episodes import Episodes

_LOG = logging.getLogger(__name__)


def groups(
    x: Any,
    y: Any,
    groups: Any,
    *,
    shots: int = 10,
    queries: int | None = 10,
    features: Sequence | dict | None = None,
    kind: Literal["auto", "regression", "classification"] = "auto",
    time: Any = None,
    support: Literal["random", "first"] | None = None,
    split: Any = (0.64, 0.16, 0.2),
    split_seed: int = 0,
    small: Literal["raise", "leave_out"] = "raise",
    draw: Literal["uniform", "size"] = "uniform",
    test_shots: int | None = None,
    test_queries: int | None = None,
    meta_batch: int = 4,
    seed: int = 0,
    start: int = 0,
    validation_tasks: int = 600,
    test_tasks: int = 600,
) -> "GroupTasks":
    """Builds training, validation and test tasks of rows that belong to groups.

    All is copied when this is called: a frame or an array that changes later changes no task.
    Floating numbers, and all columns of a table, become float32, pictures of uint8 float32 in
    [0, 1]; other integers stay what they are. An example that is one number is `[1]`.

    Args:
        x: a `pandas.DataFrame`, or the path of a CSV or Parquet file; or an array `[rows, ...]`,
            or a structure (dict, list, tuple) of them for a model of several inputs.
        y: name of the column (a list of names: several numbers a row) of a table; or an array
            `[rows]` or `[rows, k]`.
        groups: name of the column; or an array `[rows]` of integers or text.
        shots: int, S, support rows a task.
        queries: int or None, Q, query rows a task in training; None stands for `shots`.
        features: of a table, list of the columns that the model sees, or a dict of such lists for
            a model of several inputs. None stands for all but those of `y`, `groups`, `time` and
            `split`.
        kind: "regression": y are numbers; "classification": y are classes, integers or text, that
            mean the same in every group. "auto": floating numbers are the former, text and truth
            values the latter, and integers have to be told.
        time: None, or name of a column of numbers or dates, or such an array: the order of rows
            within their group, which otherwise is that of the table.
        support: "random": support and queries are drawn from all rows of a group. "first": the
            support are its first rows, the queries are drawn from the later ones, and stay in
            order. None stands for "first" where `time` is given, else for "random".
        split: which groups are for training, validation and test: three shares of them; a dict
            with lists of groups for "train", "validation" and "test" (groups in no list are not
            used); or the name of a column, or an array `[rows]`, that holds these words. With a
            share of 0 or an empty list there is no validation.
        split_seed: int, of the shares; the same seed splits the same groups alike.
        small: what happens to groups with fewer than shots + queries rows: "raise", or
            "leave_out" and log their names.
        draw: "uniform": every group is drawn equally often (in validation and test in turn), or
            "size": as often as it has rows.
        test_shots: int or None, S in validation and test; None stands for `shots`.
        test_queries: int or None, Q in validation and test; None stands for `queries`.
        meta_batch: int, T, tasks a batch.
        seed: int; the same seed gives the same tasks.
        start: int, index of the first training batch.
        validation_tasks: int, tasks in `validation`, rounded up to whole batches.
        test_tasks: int, tasks in `test`, rounded up to whole batches.

    Returns:
        `GroupTasks`, `(train, validation, test)` with no group in common: each a
        `tf.data.Dataset` of `(inputs, query_y)`, `inputs["support_x"]` `[T, S, ...]`,
        `inputs["support_y"]` `[T, S, k]` float32 or `[T, S]` int32, `inputs["query_x"]` and
        `query_y` alike with Q rows. `train` never ends.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: pandas is not installed, and a file is given.
        TypeError: a setting is of another kind, or a column holds text or dates where numbers are
            expected, or floating numbers where groups or classes are.
        ValueError: a setting is out of range, a column is unknown, lengths differ, a value is
            missing or not finite, a group is too small, or a part is without groups.

    Example:
        >>> random = np.random.default_rng(0)
        >>> person = np.repeat(np.arange(30), 20)  # 30 persons of 20 rows
        >>> x = random.normal(size=[600, 3])
        >>> y = x[:, 0] + random.normal(size=30)[person]
        >>> sets = maml_tf.tasks.groups(x, y, person, shots=5, queries=10)
        >>> train, validation, test = sets
        >>> inputs, query_y = next(iter(train))
        >>> inputs["support_x"].shape, inputs["support_y"].shape, query_y.shape
        (TensorShape([4, 5, 3]), TensorShape([4, 5, 1]), TensorShape([4, 10, 1]))
        >>> network = keras.Sequential(
        ...     [keras.Input([3]), sets.normalization(), keras.layers.Dense(32, "relu"),
        ...      keras.layers.Dense(1), sets.denormalization()])
        >>> learner = maml_tf.MAML(network, 0.01, inner_steps=3)
        >>> learner.compile(optimizer="adam", loss="mse")
        >>> history = learner.fit(train, steps_per_epoch=2, verbose=0)
    """
    few = Episodes(
        ways=1,
        shots=shots,
        queries=queries,
        test_shots=test_shots,
        test_queries=test_queries,
        meta_batch=meta_batch,
        seed=seed,
        start=start,
        validation_tasks=validation_tasks,
        test_tasks=test_tasks,
    )
    arguments.choice("kind", kind, group_tables.KINDS)
    arguments.choice("small", small, ("raise", "leave_out"))
    arguments.choice("draw", draw, ("uniform", "size"))
    if support is not None:
        arguments.choice("support", support, ("random", "first"))
    group_splits.check(split)
    splits.check_split_seed("split_seed", split_seed)
    data = group_tables.read(x, y, groups, features, kind, time, split)
    in_time = support == "first" or (support is None and time is not None)
    by_group = data.by_group()
    parts = group_splits.share(by_group, data.parts, split, split_seed)
    sizes = [_rows_needed(few.of(name)) for name in splits.NAMES]
    parts, left_out = group_splits.without_small(by_group, parts, sizes, small)
    if any(map(len, left_out.values())):
        _LOG.warning("Groups with too few rows are left out: %s.", _shown(left_out))
    drawn = {
        name: (
            group_sampling.select(by_group, part),
            _draw(few.of(name), in_time=in_time, by_size=draw == "size"),
        )
        for name, part in zip(splits.NAMES, parts, strict=True)
        if len(part)
    }
    return GroupTasks(drawn, data, left_out)


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
        last = None
        if draw.tasks is not None:
            last = streams.whole_batches(draw.tasks, draw.meta_batch) - 1
        batch = arguments.integer("batch", batch, 0, last)
        return group_sampling.chosen_names(some, draw, batch)

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


def _rows_needed(asked):
    return asked["shots"] + asked["queries"]


def _draw(asked, **more):
    asked = {name: value for name, value in asked.items() if name != "ways"}
    return group_sampling.Draw(**asked, **more)


def _shown(left_out):
    return "; ".join(
        f"{part}: {', '.join(map(str, names))}" for part, names in left_out.items() if len(names)
    )


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
