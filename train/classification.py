"""What the image scripts share: settings, recipes and the training."""

import argparse
import dataclasses
import sys
from typing import Literal

import simple_parsing

import maml_tf
from train import checkpoints, common, heads, image_learners, methods, options, reporting, runs

# What may change between a run and its continuation: nothing that training depends on.
FREE = ("data_dir", "download", "iterations", "steps_to_evaluate", "test_tasks", "tensorboard")
NETWORKS = Literal["conv4", "dense5", "conv4_max_pool", "resnet12", "embedding"]
RECIPES = {
    "paper": {},
    # More query examples cost little beside the inner loop and make the meta-gradient less noisy;
    # small meta-batches make more steps of the same time, and clipping allows larger ones.
    "modern": {
        "queries": 5,
        "meta_batch": 8,
        "meta_learning_rate": 3e-3,
        "clip_norm": 10.0,
        "schedule": "cosine",
        "iterations": 20_000,
    },
}
# Photographs: few steps from a last layer of zero need no unlearning of what N(0, 1) says, at rates
# that training finds; best from `train.pretrain` (docs/results/cifar_fs.md has what was tried).
PHOTOGRAPHS = {
    "paper": {},
    "modern": {
        "queries": 15,
        "meta_batch": 4,
        "last_layer": "zero",
        "inner_optimizer": "learned",
        "inner_steps": 3,
        "steps_to_evaluate": 3,
        "step_size": 0.05,
        "clip_norm": 10.0,
        "schedule": "cosine",
        "iterations": 5_000,
    },
}
LEARNED = ("learned", "meta-sgd")  # choices of --inner-optimizer whose rates are learned
_NO_DATA = "With no data at hand, try: python -m train.images --data glyphs"
QUICK = {"iterations": 20, "epoch_iterations": 10, "validation_tasks": 8, "test_tasks": 8}


@dataclasses.dataclass
class Settings:
    """Everything but the data; where a default is None, the script fills in the paper's."""

    ways: int = 5
    """N, classes a task tells apart (paper: 5 and 20)."""
    shots: int = 1
    """K, labelled images of each class (paper: 1 and 5)."""
    queries: int | None = None
    """Query images of each class in training (paper: as many as shots for Omniglot, 15 for
    mini-ImageNet)."""
    test_ways: int | None = None
    """Classes a task in validation and test, where not as in training."""
    test_shots: int | None = None
    """Labelled images of each class in validation and test, where not as in training."""
    test_queries: int | None = None
    """Query images of each class in validation and test (paper: as many as shots)."""
    method: str = simple_parsing.field(
        default="maml", choices=methods.names(), help="How to learn: one of `maml_tf.learners`."
    )
    set: list[str] = simple_parsing.field(
        default_factory=list,
        help="Settings of the method alone, NAME=VALUE: --set distance=cosine.",
    )
    network: NETWORKS | None = None
    """One of `maml_tf.models` (paper: conv4 and dense5 for Omniglot, conv4_max_pool for
    mini-ImageNet)."""
    filters: int | None = None
    """Filters of each convolution of the network (paper: 64 for Omniglot, 32 for mini-ImageNet)."""
    first_order: bool = common.switch("Leave the second derivatives out (section 5.2).")
    transductive: bool = simple_parsing.flag(
        default=True,
        negative_option="inductive",
        help="Normalise the queries of a task with their own mean and variance (paper), or, with "
        "--inductive, with those of the support set: each is answered by itself.",
    )
    recipe: Literal["paper", "modern"] = "paper"
    """The paper's training, or one that learns sooner: clipped gradients, a cosine schedule, more
    query images and smaller meta-batches; for photographs also a last layer that begins at zero and
    three inner steps at learned rates. Options given beside it hold."""
    iterations: int = 60_000
    """Meta-iterations in all (paper: 60,000); a finished run goes on when this is raised."""
    meta_batch: int | None = None
    """Tasks in a meta-iteration."""
    inner_steps: int | None = None
    """Inner steps in training."""
    steps_to_evaluate: int | None = None
    """Inner steps in the final evaluation."""
    inner_optimizer: Literal["sgd", "adam", "learned", "meta-sgd"] = "sgd"
    """Gradient descent (paper); Adam without momentum, as Reptile has it; or gradient descent with
    meta-learned rates, one for each tensor and step (MAML++) or for each number (Meta-SGD)."""
    step_size: float | None = None
    """Inner step size on the mean loss; where rates are learned, what they begin at."""
    last_layer_step_size: float | None = None
    """What the rates of the last layer begin at, where rates are learned: from a pretrained network
    it may take far larger steps than the others. As --step-size where not given."""
    last_layer: Literal["normal", "zero"] = "normal"
    """Initial weights of the last layer: N(0, 1) (paper), or 0, with which no class is preferred
    before the first inner step."""
    meta_optimizer: Literal["adam", "sgd"] = "adam"
    """The outer optimizer, Adam (paper) or plain gradient descent."""
    meta_learning_rate: float = 1e-3
    """Step size of the outer optimizer (paper: 0.001)."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Whether the outer step size stays (paper) or falls to 0 over all iterations."""
    clip_value: float | None = None
    """Clip each element of the meta-gradient (paper: 10 for mini-ImageNet)."""
    clip_norm: float | None = None
    """Scale the meta-gradient down to this norm where it is larger."""
    ema_momentum: float | None = None
    """Momentum of a moving average of the weights, which then is what is validated, tested and
    exported; 0.99 averages over some 100 meta-iterations. By default there is none."""
    epoch_iterations: int = 500
    """Meta-iterations from one checkpoint and validation to the next."""
    patience: int | None = None
    """Stop early after so many epochs without a better validation accuracy."""
    validation_tasks: int = 600
    """Validation tasks after each epoch, always the same ones."""
    test_tasks: int = 600
    """Test tasks of the final evaluation (paper: 600)."""
    start_from: str | None = None
    """A learner (.keras) whose weights to begin with, and whose inner rates where they are learned;
    a last layer of another size begins anew."""
    data_dir: str | None = None
    """Directory of TensorFlow Datasets; its own default where not given."""
    download: bool = common.switch("Download the data set where it is not there.")
    seed: int = 0
    """Seed of the initial weights and of all tasks."""
    output: str = "runs/images"
    """Run directory: checkpoints, history, results, figures, exported model."""
    fresh: bool = common.switch("Delete what the run directory holds and start anew.")
    tensorboard: bool = common.switch("Write logs for TensorBoard into the run directory.")
    quick: bool = common.switch("A tiny run of some seconds, to see that everything works.")


