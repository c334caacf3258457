"""A table whose rows belong to groups: a meta-learner beside what a statistician would try first.

Trains MAML and one network for all groups on the groups of a CSV or Parquet file, and compares on
groups that neither has seen, after 5, 10 and 20 labelled rows of each: MAML; that network as it is,
shifted by each group's mean residual, and fine-tuned on each group as MAML is; a ridge regression
for each group; the mean of its labels. It says which one wins, draws figures and exports MAML:
python -m train.tabular --data patients.csv --target score --group patient
"""

import dataclasses
import functools
import math
import sys

import keras
import numpy as np

import maml_tf
from maml_tf import evaluation, files, plots, serving
from maml_tf.tasks.data import tables
from train import checkpoints, common, comparison, options

QUICK = {
    "iterations": 40,
    "epoch_iterations": 20,
    "inner_steps": 3,
    "test_inner_steps": 10,
    "shots": 5,
    "test_shots": (5,),
    "fine_tuning": (0.1,),
    "penalties": (1.0,),
    "test_tasks": 40,
    "hidden": (16,),
    "output": "runs/tabular-quick",
}
# What may change between a run and its continuation: nothing that training depends on.
FREE = ("iterations", "test_shots", "test_inner_steps", "fine_tuning", "penalties")
FREE += ("line", "seeds")


@dataclasses.dataclass
class Settings:
    """Step sizes and clipping are in units of the target's standard deviation."""

    data: str = ""
    """CSV or Parquet file with a line of column names; with --quick one is drawn."""
    target: str = ""
    """Column to predict."""
    group: str = ""
    """Column that says which group (person, machine, shop) a row belongs to."""
    features: tuple[str, ...] = ()
    """Columns that the model sees; all others where none are given."""
    categories: tuple[str, ...] = ()
    """Columns of a few words, each of which becomes columns of 0 and 1."""
    time: str = ""
    """Column that orders rows: the first ones of a group are labelled, later ones asked for."""
    line: str = ""
    """One of the features: a ridge for each group on it alone stands in the table, too."""
    kind: str = "auto"
    """regression or classification; auto where the target's values tell."""
    shares: tuple[float, ...] = (0.6, 0.15, 0.25)
    """Shares of the groups in training, validation and test; another split for each seed."""
    leave_out_small: bool = common.switch("Leave groups with too few rows out.")
    shots: int = 10
    """Labelled rows of a group in training."""
    queries: int = 20
    """Rows of a group that training asks for."""
    test_shots: tuple[int, ...] = (5, 10, 20)
    """Labelled rows of a group in the test; each number is evaluated."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of each hidden layer."""
    inner_steps: int = 10
    """Inner steps in training."""
    step_size: float = 0.05
    """Inner step size in training."""
    clip_norm: float = 10.0
    """The inner gradient is scaled down to this norm where it is larger."""
    iterations: int = 3000
    """Meta-iterations in all; a finished run goes on when this is raised."""
    epoch_iterations: int = 500
    """Meta-iterations from one checkpoint to the next."""
    meta_batch: int = 8
    """Tasks in a meta-iteration."""
    meta_learning_rate: float = 1e-3
    """Step size of Adam in the outer loop and in the training of the pooled model."""
    test_inner_steps: int = 30
    """Gradient steps at test, at most: how many is chosen on validation groups."""
    fine_tuning: tuple[float, ...] = (0.03, 0.1, 0.3)
    """Step sizes that fine-tuning the pooled model takes the best of, on validation groups."""
    penalties: tuple[float, ...] = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
    """Penalties that the ridge takes the best of, on validation groups."""
    test_tasks: int = 600
    """Test tasks, shared out evenly to the held-out groups."""
    no_xla: bool = common.switch("Do not compile with XLA: slower, and other rounding.")
    seeds: int = 1
    """How many runs, each with other held-out groups and other initial weights."""
    seed: int = 0
    """Seed of the first of them."""
    output: str = "runs/tabular"
    """Run directory: checkpoints, history, results, figures, exported model."""
    fresh: bool = common.switch("Delete what the run directory holds and start anew.")
    quick: bool = common.switch("A tiny run of some seconds on drawn data.")


