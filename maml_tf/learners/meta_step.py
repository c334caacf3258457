"""What a learner computes of a task batch: losses, predictions and meta-gradients, task by task.

    meta-gradient = mean over tasks of (what `learner.task_gradient` gives)

Nothing is assigned here: tensors go in and come out, `Learner.train_step` does the rest.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from maml_tf import exact, functional, noise
from maml_tf.learners.batches import masks_of, number_of_tasks, parts


class Answers(NamedTuple):
    """What the queries of a task, or of each of T tasks, gave at some weights."""

    loss: Any  # scalar, penalties of the model at these weights among it; the mean over tasks
    losses: Any  # list of scalars, the loss of each output, where there are several
    y_pred: Any  # `[Q, ...]`, or `[T, Q, ...]`
    masks: Any  # dict of bool `[Q, ...]` by output, of those that have one


class MetaGradient(NamedTuple):
    """The meta-gradient of a task batch and what was seen on the way."""

    gradients: list  # in the order of `model.trainable_variables`
    state: list  # of the model after this batch
    after: Answers  # at the adapted weights
    before: Answers  # at the initial weights


def query_loss(learner, task, training):
    """A function from predictions for a task's queries to `Answers`.

    It is to run while the weights that gave the predictions are in place (`then` of
    `functional.call`): penalties of the model are taken at them.

    Args:
        learner: a compiled `maml_tf.Learner`.
        task: dict with `query_y` `[Q, ...]` and, where queries have weights, `sample_weight`.
        training: `bool`.
    """

    def answers(y_pred):
        def loss_of():
            return learner.compute_loss(
                y=task["query_y"],
                y_pred=y_pred,
                sample_weight=task.get("sample_weight"),
                training=training,
            )

        counted = learner._compile_loss
        if counted is not None and not counted.built:
            loss_of()  # makes what counts the loss of each output
        counters = [] if counted is None else counted.metrics
        for counter in counters:
            # In the stateless scope that is open here: the counters themselves stay as they are.
            counter.reset_state()
        loss = scalar_loss("loss", loss_of())
        return Answers(loss, [c.result() for c in counters], y_pred, masks_of(y_pred))

    return answers


def scalar_loss(name, loss):
    """The loss, refused where it is not one number for a task.

    Raises:
        ValueError: it has an axis; a gradient would add its entries up, whatever their number.
    """
    if loss.shape.rank != 0:
        raise ValueError(
            f"Expected `{name}` to be one number for all examples of a task. Received: a loss of "
            f"shape {tuple(loss.shape)}. Give it `reduction='sum_over_batch_size'` (the default "
            "of Keras' losses) or another scalar reduction in place of `reduction='none'`."
        )
    return loss


def meta_gradient(learner, inputs, query_y, weight):
    """`MetaGradient` of a task batch.

    Args:
        learner: a compiled `maml_tf.Learner`.
        inputs: as in `Learner.call`.
        query_y: `[T, Q, ...]`.
        weight: `[T, Q, ...]` or None.
    """
    model = learner.model
    weights, state = learner.initial_values()
    floating = [s.dtype.is_floating for s in state]

    def one_task(task, index):
        with noise.stream(index):
            begin = functional.distinct_seeds(model, state, index)
            with exact.refusals(learner.jit_compile, learner.first_order):
                gradients, answers, after = learner.task_gradient(weights, begin, task)
            before = _unadapted(learner, weights, state, task)
        kept = [s for s, f in zip(after, floating, strict=True) if f]
        others = [s for s, f in zip(after, floating, strict=True) if not f]
        return _averaged_and_stacked(
            {"gradients": gradients, "state": kept}, answers, before, others
        )

    with noise.batch(advance=False):
        sums, stacks = learner.map_tasks(one_task, _tasks(inputs, query_y, weight))
    means = _means(sums, number_of_tasks(query_y))
    averages, firsts = iter(means["state"]), iter(stacks["state"])
    # The mean over tasks; of integers (seeds, counters) those of the first task.
    state = [next(averages) if f else next(firsts)[0] for f in floating]
    return MetaGradient(means["gradients"], state, *_answers(means, stacks))


def answers(learner, inputs, query_y, weight):
    """`(Answers after adaptation, Answers before)` of a task batch, for evaluation."""
    weights, state = learner.initial_values()

    def one_task(task, index):
        support_x, support_y, query_x = parts(task["inputs"])
        with noise.stream(index):
            fast, after = learner.adapt_task_in_loop(
                weights, state, support_x, support_y, learner.inner_steps
            )
            adapted, _ = learner.predict_task(
                fast,
                after,
                support_x,
                query_x,
                training=False,
                then=query_loss(learner, task, training=False),
            )
            before = _unadapted(learner, weights, state, task)
        return _averaged_and_stacked({}, adapted, before, [])

    with noise.batch():
        sums, stacks = learner.map_tasks(one_task, _tasks(inputs, query_y, weight))
    return _answers(_means(sums, number_of_tasks(query_y)), stacks)


def _unadapted(learner, weights, state, task):
    support_x, _, query_x = parts(task["inputs"])
    then = query_loss(learner, task, training=False)
    return learner.predict_task(weights, state, support_x, query_x, training=False, then=then)[0]


def _tasks(inputs, query_y, weight):
    tasks = {"inputs": inputs, "query_y": query_y}
    return tasks if weight is None else {**tasks, "sample_weight": weight}


def _averaged_and_stacked(averaged, after, before, state):
    """Results of one task as `task_map.map_tasks` takes them."""
    losses = [(a.loss, a.losses) for a in (after, before)]
    predictions = [(a.y_pred, a.masks) for a in (after, before)]
    return {**averaged, "losses": losses}, {"predictions": predictions, "state": state}


def _means(sums, count):
    return tf.nest.map_structure(lambda t: t / tf.cast(count, t.dtype), sums)


def _answers(means, stacks):
    pairs = zip(means["losses"], stacks["predictions"], strict=True)
    return tuple(Answers(*losses, *predictions) for losses, predictions in pairs)
