"""Omniglot few-shot classification with MAML (Finn et al., 2017, section 5.2, table 1).

The defaults are the paper's: python -m train.omniglot --data-dir DIR --ways 5 --shots 1
"""

import dataclasses
import shutil
import sys
from typing import Literal

import keras

import maml_tf
from maml_tf import evaluation, plots, serving
from train import common

# Test accuracy in %, and its 95 % interval, by (network, ways, shots): table 1 of the paper.
PAPER = {
    ("dense5", 5, 1): (89.7, 1.1),
    ("dense5", 5, 5): (97.5, 0.6),
    ("conv4", 5, 1): (98.7, 0.4),
    ("conv4", 5, 5): (99.9, 0.1),
    ("conv4", 20, 1): (95.8, 0.3),
    ("conv4", 20, 5): (98.9, 0.2),
}
QUICK = {
    "iterations": 20,
    "epoch_iterations": 10,
    "meta_batch": 4,
    "validation_tasks": 8,
    "test_tasks": 8,
    "output": "runs/omniglot-quick",
}
# What may change between a run and its continuation: nothing that training depends on.
FREE = ("data_dir", "download", "iterations", "test_inner_steps", "test_tasks", "tensorboard")


@dataclasses.dataclass
class Settings:
    """The defaults are the paper's."""

    ways: int = 5
    """N, characters a task tells apart (paper: 5 and 20)."""
    shots: int = 1
    """K, labelled drawings of each character (paper: 1 and 5)."""
    queries: int | None = None
    """Query drawings of each character in training (paper: as many as shots)."""
    network: Literal["conv4", "dense5"] = "conv4"
    """The paper's convolutional or its not convolutional network."""
    first_order: bool = common.switch("Leave the second derivatives out (section 5.2).")
    batch_norm: Literal["transductive", "support"] = "transductive"
    """Whose mean and variance normalise the queries: their own (paper) or the support set's."""
    iterations: int = 60_000
    """Meta-iterations in all (paper: 60,000); a finished run goes on when this is raised."""
    meta_batch: int | None = None
    """Tasks in a meta-iteration (paper: 32 at 5 ways, 16 at 20 ways)."""
    inner_steps: int | None = None
    """Inner steps in training (paper: 1 at 5 ways, 5 at 20 ways)."""
    test_inner_steps: int | None = None
    """Inner steps in the final evaluation (paper: 3 at 5 ways, 5 at 20 ways)."""
    step_size: float = 2.0
    """Inner step size on the mean loss (paper: 0.4 at 5 ways and 0.1 at 20 ways on the sum over
    the ways, which is 2.0 on the mean)."""
    meta_learning_rate: float = 1e-3
    """Step size of Adam in the outer loop (paper: 0.001)."""
    epoch_iterations: int = 500
    """Meta-iterations from one checkpoint and validation to the next."""
    validation_tasks: int = 600
    """Validation tasks after each epoch, always the same ones."""
    test_tasks: int = 600
    """Test tasks of the final evaluation (paper: 600)."""
    split: Literal["paper", "alphabet"] = "paper"
    """Characters shuffled irrespective of alphabet (paper), or test on unseen alphabets."""
    data_dir: str | None = None
    """Directory of TensorFlow Datasets; its own default where not given."""
    download: bool = common.switch("Download Omniglot where it is not there.")
    seed: int = 0
    """Seed of the initial weights and of all tasks."""
    output: str = "runs/omniglot"
    """Run directory: checkpoints, history, results, figures, exported model."""
    fresh: bool = common.switch("Delete what the run directory holds and start anew.")
    tensorboard: bool = common.switch("Write logs for TensorBoard into the run directory.")
    quick: bool = common.switch("A tiny run of some seconds, to see that everything works.")


def resolve(settings):
    """The settings with what the paper chose by the number of ways filled in."""
    many = settings.ways > 5
    choices = {
        "queries": settings.shots,
        "meta_batch": 16 if many else 32,
        "inner_steps": 5 if many else 1,
        "test_inner_steps": 5 if many else 3,
    }
    unset = {name: n for name, n in choices.items() if getattr(settings, name) is None}
    return dataclasses.replace(settings, **unset)


