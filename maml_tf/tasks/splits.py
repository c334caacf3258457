"""Classes shared out to training, validation and test, and the three task data sets of them."""

import numpy as np

from maml_tf import arguments
from maml_tf.tasks import class_index, sampling, streams

NAMES = ("train", "validation", "test")
_MANY = {"class": "classes", "group": "groups", "series": "series"}


class TaskSets(tuple):
    """`(train, validation, test)` to unpack, which also knows what the classes are called.

    A task batch numbers its classes from 0. Which ones they are is a function of the seed and the
    place of the batch, as the batch itself is, so that names need no place in it.

    Args:
        sets: three data sets of task batches, or None in the place of one.
        drawn_from: dict by the name of a split: the `sampling.Classes` that its tasks are drawn
            from, and the arguments of `sampling.episodes` beside them.
        changed: bool, whether the examples of the batches are others than those drawn.

    Example:
        >>> tasks = maml_tf.tasks.glyphs(ways=3, meta_batch=2, seed=1)
        >>> train, validation, test = tasks
        >>> tasks.class_names("test").shape
        (2, 3)
    """

    def __new__(cls, sets, drawn_from=None, changed=False):
        """A tuple is made here, before `__init__`."""
        made = super().__new__(cls, sets)
        made._drawn_from, made._changed = drawn_from or {}, changed
        return made

    @property
    def drawn_from(self):
        """What the tasks are drawn from, by the name of a split; empty where they were changed."""
        return {} if self._changed else dict(self._drawn_from)

    def each(self, function):
        """The same classes in data sets that were changed, such as by other sizes of images.

        Args:
            function: of a data set of task batches, gives another one of as many batches.

        Returns:
            `TaskSets`.
        """
        sets = [None if one is None else function(one) for one in self]
        return TaskSets(sets, self._drawn_from, changed=True)

    def class_names(self, split, batch=0):
        """What the classes of one task batch are called.

        Args:
            split: "train", "validation" or "test".
            batch: int, place of the batch in that data set, from 0 on.

        Returns:
            Array `[T, N]`, of str or of the labels that the user gave: at `[t, n]` the class that
            has label n in task t.

        Raises:
            TypeError: `batch` is not an integer.
            ValueError: there is no such split, or no such batch in it.
        """
        arguments.choice("split", split, tuple(self._drawn_from))
        classes, few = self._drawn_from[split]
        index = streams.index_of(batch, few.get("start", 0), few.get("tasks"), few["meta_batch"])
        seed = streams.batch_seed(few["seed"], few.get("stream", streams.TRAIN), index)
        return sampling.chosen_classes(classes, seed, few["ways"], few["meta_batch"])


def three_way(classes, parts, episodes):
    """Builds the training, validation and test tasks of one set of examples.

    Args:
        classes: a `sampling.Classes`.
        parts: three int arrays, positions in `classes` of the training, validation and test
            classes. Where there are no validation classes, `validation` is None.
        episodes: a `maml_tf.tasks.Episodes`: how many of what.

    Returns:
        `TaskSets`: `(train, validation, test)`, each a `tf.data.Dataset` of task batches (see
        `sampling.episodes`). `train` never ends; the others are finite and the same at every pass.

    Raises:
        ValueError: a part has too few classes or examples.

    Example:
        >>> images = np.zeros([20, 12, 28, 28, 1], np.uint8)
        >>> classes = sampling.index_by_class(images)
        >>> few = maml_tf.tasks.Episodes(ways=3, queries=5)
        >>> train, validation, test = three_way(classes, shuffled(20), few)
        >>> next(iter(test))[1].shape
        TensorShape([4, 15])
    """
    sets, drawn_from = [], {}
    for name, part in zip(NAMES, parts, strict=True):
        if name == "validation" and len(part) == 0:
            sets.append(None)
            continue
        try:
            some = class_index.select(classes, np.asarray(part))
            sets.append(sampling.episodes(some, **episodes.of(name)))
            drawn_from[name] = some, episodes.of(name)
        except ValueError as error:
            raise ValueError(f"In the {name} split: {error}") from None
    return TaskSets(sets, drawn_from)