def task_options(settings):
    """The settings that every task family takes, but for the index of the first batch."""
    names = {field.name for field in dataclasses.fields(maml_tf.tasks.Episodes)} - {"start"}
    return {name: getattr(settings, name) for name in names}


def tested(settings):
    """Ways and shots of the test tasks, which results and titles are of."""
    return settings.test_ways or settings.ways, settings.test_shots or settings.shots


def check(settings):
    """Refuses options that exclude one another.

    Raises:
        SystemExit: naming them.
    """
    if settings.clip_value is not None and settings.clip_norm is not None:
        sys.exit(
            "Expected at most one of --clip-value and --clip-norm (the modern recipe clips the "
            f"norm). Received: --clip-value {settings.clip_value} --clip-norm "
            f"{settings.clip_norm}. Leave one out."
        )
    if settings.last_layer_step_size is not None and settings.inner_optimizer not in LEARNED:
        sys.exit(
            "Expected --last-layer-step-size beside --inner-optimizer learned or meta-sgd, which "
            "have a rate for each tensor. Received: --last-layer-step-size "
            f"{settings.last_layer_step_size} --inner-optimizer {settings.inner_optimizer}. Leave "
            "it out."
        )
    ways, _ = tested(settings)
    if ways > settings.ways and methods.takes_ways(settings.method):
        sys.exit(
            f"Expected --test-ways to be at most --ways for --method {settings.method}, whose "
            f"network has an output for each class. Received: --ways {settings.ways} --test-ways "
            f"{ways}. Give more --ways, or a method of embeddings such as prototypical."
        )


def refuse_unused(settings):
    """Refuses options that the method has no use for, in place of passing over them.

    To be called before what is not given is filled in.

    Raises:
        SystemExit: naming them.
    """
    fields = {f.name: f.default for f in dataclasses.fields(Settings)}
    for name, default in fields.items():
        value = getattr(settings, name)
        if methods.uses(settings.method, name) or value == default:
            continue
        option = options.option(name) + ("" if value is True else f" {value}")
        sys.exit(
            f"Expected no {options.option(name)} for --method {settings.method}, which has no use "
            f"for it. Received: {option}. Leave it out."
        )


