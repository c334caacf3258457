"""What the image scripts say and draw of a trained learner: numbers, what to hold them against.

An accuracy means little by itself: beside it stand chance, the nearest neighbour on pixels, and
the paper's number where there is one.
"""

import dataclasses
import math

import numpy as np

from maml_tf import evaluation, files, plots, serving
from train import common, heads, runs

BASELINE = "nearest neighbour on pixels"


@dataclasses.dataclass(frozen=True)
class Report:
    """What came of a training, beside its learner.

    Attributes:
        title: str, what was learned.
        method: str, how.
        result: `maml_tf.evaluation.Result` of the learner on the test tasks.
        baseline: that of the nearest neighbour, on the same tasks.
        ways: int, classes of a test task, of which one is right by chance.
        iterations: int, meta-iterations that training did.
        seconds: float, that it took.
        steps: int, inner steps at test; None for a learner that takes none.
        paper: accuracy and interval in per cent that the paper reports, or None.
        backbone: bool, whether it learned on features of a backbone, whose nearest class means
            are the baseline then.
    """

    title: str
    method: str
    result: evaluation.Result
    baseline: evaluation.Result
    ways: int
    iterations: int
    seconds: float
    steps: int | None
    paper: tuple | None = None
    backbone: bool = False

    @property
    def of_baseline(self):
        """What the baseline is."""
        return heads.BASELINE if self.backbone else BASELINE

    def lines(self):
        """The text that a script prints, a list of lines."""
        after = "" if self.steps is None else f"after {self.steps} step{'s' * (self.steps != 1)} "
        return [
            f"{self.title}, {self.method}: test accuracy {after}{accuracy(self.result)} "
            f"(mean and 95 % interval over {self.result.num_tasks} tasks).",
            f"To compare: chance {100 / self.ways:.1f} %, {self.of_baseline} "
            + accuracy(self.baseline)
            + (f", paper: {_published(self.paper)} %." if self.paper else "."),
            *([heads.added(self.result, self.baseline)] if self.backbone else []),
            f"Training took {self.iterations:,} meta-iterations and {self.seconds / 60:.1f} "
            "minutes.",
        ]


def report(settings, folder, learner, tasks, figure_tasks, whole=None, *, terms=None, **facts):
    """Evaluates on the test tasks, prints and writes results, draws figures, exports the learner.

    Args:
        settings: a `train.classification.Settings`.
        folder: the run directory.
        learner: the learner to evaluate and export.
        tasks: `maml_tf.tasks.splits.TaskSets`, whose test tasks it is evaluated on.
        figure_tasks: the same, perhaps with more queries; the first test task of it is drawn.
        whole: `maml_tf.backbones.WithBackbone` of a learner of features, which is what is saved as
            `pictures.keras` and exported; `figure_tasks` are then of pictures.
        terms: str or None, what the data's owners allow their models to be used for, for the card.
        **facts: `title`, `ways`, `iterations` and `paper` of `Report`.
    """
    steps = None if learner.inner_steps is None else settings.steps_to_evaluate
    test, history = tasks[2], common.read_history(folder)
    print(f"\nEvaluating on {settings.test_tasks} test tasks.", flush=True)
    made = Report(
        method=settings.method,
        result=evaluation.evaluate(learner, test, settings.test_tasks, steps),
        baseline=(evaluation.nearest_class_mean if whole else evaluation.nearest_neighbour)(
            test, settings.test_tasks
        ),
        backbone=whole is not None,
        seconds=common.training_seconds(folder),
        steps=steps,
        **facts,
    )
    print("\n".join(["", made.result.table(), "", *made.lines()]))
    rise = still_rising([row["val_accuracy"] for row in history if "val_accuracy" in row])
    if rise and made.iterations >= settings.iterations:
        print(advice(settings, rise))
    content = {
        "settings": dataclasses.asdict(settings),
        "iterations": made.iterations,
        "best_iterations": int(learner.optimizer.iterations),
        "training_seconds": made.seconds,
        "paper_accuracy_percent": made.paper,
        "chance": 1 / made.ways,
        "nearest_class_mean" if whole else "nearest_neighbour": made.baseline.to_dict(values=False),
        "validation_still_rising": bool(rise),
        "test": made.result.to_dict(),
    }
    runs.write_json(folder / "results.json", content)
    draw(settings, folder, learner, made, history)
    draw_task(folder, whole or learner, made, figure_tasks)
    if whole:
        with files.whole(folder / "pictures.keras") as beside:
            whole.save(beside)
    card = common.card(made.title, made.result, settings, made.iterations)
    card = {"terms": terms, **card} if terms else card
    with files.whole_folder(folder / "saved_model", replace=True) as beside:
        serving.export(whole or learner, beside, inner_steps=steps, card=card)
    print(f"Results, figures and the exported model are in {folder}.")


