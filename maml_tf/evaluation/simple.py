"""What a statistician would try first on the rows of a group, beside which a learner has to stand.

None of these learns from other groups, or not more than one model for all of them, and each takes
seconds. Where one of them is as good as a meta-learner, it is the better choice.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.evaluation.batches import check_tasks, over_tasks
from maml_tf.evaluation.result import Result

_ERRORS = {"mean_squared_error": np.square, "mean_absolute_error": np.abs}


def support_mean(
    tasks: tf.data.Dataset, num_tasks: int = 600, *, metric: str | None = None
) -> Result:
    """The mean of the support labels for every query, or the most frequent class among them.

    Args:
        tasks: a `tf.data.Dataset` of task batches `(inputs, query_y)` with labels that are numbers
            `[T, S, k]`, or classes, integers `[T, S]`.
        num_tasks: `int`, how many tasks, the first ones of the data set.
        metric: "mean_squared_error" or "mean_absolute_error", of numbers; None stands for the
            former, and for the accuracy of classes.

    Returns:
        `Result` of that metric with values `[num_tasks, 1]`.

    Raises:
        TypeError: `tasks` is no data set, or `num_tasks` no integer.
        ValueError: `num_tasks` is too small, the data set ends early, or its elements are no task
            batches.

    Example:
        >>> _, _, test = maml_tf.tasks.sinusoid()
        >>> maml_tf.evaluation.support_mean(test, num_tasks=100).values.shape
        (100, 1)
    """

    def predict(support_x, support_y, query_x):
        del support_x
        mean = support_y.mean(axis=1, keepdims=True)
        return np.repeat(mean, _length(query_x), axis=1)

    return _measure(predict, tasks, num_tasks, metric)


def ridge(
    tasks: tf.data.Dataset,
    num_tasks: int = 600,
    *,
    penalty: float = 1.0,
    degree: int = 1,
    normalization: Callable | None = None,
    metric: str | None = None,
) -> Result:
    """A linear model of its own for each task, by least squares with a penalty on its slopes.

        minimise   sum over the support of (y - a - b·x)² + penalty · |b|²

    With a larger degree it is a polynomial: x are then the inputs and their powers. In a
    classification y are one-hot vectors, and the largest prediction answers.

    Args:
        tasks: see `support_mean`.
        num_tasks: see `support_mean`.
        penalty: positive number. Choose it on validation tasks, from powers of ten.
        degree: `int`, the highest power of each input, from 1 on; there are no products of inputs.
        normalization: function of the inputs, such as `sets.normalization()` of
            `maml_tf.tasks.groups`: a penalty makes sense on inputs of one scale only.
        metric: see `support_mean`.

    Returns:
        See `support_mean`.

    Raises:
        TypeError, ValueError: see `support_mean`; a penalty that is not positive, or a degree that
            is no integer from 1 on.

    Example:
        >>> x, person = np.random.default_rng(0).normal(size=[400, 3]), np.arange(400) // 20
        >>> _, _, test = maml_tf.tasks.groups(x, x.sum(axis=1), person, shots=10)
        >>> result = maml_tf.evaluation.ridge(test, num_tasks=40, penalty=0.01)
        >>> print(result.mean[0] < 0.01 < maml_tf.evaluation.support_mean(test, 40).mean[0])
        True
    """
    penalty = arguments.positive("penalty", penalty)
    powers = range(1, arguments.integer("degree", degree, 1) + 1)

    def predict(support_x, support_y, query_x):
        flat = (_flat(one, normalization) for one in (support_x, query_x))
        x, query = (np.concatenate([one**power for power in powers], axis=-1) for one in flat)
        middle, level = x.mean(axis=1, keepdims=True), support_y.mean(axis=1, keepdims=True)
        x, turned = x - middle, np.swapaxes(x - middle, 1, 2)
        normal = turned @ x + penalty * np.eye(x.shape[-1])
        shape = support_y.shape[2:]
        level = level.reshape(*level.shape[:2], -1)
        slopes = np.linalg.solve(normal, turned @ (support_y.reshape(*x.shape[:2], -1) - level))
        answer = level + (query - middle) @ slopes
        return answer.reshape(*answer.shape[:2], *shape)

    return _measure(predict, tasks, num_tasks, metric)


def mean_residual(
    model: Any, tasks: tf.data.Dataset, num_tasks: int = 600, *, metric: str | None = None
) -> Result:
    """One model for all groups, shifted by the mean of what it misses on the support of each.

    Args:
        model: a `keras.Model` of one output, trained on the rows of all groups.
        tasks: see `support_mean`; a regression.
        num_tasks: see `support_mean`.
        metric: see `support_mean`.

    Returns:
        See `support_mean`.

    Raises:
        TypeError, ValueError: see `support_mean`; a classification.

    Example:
        >>> _, _, test = maml_tf.tasks.sinusoid()
        >>> model = maml_tf.models.sinusoid_mlp()
        >>> maml_tf.evaluation.mean_residual(model, test, num_tasks=100).metric
        'mean_squared_error'
    """
    check_tasks(tasks)
    if tasks.element_spec[1].dtype.is_integer:
        raise ValueError(
            "Expected tasks of regression, whose labels have residuals. Received: labels of dtype "
            f"{tasks.element_spec[1].dtype.name}. Leave this one out for classes."
        )

    labels = tasks.element_spec[1].shape[2:]

    def predictions(x):
        first = tf.nest.flatten(x)[0]
        merged = tf.nest.map_structure(lambda t: tf.reshape(t, [-1, *t.shape[2:]]), x)
        y = np.asarray(model(merged, training=False), np.float64)
        if y[0].size != labels.num_elements():
            raise ValueError(
                f"Expected a model whose predictions are of the shape of a label, {tuple(labels)}. "
                f"Received: {getattr(model, 'name', model)!r}, which predicts {y.shape[1:]}. Give "
                "another model, or other labels."
            )
        return y.reshape(*first.shape[:2], *labels)

    def predict(support_x, support_y, query_x):
        missed = (support_y - predictions(support_x)).mean(axis=1, keepdims=True)
        return predictions(query_x) + missed

    return _measure(predict, tasks, num_tasks, metric)


def seasonal_naive(
    tasks: tf.data.Dataset,
    num_tasks: int = 600,
    *,
    season: int,
    targets: Sequence[int] | None = None,
    metric: str | None = "mean_absolute_error",
) -> Result:
    """What was one season before, for every point of a forecast: what any forecast should beat.

    Args:
        tasks: a `tf.data.Dataset` of `maml_tf.tasks.windows`, inputs `[T, Q, inputs, ...]` and
            labels `[T, Q, horizon, ...]`.
        num_tasks: see `support_mean`.
        season: `int`, points of a season, not more than a window shows: 24 of hours, 12 of months;
            with 1 it is the last value.
        targets: the channels that are forecast, where `windows` was given such; None stands for
            all.
        metric: see `support_mean`.

    Returns:
        See `support_mean`.

    Raises:
        TypeError, ValueError: see `support_mean`; a season that is longer than the inputs, or
            channels that are not those of the labels.

    Example:
        >>> waves = np.sin(np.arange(20)[:, None] + np.arange(96) / 12 * np.pi)
        >>> sets = maml_tf.tasks.windows(waves, inputs=24, horizon=12, shots=2)
        >>> result = maml_tf.evaluation.seasonal_naive(sets[2], 4, season=24)
        >>> print(round(float(result.mean[0]), 4))
        0.0
    """
    season = arguments.integer("season", season, 1)
    check_tasks(tasks)
    x, y = tasks.element_spec[0]["query_x"], tasks.element_spec[1]
    if tf.nest.is_nested(x) or y.shape.rank < 3:
        raise ValueError(
            "Expected tasks of windows, inputs [T, Q, inputs, ...] and labels [T, Q, horizon, "
            f"...]. Received: inputs of {x} and labels of {y}. Give `maml_tf.tasks.windows`."
        )
    inputs = x.shape[2]
    if season > inputs:
        raise ValueError(
            f"Expected `season` to be at most the {inputs} points that a window shows. Received: "
            f"season={season}. Give longer windows, `inputs={season}`."
        )
    _check_targets(tasks, targets)

    def predict(support_x, support_y, query_x):
        del support_x
        ahead = np.arange(support_y.shape[2]) % season
        found = np.asarray(query_x)[:, :, inputs - season + ahead]
        return found if targets is None else found[..., list(targets)]

    return _measure(predict, tasks, num_tasks, metric)


def _check_targets(tasks, targets):
    """Refuses labels that are of other channels than those which a forecast takes."""
    channels = tuple(tasks.element_spec[0]["query_x"].shape[3:])
    wanted = tuple(tasks.element_spec[1].shape[3:])
    chosen = channels
    if targets is not None:
        found = [arguments.integer(f"targets[{i}]", t, 0) for i, t in enumerate(targets)]
        chosen = (len(found),) if channels and max(found, default=0) < channels[0] else None
    if chosen != wanted:
        raise ValueError(
            f"Expected `targets` to be the channels of labels whose points are {wanted}, of inputs "
            f"whose points are {channels}. Received: targets={targets!r}. Give what "
            "`maml_tf.tasks.windows` was given."
        )


def _measure(predict, tasks, num_tasks, metric):
    """Error or accuracy of predictions `[T, Q, k]` from float64 labels, classes as one-hot."""
    check_tasks(tasks)
    num_tasks = arguments.integer("num_tasks", num_tasks, 1)
    classes = tasks.element_spec[1].dtype.is_integer
    known = ("accuracy",) if classes else tuple(_ERRORS)
    metric = known[0] if metric is None else arguments.choice("metric", metric, known)

    def values_of(inputs, query_y):
        support_y, query_y = np.asarray(inputs["support_y"]), np.asarray(query_y)
        if classes:
            count = max(support_y.max(), query_y.max()) + 1
            support_y = np.eye(count)[support_y]
        answer = predict(inputs["support_x"], support_y.astype(np.float64), inputs["query_x"])
        if classes:
            return (answer.argmax(axis=-1) == query_y).mean(axis=1, keepdims=True)
        error = _ERRORS[metric](answer - query_y.astype(np.float64))
        return error.reshape(len(error), -1).mean(axis=1, keepdims=True)

    return Result(metric, over_tasks(values_of, tasks, num_tasks))


def _length(x):
    return tf.nest.flatten(x)[0].shape[1]


def _flat(x, normalization):
    """Inputs as float64 `[T, examples, features]`."""
    parts = tf.nest.flatten(x)
    if normalization is not None:
        tasks, count = parts[0].shape[:2]
        merged = tf.nest.map_structure(lambda t: tf.reshape(t, [-1, *t.shape[2:]]), x)
        parts = [
            tf.reshape(t, [tasks, count, *t.shape[1:]])
            for t in tf.nest.flatten(normalization(merged))
        ]
    return np.concatenate(
        [np.asarray(t, np.float64).reshape(*t.shape[:2], -1) for t in parts], axis=-1
    )