def drawn():
    """A table for --quick: 40 persons with a level and a slope of their own."""
    import pandas

    random = np.random.default_rng(0)
    person, dose = np.repeat(np.arange(40), 30), random.uniform(-1, 1, 1200).round(3)
    level, slope = random.normal(50, 5, 40), random.choice([-4.0, 4.0], 40)
    response = level[person] + slope[person] * dose + random.normal(0, 0.5, 1200)
    columns = {"person": person, "dose": dose, "weight": random.normal(70, 9, 1200).round(1)}
    return pandas.DataFrame({**columns, "response": response.round(3)})


def read(settings):
    """The table, with columns of 0 and 1 in the place of categories."""
    if settings.quick and not settings.data:
        settings.target, settings.group = "response", "person"
        settings.line = settings.line or "dose"
        return drawn()
    for name in ("data", "target", "group"):
        if not getattr(settings, name):
            options.refuse(
                f"Expected --{name}. Received: none. Give --data FILE.csv --target COLUMN "
                "--group COLUMN, or --quick to see it work on drawn data."
            )
    table = tables.open_table(settings.data)
    tables.check_columns(table, settings.categories, "categories")
    import pandas

    frame = pandas.get_dummies(table.frame, columns=list(settings.categories))
    if settings.features and settings.categories:
        made = [name for name in frame.columns if name not in table.columns]
        kept = [name for name in settings.features if name not in settings.categories]
        settings.features = (*kept, *made)
    return frame if settings.categories else settings.data


def make_tasks(settings, table, seed, shots, start=0):
    """Tasks of one seed, whose test has so many labelled rows."""
    return maml_tf.tasks.groups(
        table,
        settings.target,
        settings.group,
        features=settings.features or None,
        time=settings.time or None,
        kind=settings.kind,
        split=settings.shares,
        split_seed=seed,
        small="leave_out" if settings.leave_out_small else "raise",
        shots=settings.shots,
        queries=settings.queries,
        test_shots=shots,
        meta_batch=settings.meta_batch,
        seed=seed,
        start=start,
        validation_tasks=settings.test_tasks,
        test_tasks=settings.test_tasks,
    )


def make_network(settings, sets, seed):
    """Normalisation, hidden layers, an output in the target's units or one for each class."""
    classes = sets.labels is not None
    outputs = len(sets.labels) if classes else len(sets.target_scale()[0])
    layers = [keras.Input([len(sets.columns)]), sets.normalization()]
    for i, units in enumerate((*settings.hidden, outputs)):
        weights = keras.initializers.GlorotUniform(seed=100 * seed + i)
        activation = "relu" if i < len(settings.hidden) else None
        layers.append(keras.layers.Dense(units, activation, kernel_initializer=weights))
    return keras.Sequential(layers if classes else [*layers, sets.denormalization()])


def make_learner(settings, sets, network, inner_steps, step_size):
    """A compiled learner; its squared error is in the target's units, and so are its gradients."""
    unit = 1.0 if sets.labels is not None else float(np.mean(sets.target_scale()[1] ** 2))
    optimizer = maml_tf.inner_optimizers.SGD(
        step_size / unit, global_clipnorm=settings.clip_norm * unit
    )
    learner = maml_tf.MAML(network, optimizer, inner_steps)
    loss = "mse" if sets.labels is None else comparison.CROSS_ENTROPY
    learner.compile(
        keras.optimizers.Adam(settings.meta_learning_rate),
        loss,
        jit_compile=not settings.no_xla,
        steps_per_execution=math.gcd(100, settings.epoch_iterations),
    )
    return learner


def train(settings, table, seed, folder):
    """MAML and the pooled model of one seed, of the epoch that was best on validation groups."""
    learners = {}
    for name, steps in (("MAML", settings.inner_steps), ("pooled", 0)):
        print(f"{name}, seed {seed}:")
        sets = make_tasks(settings, table, seed, settings.shots)
        place = folder / f"seed_{seed}" / name.lower()

        def make(sets=sets, steps=steps):
            network = make_network(settings, sets, seed)
            return make_learner(settings, sets, network, steps, settings.step_size)

        common.train(
            make,
            lambda start: make_tasks(settings, table, seed, settings.shots, start)[0],
            place,
            iterations=settings.iterations,
            epoch_iterations=settings.epoch_iterations,
            validation=sets[1],
            best="-val_loss",
        )
        learners[name] = checkpoints.load_best(place)
    return learners