def recipes_of_method(recipes):
    """Recipes without what the method on the command line has no use for.

    Args:
        recipes: dict of dicts of settings by the name of a recipe.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--method", nargs="?")
    method = first.parse_known_args()[0].method
    if method not in methods.names():  # the default, or what the parser of the script refuses
        return recipes
    return {
        recipe: {name: value for name, value in given.items() if methods.uses(method, name)}
        for recipe, given in recipes.items()
    }


def fill_in(settings, **choices):
    """The settings with `choices` in the place of None, if none is given in vain."""
    refuse_unused(settings)
    unset = {name: c for name, c in choices.items() if getattr(settings, name) is None}
    return dataclasses.replace(settings, **unset)


def image_shape(tasks):
    """Height, width and channels of a data set's images."""
    return tuple(tasks.element_spec[0]["query_x"].shape[2:])


def may_change(settings, free=FREE):
    """Names of settings that a continuation may change: a cosine ends where it was to end."""
    return [name for name in free if name != "iterations" or settings.schedule != "cosine"]


def run(
    settings,
    make_tasks,
    *,
    title,
    paper=None,
    figure_queries=None,
    hint="",
    free=FREE,
    terms=None,
    make_pictures=None,
    backbone=None,
):
    """All that a script does once its settings are known.

    Args:
        settings: a `Settings` without None where there must be a number.
        make_tasks: function of the settings and the index of the first training batch, to
            `(train, validation, test)`.
        title: str, what is learned.
        paper: accuracy and interval in per cent that the paper reports, or None.
        figure_queries: int or None, query images of each class of the task that is drawn; None
            stands for those of the test.
        hint: str, how the script's options say where the data are.
        free: names of settings that a continuation may change.
        terms: str or None, what the data's owners allow their models to be used for: the exported
            model's card says it.
        make_pictures: as `make_tasks`, of pictures, where those are of features of a backbone.
        backbone: function without arguments, the `keras.Model` that made these features.

    Raises:
        SystemExit: the data are not there or do not fit the settings.
    """
    common.use_threads_for_tasks()
    check(settings)
    try:
        tasks = make_tasks(settings, 0)
    except (OSError, ValueError, ImportError) as error:
        glyphs = "" if getattr(settings, "data", "") == "glyphs" else _NO_DATA
        sys.exit(" ".join(part for part in (str(error), hint, glyphs) if part))
    try:
        # Before the run directory is made, to hear that the network takes no such images.
        image_learners.make_learner(settings, image_shape(tasks[0]))
    except ValueError as error:
        sys.exit(str(error))
    folder, learner, iterations = train(settings, make_tasks, tasks, free)
    make_pictures = make_pictures or make_tasks
    figure_tasks = tasks
    if figure_queries:
        figure_tasks = make_pictures(dataclasses.replace(settings, test_queries=figure_queries), 0)
    elif backbone is not None:
        figure_tasks = make_pictures(settings, 0)
    facts = {"title": title, "ways": tested(settings)[0], "iterations": iterations, "paper": paper}
    whole = None if backbone is None else heads.backbones.WithBackbone(backbone(), learner)
    reporting.report(settings, folder, learner, tasks, figure_tasks, whole, terms=terms, **facts)


def train(settings, make_tasks, tasks, free=FREE):
    """Trains, or goes on, or finds a finished run.

    Args:
        settings: a `Settings` without None where there must be a number.
        make_tasks: as in `run`.
        tasks: what it gives from the first batch on.
        free: names of settings that a continuation may change.

    Returns:
        The run directory, the learner that was best in validation, and meta-iterations done.
    """
    training, validation, _ = tasks
    shape = image_shape(training)
    folder = runs.open_run(settings, may_change(settings, free))
    best = None if validation is None else "val_accuracy"
    trained = common.train(
        lambda: image_learners.make_learner(settings, shape),
        lambda start: make_tasks(settings, start)[0] if start else training,
        folder,
        iterations=settings.iterations,
        epoch_iterations=settings.epoch_iterations,
        validation=validation,
        best=best,
        patience=settings.patience,
        tensorboard=settings.tensorboard,
    )
    learner = checkpoints.load_best(folder, trained.jit_compile) if best else trained
    return folder, learner, int(trained.optimizer.iterations)
