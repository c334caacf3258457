"""Classes shared out to training, validation and test, and the three task data sets of them."""

import numpy as np

from maml_tf import arguments
from maml_tf.tasks import sampling, streams

NAMES = ("train", "validation", "test")


def three_way(
    classes,
    parts,
    *,
    ways=5,
    shots=1,
    queries=15,
    test_ways=None,
    test_shots=None,
    test_queries=None,
    meta_batch=4,
    seed=0,
    start=0,
    validation_tasks=600,
    test_tasks=600,
):
    """Builds the training, validation and test tasks of one set of examples.

    Args:
        classes: a `sampling.Classes`.
        parts: three int arrays, positions in `classes` of the training, validation and test
            classes. Where there are no validation classes, `validation` is None.
        ways: int, N, classes a task.
        shots: int, K, support examples a class.
        queries: int or None, query examples a class in training; None stands for `shots`.
        test_ways: int or None, N in validation and test; None stands for `ways`.
        test_shots: int or None, K in validation and test; None stands for `shots`.
        test_queries: int or None, query examples there; None stands for `queries`.
        meta_batch: int, T, tasks a batch, in all three data sets.
        seed: int; the same seed gives the same tasks.
        start: int, index of the first training batch: a training resumed after `n` steps takes
            `start=n` and sees what it would have seen. Validation and test do not depend on it.
        validation_tasks: int, tasks in `validation`, rounded up to whole batches.
        test_tasks: int, tasks in `test`, rounded up to whole batches.

    Returns:
        `(train, validation, test)`, each a `tf.data.Dataset` of task batches (see
        `sampling.episodes`). `train` never ends; the others are finite and the same at every pass.

    Raises:
        TypeError: a number or `seed` is not an integer.
        ValueError: a number is too small, or a part has too few classes or examples.
    """
    queries = shots if queries is None else queries
    held_out = {
        "ways": ways if test_ways is None else test_ways,
        "shots": shots if test_shots is None else test_shots,
        "queries": queries if test_queries is None else test_queries,
    }
    check(
        ways,
        shots,
        queries,
        held_out["queries"],
        meta_batch,
        seed,
        start,
        validation_tasks,
        test_tasks,
        test_ways,
        test_shots,
    )
    per_task = {"meta_batch": meta_batch, "seed": seed}
    settings = [
        {"ways": ways, "shots": shots, "queries": queries, "start": start},
        {**held_out, "tasks": validation_tasks, "stream": streams.VALIDATION},
        {**held_out, "tasks": test_tasks, "stream": streams.TEST},
    ]
    sets = []
    for name, part, own in zip(NAMES, parts, settings, strict=True):
        if name == "validation" and len(part) == 0:
            sets.append(None)
            continue
        try:
            sets.append(
                sampling.episodes(sampling.select(classes, np.asarray(part)), **per_task, **own)
            )
        except ValueError as error:
            raise ValueError(f"In the {name} split: {error}") from None
    return tuple(sets)


def check(
    ways,
    shots,
    queries,
    test_queries,
    meta_batch,
    seed,
    start,
    validation_tasks,
    test_tasks,
    test_ways=None,
    test_shots=None,
):
    """Checks the arguments of `three_way`, where that is wanted before data are looked for."""
    streams.check_counts(
        ways=ways,
        shots=shots,
        queries=shots if queries is None else queries,
        test_ways=ways if test_ways is None else test_ways,
        test_shots=shots if test_shots is None else test_shots,
        test_queries=shots if test_queries is None else test_queries,
        meta_batch=meta_batch,
        validation_tasks=validation_tasks,
        test_tasks=test_tasks,
    )
    streams.check_counts(minimum=0, start=start)
    streams.check_seed(seed)


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


def check_fractions(name, fractions):
    """Checks that these are three shares of one.

    Raises:
        ValueError: they are not.
    """
    three = isinstance(fractions, (list, tuple, np.ndarray)) and len(fractions) == 3
    good = three and all(arguments.is_number(share) and share >= 0 for share in fractions)
    if not good or not abs(sum(map(float, fractions)) - 1) <= 1e-6:
        raise ValueError(
            f"Expected `{name}` to be three fractions of the classes, for training, validation and "
            f"test, that add up to 1. Received: {name}={fractions!r}. Give, for example, "
            f"{name}=(0.64, 0.16, 0.2), or a dict with lists of class names."
        )


def check_split_seed(name, seed):
    """Checks that this is a seed of `np.random.RandomState`, and gives it back as `int`."""
    return arguments.integer(name, seed, 0, 2**32 - 1)


def check_parts(name, parts):
    """Checks that this is a dict of lists of class names for the three splits.

    Raises:
        TypeError: a part is one text in place of a list of them.
        ValueError: there are other parts.
    """
    if set(parts) != set(NAMES):
        raise ValueError(
            f"Expected `{name}` to have classes for {list(NAMES)}. Received: "
            f"{sorted(map(str, parts))}. Give a list of class names for each of the three; that of "
            "validation may be empty."
        )
    for part, given in parts.items():
        if isinstance(given, (str, bytes)) or not np.iterable(given):
            raise TypeError(
                f"Expected a list of class names for {part!r}. Received: "
                f"{arguments.received(part, given)}. Put it into a list."
            )


def by_name(names, parts):
    """Positions of classes named in a published split.

    Args:
        names: the names of all classes, in the order of their labels.
        parts: dict with lists of names for "train", "validation" and "test".

    Returns:
        Three int arrays of positions.

    Raises:
        TypeError: a part is one text in place of a list of them.
        ValueError: a part is missing, a name is not one of `names`, or is there twice.
    """
    check_parts("classes", parts)
    different, counts = np.unique(np.asarray(names, str), return_counts=True)
    repeated = different[counts > 1].tolist()
    if repeated:
        raise ValueError(
            "Expected classes of different names, to split them by name. Received: "
            f"{repeated[:5]} more than once. Rename them."
        )
    position = {str(name): i for i, name in enumerate(names)}
    given = [str(name) for part in NAMES for name in parts[part]]
    unknown = [name for name in given if name not in position]
    twice = sorted({name for name in given if given.count(name) > 1})
    if unknown or twice:
        raise ValueError(
            f"Expected each class of a split to be one of the data set's {len(position)} classes, "
            f"and in one part only. Received: unknown {unknown[:5]}, repeated {twice[:5]}; the "
            f"data set has {sorted(position)[:5]} and so on. Correct or remove these names."
        )
    return [np.array([position[str(n)] for n in parts[part]], int) for part in NAMES]
