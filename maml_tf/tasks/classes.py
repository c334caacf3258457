"""Classes as tasks, from arrays or a table: whatever has labels, such as spectra or sentences.

    text                  label        tasks.classes("tickets.csv", "label", ways=5, shots=5)
    I cannot log in       account
    where is my parcel    delivery     a task: a few labelled texts of five of the classes to adapt
    a wrong password      account      to, and others of these classes that are asked for

Whole classes are held out, so that a test says how well the model does on classes that it has never
seen, after so many labelled examples of each.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from maml_tf import arguments
from maml_tf.tasks import sampling, splits
from maml_tf.tasks.data import column_values, tables
from maml_tf.tasks.episodes import Episodes


def classes(
    x: Any,
    y: Any,
    ways: int = 5,
    shots: int = 1,
    queries: int | None = 15,
    *,
    features: Sequence | None = None,
    split: Any = (0.64, 0.16, 0.2),
    split_seed: int = 0,
    **options: Any,
) -> splits.TaskSets:
    """Builds training, validation and test tasks of examples with a class each.

    Args:
        x: array `[rows, ...]` of numbers or texts, where integers of uint8 are pictures; or a
            `pandas.DataFrame`, or the path of a CSV or Parquet file.
        y: array `[rows]` of integers or text; of a table, the name of the column.
        ways: int, N, classes a task.
        shots: int, K, support examples a class.
        queries: int or None, query examples a class in training; None stands for `shots`.
        features: of a table, list of the columns that the model sees, numbers, or one of texts;
            None stands for all but that of `y`.
        split: which classes are for training, validation and test: three shares of them, or a dict
            with lists of classes for "train", "validation" and "test" (classes in no list are not
            used). With a share of 0 or an empty list there is no validation.
        split_seed: int, of the shares; the same seed splits the same classes alike.
        **options: of `maml_tf.tasks.Episodes`.

    Returns:
        `maml_tf.tasks.splits.TaskSets`, `(train, validation, test)` with no class in common: each
        a `tf.data.Dataset` of `(inputs, query_y)`, `inputs["support_x"]` `[T, N * K, ...]`,
        `inputs["support_y"]` int32 `[T, N * K]`, `inputs["query_x"]` and `query_y` alike. Numbers
        are float32, of uint8 in [0, 1]; an example that is one number or one text is `[1]`.
        `train` never ends.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: pandas is not installed, and a file is given.
        TypeError: an option is unknown, classes are neither integers nor text, or a column holds
            text or dates where numbers are expected.
        ValueError: a setting is out of range, a column is unknown, lengths differ, a value is
            missing or not finite, a class has too few examples, or a part too few classes.

    Example:
        >>> random = np.random.default_rng(0)
        >>> label = np.repeat(np.arange(40), 20)  # 40 classes of 20 spectra
        >>> spectra = random.normal(size=[40, 16])[label] + random.normal(size=[800, 16])
        >>> sets = maml_tf.tasks.classes(spectra, label, ways=3, shots=2, queries=5)
        >>> inputs, query_y = next(iter(sets[0]))
        >>> inputs["support_x"].shape, query_y.shape
        (TensorShape([4, 6, 16]), TensorShape([4, 15]))
    """
    few = Episodes(ways=ways, shots=shots, queries=queries, **options)
    check = splits.check_parts if isinstance(split, dict) else splits.check_fractions
    check("split", split)
    splits.check_split_seed("split_seed", split_seed)
    found = sampling.index_by_class(*_read(x, y, features))
    if isinstance(split, dict):
        parts = splits.by_name(found.labels, split)
    else:
        parts = splits.shuffled(len(found.labels), split, split_seed)
    return splits.three_way(found, parts, few)


def _read(x, y, features):
    """Examples `[rows, ...]` and labels `[rows]`."""
    table = tables.open_table(x)
    if table is not None:
        return _of_table(table, y, features)
    if features is not None or tables.is_name(y):
        name, value = ("y", y) if features is None else ("features", features)
        raise TypeError(
            "Expected names of columns only where x is a table. Received: "
            f"{arguments.received(name, value)}. Give the values, or a `pandas.DataFrame` as x."
        )
    x = np.asarray(x)
    return x[:, np.newaxis] if x.ndim == 1 else x, np.asarray(y)


def _of_table(table, y, features):
    tables.check_columns(table, [y] if tables.is_name(y) else [repr(y)], "y")
    if features is None:
        features = [name for name in table.columns if name != y]
    if isinstance(features, (str, bytes)) or not np.iterable(features) or not len(list(features)):
        raise TypeError(
            "Expected `features` to be a list of columns beside that of `y`. Received: "
            f"{arguments.received('features', features)}. Give, for example, "
            f"features={[name for name in table.columns if name != y][:2]}."
        )
    tables.check_columns(table, list(features), "features")
    labels = column_values.keys(table.column(y), y, table.row, what="classes")
    columns = [table.column(name) for name in features]
    if len(columns) == 1 and any(isinstance(v, str) for v in columns[0][:100].tolist()):
        texts = column_values.keys(columns[0], features[0], table.row, what="texts")
        return texts[:, np.newaxis], labels
    named = zip(columns, features, strict=True)
    numbers = [column_values.numbers(column, name, table.row) for column, name in named]
    return np.stack(numbers, axis=1), labels
