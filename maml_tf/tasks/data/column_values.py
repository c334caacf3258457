"""Values of one column as numbers, names or moments.

What no model can take (text, dates, missing values) is named by its row and column.
"""

import numpy as np

from maml_tf import arguments

# What pandas puts where a value is missing, by the names of the types: pandas need not be there.
_MISSING = ("NAType", "NaTType", "NoneType")


def numbers(values, name, row):
    """One column as numbers.

    Args:
        values: array `[rows]` of any kind.
        name: str, what the column is called.
        row: function of a position, how a message calls that row.

    Returns:
        float32 array `[rows]`, of its own memory.

    Raises:
        TypeError: there are texts, dates or other things than numbers.
        ValueError: a value is missing or not finite.
    """
    if values.dtype.kind in "Mm":
        _refuse(values[0], 0, name, row)
    if values.dtype.kind not in "biuf":
        values = np.array([_number(v, i, name, row) for i, v in enumerate(values.tolist())])
    # A copy; a frame that changes later changes nothing here.
    column = narrow(values)
    check_finite(column, name, row)
    check_told_apart(values, name)
    return column


def narrow(values):
    """A copy as float32; what does not fit becomes infinite, for `check_finite` to refuse."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def check_told_apart(values, name):
    """Refuses numbers whose differences float32 would round away.

    Args:
        values: array `[rows, ...]` of finite numbers; each of its columns is looked at.
        name: as in `numbers`.

    Raises:
        ValueError: rounding is more than a twentieth of all that there is between the smallest and
            the largest number of a column.
    """
    if values.dtype.kind == "b" or values.dtype.itemsize < 4 or values.dtype == np.float32:
        return
    smallest, largest = (f(values, axis=0).astype(np.float64) for f in (np.nanmin, np.nanmax))
    size, range_ = np.maximum(np.abs(smallest), np.abs(largest)), largest - smallest
    # What 64 bits round themselves is no difference.
    bad = (range_ < 10 * np.finfo(np.float32).eps * size) & (range_ > 1e-12 * size)
    if bad.any():
        place = tuple(np.argwhere(bad)[0])
        raise ValueError(
            "Expected numbers that float32 tells apart. Received: "
            f"{f'column {name!r}' if isinstance(name, str) else name} from {smallest[place]:.17g} "
            f"to {largest[place]:.17g}, of which little is left. "
            "Give them without what they have in common."
        )


def check_finite(values, name, row):
    """Refuses values that are missing, infinite or too large.

    Args:
        values: float array `[rows, ...]`.
        name: as in `numbers`.
        row: as in `numbers`.

    Raises:
        ValueError: naming the first of them.
    """
    bad = ~np.isfinite(values)
    if not bad.any():
        return
    position = np.argwhere(bad)[0]
    others = int(bad.sum()) - 1
    more = f" and {others} more such values" if others else ""
    column = f"column {name!r}" if isinstance(name, str) else f"column {name}"
    if len(position) > 1:
        column = f"{name}, at {position[1:].tolist()}"
    value = values[tuple(position)]
    kind = "a missing value" if np.isnan(value) else f"{value}"
    raise ValueError(
        f"Expected numbers that are there and finite. Received: {kind} in {row(int(position[0]))}, "
        f"{column}{more}. Fill them in, or drop these rows: `frame.dropna()`."
    )


def _number(value, position, name, row):
    """One cell as a float; NaN where it is missing."""
    if type(value).__name__ in _MISSING:
        return np.nan
    if isinstance(value, (bool, int, float, np.number, np.bool_)):
        return float(value)
    if type(value).__name__ in ("Decimal", "Fraction"):
        return float(value)
    return _refuse(value, position, name, row)


def _refuse(value, position, name, row):
    where = f"{row(position)}, column {name!r}"
    if isinstance(value, (str, bytes)) and _date(value) is None:
        raise TypeError(
            f"Expected numbers. Received: the text {value!r} in {where}. Correct it if it was "
            "meant as a number, leave the column out by `features=[...]`, or make numbers of "
            "categories: `pandas.get_dummies(frame, columns=[...])`."
        )
    dates = (np.datetime64, np.timedelta64, str, bytes)
    if isinstance(value, dates) or hasattr(value, "year"):
        raise TypeError(
            f"Expected numbers. Received: the date {value!s} in {where}. Give it as `time=` where "
            "it orders the rows, leave it out by `features=[...]`, or make a number of it, such "
            "as days since a day."
        )
    raise TypeError(
        f"Expected numbers. Received: {arguments.received('value', value)} in {where}. Convert "
        "it, or leave the column out by `features=[...]`."
    )


def _date(value):
    """A text as a date, as files of text have them: of 2024-01-31 or 2024-01-31 12:00; or None."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    if "-" not in text[1:]:
        return None
    try:
        return np.datetime64(text.strip(), "us")
    except ValueError:
        return None


