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


@dataclasses.dataclass(frozen=True)
class Measured:
    """One way on the held-out groups.

    Attributes:
        result: `Result` after each step; its values `[groups, steps + 1]` are means over the tasks
            of a group, so that its interval is over groups.
        scores: array `[groups]`, those after the chosen number of steps.
        chosen: str, what was chosen on validation groups.
    """

    result: Result
    scores: np.ndarray
    chosen: str


class Comparison:
    """Measures ways on the groups that some tasks hold out.

    Args:
        sets: `maml_tf.tasks.GroupTasks` or `WindowTasks`.
        metric: str, what is measured.
        scores: function of a `Result` and "validation" or "test", gives the one to report.
    """

    def __init__(self, sets, metric, scores=lambda result, split: result):
        self.sets, self.metric, self.scores = sets, metric, scores

    def measure(self, ways):
        """The best of some ways that take no steps, chosen on validation groups.

        Args:
            ways: dict of functions of a data set and a number of tasks, that give a `Result`, by
                what would be chosen with them, such as "penalty 1"; "" where there is no choice.

        Returns:
            `Measured`.
        """
        best = next(iter(ways))
        if len(ways) > 1:
            tried = {chosen: self._of(way, "validation") for chosen, way in ways.items()}
            best = min(tried, key=lambda chosen: _loss(tried[chosen])[0])
        return self._measured(self._of(ways[best], "test"), 0, best)

    def measure_steps(self, learners, steps):
        """The best of some learners after the best number of steps, chosen on validation groups.

        Args:
            learners: dict of compiled learners by step size.
            steps: int, the largest number of steps.

        Returns:
            `Measured`.
        """

        def way(learner):
            return lambda tasks, count: evaluation.evaluate(
                learner, tasks, count, steps, self.metric
            )

        losses = {
            (size, step): loss
            for size, learner in learners.items()
            for step, loss in enumerate(_loss(self._of(way(learner), "validation")))
        }
        size, step = min(losses, key=losses.get)
        result = self._of(way(learners[size]), "test")
        chosen = f"{step} step{'' if step == 1 else 's'} of {size:g}"
        return self._measured(result, step, chosen)

    def _of(self, way, split):
        dataset = self.sets[1 if split == "validation" else 2]
        tasks = int(dataset.cardinality()) * dataset.element_spec[1].shape[0]
        groups = len(self.sets.groups(split))
        # As many as share out evenly to the groups.
        return self.scores(way(dataset, tasks // groups * groups or tasks), split)

    def _measured(self, result, step, chosen):
        """The mean of each group."""
        names = names_of(self.sets, "test", result.num_tasks)
        of_groups = [result.values[names == name].mean(axis=0) for name in np.unique(names)]
        result = Result(result.metric, np.stack(of_groups))
        return Measured(result, result.values[:, step], chosen)


def names_of(sets, split, count):
    """The groups of the first `count` tasks, array `[count]`."""
    size = sets[1 if split == "validation" else 2].element_spec[1].shape[0]
    batches = range(-(-count // size))
    return np.concatenate([sets.group_names(split, batch) for batch in batches])[:count]


def root(result, split):
    """Roots of squared errors, in the units of the target."""
    del split
    return Result("root mean squared error", np.sqrt(result.values))


def _loss(result):
    """What to minimise, after each step: infinite where a task ran away."""
    sign = -1.0 if result.metric == "accuracy" else 1.0
    return np.where(np.isfinite(result.mean), sign * result.mean, np.inf)


def merge(by_seed):
    """Groups of all seeds together.

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


def table(merged, known, groups="groups"):
    """Scores as a Markdown table, `str`.

    Args:
        merged: what `merge` gives.
        known: str, what a group is adapted to, such as "10 labelled rows".
        groups: str, what groups are called.
    """
    first = next(iter(merged.values()))
    metric = first.result.metric
    lines = [
        f"With {known}, mean ± 95 % over {len(first.scores)} held-out {groups}:",
        "",
        f"| way | {metric} | chosen on validation {groups} |",
        "|---|---:|---|",
    ]
    for name, one in merged.items():
        mean, half = _mean(one.scores)
        lines.append(f"| {name} | {number(mean)} ± {number(half)} | {one.chosen or '–'} |")
    return "\n".join(lines)


def verdict(merged, ours, known, groups="groups"):
    """A sentence that says which way wins, and whether the groups tell it from the next one.

    Args:
        merged: what `merge` gives.
        ours: str, the name of the meta-learner.
        known: as in `table`.
        groups: as in `table`.

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
        f"With {known} {winner} wins: {metric} {numbers[0]}, {rival} {numbers[1]}; "
        f"in the same {len(better)} {groups} the difference is {number(mean)} ± {number(half)}"
    )
    if not np.isfinite(mean):
        return told + f". Take {winner}: {rival} ran away in a group."
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
