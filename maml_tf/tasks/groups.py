"""Groups as tasks: every person, machine, shop, sensor or site is a task, its rows the examples.

    subject  age  jitter  score        tasks.groups("patients.csv", "score", "subject", shots=10)
    1        72   .0066   28.2
    1        72   .0030   28.4         a task: 10 rows of one subject to adapt to, and others of the
    2        58   .0048   12.1         same subject whose scores are asked for

Whole groups are held out, so that a test says how well the model does on somebody it has never
seen, after so many labelled rows.
"""

import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from maml_tf import arguments
from maml_tf.tasks import group_sampling, group_splits, group_tables, group_targets, splits
from maml_tf.tasks.episodes import Episodes
from maml_tf.tasks.group_tasks import GroupTasks

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
) -> GroupTasks:
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
    arguments.choice("kind", kind, group_targets.KINDS)
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
    unseen = _unseen(data, by_group, parts[0])
    if unseen:
        _LOG.warning(
            "Classes that no training group has, so that they are not learned: %s.", unseen
        )
    drawn = {
        name: (
            group_sampling.select(by_group, part),
            _draw(few.of(name), in_time=in_time, by_size=draw == "size"),
        )
        for name, part in zip(splits.NAMES, parts, strict=True)
        if len(part)
    }
    return GroupTasks(drawn, data, left_out)


def _unseen(data, by_group, part):
    """Names of the classes without a row in the training groups."""
    if data.labels is None:
        return []
    rows = [group_sampling.rows_of(by_group, position) for position in part]
    seen = np.unique(data.y[np.concatenate(rows)])
    return np.delete(data.labels, seen).tolist()


def _rows_needed(asked):
    return asked["shots"] + asked["queries"]


def _draw(asked, **more):
    asked = {name: value for name, value in asked.items() if name != "ways"}
    return group_sampling.Draw(**asked, **more)


def _shown(left_out):
    return "; ".join(
        f"{part}: {', '.join(map(str, names))}" for part, names in left_out.items() if len(names)
    )