def shuffled(count, fractions=(0.64, 0.16, 0.2), seed=0):
    """Shares `count` classes out at random.

    Args:
        count: int, classes that there are.
        fractions: three numbers that add up to 1: of the classes, for training, validation, test.
        seed: int; the same seed gives the same split, with every version of NumPy.

    Returns:
        Three int arrays of positions.

    Raises:
        TypeError: `count` or `seed` is not an integer.
        ValueError: the fractions are not three shares of one, or a number is out of range.
    """
    count = arguments.integer("count", count, 0)
    check_fractions("fractions", fractions)
    seed = check_split_seed("seed", seed)
    # NumPy keeps the stream of RandomState the same in all its versions, not that of Generator.
    order = np.random.RandomState(seed).permutation(count)
    first = round(fractions[0] * count)
    return np.split(order, [first, first + round(fractions[1] * count)])


def check_fractions(name, fractions, one="class"):
    """Checks that these are three shares of one.

    Args:
        name: str, what the caller calls them.
        fractions: what was given.
        one: str, what they are shares of: "class", "group" or "series".

    Raises:
        ValueError: they are not.
    """
    three = isinstance(fractions, (list, tuple, np.ndarray)) and len(fractions) == 3
    good = three and all(arguments.is_number(share) and share >= 0 for share in fractions)
    if not good or not abs(sum(map(float, fractions)) - 1) <= 1e-6:
        raise ValueError(
            f"Expected `{name}` to be three fractions of the {_MANY[one]}, for training, "
            f"validation and test, that add up to 1. Received: {name}={fractions!r}. Give, for "
            f"example, {name}=(0.64, 0.16, 0.2), or a dict with lists of {one} names."
        )


def check_split_seed(name, seed):
    """Checks that this is a seed of `np.random.RandomState`, and gives it back as `int`."""
    return arguments.integer(name, seed, 0, 2**32 - 1)


def check_parts(name, parts, one="class"):
    """Checks that this is a dict of lists of class names for the three splits.

    Args:
        name: str, what the caller calls it.
        parts: dict.
        one: str, what has the names: "class", "group" or "series".

    Raises:
        TypeError: a part is one text in place of a list of them.
        ValueError: there are other parts.
    """
    if set(parts) != set(NAMES):
        raise ValueError(
            f"Expected `{name}` to have {_MANY[one]} for {list(NAMES)}. Received: "
            f"{sorted(map(str, parts))}. Give a list of {one} names for each of the three; that of "
            "validation may be empty."
        )
    for part, given in parts.items():
        if isinstance(given, (str, bytes)) or not np.iterable(given):
            raise TypeError(
                f"Expected a list of {one} names for {part!r}. Received: "
                f"{arguments.received(part, given)}. Put it into a list."
            )


def by_name(names, parts, one="class"):
    """Positions of classes named in a published split.

    Args:
        names: the names of all classes, in the order of their labels.
        parts: dict with lists of names for "train", "validation" and "test".
        one: str, what has the names: "class", "group" or "series".

    Returns:
        Three int arrays of positions.

    Raises:
        TypeError: a part is one text in place of a list of them.
        ValueError: a part is missing, a name is not one of `names`, or is there twice.
    """
    check_parts(_MANY[one], parts, one)
    different, counts = np.unique(np.asarray(names, str), return_counts=True)
    repeated = different[counts > 1].tolist()
    if repeated:
        raise ValueError(
            f"Expected {_MANY[one]} of different names, to split them by name. Received: "
            f"{repeated[:5]} more than once. Rename them."
        )
    position = {str(name): i for i, name in enumerate(names)}
    given = [str(name) for part in NAMES for name in parts[part]]
    unknown = [name for name in given if name not in position]
    twice = sorted({name for name in given if given.count(name) > 1})
    if unknown or twice:
        raise ValueError(
            f"Expected each {one} of a split to be one of the data set's {len(position)} "
            f"{_MANY[one]}, and in one part only. Received: unknown {unknown[:5]}, repeated "
            f"{twice[:5]}; the data set has {sorted(position)[:5]} and so on. Correct or remove "
            "these names."
        )
    return [np.array([position[str(n)] for n in parts[part]], int) for part in NAMES]
