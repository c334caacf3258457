"""A metric of each of many test tasks, at the initial weights and after each inner step."""

from collections.abc import Callable

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.evaluation.batches import check_tasks, over_tasks
from maml_tf.evaluation.result import Result
from maml_tf.learners import Learner
from maml_tf.learners.base import checks, labels
from maml_tf.learners.base.batches import masks_of, merge_tasks, number_of_tasks, with_masks


def evaluate(
    learner: Learner,
    tasks: tf.data.Dataset,
    num_tasks: int = 600,
    inner_steps: int | None = None,
    metric: str | Callable | None = None,
) -> Result:
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
    check_tasks(tasks)
    num_tasks = arguments.integer("num_tasks", num_tasks, 1)
    inner_steps = checks.check_steps(learner, inner_steps, default=learner.inner_steps)
    name, measure = _metric(learner, metric)

    @tf.function(autograph=False)
    def values_of(inputs, query_y):
        inputs, query_y = labels.guarded(learner, inputs, query_y)
        return measure(learner, inputs, query_y, inner_steps)

    # Traced once, for all shapes that the data set may yield: a last batch may be smaller.
    values_of = values_of.get_concrete_function(*tasks.element_spec)

    def explained(inputs, query_y):
        with labels.explained():
            return values_of(inputs, query_y).numpy()

    return Result(name, over_tasks(explained, tasks, num_tasks))


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