def make_tasks(settings, start=0):
    """Training tasks from batch `start` on, validation and test tasks."""
    return maml_tf.tasks.omniglot(
        ways=settings.ways,
        shots=settings.shots,
        queries=settings.queries,
        test_queries=settings.shots,
        meta_batch=settings.meta_batch,
        seed=settings.seed,
        start=start,
        data_dir=settings.data_dir,
        download=settings.download,
        split=settings.split,
        validation_tasks=settings.validation_tasks,
        test_tasks=settings.test_tasks,
    )


def make_learner(settings):
    """The learner, compiled."""
    network = getattr(maml_tf.models, settings.network)(ways=settings.ways, seed=settings.seed)
    learner = maml_tf.MAML(
        network,
        maml_tf.inner_optimizers.SGD(settings.step_size),
        settings.inner_steps,
        settings.first_order,
        batch_norm=settings.batch_norm,
    )
    learner.compile(
        optimizer=keras.optimizers.Adam(settings.meta_learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # XLA makes small convolutions slower on a CPU
    )
    return learner


def main():
    """Trains, evaluates the weights that were best on the validation tasks, and exports them."""
    settings = resolve(common.parse(Settings, "python -m train.omniglot", QUICK))
    common.use_threads_for_tasks()
    try:
        _, validation, test = make_tasks(settings)
    except FileNotFoundError as error:
        sys.exit(f"{error} As options of this script: --data-dir DIR, or --download.")
    folder = common.open_run(settings, FREE)
    trained = common.train(
        lambda: make_learner(settings),
        lambda start: make_tasks(settings, start)[0],
        folder,
        iterations=settings.iterations,
        epoch_iterations=settings.epoch_iterations,
        validation=validation,
        best="val_accuracy",
        tensorboard=settings.tensorboard,
    )
    learner = keras.saving.load_model(folder / "best.keras")
    result = evaluation.evaluate(learner, test, settings.test_tasks, settings.test_inner_steps)
    report(settings, folder, int(trained.optimizer.iterations), learner, result, test)


def report(settings, folder, iterations, learner, result, test):
    """Prints and writes the results, draws the figures and exports the learner."""
    history = common.read_history(folder)
    seconds = common.training_seconds(folder)
    paper = PAPER.get((settings.network, settings.ways, settings.shots))
    print("\n" + result.table() + "\n")
    print(
        f"Test accuracy after {result.inner_steps} steps: {100 * result.mean[-1]:.1f} ± "
        f"{100 * result.interval[-1]:.1f} %"
        + (f" (paper: {paper[0]} ± {paper[1]} %)" if paper else "")
        + f"; {iterations:,} meta-iterations in {seconds / 60:.1f} minutes."
    )
    content = {
        "settings": dataclasses.asdict(settings),
        "iterations": iterations,
        "best_iterations": int(learner.optimizer.iterations),
        "training_seconds": seconds,
        "paper_accuracy_percent": paper,
        "test": result.to_dict(),
    }
    common.write_json(folder / "results.json", content)
    title = f"Omniglot, {settings.ways}-way {settings.shots}-shot"
    plots.learning_curve(
        history, "accuracy", epoch_iterations=settings.epoch_iterations, title=title
    ).savefig(folder / "learning_curve.png")
    plots.error_against_steps(
        {"MAML": result},
        title=f"{title}: mean and 95 % interval over {result.num_tasks} tasks",
        references={"MAML": {result.inner_steps: paper[0] / 100}} if paper else None,
    ).savefig(folder / "accuracy_against_steps.png")
    draw_task(learner, test, result.inner_steps, title).savefig(folder / "task.png")
    shutil.rmtree(folder / "saved_model", ignore_errors=True)
    serving.export(learner, folder / "saved_model", inner_steps=result.inner_steps)
    print(f"Results, figures and the exported model are in {folder}.")


def draw_task(learner, test, inner_steps, title):
    """The drawings of the first test task, and what adaptation did for its queries."""
    inputs, query_y = next(iter(test))
    one = {name: part[:1] for name, part in inputs.items()}
    labels = learner.predict_path(one, inner_steps).numpy().argmax(axis=-1)[0]
    return plots.classification_task(
        (one["support_x"][0].numpy(), one["support_y"][0].numpy()),
        (one["query_x"][0].numpy(), query_y[0].numpy()),
        labels[0],
        labels[-1],
        title=f"{title}, one test task",
    )


if __name__ == "__main__":
    common.run(main)
