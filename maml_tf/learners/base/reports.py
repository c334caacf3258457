"""What a learner reports beside Keras' own: metrics before adaptation, a loss that broke down."""

import keras
import tensorflow as tf

from maml_tf.learners.base.batches import merge_tasks, with_masks


class Before:
    """Loss and metrics at the initial weights, kept apart from those after adaptation.

    A `keras.Model` compiled with copies of the learner's metrics does the counting; it is held by
    a plain object, so that Keras does not take it for a part of the learner.
    """

    def __init__(self, model, metrics, weighted_metrics):
        self._means = {"loss": keras.metrics.Mean(name="loss")}
        self.counter = keras.Model()  # of no layers: it is never called
        self.counter.built = True
        self.counter.output_names = getattr(model, "output_names", None)
        self.counter.compile(
            metrics=_copied(metrics),
            weighted_metrics=_copied(weighted_metrics),
            jit_compile=False,
        )

    def update(self, losses, query_y, answers, sample_weight, tasks):
        """Counts a task batch.

        Args:
            losses: dict of means over tasks by name, "loss" among them.
            query_y: `[T, Q, ...]`.
            answers: `maml_tf.learners.base.meta_step.Answers`.
            sample_weight: `[T, Q, ...]` or None.
            tasks: T.
        """
        for name, loss in losses.items():
            if name not in self._means:
                self._means[name] = keras.metrics.Mean(name=name)
            self._means[name].update_state(loss, sample_weight=tasks)
        self.counter.compute_metrics(None, *merged(query_y, answers, sample_weight))

    def results(self):
        """Values by name, `_before` behind each."""
        values = self.counter.get_metrics_result()
        values |= {name: mean.result() for name, mean in self._means.items()}
        return {f"{name}_before": value for name, value in values.items()}

    def reset(self):
        """Forgets all batches."""
        for mean in self._means.values():
            mean.reset_state()
        self.counter.reset_metrics()

    @staticmethod
    def compile_arguments(config):
        """Loss and metrics of a compile configuration, copied for another model."""
        names = ("loss", "loss_weights", "metrics", "weighted_metrics")
        return {name: _copied(config[name]) for name in names if config.get(name) is not None}


def merged(query_y, answers, sample_weight):
    """Labels, predictions and weights of all tasks' queries, `[T * Q, ...]`, for metrics."""
    y_pred = with_masks(merge_tasks(answers.y_pred), merge_tasks(answers.masks))
    query_y = merge_tasks(query_y)
    if tf.is_tensor(query_y) and tf.is_tensor(y_pred):
        query_y = _without_axis_of_one(query_y, y_pred)
    return query_y, y_pred, merge_tasks(sample_weight)


def _without_axis_of_one(y, y_pred):
    """Labels `[n, 1]` as `[n]` where the number of classes is not known while a graph is made.

    Keras compares the two last axes to tell which accuracy is meant, and breaks down at None.
    """
    if len(y.shape) == len(y_pred.shape) and y.shape[-1] == 1 and y_pred.shape[-1] is None:
        return tf.squeeze(y, -1)
    return y


def _copied(structure):
    """Losses and metrics with variables of their own; names and functions are as they are."""

    def copied(item):
        if isinstance(item, keras.metrics.Metric):
            return type(item).from_config(item.get_config())
        return item

    return keras.tree.map_structure(copied, structure)


def non_finite_error(step, learner):
    """The error for a meta-training loss that is NaN or infinite since `step`."""
    advice = (
        "Try a smaller rate or clipping in the outer optimizer (`clipvalue=10`), or check the data "
        "for values that are not finite."
    )
    if learner.inner_steps:
        advice = (
            "Adaptation may run away: try a smaller step size of the inner optimizer or clipping "
            f"(`global_clipnorm=10`) in it, fewer inner steps than {learner.inner_steps}, a "
            "smaller rate or clipping in the outer optimizer (`clipvalue=10`), or check the data "
            "for values that are not finite."
        )
    return FloatingPointError(
        f"The meta-training loss became NaN or infinite at training step {step} (counted by "
        f"`optimizer.iterations`, from 1); the weights are of no use any more. {advice}"
    )
