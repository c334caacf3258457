"""Tables, wherever they come from: their columns by name, and how a message names their rows.

pandas reads the files, and nothing else of it is needed: a frame is whatever has columns by name.
"""

import csv
import dataclasses
import difflib
import os
import pathlib
import sys
from typing import Any

import numpy as np

from maml_tf import arguments

_PARQUET = (".parquet", ".pq")
_CSV = (".csv", ".tsv", ".txt", ".data", ".gz", ".bz2", ".xz", ".zip")


@dataclasses.dataclass(frozen=True)
class Table:
    """A frame, and how a message names its rows.

    Attributes:
        frame: a `pandas.DataFrame`.
        first_line: int or None, the line that row 0 stands in, of a file of text.
    """

    frame: Any
    first_line: int | None = None

    def __len__(self):
        return len(self.frame)

    @property
    def columns(self):
        """The names of the columns, in their order."""
        return list(self.frame.columns)

    def column(self, name):
        """The values of one column: an array `[rows]`, of objects where they are of no one kind."""
        return np.asarray(self.frame[name])

    def row(self, position):
        """How a message calls a row: by its place, and by its line or its index where it has one.

        Args:
            position: int, from 0.
        """
        if self.first_line is not None:
            return f"row {position} (line {position + self.first_line} of the file)"
        index = self.frame.index[position]
        return f"row {position}" + ("" if index == position else f" (index {index!r})")


def is_frame(value):
    """Whether something is a `pandas.DataFrame`; pandas is not imported for it."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame)


def is_series(value):
    """Whether something is a `pandas.Series`."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.Series)


def open_table(given):
    """A table from a frame or a file.

    Args:
        given: a `pandas.DataFrame`, or the path of a CSV or Parquet file; tabs or semicolons
            between the columns of a text are found by pandas. Or a `Table`, which was read before.

    Returns:
        A `Table`, or None where it is neither.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: pandas, or pyarrow for Parquet, is not installed.
        ValueError: the file is no table, is of another kind, or two columns have one name.
    """
    if isinstance(given, Table):
        table = given
    elif is_frame(given):
        table = Table(given)
    elif isinstance(given, (str, os.PathLike)):
        table = _read(pathlib.Path(arguments.path("x", given, "a table, or a path of one")))
    else:
        return None
    names = table.columns
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"Expected columns of different names. Received: {twice[:5]} more than once. Rename "
            "them."
        )
    if len(table) == 0:
        raise ValueError(
            "Expected a table with rows. Received: one without, of the columns "
            f"{names[:8]}. Give one that has some."
        )
    return table


def _read(path):
    if not path.exists():
        raise FileNotFoundError(
            f"Expected a CSV or Parquet file. Received: {str(path)!r}, which does not exist. Give "
            "the path of one, or a `pandas.DataFrame`."
        )
    suffix = path.suffix.lower()
    if suffix not in (*_PARQUET, *_CSV):
        raise ValueError(
            f"Expected a file named .csv, .tsv, .txt, .data (packed or not) or .parquet. Received: "
            f"{str(path)!r}. Rename it, or read it with pandas and give the frame."
        )
    pandas = _pandas(path)
    try:
        if suffix in _PARQUET:
            return Table(pandas.read_parquet(path))
        separator = _separator(pandas, path)
        return Table(pandas.read_csv(path, sep=separator), first_line=2)
    except ImportError as error:
        raise ImportError(
            f"Expected pyarrow, to read {str(path)!r}. Received: {error} Install it: "
            "pip install 'maml_tf[tables]'."
        ) from None
    except (ValueError, OSError) as error:  # parsers' errors are ValueErrors, pyarrow's are, too
        raise ValueError(
            f"Expected a table with one line of column names. Received: {str(path)!r}, of which "
            f"pandas says: {error}. Mend it, or read it with pandas and give the frame."
        ) from None


def _separator(pandas, path):
    """What stands between the columns: of comma, semicolon and tab the most frequent one above."""
    one_line = {"sep": "\x00", "header": None, "nrows": 1, "quoting": csv.QUOTE_NONE}
    head = pandas.read_csv(path, dtype=str, engine="python", **one_line)
    line = str(head.iloc[0, 0])
    return max(",;\t", key=line.count)


def _pandas(path):
    try:
        import pandas
    except ImportError:
        raise ImportError(
            f"Expected pandas, to read {str(path)!r}. Received: an installation without it. "
            "Install it: pip install 'maml_tf[tables]'."
        ) from None
    return pandas


def check_columns(table, names, role):
    """Refuses names of columns that the table does not have.

    Args:
        table: a `Table`.
        names: list of names.
        role: str, the argument that they came as.

    Raises:
        ValueError: a name is unknown; the message tells the most similar one.
    """
    known = table.columns
    for name in names:
        if not is_name(name) or name not in known:
            texts = [str(one) for one in known]
            close = difflib.get_close_matches(str(name), texts, 1)
            advice = f"Did you mean {close[0]!r}? " if close else ""
            raise ValueError(
                f"Expected `{role}` to name columns of the table, which has {texts[:12]}"
                f"{' and more' if len(texts) > 12 else ''}. Received: "
                f"{arguments.received(role, name)}. {advice}Give one of these."
            )


def is_name(value):
    """Whether something may be the name of a column: text, or a number."""
    return isinstance(value, (str, int, np.integer)) and not isinstance(value, bool)
