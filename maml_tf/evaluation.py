"""The paper's protocol: many test tasks, a metric after every inner step, mean and 95 % interval.

Finn, Abbeel & Levine (2017) report the mean over 600 test tasks with mean +- 1.96 sd / sqrt(600).
Any learner is measured this way, and so is any ordinary Keras model: wrap it in a `maml_tf.MAML`
that is compiled and never fitted.
"""

import dataclasses
import json
import pathlib

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments, files
from maml_tf.learners import Learner
from maml_tf.learners.base import checks, labels
from maml_tf.learners.base.batches import masks_of, merge_tasks, number_of_tasks, with_masks


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """A metric of each task at the initial weights and after each inner step.

    A task whose value is NaN or infinite makes the mean of its step NaN or infinite: nothing is
    left out. `non_finite` counts such tasks, and the median, where a NaN counts as the largest
    value, says how the others do.

    Attributes:
        metric: str, what was measured.
        values: float64 array `[num_tasks, inner_steps + 1]`.
    """

    metric: str
    values: np.ndarray

    def __post_init__(self):
        if not isinstance(self.metric, str):
            raise TypeError(
                "Expected `metric` to be a name. Received: "
                f"{arguments.received('metric', self.metric)}. Give it as text."
            )
        shape = np.shape(self.values)
        if len(shape) != 2 or 0 in shape or np.asarray(self.values).dtype.kind not in "fiu":
            raise ValueError(
                "Expected `values` to be numbers [num_tasks, inner_steps + 1], of one task at "
                f"least. Received: {arguments.received('values', self.values)}. Give an array of "
                "this shape."
            )

    @property
    def num_tasks(self):
        """`int`, tasks that were measured."""
        return self.values.shape[0]

    @property
    def inner_steps(self):
        """`int`, the largest number of inner steps."""
        return self.values.shape[1] - 1

    @property
    def mean(self):
        """Mean over tasks, `[inner_steps + 1]`."""
        with np.errstate(all="ignore"):
            return self.values.mean(axis=0)

    @property
    def interval(self):
        """Half-width of the 95 % interval of the mean, 1.96 sd / sqrt(tasks), as the authors'."""
        with np.errstate(all="ignore"):
            return 1.96 * self.values.std(axis=0) / np.sqrt(self.num_tasks)

    @property
    def median(self):
        """Median over tasks, `[inner_steps + 1]`."""
        return np.median(np.where(np.isnan(self.values), np.inf, self.values), axis=0)

    @property
    def non_finite(self):
        """Number of tasks whose value is NaN or infinite, `[inner_steps + 1]`."""
        return np.sum(~np.isfinite(self.values), axis=0)

    def table(self):
        """The numbers of every step as a Markdown table, `str`."""
        lines = [
            f"| inner steps | {self.metric}, mean ± 95 % | median | tasks not finite |",
            "|---:|---:|---:|---:|",
        ]
        rows = zip(self.mean, self.interval, self.median, self.non_finite, strict=True)
        lines += [
            f"| {step} | {number(mean)} ± {number(interval)} | {number(median)} "
            f"| {bad} of {self.num_tasks} |"
            for step, (mean, interval, median, bad) in enumerate(rows)
        ]
        return "\n".join(lines)

    def to_dict(self, values=True):
        """Everything as lists and numbers that JSON can hold; non-finite numbers as strings.

        Args:
            values: `bool`, whether to give the value of every task beside the summary.
        """
        summary = {
            "metric": self.metric,
            "num_tasks": self.num_tasks,
            "inner_steps": self.inner_steps,
            "mean": _listed(self.mean),
            "interval": _listed(self.interval),
            "median": _listed(self.median),
            "non_finite": self.non_finite.tolist(),
        }
        return {**summary, "values": _listed(self.values)} if values else summary

    def to_json(self, path):
        """Writes `to_dict()` to a file, whole or not at all."""
        with files.whole(path) as beside:
            beside.write_text(json.dumps(self.to_dict(), allow_nan=False) + "\n")

    @classmethod
    def from_json(cls, path):
        """A `Result` from what `to_json` wrote.

        Raises:
            OSError: there is no such file, or it cannot be read.
            ValueError: it holds something else.
        """
        try:
            content = json.loads(pathlib.Path(path).read_text())
            metric, values = content["metric"], np.asarray(content["values"], np.float64)
            if not isinstance(metric, str) or values.ndim != 2:
                raise ValueError(f"metric={metric!r} and values of shape {values.shape}")
            return cls(metric, values)
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
            reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            "Expected a file that `Result.to_json` wrote. Received: "
            f"{arguments.received('path', path)}, which is none ({reason}). Give another, or "
            "measure again."
        )


