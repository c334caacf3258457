"""Several ways of doing one thing, on the same held-out groups: a table, and which of them wins.

What a way leaves open (a step size, a number of steps, a penalty) is chosen on validation groups.
A score is the mean over the tasks of a group, and what is averaged are groups: tasks of one group
say little about another one.
"""

import dataclasses

import keras
import numpy as np

from maml_tf import evaluation
from maml_tf.evaluation import Result, number

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
_ROOT = "root mean squared error"


@dataclasses.dataclass(frozen=True)
class Measured:
    """One way on the held-out groups.

    Attributes:
        result: `Result` of all test tasks, root mean squared errors or accuracies.
        scores: array `[groups]`, what came out at the chosen settings, averaged in each group.
        chosen: str, what was chosen on validation groups.
    """

    result: Result
    scores: np.ndarray
    chosen: str


def metric(sets):
    """The metric of these tasks, as `evaluation.evaluate` takes it."""
    return "mean_squared_error" if sets.labels is None else "accuracy"


def measure(sets, ways):
    """Measures the best of some ways that take no steps.

    Args:
        sets: `maml_tf.tasks.GroupTasks`.
        ways: dict by setting (None where there is one alone) of functions of a data set and a
            number of tasks, that give a `Result`.

    Returns:
        `Measured`.
    """
    best = next(iter(ways))
    if len(ways) > 1:
        losses = {s: _loss(way(sets[1], _count(sets, "validation"))) for s, way in ways.items()}
        best = min(losses, key=lambda setting: losses[setting][0])
    result = _in_units(ways[best](sets[2], _count(sets, "test")))
    return Measured(result, _by_group(sets, result, 0), "" if best is None else f"penalty {best:g}")


def measure_steps(sets, learners, steps):
    """Measures the best of some learners after the best number of steps.

    Args:
        sets: `maml_tf.tasks.GroupTasks`.
        learners: dict of compiled learners by step size.
        steps: int, the largest number of steps.

    Returns:
        `Measured`.
    """
    losses = {}
    for size, learner in learners.items():
        tried = evaluation.evaluate(
            learner, sets[1], _count(sets, "validation"), steps, metric(sets)
        )
        losses |= {(size, step): loss for step, loss in enumerate(_loss(tried))}
    size, step = min(losses, key=losses.get)
    result = evaluation.evaluate(learners[size], sets[2], _count(sets, "test"), steps, metric(sets))
    result = _in_units(result)
    chosen = f"{step} step{'' if step == 1 else 's'} of {size:g}"
    return Measured(result, _by_group(sets, result, step), chosen)


def _loss(result):
    """What to minimise, after each step: infinite where a task ran away."""
    sign = -1.0 if result.metric == "accuracy" else 1.0
    return np.where(np.isfinite(result.mean), sign * result.mean, np.inf)


def _in_units(result):
    """Roots of squared errors, in the units of the target."""
    if result.metric == "accuracy":
        return result
    return Result(_ROOT, np.sqrt(result.values))


def _count(sets, split):
    """As many tasks as share out evenly to the groups."""
    groups = len(sets.groups(split))
    there = _tasks(sets, split)
    return there // groups * groups or there


def _tasks(sets, split):
    dataset = sets[1 if split == "validation" else 2]
    return int(dataset.cardinality()) * dataset.element_spec[1].shape[0]


def _by_group(sets, result, step):
    """The mean of each group: array `[groups]`."""
    size = sets[2].element_spec[1].shape[0]
    batches = range(-(-result.num_tasks // size))
    names = np.concatenate([sets.group_names("test", b) for b in batches])[: result.num_tasks]
    values = result.values[:, step]
    return np.array([values[names == name].mean() for name in np.unique(names)])


def merge(by_seed):
    """Groups and tasks of all seeds together.

    Args:
        by_seed: list of dicts of `Measured` by name.

    Returns:
        A dict of `Measured` by name, the best one first.
    """
    merged = {}
    for name in by_seed[0]:
        ones = [found[name] for found in by_seed]
        result = Result(ones[0].result.metric, np.concatenate([o.result.values for o in ones]))
        chosen = "; ".join(dict.fromkeys(o.chosen for o in ones if o.chosen))
        merged[name] = Measured(result, np.concatenate([o.scores for o in ones]), chosen)
    best_last = any(one.result.metric == "accuracy" for one in merged.values())
    order = sorted(merged, key=lambda name: _order(merged[name]), reverse=best_last)
    return {name: merged[name] for name in order}


def _order(one):
    mean = one.scores.mean()
    worst = -np.inf if one.result.metric == "accuracy" else np.inf
    return mean if np.isfinite(mean) else worst


def table(merged, target, shots):
    """Scores as a Markdown table, `str`."""
    first = next(iter(merged.values()))
    lines = [
        f"{first.result.metric[0].upper()}{first.result.metric[1:]} of {target} after {shots} "
        f"labelled rows, mean ± 95 % over {len(first.scores)} held-out groups:",
        "",
        "| way | error | chosen on validation groups |".replace(
            "error", "accuracy" if first.result.metric == "accuracy" else "error"
        ),
        "|---|---:|---|",
    ]
    for name, one in merged.items():
        mean, half = _mean(one.scores)
        lines.append(f"| {name} | {number(mean)} ± {number(half)} | {one.chosen or '–'} |")
    return "\n".join(lines)


def verdict(merged, ours, shots):
    """A sentence that says which way wins, and whether the groups tell it from the next one.

    Args:
        merged: what `merge` gives.
        ours: str, the name of the meta-learner.
        shots: int, labelled rows.

    Returns:
        `str`.
    """
    names = list(merged)
    winner = names[0]
    rival = ours if winner != ours else names[1]
    metric = merged[winner].result.metric
    better = merged[winner].scores - merged[rival].scores
    mean, half = _mean(better if metric == "accuracy" else -better)
    numbers = [number(_mean(merged[name].scores)[0]) for name in (winner, rival)]
    told = (
        f"With {shots} labelled rows {winner} wins: {metric} {numbers[0]}, {rival} {numbers[1]}; "
        f"in the same {len(better)} groups the difference is {number(mean)} ± {number(half)}"
    )
    if not mean > half:
        return told + ", which may be chance: take the simpler of the two."
    if winner == ours:
        return told + f". {ours} is worth its training here."
    return told + f". Take {winner}; {ours} is not worth its training here."


def summary(merged):
    """Everything as numbers that JSON can hold."""
    found = {}
    for name, one in merged.items():
        mean, half = _mean(one.scores)
        found[name] = {
            "metric": one.result.metric,
            "mean": _json(mean),
            "interval": _json(half),
            "groups": [_json(score) for score in one.scores],
            "chosen": one.chosen,
            "after_steps": [_json(value) for value in one.result.mean],
        }
    return found


def _mean(scores):
    """Mean and half-width of its 95 % interval over groups."""
    with np.errstate(all="ignore"):
        half = 1.96 * scores.std(ddof=1) / np.sqrt(len(scores)) if len(scores) > 1 else np.inf
        return float(scores.mean()), float(half)


def _json(value):
    return float(value) if np.isfinite(value) else None