def keys(values, name, row, *, what):
    """A column of integers or texts that names something: groups, classes, parts.

    Args:
        values: array `[rows]`.
        name: as in `numbers`.
        row: as in `numbers`.
        what: str, what it names, in the plural.

    Returns:
        Array `[rows]` of integers or of text.

    Raises:
        TypeError: they are neither.
        ValueError: a value is missing.
    """
    if values.ndim != 1:
        raise ValueError(
            f"Expected one value a row for {what}. Received: {arguments.received(name, values)}. "
            "Give an array [rows]."
        )
    if values.dtype.kind == "f":
        shown = values[~np.isnan(values)][:3].tolist()
        missing = np.flatnonzero(np.isnan(values))
        at = f", and a missing value in {row(int(missing[0]))}" if missing.size else ""
        raise TypeError(
            f"Expected integers or text for {what}. Received: column {name!r} of floating point "
            f"numbers, {shown} and so on{at}. "
            f"{'Drop the rows without a value, and convert' if missing.size else 'Convert'} it: "
            "`.astype(int)`, or `.astype(str)`."
        )
    if values.dtype.kind in "iub":
        return values.astype(np.int64) if values.dtype.kind != "b" else values.astype(str)
    if values.dtype.kind in "US":
        return values.astype(str)
    return _of_objects(values, name, row, what)


def _of_objects(values, name, row, what):
    kinds = set()
    for i, value in enumerate(values.tolist() if values.dtype.kind == "O" else values):
        if type(value).__name__ in _MISSING or (isinstance(value, float) and np.isnan(value)):
            raise ValueError(
                f"Expected a value in every row for {what}. Received: a missing value in {row(i)}, "
                f"column {name!r}. Fill it in, or drop such rows."
            )
        integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        kinds.add(int if integer else type(value))
        if not integer and not isinstance(value, (str, bytes, bool, np.bool_)):
            raise TypeError(
                f"Expected integers or text for {what}. Received: "
                f"{arguments.received(str(name), value)} in {row(i)}. Convert the column: "
                "`.astype(str)`."
            )
    if kinds == {int}:
        return np.array([int(v) for v in values], np.int64)
    if kinds <= {str, bytes} or kinds == {bool}:
        return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values])
    raise TypeError(
        f"Expected integers or text for {what}, of one kind. Received: column {name!r} with "
        f"{sorted(kind.__name__ for kind in kinds)}. Convert it: `.astype(str)`."
    )


def order_in_time(values, name, row):
    """Numbers that sort as the values of a column do: numbers, dates, or text of such dates.

    Args:
        values: array `[rows]`.
        name: as in `numbers`.
        row: as in `numbers`.

    Returns:
        float64 or int64 array `[rows]`.

    Raises:
        TypeError: they are neither numbers nor dates.
        ValueError: one is missing.
    """
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    if len(values) and all(isinstance(v, str) for v in values.tolist()):
        dates = [_date(v) for v in values.tolist()]
        if None not in dates:
            values = np.array(dates)
    if values.dtype.kind == "O" and all(hasattr(v, "year") for v in values.tolist()):
        # Of days, or with a time zone. NumPy knows no zones, and all are in one unit without them.
        values = np.array([getattr(v, "value", v) for v in values.tolist()])
        values = values if values.dtype.kind in "iu" else values.astype("datetime64[us]")
    if values.dtype.kind in "Mm":
        missing = np.flatnonzero(np.isnat(values))
        if missing.size:
            raise ValueError(
                f"Expected a time in every row. Received: a missing one in {row(int(missing[0]))}, "
                f"column {name!r}. Fill it in, or drop such rows."
            )
        return values.astype(np.int64)
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    if values.dtype.kind == "f":
        check_finite(values, name, row)
        return values.astype(np.float64)
    texts = [i for i, v in enumerate(values.tolist()) if isinstance(v, str) and _date(v) is None]
    if texts:
        raise TypeError(
            "Expected numbers, or dates such as 2024-01-31, for `time`. Received: the text "
            f"{values.tolist()[texts[0]]!r} in {row(texts[0])}, column {name!r}. Convert the "
            "column: `pandas.to_datetime(...)`."
        )
    return np.array([_number(v, i, name, row) for i, v in enumerate(values.tolist())])
