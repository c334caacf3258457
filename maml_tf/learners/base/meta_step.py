"""What a learner computes of a task batch: losses, predictions and meta-gradients, task by task.

    meta-gradient = mean over tasks of (what `learner.task_gradient` gives)

Nothing is assigned here: tensors go in and come out, `Learner.train_step` does the rest.
"""

from typing import Any, NamedTuple

from maml_tf import exact, functional, noise
from maml_tf.learners.base import output_losses, support_weights
from maml_tf.learners.base.batches import masks_of
from maml_tf.learners.base.task import Support


class Answers(NamedTuple):
    """What the queries of a task, or of each of T tasks, gave at some weights."""

    loss: Any  # scalar, penalties of the model at these weights among it; the mean over tasks
    losses: Any  # list of scalars, the loss of each output, where there are several
    y_pred: Any  # `[Q, ...]`, or `[T, Q, ...]`
    masks: Any  # dict of bool `[Q, ...]` by output, of those that have one


class MetaGradient(NamedTuple):
    """The meta-gradient of a task batch and what was seen on the way."""

    gradients: list  # in the order of `learner.trainable_variables`
    state: list  # of `learner.non_trainable_variables` after this batch
    same: list  # of bool, which of these no task has changed
    after: Answers  # of the adapted learner
    before: Any  # `Answers` without a step of adaptation; None where there are no steps


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
        weight = task.get("sample_weight")
        if weight is not None:
            losses = output_losses.losses_of(learner.loss, learner.model, y_pred)
            weight = support_weights.of_queries(weight, task["query_y"], y_pred, losses)

        def loss_of():
            return learner.compute_loss(
                y=task["query_y"], y_pred=y_pred, sample_weight=weight, training=training
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
    weights, state = learner.initial_values()
    variables = learner.non_trainable_variables
    floating = [s.dtype.is_floating for s in state]
    # What no task assigns, such as the weights of a frozen network, has no mean over tasks, which
    # would cost time and move it by rounding. A task is traced before these are read.
    same = [False] * len(state)

    def one_task(task, index):
        with noise.stream(index):
            begin = functional.distinct_seeds(variables, state, index)
            with learner.with_values(weights, begin):
                with exact.refusals(learner.jit_compile, learner.first_order):
                    gradients, after = learner.task_gradient(task)
                changed = functional.values_of(variables)
            with learner.with_values(weights, state):
                before = _before(learner, task) if learner._report_before else []
        same[:] = [new is old for new, old in zip(changed, state, strict=True)]
        kept = [s for s, f, u in zip(changed, floating, same, strict=True) if f and not u]
        others = [s for s, f, u in zip(changed, floating, same, strict=True) if not (f or u)]
        averaged = {"gradients": gradients, "state": kept}
        return _averaged_and_stacked(averaged, [after, *before], others)

    with noise.batch(advance=False):
        means, stacks = learner.task_means(one_task, _tasks(inputs, query_y, weight))
    averages, firsts = iter(means["state"]), iter(stacks["state"])
    # The mean over tasks; of integers (seeds, counters) those of the first task.
    state = [
        old if unchanged else next(averages) if f else next(firsts)[0]
        for old, unchanged, f in zip(state, same, floating, strict=True)
    ]
    after, *before = _answers(means, stacks)
    return MetaGradient(means["gradients"], state, same, after, before[0] if before else None)


def answers(learner, inputs, query_y, weight):
    """`(Answers after adaptation, Answers before it or None)` of a task batch, for evaluation."""
    values = learner.initial_values()

    def one_task(task, index):
        with noise.stream(index), learner.with_values(*values):
            after = _adapted(learner, task, learner.inner_steps)
            return _averaged_and_stacked({}, [after, *_before(learner, task)], [])

    with noise.batch():
        after, *before = _answers(
            *learner.task_means(one_task, _tasks(inputs, query_y, weight)),
        )
    return after, before[0] if before else None


def _before(learner, task):
    """`[Answers]` without a step of adaptation; `[]` of a learner that takes no steps."""
    return [] if learner.inner_steps is None else [_adapted(learner, task, 0)]


def _adapted(learner, task, steps):
    mode = learner.mode(training=False)
    adapted = learner.adapt_task(Support.of(task["inputs"]), steps=steps, mode=mode)
    then = query_loss(learner, task, training=False)
    return learner.predict_adapted(adapted, task["inputs"]["query_x"], mode=mode, then=then)


def _tasks(inputs, query_y, weight):
    tasks = {"inputs": inputs, "query_y": query_y}
    return tasks if weight is None else {**tasks, "sample_weight": weight}


def _averaged_and_stacked(averaged, answers, state):
    """Results of one task as `task_map.task_mean` takes them."""
    losses = [(a.loss, a.losses) for a in answers]
    predictions = [(a.y_pred, a.masks) for a in answers]
    return {**averaged, "losses": losses}, {"predictions": predictions, "state": state}


def _answers(means, stacks):
    pairs = zip(means["losses"], stacks["predictions"], strict=True)
    return [Answers(*losses, *predictions) for losses, predictions in pairs]