def number(value):
    """A value as text with four decimals, or in powers of ten where it has run away."""
    return f"{value:.4f}" if not abs(value) >= 1e4 else f"{value:.2e}"


def evaluate(learner, tasks, num_tasks=600, inner_steps=None, metric=None):
    """Measures a learner on test tasks, at the initial weights and after each inner step.

    Args:
        learner: a compiled `maml_tf.Learner`.
        tasks: a `tf.data.Dataset` of task batches `(inputs, query_y)`; as many as it takes.
        num_tasks: `int`, how many tasks, the first ones of the data set.
        inner_steps: `int`, k, the largest number of inner steps; the learner's by default. None
            for a learner that takes no steps: one column is what it has.
        metric: what is averaged over the queries of each task. `"accuracy"` (binary, categorical
            or sparse by shape, as in Keras), `"loss"` (that of the learner, with its
            penalties at the weights of each step), the name of a Keras
            metric function such as `"mean_squared_error"`, or a function
            `(y_true [examples, ...], y_pred [examples, ...]) -> [examples, ...]`.
            By default the first accuracy that the learner was compiled with, or else the loss.

    Returns:
        `Result` with values `[num_tasks, inner_steps + 1]`.

    Raises:
        TypeError: `learner`, `tasks` or `metric` is of another kind.
        ValueError: a number is too small, the data set ends early, or the metric is unknown.

    Example:
        >>> _, _, test = maml_tf.tasks.sinusoid()
        >>> learner = maml_tf.MAML(maml_tf.models.sinusoid_mlp(), 0.01)
        >>> learner.compile(loss="mse")
        >>> result = maml_tf.evaluation.evaluate(learner, test, num_tasks=25, inner_steps=2)
        >>> result.metric, result.values.shape
        ('loss', (25, 3))
    """
    if not isinstance(learner, Learner):
        raise TypeError(
            "Expected `learner` to be a `maml_tf.Learner`. Received: "
            f"{arguments.received('learner', learner)}. To evaluate a Keras model, wrap it: "
            "`maml_tf.MAML(model, inner_optimizer)`, compiled with the loss to adapt with."
        )
    if not isinstance(tasks, tf.data.Dataset):
        raise TypeError(
            "Expected `tasks` to be a `tf.data.Dataset` of task batches `(inputs, query_y)`. "
            f"Received: {arguments.received('tasks', tasks)}. Make one with `maml_tf.tasks`, or "
            "with `tf.data.Dataset.from_tensors` of one task batch."
        )
    num_tasks = arguments.integer("num_tasks", num_tasks, 1)
    inner_steps = checks.check_steps(learner, inner_steps, default=learner.inner_steps)
    name, measure = _metric(learner, metric)
    spec = tasks.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise ValueError(
            "Expected a data set of task batches `(inputs, query_y)`, without sample weights. "
            f"Received: one with elements {spec}. Give both, such as `maml_tf.tasks` makes them."
        )

    @tf.function(autograph=False)
    def values_of(inputs, query_y):
        inputs, query_y = labels.guarded(learner, inputs, query_y)
        return measure(learner, inputs, query_y, inner_steps)

    # Traced once, for all shapes that the data set may yield: a last batch may be smaller.
    values_of = values_of.get_concrete_function(*spec)
    batches, count = [], 0
    for inputs, query_y in tasks:
        with labels.explained():
            batches.append(values_of(inputs, query_y).numpy())
        count += len(batches[-1])
        if count >= num_tasks:
            break
    if not count:
        raise ValueError(
            "Expected `tasks` to hold task batches. Received: a data set that is empty. Give "
            "one of which nothing was taken away."
        )
    if count < num_tasks:
        raise ValueError(
            f"Expected at least num_tasks={num_tasks} tasks. Received a data set that ended after "
            f"{count}. Make it longer, or give `num_tasks={count}`."
        )
    return Result(name, np.concatenate(batches)[:num_tasks])


def _metric(learner, metric):
    """The name of a metric and `measure(learner, inputs, query_y, k) -> float64 [T, k+1]`."""
    if metric is None:
        metric = _compiled_accuracy(learner)
    if metric == "loss":
        _require_loss(learner)
        return "loss", _loss
    if isinstance(metric, str) and metric.lower() in ("accuracy", "acc"):
        return "accuracy", _per_example(_accuracy)
    if isinstance(metric, str):
        metric = _named(metric)
    if isinstance(metric, keras.metrics.Metric):
        return metric.name, _per_example(_stateless(metric))
    if not callable(metric) or isinstance(metric, type):
        raise TypeError(
            "Expected `metric` to be 'accuracy', 'loss', the name of a Keras metric function or a "
            "function `(y_true, y_pred) -> [examples, ...]`. Received: "
            f"{arguments.received('metric', metric)}. Give one of these."
        )
    return getattr(metric, "__name__", type(metric).__name__), _per_example(metric)


