"""A table whose rows belong to groups: a meta-learner beside what a statistician would try first.

Trains MAML and one network for all groups on the groups of a CSV or Parquet file, and compares on
groups that neither has seen, after 5, 10 and 20 labelled rows of each: MAML; that network as it is,
shifted by each group's mean residual, and fine-tuned on each group as MAML is; a ridge regression
for each group; the mean of its labels. It says which one wins, draws figures and exports MAML:
python -m train.tabular --data patients.csv --target score --group patient
"""

import dataclasses
import functools

import keras
import numpy as np

import maml_tf
from maml_tf import evaluation
from maml_tf.tasks.data import tables
from train import by_group, common, comparison, options

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


@dataclasses.dataclass
class Settings(by_group.Settings):
    """Step sizes and clipping are in units of the target's standard deviation."""

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
    """One of the features: a line and a polynomial for each group in it alone are compared, too."""
    kind: str = "auto"
    """regression or classification; auto where the target's values tell."""
    leave_out_small: bool = common.switch("Leave groups with too few rows out.")
    shots: int = 10
    """Labelled rows of a group in training."""
    queries: int = 20
    """Rows of a group that training asks for."""
    test_shots: tuple[int, ...] = (5, 10, 20)
    """Labelled rows of a group in the test; each number is evaluated."""
    test_tasks: int = 600
    """Test tasks, shared out evenly to the held-out groups."""


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
    """A `tables.Table`, read once, with columns of 0 and 1 in the place of categories."""
    if settings.quick and not settings.data:
        settings.target, settings.group = "response", "person"
        settings.line = settings.line or "dose"
        return tables.open_table(drawn())
    for name in ("data", "target", "group"):
        if not getattr(settings, name):
            options.refuse(
                f"Expected --{name}. Received: none. Give --data FILE.csv --target COLUMN "
                "--group COLUMN, or --quick to see it work on drawn data."
            )
    table = tables.open_table(settings.data)
    tables.check_columns(table, settings.categories, "categories")
    if not settings.categories:
        return table
    import pandas

    frame = pandas.get_dummies(table.frame, columns=list(settings.categories))
    if settings.features:
        made = [name for name in frame.columns if name not in table.columns]
        kept = [name for name in settings.features if name not in settings.categories]
        settings.features = (*kept, *made)
    return dataclasses.replace(table, frame=frame)


class Tabular(by_group.Experiment):
    """See the module."""

    free = (*by_group.FREE, "test_shots", "line")
    spoken = {
        "small='leave_out'": "--leave-out-small",
        "kind=": "--kind ",
        "`kind`": "--kind",
        "`pandas.get_dummies(frame, columns=[...])`": "--categories",
        "`features=[...]`": "--features",
        "`features`": "--features",
        "`time=`": "--time",
        "`time`": "--time",
        "`y`": "--target",
        "`groups`": "--group",
        "`split`": "--shares",
        "`test_shots`": "--test-shots",
        "`test_queries`": "--queries",
        "`shots`": "--shots",
        "`queries`": "--queries",
    }

    def __init__(self, settings):
        super().__init__(settings)
        self.table, self.what = read(settings), settings.target
        columns = self.make_tasks(settings.seed).columns
        if settings.line and settings.line not in columns:
            options.refuse(
                f"Expected --line to be one of the features, {columns}. Received: --line "
                f"{settings.line}. Give one of these."
            )

    def known(self):
        """Labelled rows."""
        return {n: f"{n} labelled row{'' if n == 1 else 's'}" for n in self.settings.test_shots}

    def make_tasks(self, seed, known=None, start=0):
        """Tasks of one seed."""
        settings = self.settings
        return maml_tf.tasks.groups(
            self.table,
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
            test_shots=known,
            meta_batch=settings.meta_batch,
            seed=seed,
            start=start,
            validation_tasks=settings.test_tasks,
            test_tasks=settings.test_tasks,
        )

    def make_network(self, sets, seed):
        """Normalisation, hidden layers, an output in the target's units or one for each class."""
        classes = sets.labels is not None
        units = (*self.settings.hidden, len(sets.labels) if classes else 1)
        layers = [keras.Input([len(sets.columns)]), sets.normalization()]
        for i, size in enumerate(units):
            weights = keras.initializers.GlorotUniform(seed=100 * seed + i)
            activation = "relu" if i < len(units) - 1 else None
            layers.append(keras.layers.Dense(size, activation, kernel_initializer=weights))
        return keras.Sequential(layers if classes else [*layers, sets.denormalization()])

    def loss(self, sets):
        """A squared error is in squares of the target's units, and so is its gradient."""
        if sets.labels is not None:
            return comparison.CROSS_ENTROPY, 1.0
        return "mse", float(sets.target_scale()[1].item() ** 2)

    def compared(self, sets):
        """Root mean squared errors, or accuracies."""
        if sets.labels is not None:
            return comparison.Comparison(sets, "accuracy")
        return comparison.Comparison(sets, "mean_squared_error", comparison.root)

    def simple_ways(self, compared, pooled):
        """What a statistician would try first."""
        sets, line = compared.sets, self.settings.line
        layer = sets.normalization()
        found = {
            "ridge for each group": compared.measure(self.ridges(layer)),
            "mean of the labels": compared.measure({"": evaluation.support_mean}),
        }
        if sets.labels is None:
            residual = functools.partial(evaluation.mean_residual, pooled)
            found["pooled + mean residual"] = compared.measure({"": residual})
        if line:
            column = sets.columns.index(line)
            alone = lambda x: layer(x)[:, column : column + 1]  # noqa: E731
            if len(sets.columns) > 1:
                found[f"ridge on {line} alone"] = compared.measure(self.ridges(alone))
            curves = {}
            for degree in (2, 3):
                curves |= self.ridges(alone, f"degree {degree}, ", degree=degree)
            found[f"polynomial in {line} alone"] = compared.measure(curves)
        return found

    def ridges(self, normalization, chosen="", **more):
        """Ridge regressions by penalty."""
        made = functools.partial(evaluation.ridge, normalization=normalization, **more)
        return {
            f"{chosen}penalty {p:g}": functools.partial(made, penalty=p)
            for p in self.settings.penalties
        }

    def card(self, sets):
        """What a row is."""
        return {
            "data": f"rows by {self.settings.group}",
            "results": "results.json, of the run directory",
            "target": self.settings.target,
            "columns": sets.columns,
            "labels": None if sets.labels is None else sets.labels.tolist(),
        }


def main():
    """Trains, compares, draws and exports."""
    settings = common.parse(Settings, "python -m train.tabular", QUICK)
    by_group.run(Tabular, settings)


if __name__ == "__main__":
    common.run(main)
