"""A saved learner on the test tasks of a data set by two protocols, without training.

python -m train.evaluate LEARNER.keras --data cifar_fs --data-dir DIR

The paper's protocol: 600 tasks, as many queries as shots, normalised together. The strict one:
2,000 tasks, 15 queries of each class, each answered by itself (`--inductive` of the scripts).
"""

import dataclasses
import pathlib
import sys

import keras
import numpy as np
import simple_parsing

from maml_tf import evaluation
from train import (
    common,
    image_learners,
    images,
    mini_imagenet,
    model_files,
    omniglot,
    options,
    runs,
)

HEADER = (
    "| protocol | tasks | queries a class | transductive | inner steps | accuracy |\n"
    "|---|---:|---:|---|---:|---:|"
)
STRICT_QUERIES = 15


@dataclasses.dataclass
class Settings:
    """Which learner, on which tasks."""

    learner: str = simple_parsing.field(positional=True)
    """A .keras file of a learner, such as best.keras of a run."""
    data: str = "cifar_fs"
    """"mini_imagenet", "omniglot", or what --data of train.images takes: "cifar_fs", "fc100",
    "glyphs", a folder, a name of TensorFlow Datasets."""
    ways: int | None = None
    """Classes a task; as many as the learner has outputs where not given, 5 without outputs."""
    shots: int = 1
    """Labelled images of each class."""
    inner_steps: int | None = None
    """Steps of adaptation; the learner's own number where not given."""
    test_tasks: int = 600
    """Tasks of the paper's protocol."""
    strict_tasks: int = 2_000
    """Tasks of the strict protocol."""
    seed: int = 0
    """Seed of the tasks."""
    data_dir: str | None = None
    """Directory of TensorFlow Datasets; its own default where not given."""
    output: str = "runs/evaluate"
    """Folder for evaluation.json, which is overwritten."""
    quick: bool = common.switch("A tiny run of some seconds, to see that everything works.")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How test tasks are made and answered."""

    name: str
    tasks: int
    queries: int
    batch_norm: str


def protocols(settings):
    """The paper's and the strict one."""
    return (
        Protocol("the paper's", settings.test_tasks, settings.shots, "transductive"),
        Protocol("strict", settings.strict_tasks, STRICT_QUERIES, "support"),
    )


def open_learner(path):
    """A saved learner, compiled; one that was saved without is given a loss.

    Raises:
        SystemExit: it cannot be read, or is no learner.
    """
    try:
        learner = model_files.open_learner(path)
    except ValueError as error:
        options.refuse(str(error))
    if not learner.compiled:
        learner.compile(
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
        )
    return learner


def make_tasks(settings, learner, protocol):
    """The test tasks of a protocol.

    Raises:
        SystemExit: the data are not there, or do not fit.
    """
    size = learner.model.input_shape[1]
    few = {
        "ways": settings.ways,
        "shots": settings.shots,
        "test_queries": protocol.queries,
        "test_tasks": protocol.tasks,
        "meta_batch": 4,
        "seed": settings.seed,
        "data_dir": settings.data_dir,
    }
    module = {"mini_imagenet": mini_imagenet, "omniglot": omniglot}.get(settings.data, images)
    if module is mini_imagenet:
        few["image_size"] = size
    if module is images:
        few["data"] = settings.data
        if settings.data not in ("glyphs", "cifar_fs", "fc100"):
            few["image_size"] = size
    try:
        return module.make_tasks(module.resolve(module.Settings(**few)))[2]
    except (OSError, ValueError, ImportError) as error:
        sys.exit(str(error))


def measure(settings, protocol):
    """The accuracy of each test task of a protocol: a `maml_tf.evaluation.Result` of one column.

    Only what is asked for is computed: predictions after the last step, and none on the way.
    """
    # A learner of its own for each: what was traced for one normalisation is not for another.
    learner = open_learner(settings.learner)
    learner.batch_norm = protocol.batch_norm
    # Not as the machine wanted on which it was trained.
    learner.jit_compile = image_learners.compiles(learner)
    if learner.inner_steps is not None:
        learner.inner_steps = settings.inner_steps
    values = []
    for inputs, query_y in make_tasks(settings, learner, protocol):
        answers = learner.predict_on_batch(inputs).argmax(axis=-1)
        values.extend((answers == query_y.numpy()).mean(axis=-1))
    return evaluation.Result("accuracy", np.array(values)[: protocol.tasks, np.newaxis])


def row(settings, protocol, result):
    """A line of the table."""
    transductive = "yes" if protocol.batch_norm == "transductive" else "no"
    mean, interval = 100 * result.mean[-1], 100 * result.interval[-1]
    steps = "none" if settings.inner_steps is None else settings.inner_steps
    return (
        f"| {protocol.name} | {protocol.tasks:,} | {protocol.queries} | {transductive} "
        f"| {steps} | {mean:.2f} ± {interval:.2f} % |"
    )


def resolve(settings):
    """The settings with the learner's own numbers filled in."""
    learner = open_learner(settings.learner)
    if learner.inner_steps is None and settings.inner_steps is not None:
        options.refuse(
            f"Expected no --inner-steps for {settings.learner}, which adapts without any. "
            f"Received: --inner-steps {settings.inner_steps}. Leave it out."
        )
    outputs = learner.model.output_shape[-1]
    ways = settings.ways or (5 if learner.inner_steps is None else outputs)
    steps = learner.inner_steps if settings.inner_steps is None else settings.inner_steps
    return dataclasses.replace(settings, ways=ways, inner_steps=steps)


def main():
    """Evaluates, prints a table and writes evaluation.json."""
    quick = {"learner": "", "test_tasks": 8, "strict_tasks": 8, "output": "runs/evaluate-quick"}
    settings = common.parse(Settings, "python -m train.evaluate", quick)
    if not settings.learner:
        options.refuse("Expected a learner to evaluate. Received: none. Give a .keras file.")
    common.use_threads_for_tasks()
    settings = resolve(settings)
    content = {"settings": dataclasses.asdict(settings), "protocols": []}
    print(HEADER)
    for protocol in protocols(settings):
        result = measure(settings, protocol)
        print(row(settings, protocol, result), flush=True)
        found = {"accuracy": float(result.mean[0]), "interval": float(result.interval[0])}
        content["protocols"].append({**dataclasses.asdict(protocol), **found})
    folder = pathlib.Path(settings.output)
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_json(folder / "evaluation.json", content)


if __name__ == "__main__":
    common.run(main, resumes=False)