def _named(metric):
    try:
        return keras.metrics.get(metric)
    except ValueError:
        raise ValueError(
            "Expected `metric` to be 'accuracy', 'loss' or the name of a Keras metric function. "
            f"Received: metric={metric!r}. Spell it as `keras.metrics` does, such as "
            "'mean_squared_error', or give a function `(y_true, y_pred) -> [examples, ...]`."
        ) from None


def _compiled_accuracy(learner):
    """The first compiled metric that is an accuracy, or "loss"."""
    if not learner.compiled:
        return "loss"
    for metric in keras.tree.flatten(learner._compile_config.config.get("metrics")):
        if isinstance(metric, keras.metrics.Metric):
            mean = isinstance(metric, keras.metrics.MeanMetricWrapper)
            name = type(metric).__name__ if mean else ""
        else:
            name = metric if isinstance(metric, str) else getattr(metric, "__name__", "")
        if name.lower() == "acc" or "accuracy" in name.lower():
            return metric
    return "loss"


def _stateless(metric):
    """The per-example function inside a Keras metric that averages one."""
    if not isinstance(metric, keras.metrics.MeanMetricWrapper):
        raise ValueError(
            "Expected `metric` to be a mean over examples, so that it can be taken for each task. "
            f"Received: metric={metric!r}. Give a function `(y_true, y_pred) -> [examples, ...]`."
        )
    return lambda y_true, y_pred: metric._fn(y_true, y_pred, **metric._fn_kwargs)


def _accuracy(y_true, y_pred):
    """Accuracy as Keras resolves the word: by the shapes of labels and predictions."""
    if y_pred.shape[-1] == 1:
        return keras.metrics.binary_accuracy(y_true, y_pred)
    if y_true.shape.rank < y_pred.shape.rank or y_true.shape[-1] == 1:
        return keras.metrics.sparse_categorical_accuracy(y_true, y_pred)
    return keras.metrics.categorical_accuracy(y_true, y_pred)


def _per_example(function):
    def measure(learner, inputs, y, inner_steps):
        path = learner.predict_path(inputs, inner_steps)
        steps = 1 if inner_steps is None else inner_steps + 1
        y = tf.nest.map_structure(lambda t: tf.repeat(t[:, tf.newaxis], steps, axis=1), y)
        masks = merge_tasks(masks_of(path), 3)
        value = function(merge_tasks(y, 3), with_masks(merge_tasks(path, 3), masks))
        if value.shape.rank == 0:
            raise ValueError(
                "Expected a metric with one value for each example, [examples, ...]. Received "
                "a scalar. Does the function average over the examples? They are those of many "
                "tasks: leave the average to `evaluate`."
            )
        value = tf.cast(value, tf.float64)
        weight = tf.ones_like(value)
        if len(masks) == 1 and value.shape.rank >= masks[0].shape.rank:
            weight *= _beside(tf.cast(masks[0], tf.float64), value)
        rows = [number_of_tasks(path), steps, -1]
        value, weight = (tf.reshape(t, rows) for t in (value * weight, weight))
        return tf.reduce_sum(value, 2) / tf.reduce_sum(weight, 2)

    return measure


def _beside(mask, value):
    """A mask `[examples, steps]` with as many axes as the value, `[examples, steps, ...]`."""
    missing = value.shape.rank - mask.shape.rank
    return tf.reshape(mask, tf.concat([tf.shape(mask), tf.ones([missing], tf.int32)], 0))


def _loss(learner, inputs, y, inner_steps):
    return tf.cast(learner.loss_path(inputs, y, inner_steps), tf.float64)


def _require_loss(learner):
    if not learner.compiled or learner.loss is None:
        raise ValueError(
            "Expected a learner that was compiled with a loss. Received one without. Call "
            "`learner.compile(optimizer=..., loss=...)` first, or give another `metric`."
        )


def _listed(array):
    """Nested lists of numbers; what JSON has no number for as "nan", "inf" or "-inf"."""
    if array.ndim:
        return [_listed(row) for row in array]
    return float(array) if np.isfinite(array) else str(float(array))
