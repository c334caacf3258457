"""Checks of what figures are drawn from: results, panels, images and their labels."""

import numpy as np

from maml_tf import arguments


def check_results(results, references):
    """Checks that there are results by name, and that references are numbers by step."""
    if not isinstance(results, dict) or not all(hasattr(r, "mean") for r in results.values()):
        raise TypeError(
            "Expected `results` to be a dict of `maml_tf.evaluation.Result` by name. Received: "
            f'{arguments.received("results", results)}. Give, for example, {{"MAML": result}}.'
        )
    if not results:
        raise ValueError(
            "Expected at least one result to draw. Received: results={}. Give, for example, "
            '{"MAML": result}.'
        )
    references = {} if references is None else references
    given = arguments.received("references", references)
    if not isinstance(references, dict) or not all(
        isinstance(points, dict) and all(map(arguments.is_number, (*points, *points.values())))
        for points in references.values()
    ):
        raise TypeError(
            f"Expected `references` to be a dict of numbers by step for a name. Received: {given}. "
            'Give, for example, {"MAML": {1: 0.67}}.'
        )


def check_chance(chance):
    """Checks that this is a share in [0, 1], or None."""
    if chance is not None:
        arguments.number("chance", chance, 0, 1)


def check_tests(tests):
    """Checks that these are results by a number of meta-iterations, or None."""
    tests = {} if tests is None else tests
    if not isinstance(tests, dict) or not all(
        arguments.is_number(at) and hasattr(result, "interval") for at, result in tests.items()
    ):
        raise TypeError(
            "Expected `tests` to be a dict of `maml_tf.evaluation.Result` by meta-iteration. "
            f"Received: {arguments.received('tests', tests)}. Give, for example, {{1000: result}}."
        )


def check_panels(panels, steps, kind):
    """Checks that there are panels, with a prediction after each of the steps."""
    if isinstance(panels, kind) or not all(isinstance(p, kind) for p in panels):
        raise TypeError(
            "Expected `panels` to be a list of `SinePanel`. Received: "
            f"{arguments.received('panels', panels)}. Put them into a list."
        )
    if not panels:
        raise ValueError("Expected at least one panel to draw. Received: panels=[]. Give one.")
    steps = [steps] if np.ndim(steps) == 0 else list(steps)
    if not steps:
        raise ValueError("Expected `steps` to name one at least. Received: steps=(). Give (0, 1).")
    for step in steps:
        arguments.integer("steps", step, 0)
    for panel in panels:
        if max(steps) >= len(panel.path):
            raise ValueError(
                f"Expected predictions after {max(steps)} steps. Received: a path of "
                f"{len(panel.path) - 1} steps in the panel {panel.title!r}. Give other `steps`."
            )


def check_images(name, images):
    """Checks that these are images `[n, height, width, 1 or 3]` of numbers, and no nonsense.

    Returns:
        An array.

    Raises:
        TypeError: they are no numbers.
        ValueError: another rank, another number of channels, none, or values that are not finite.
    """
    images = np.asarray(images)
    expected = (
        f"Expected `{name}` to be images [number, height, width, channels] of 1 or 3 channels."
    )
    given = f"Received: {name} of shape {images.shape} and dtype {images.dtype}"
    if images.dtype.kind not in "biuf":
        raise TypeError(f"{expected} {given}. Convert them to floats in [0, 1] or to uint8.")
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(f"{expected} {given}. Add an axis of channels, or reshape them.")
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise ValueError(f"{expected} {given}, with NaN or infinite values. Replace these.")
    return images


def check_labels(name, labels, count=None, classes=None):
    """Checks that these are integers `[n]` from 0 on, as many as there should be.

    A negative one would be taken for a position from the end.

    Returns:
        An integer array.

    Raises:
        TypeError: they are not integers.
        ValueError: another rank or number, or one that is out of range.
    """
    labels = np.asarray(labels)
    expected = f"Expected `{name}` to be integers of shape [{'n' if count is None else count}]"
    if labels.dtype.kind not in "iu":
        raise TypeError(
            f"{expected}. Received: {name} of shape {labels.shape} and dtype {labels.dtype}. "
            "Give positions of classes, such as `scores.argmax(axis=-1)`."
        )
    if labels.ndim != 1 or not labels.size or count not in (None, len(labels)):
        raise ValueError(
            f"{expected}. Received: {name} of shape {labels.shape}. Give one for each image."
        )
    if labels.min() < 0 or (classes is not None and labels.max() >= classes):
        highest = "" if classes is None else f" and below {classes}"
        raise ValueError(
            f"{expected} of at least 0{highest}. Received: {name} from {labels.min()} to "
            f"{labels.max()}. Number the classes from 0."
        )
    return labels


def check_names(names, classes):
    """Checks that these are names of so many classes at least; numbers where there are none.

    Returns:
        A list of str.
    """
    if names is None:
        return [str(label) for label in range(classes)]
    if isinstance(names, (str, bytes)) or not np.iterable(names):
        raise TypeError(
            "Expected `names` to be a sequence of names of classes. Received: "
            f"{arguments.received('names', names)}. Put them into a list."
        )
    names = [str(name) for name in names]
    if len(names) < classes:
        raise ValueError(
            f"Expected a name for each of the {classes} classes that labels or predictions are "
            f"of. Received: names={names!r}. Give one a class, in the order of the labels."
        )
    return names


def labelled(name, pair):
    """Checks `(images, labels)` and gives both back as arrays."""
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise TypeError(
            f"Expected `{name}` to be a pair `(images, labels)`. Received: "
            f"{arguments.received(name, pair)}. Give both."
        )
    images = check_images(name, pair[0])
    return images, check_labels(f"{name} labels", pair[1], len(images))
