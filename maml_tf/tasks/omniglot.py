"""Omniglot few-shot classification, as in Finn, Abbeel & Levine 2017, section 5.2.

Each task tells N characters apart from K drawings of each; each character of a task is turned by
0, 90, 180 or 270 degrees (Santoro et al. 2016), at test too.
"""

import dataclasses
import os
from typing import Any, Literal

import numpy as np

from maml_tf import arguments
from maml_tf.tasks import class_index, class_lists, sampling, splits
from maml_tf.tasks.data.omniglot import BACKGROUND, CHARACTERS, load_omniglot
from maml_tf.tasks.episodes import Episodes

_VALIDATION = 100
_PAPER_TRAIN = 1100
_SPLIT_SEED = 0
SPLITS = ("paper", "alphabet", "vinyals")


def omniglot(
    ways: int = 5,
    shots: int = 1,
    queries: int | None = None,
    *,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    split: str = "paper",
    rotate: bool | Literal["classes"] = True,
    **episodes: Any,
) -> splits.TaskSets:
    """Builds the training, validation and test tasks of N-way K-shot Omniglot.

    Every data set yields task batches `(inputs, query_y)` with static shapes:
    `inputs["support_x"]` float32 `[meta_batch, ways * shots, 28, 28, 1]` in [0, 1] with ink 1,
    `inputs["support_y"]` int32 `[meta_batch, ways * shots]`, `inputs["query_x"]` float32
    `[meta_batch, ways * queries, 28, 28, 1]`, `query_y` int32 `[meta_batch, ways * queries]`.

    Args:
        ways: int, N, characters a task.
        shots: int, K, support drawings a character.
        queries: int or None, query drawings a character in training; None stands for `shots`,
            as in the paper.
        data_dir: path or None, directory of TensorFlow Datasets; None is its own default.
        download: bool, whether to download the data where they are not there.
        split: "paper", all characters shuffled once, 1,100 for training, 100 for validation and
            423 for test, irrespective of alphabet; "alphabet", test on the 659 characters of
            the evaluation alphabets, train on 864 of the background alphabets and validate on 100;
            or "vinyals", the 1,028, 172 and 423 characters of Vinyals et al. (2016), whole
            alphabets but one, as prototypical networks have them (Snell et al. 2017).
        rotate: True turns each character of a task by a random multiple of 90 degrees, and a task
            has `ways` different characters, as in the paper. "classes" makes each of the four
            rotations a class of its own, as Vinyals et al. and Snell et al. do: four times as many
            classes, and a task may hold a character beside its own rotation (one 5-way task in
            140 of training does, and most 60-way tasks), even one that looks the same turned.
            False leaves the drawings as they are.
        **episodes: `test_ways`, `test_shots`, `test_queries`, `meta_batch`, `seed`, `start`,
            `validation_tasks`, `test_tasks`, as in `maml_tf.tasks.Episodes`, with a
            `meta_batch` of 32 by default.

    Returns:
        `(train, validation, test)`, each a `tf.data.Dataset`, with no character in common.
        `train` never ends; the others are finite and the same at every pass.

    Raises:
        ImportError: TensorFlow Datasets is not installed.
        FileNotFoundError: the data are not there and `download` is False.
        TypeError: a number or `seed` is not an integer, there is no option of such a name, or
            `rotate` is neither True nor False nor text.
        ValueError: a number is too small, `split` is unknown, or a task needs more characters or
            more than the 20 drawings that there are.

    Example:
        >>> train, validation, test = maml_tf.tasks.omniglot(ways=20, meta_batch=16)
        >>> inputs, query_y = next(iter(train))
        >>> inputs["support_x"].shape, query_y.shape
        (TensorShape([16, 20, 28, 28, 1]), TensorShape([16, 20]))
    """
    given = {"ways": ways, "shots": shots, "queries": queries, "meta_batch": 32}
    few = Episodes.asked_of(omniglot, episodes, **given)
    arguments.choice("split", split, SPLITS)
    if isinstance(rotate, str):
        arguments.choice("rotate", rotate, (True, False, "classes"))
    else:
        arguments.boolean("rotate", rotate)
    data = load_omniglot(data_dir, download)
    parts = split_characters(split, data.characters)
    classes = sampling.index_by_class(data.images, rotate=bool(rotate))
    classes = dataclasses.replace(classes, labels=data.characters)
    if isinstance(rotate, str):
        classes = class_index.turns_as_classes(classes)
        parts = [np.add.outer(4 * part, np.arange(4)).ravel() for part in parts]
    return splits.three_way(classes, parts, few)


def split_characters(split, characters):
    """Splits the characters into training, validation and test, the same way every time.

    Args:
        split: one of `SPLITS`, as in `omniglot`.
        characters: str array `[1623]`, `load_omniglot().characters`.

    Returns:
        `(train, validation, test)`, int arrays of indices into `load_omniglot().images`.

    Raises:
        ValueError: `split` is none of them.
    """
    arguments.choice("split", split, SPLITS)
    if split == "vinyals":
        return _published(characters)
    # NumPy keeps the stream of RandomState the same in all its versions, not that of Generator.
    random = np.random.RandomState(_SPLIT_SEED)
    if split == "paper":
        shuffled = random.permutation(CHARACTERS)
        return tuple(np.split(shuffled, [_PAPER_TRAIN, _PAPER_TRAIN + _VALIDATION]))
    background = random.permutation(BACKGROUND)
    train, validation = np.split(background, [BACKGROUND - _VALIDATION])
    return train, validation, np.arange(BACKGROUND, CHARACTERS)


def _published(characters):
    """The split of Vinyals et al.: by alphabet, but for the characters that are named."""
    listed = class_lists.load("omniglot_vinyals")
    part_of = {name: part for part, names in listed.items() for name in names}
    parts = [part_of.get(name) or part_of[name.rpartition("_")[0]] for name in characters]
    return tuple(np.flatnonzero(np.array(parts) == part) for part in splits.NAMES)