def accuracy(result):
    """A mean accuracy with its 95 % interval, in per cent."""
    return f"{100 * result.mean[-1]:.1f} ± {100 * result.interval[-1]:.1f} %"


def _published(paper):
    """An accuracy as it was published, some without an interval."""
    return f"{paper[0]}" if paper[1] is None else f"{paper[0]} ± {paper[1]}"


def interval_of_share(right, total):
    """The 95 % interval of a share of independent trials, by Wilson (1927).

    It stays within 0 and 1, and is as wide as it should be where all answers are right.

    Args:
        right: int, trials that succeeded.
        total: int, of so many, at least 1.

    Returns:
        `(low, high)`, shares.
    """
    z, share = 1.96, right / total
    middle = share + z**2 / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return tuple((middle + sign * half) / (1 + z**2 / total) for sign in (-1, 1))


def still_rising(scores):
    """Whether accuracies were on their way up when training ended.

    The last third of the epochs, five or more where there are so many, is fitted by a line. It
    rises where its slope is more than three standard errors above 0, and by half a point at least.

    Args:
        scores: list of accuracies in [0, 1], one an epoch.

    Returns:
        `(rise, epochs)`: how much the line rises over how many epochs; None where it does not, or
        where there are fewer than three.
    """
    epochs = min(len(scores), max(5, len(scores) // 3))
    if epochs < 3:
        return None
    x, y = np.arange(epochs), np.asarray(scores[-epochs:], np.float64)
    slope, start = np.polyfit(x, y, 1)
    scatter = np.sum((y - slope * x - start) ** 2) / (epochs - 2)
    error = math.sqrt(scatter / np.sum((x - x.mean()) ** 2))
    rise = slope * (epochs - 1)
    return (float(rise), epochs) if slope > 3 * error and rise >= 0.005 else None


def advice(settings, rise):
    """A sentence about a training that ended too early, and how to go on."""
    rise, epochs = rise
    half = math.ceil(settings.iterations / settings.epoch_iterations / 2)
    more = settings.iterations + half * settings.epoch_iterations
    how = f"Train on with --iterations {more}."
    if settings.schedule != "constant":
        # Its step size has fallen to 0 where it was to end: such a run cannot go on.
        how = f"Train longer, with --iterations {more} and another --output."
    return (
        f"Validation accuracy was still rising: by {100 * rise:.1f} points over the last {epochs} "
        f"epochs. {how}"
    )


def draw(settings, folder, learner, made, history):
    """Writes the figures of accuracy into the run directory."""
    curve = plots.learning_curve(
        history,
        "accuracy",
        epoch_iterations=settings.epoch_iterations,
        title=made.title,
        chance=1 / made.ways,
        tests={int(learner.optimizer.iterations): made.result},
    )
    runs.save_figure(curve, folder / "learning_curve.png")
    if made.result.inner_steps:
        name = type(learner).__name__
        paper = {name: {made.result.inner_steps: made.paper[0] / 100}} if made.paper else None
        against_steps = plots.error_against_steps(
            {name: made.result, made.of_baseline: made.baseline},
            title=f"{made.title}: mean and 95 % interval over {made.result.num_tasks} tasks",
            references=paper,
            chance=1 / made.ways,
        )
        runs.save_figure(against_steps, folder / "accuracy_against_steps.png")


def draw_task(folder, learner, made, tasks):
    """Writes the figures of the first test task into the run directory."""
    inputs, query_y = next(iter(tasks[2]))
    one = {name: part[:1] for name, part in inputs.items()}
    labels = learner.predict_path(one, made.steps).numpy().argmax(axis=-1)[0]
    support = one["support_x"][0].numpy(), one["support_y"][0].numpy()
    query = one["query_x"][0].numpy(), query_y[0].numpy()
    names = [str(name) for name in tasks.class_names("test")[0]]
    few = _few(query[1], 30 // made.ways or 1)
    task = plots.classification_task(
        support,
        (query[0][few], query[1][few]),
        None if made.steps is None else labels[0][few],
        labels[-1][few],
        names=names,
        title=f"{made.title}, one test task",
    )
    runs.save_figure(task, folder / "task.png")
    title = f"{made.title}, one test task after adaptation"
    confusion = plots.confusion(support, query[1], labels[-1], names=names, title=title)
    runs.save_figure(confusion, folder / "confusion.png")


def _few(labels, count):
    """Positions of the first `count` of every label."""
    return np.sort(np.concatenate([np.flatnonzero(labels == n)[:count] for n in set(labels)]))