def compare(settings, table, seed, learners, shots):
    """Every way, measured on the groups that this seed holds out: `comparison.Measured` by name."""
    sets = make_tasks(settings, table, seed, shots)
    if sets.labels is None:
        compared = comparison.Comparison(sets, "mean_squared_error", comparison.root)
    else:
        compared = comparison.Comparison(sets, "accuracy")
    measure = compared.measure
    stepped = functools.partial(compared.measure_steps, steps=settings.test_inner_steps)

    def tuned(step_size):
        return make_learner(settings, sets, learners["pooled"].model, 1, step_size)

    def ridge(normalization, penalty):
        return functools.partial(evaluation.ridge, penalty=penalty, normalization=normalization)

    layer = sets.normalization()
    found = {
        "MAML": stepped({settings.step_size: learners["MAML"]}),
        "pooled, fine-tuned": stepped({size: tuned(size) for size in settings.fine_tuning}),
        "pooled": measure(
            {None: lambda t, n: evaluation.evaluate(tuned(1.0), t, n, 0, compared.metric)}
        ),
        "ridge for each group": measure({p: ridge(layer, p) for p in settings.penalties}),
        "mean of the labels": measure({None: evaluation.support_mean}),
    }
    if sets.labels is None:
        pooled = learners["pooled"].model
        found["pooled + mean residual"] = measure(
            {None: lambda t, n: evaluation.mean_residual(pooled, t, n)}
        )
    if settings.line:
        column = sets.columns.index(settings.line)
        line = {p: ridge(lambda x: layer(x)[:, column : column + 1], p) for p in settings.penalties}
        found[f"ridge on {settings.line} alone"] = measure(line)
    return found


def report(settings, folder, found, sets):
    """Prints, writes and draws what came out, by number of labelled rows."""
    content = {"settings": dataclasses.asdict(settings), "iterations": settings.iterations}
    content["test"] = {}
    for shots, by_seed in found.items():
        merged = comparison.merge(by_seed)
        known = f"{shots} labelled row{'' if shots == 1 else 's'}"
        sentence = comparison.verdict(merged, "MAML", known)
        print(f"\n{settings.target}. {comparison.table(merged, known)}\n\n{sentence}")
        content["test"][shots] = {"verdict": sentence, **comparison.summary(merged)}
        figure = plots.error_against_steps(
            {name: one.result for name, one in merged.items()},
            title=f"{settings.target} of unseen groups, {known}",
        )
        common.save_figure(figure, folder / f"error_{shots}_rows.png")
    content["left_out"] = {part: names.tolist() for part, names in sets.left_out.items()}
    common.write_json(folder / "results.json", content)


def export(settings, folder, learner, sets):
    """Writes MAML of the first seed as a model that adapts where it is served."""
    labels = None if sets.labels is None else sets.labels.tolist()
    card = {"data": f"rows by {settings.group}", "results": "results.json, of the run directory"}
    card |= {"target": settings.target, "columns": sets.columns, "labels": labels}
    with files.whole_folder(folder / "saved_model", replace=True) as beside:
        serving.export(learner, beside, inner_steps=settings.test_inner_steps, card=card)


def main():
    """Trains, compares, draws and exports."""
    settings = common.parse(Settings, "python -m train.tabular", QUICK)
    common.use_threads_for_tasks()
    try:
        table = read(settings)
        sets = make_tasks(settings, table, settings.seed, max(settings.test_shots))
        if sets[1] is None:
            options.refuse(
                "Expected validation groups, to choose settings on. Received: "
                f"--shares {settings.shares}. Give them a share."
            )
        tables_of = [settings.line] if settings.line else []
        if not set(tables_of) <= set(sets.columns):
            options.refuse(
                f"Expected --line to be one of the features, {sets.columns}. Received: --line "
                f"{settings.line}. Give one of these."
            )
    except (ValueError, TypeError, ImportError, FileNotFoundError) as error:
        sys.exit(str(error))
    folder = common.open_run(settings, FREE)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    learners = {seed: train(settings, table, seed, folder) for seed in seeds}
    found = {
        shots: [compare(settings, table, seed, learners[seed], shots) for seed in seeds]
        for shots in settings.test_shots
    }
    report(settings, folder, found, sets)
    export(settings, folder, learners[settings.seed]["MAML"], sets)
    print(f"\nResults, figures and the exported model are in {folder}.")


if __name__ == "__main__":
    common.run(main)
