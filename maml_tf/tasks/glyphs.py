"""Few-shot classification of printed characters, which needs no download.

Each task tells N characters apart from K drawings of each. Scripts stand for Omniglot's alphabets,
font faces and random jitter for its drawers; training, validation and test have no script in
common. It is about as difficult as Omniglot for nearest neighbour on pixels (45 % of queries right
at 5-way 1-shot on the test tasks), and its jitter is about as large, but it is another data set:
results on it are not results on Omniglot.
"""

import dataclasses
from typing import Any

import numpy as np

from maml_tf import arguments
from maml_tf.tasks import sampling, splits
from maml_tf.tasks.data.glyphs import load_glyphs
from maml_tf.tasks.episodes import Episodes

PARTS = {
    "train": ("Latin", "Greek", "Cyrillic", "Canadian Syllabics", "Arabic", "Ogham"),
    "validation": ("Hebrew", "Lao", "Old Italic"),
    "test": ("Georgian", "Armenian", "Nko", "Tifinagh"),
}


def glyphs(
    ways: int = 5,
    shots: int = 1,
    queries: int | None = None,
    *,
    rotate: bool = False,
    **episodes: Any,
) -> splits.TaskSets:
    """Builds the training, validation and test tasks of N-way K-shot character classification.

    The characters are drawn at the first call, in about ten seconds, and kept (see `load_glyphs`).
    Some 560 are for training, 65 for validation and 170 for test, of six, three and four scripts.

    Every data set yields task batches `(inputs, query_y)` with static shapes:
    `inputs["support_x"]` float32 `[meta_batch, ways * shots, 28, 28, 1]` in [0, 1] with ink 1,
    `inputs["support_y"]` int32 `[meta_batch, ways * shots]`, `inputs["query_x"]` float32
    `[meta_batch, ways * queries, 28, 28, 1]`, `query_y` int32 `[meta_batch, ways * queries]`.

    Args:
        ways: int, N, characters a task.
        shots: int, K, support drawings a character.
        queries: int or None, query drawings a character in training; None stands for `shots`.
        rotate: bool, whether to turn each character of a task by a random multiple of 90 degrees,
            in all three data sets, as `omniglot` does. Not by default: many a Canadian syllable is
            another one turned.
        **episodes: `test_ways`, `test_shots`, `test_queries`, `meta_batch`, `seed`, `start`,
            `validation_tasks`, `test_tasks`, as in `maml_tf.tasks.Episodes`, with a
            `meta_batch` of 32 by default. The drawings are the same whatever `seed` is.

    Returns:
        `(train, validation, test)`, each a `tf.data.Dataset`, with no script in common.
        `train` never ends; the others are finite and the same at every pass.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the drawings can be written nowhere.
        TypeError: a number or `seed` is not an integer, or there is no option of such a name.
        ValueError: a number is too small, or a task needs more characters or more than the 20
            drawings that there are.

    Example:
        >>> train, validation, test = maml_tf.tasks.glyphs(ways=20, meta_batch=16)
        >>> inputs, query_y = next(iter(train))
        >>> inputs["support_x"].shape, query_y.shape
        (TensorShape([16, 20, 28, 28, 1]), TensorShape([16, 20]))
    """
    given = {"ways": ways, "shots": shots, "queries": queries, "meta_batch": 32}
    few = Episodes.asked_of(glyphs, episodes, **given)
    arguments.boolean("rotate", rotate)
    characters = load_glyphs()
    classes = sampling.index_by_class(characters.images, characters.labels, rotate=rotate)
    names = [readable_name(characters.names[label]) for label in classes.labels]
    classes = dataclasses.replace(classes, labels=np.array(names))
    return splits.three_way(classes, split_scripts(characters.groups), few)


def split_scripts(groups):
    """Splits the characters into training, validation and test, by script.

    Args:
        groups: str array `[classes]`, the script of each character: `load_glyphs().groups`.

    Returns:
        `(train, validation, test)`, int arrays of positions in `groups`.
    """
    return tuple(np.flatnonzero(np.isin(groups, PARTS[part])) for part in splits.NAMES)


def readable_name(name):
    """A character's name as a figure shows it.

    Args:
        name: str, one of `load_glyphs().names`.

    Returns:
        A str, the script first.

    Example:
        >>> readable_name("Greek_GREEK SMALL LETTER BETA")
        'Greek small beta'
    """
    script, _, unicode_name = name.partition("_")
    rest = unicode_name.removeprefix(script.upper()).replace("LETTER", "")
    return " ".join([script, *rest.lower().split()])
