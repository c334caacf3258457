"""Groups shared out to training, validation and test: by share, by list or by a column."""

import numpy as np

from maml_tf import arguments
from maml_tf.tasks import splits
from maml_tf.tasks.data import column_values, tables

_WORDS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation"}
_WORDS["test"] = "test"


def of_rows(split):
    """Whether a `split` says for each row where it belongs: a column, or an array of words."""
    if isinstance(split, str) or tables.is_series(split):
        return True
    return isinstance(split, np.ndarray) and split.dtype.kind in "USO"


def check(split):
    """Refuses what is neither three shares, nor a dict of lists, nor of rows.

    Raises:
        TypeError, ValueError: as `splits.check_fractions` and `splits.check_parts`.
    """
    if isinstance(split, dict):
        splits.check_parts("split", split, "group")
    elif not of_rows(split):
        splits.check_fractions("split", split, "group")


def share(groups, words, split, seed, one="group"):
    """Shares groups out.

    Args:
        groups: a `group_sampling.Groups`.
        words: array `[rows]` of words where `split` is of rows, else None.
        split: as in `tasks.groups`, checked.
        seed: int.
        one: str, what a message calls one of them: "group" or "series".

    Returns:
        Three int arrays, positions of the training, validation and test groups, in order.

    Raises:
        ValueError: a part is empty, a group is unknown or in two parts.
    """
    by_share = words is None and not isinstance(split, dict)
    if words is not None:
        parts = _by_words(groups, words)
    elif by_share:
        parts = splits.shuffled(len(groups.names), split, seed)
    else:
        parts = splits.by_name(groups.names, split, one)
    for i, (name, part) in enumerate(zip(splits.NAMES, parts, strict=True)):
        # No validation is a choice; a share that was rounded to nothing is not.
        if len(part) or (name == "validation" and not (by_share and split[i] > 0)):
            continue
        many = "series" if one == "series" else "groups"
        advice = f"Give the split more {many}, or more data."
        if by_share:
            advice = f"Give other shares, such as split=(0.8, 0, 0.2), or more {many}."
        shown = tuple(split) if by_share else f"the {many} that were named"
        raise ValueError(
            f"Expected at least one {one} in the {name} split. Received: none of "
            f"{len(groups.names)} {many if len(groups.names) > 1 else one} "
            f"({_few(groups.names)}), split={shown}. {advice}"
        )
    return [np.sort(part) for part in parts]


def _by_words(groups, words):
    found = {name: [] for name in splits.NAMES}
    order = np.asarray(groups.order)
    for i, (first, size) in enumerate(zip(groups.offsets, groups.sizes, strict=True)):
        rows = order[first : first + size]
        given = np.unique(words[rows])
        unknown = [word for word in given.tolist() if word not in _WORDS]
        if unknown or len({_WORDS[word] for word in given.tolist()}) > 1:
            raise ValueError(
                "Expected `split` to hold one of 'train', 'validation' and 'test' in all rows of a "
                f"group. Received: {given.tolist()[:5]} in the rows of group "
                f"{groups.names[i].item()!r}. Correct the column, or give a dict of lists."
            )
        found[_WORDS[given[0].item()]].append(i)
    return [np.array(found[name], int) for name in splits.NAMES]


def without_small(
    groups, parts, needed, small, expected="shots + queries = {} rows in every group"
):
    """Leaves out groups that have too few rows, or refuses them.

    Args:
        groups: a `group_sampling.Groups`.
        parts: three int arrays of positions.
        needed: three ints, rows that a group of each part must have.
        small: "raise" or "leave_out".
        expected: str, what a message says that there should be.

    Returns:
        `(parts, left_out)`: the arrays, and a dict by split of the names that were left out.

    Raises:
        ValueError: there are small groups and `small` is "raise", or nothing else in a part.
    """
    kept, left_out = [], {}
    for name, part, rows in zip(splits.NAMES, parts, needed, strict=True):
        enough = groups.sizes[part] >= rows
        few = part[~enough]
        if len(few) and (small == "raise" or not enough.any()):
            sizes = [f"{groups.names[g].item()!r} with {groups.sizes[g]}" for g in few[:5]]
            more = f" and {len(few) - 5} more" if len(few) > 5 else ""
            test = "" if name == "train" else "test_"
            advice = f"Give fewer `{test}shots` or `{test}queries`"
            if "series" in expected:
                advice = "Give a shorter `beginning`, fewer `queries` or longer series"
            if enough.any():
                advice += ", or small='leave_out'"
            raise ValueError(
                f"Expected at least {expected.format(rows)} of the {name} split. Received: "
                f"{', '.join(sizes)}{more}. {advice}."
            )
        kept.append(part[enough])
        left_out[name] = groups.names[few]
    return kept, left_out


def _few(names):
    shown = ", ".join(map(repr, names[:5].tolist()))
    return f"{shown} and so on" if len(names) > 5 else shown


def words_of(values, name, row):
    """The words of a column, one a row.

    Args:
        values: array `[rows]`.
        name: str, of the column.
        row: function of a position, how a message calls that row.

    Returns:
        Array `[rows]` of text.

    Raises:
        TypeError, ValueError: as `column_values.keys`.
    """
    found = column_values.keys(values, name, row, what="`split`")
    if found.dtype.kind != "U":
        raise TypeError(
            "Expected `split` to hold the words 'train', 'validation' and 'test'. Received: "
            f"{arguments.received(name, values)}. Give a column of these words."
        )
    return found
