"""Series of many things, each forecast from its own beginning: a meta-learner beside simple ways.

Trains MAML and one network for all series on the series of a CSV or Parquet file, and compares on
series that neither has seen, from their beginnings: MAML; that network as it is, shifted by each
series' mean residual, and fine-tuned on each series as MAML is; a linear autoregression for each
series; the seasonal naive forecast, which is what was one season before. What is compared is MASE,
the mean absolute error by that of the seasonal naive forecast within the beginning. It says which
one wins, draws a figure and exports MAML:
python -m train.series --data loads.csv --group meter --time hour --value load
"""

import dataclasses
import functools

import keras
import numpy as np

import maml_tf
from maml_tf import evaluation
from maml_tf.tasks import series_tables
from maml_tf.tasks.data import tables
from train import by_group, common, comparison, options

QUICK = {
    "iterations": 40,
    "epoch_iterations": 20,
    "hidden": (16,),
    "shots": 6,
    "inner_steps": 2,
    "test_inner_steps": 5,
    "fine_tuning": (0.03,),
    "penalties": (1.0,),
    "output": "runs/series-quick",
}
ERROR = "mean_absolute_error"


@dataclasses.dataclass
class Settings(by_group.Settings):
    """The defaults are for hours, whose season is a day."""

    wide: bool = common.switch("A row is a series: its name, then its points.")
    group: str = ""
    """Column that says which series a row belongs to."""
    time: str = ""
    """Column of numbers or dates that orders the points; the order of the rows without it."""
    value: tuple[str, ...] = ()
    """Column to forecast, or several that a window shows."""
    targets: tuple[str, ...] = ()
    """Which of several columns to forecast; all where none are given."""
    inputs: int = 72
    """Points that a window shows."""
    horizon: int = 24
    """Points to forecast."""
    season: int = 24
    """Points of a season."""
    beginning: int = 168
    """Points of a series that are known when it is adapted to."""
    shots: int = 24
    """Windows of the support, spread over the beginning."""
    queries: int = 4
    """Forecasts that follow one another, each from what was true until then."""
    leave_out_short: bool = common.switch("Leave out series that are too short.")
    hidden: tuple[int, ...] = (128, 128)
    """Units of each hidden layer."""
    inner_steps: int = 5
    """Inner steps in training."""
    step_size: float = 0.01
    """Inner step size in training, of series that are divided by their deviation."""
    test_inner_steps: int = 20
    """Gradient steps at test, at most: how many is chosen on validation series."""
    fine_tuning: tuple[float, ...] = (0.003, 0.01, 0.03)
    """Step sizes that fine-tuning the pooled model takes the best of, on validation series."""
    penalties: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1000.0)
    """Penalties that the autoregression takes the best of, on validation series."""
    output: str = "runs/series"
    """Run directory: checkpoints, history, results, figures, exported model."""


def drawn():
    """Series for --quick: 40 days' rhythms of a shape, a size and a trend of their own."""
    random, hours = np.random.default_rng(0), np.arange(400)
    size = 10 ** random.uniform(0, 4, [40, 1])
    phase, second = random.uniform(0, 6, [40, 1]), random.uniform(0, 1, [40, 1])
    day = 2 * np.pi * hours / 24
    shape = np.sin(day + phase) + second * np.sin(2 * day) + random.normal(0, 0.05, [40, 1]) * day
    return dict(enumerate(size * (5 + shape + random.normal(0, 0.2, shape.shape))))


def read(settings):
    """Series by name: arrays `[time]`, or `[time, channels]` of several columns."""
    if settings.quick and not settings.data:
        return drawn()
    if not settings.data:
        options.refuse("Expected --data FILE. Received: none. Give a file, or --quick to see it.")
    if settings.wide:
        beside = {name: getattr(settings, name) for name in ("group", "time", "value", "targets")}
        given = [f"{options.option(name)} {value}" for name, value in beside.items() if value]
        if given:
            options.refuse(
                "Expected no names of columns beside --wide, where a row is a series. Received: "
                f"{', '.join(given)}. Leave them out, or --wide."
            )
        rows = tables.open_table(settings.data).frame.itertuples(index=False)
        data = {str(row[0]): np.array(row[1:], np.float64) for row in rows}
        found = series_tables.read(data, None, None, None, None)
    elif not settings.value:
        options.refuse("Expected --value COLUMN, or --wide. Received: neither. Give one.")
    else:
        columns = settings.value[0] if len(settings.value) == 1 else list(settings.value)
        named = (columns, settings.group or None, settings.time or None)
        found = series_tables.read(settings.data, None, *named)
    return dict(zip(found.names.tolist(), found.values, strict=True))


def channels(settings):
    """Which of several channels are forecast: a list, or None for all."""
    unknown = [name for name in settings.targets if name not in settings.value]
    if unknown or settings.targets and len(settings.value) == 1:
        options.refuse(
            f"Expected --targets to be some of several columns of --value, {settings.value}. "
            f"Received: --targets {' '.join(settings.targets)}. Give these, or leave it out."
        )
    return [settings.value.index(name) for name in settings.targets] or None


class SeriesExperiment(by_group.Experiment):
    """See the module."""

    groups = "series"
    spoken = {
        "small='leave_out'": "--leave-out-short",
        "`values`": "--value",
        "`groups, time and labels`": "--group and --time",
        "name by `groups`": "name by --group",
        "`time`": "--time",
        "`split`": "--shares",
        "`beginning`": "--beginning",
        "`queries`": "--queries",
    }

    def __init__(self, settings):
        super().__init__(settings)
        self.what = f"{settings.horizon} points"
        if not settings.season <= settings.inputs or settings.season >= settings.beginning:
            options.refuse(
                "Expected --season to be at most --inputs, and below --beginning. Received: "
                f"--season {settings.season} --inputs {settings.inputs} --beginning "
                f"{settings.beginning}. Give a shorter season."
            )
        self.targets = channels(settings)
        found = read(settings)
        # Of what repeats every season exactly there is no MASE.
        known = {n: one[: settings.beginning] for n, one in found.items()}
        flat = [n for n, one in known.items() if len(one) > settings.season]
        flat = [n for n in flat if not self.naive_error(known[n])]
        if flat:
            print(f"Left out, because they repeat themselves exactly: {', '.join(map(str, flat))}.")
        self.series = {name: one for name, one in found.items() if name not in flat}

    def naive_error(self, beginning):
        """The mean absolute error of the seasonal naive forecast within `[points, ...]`."""
        known = beginning if self.targets is None else beginning[:, self.targets]
        return np.abs(known[self.settings.season :] - known[: -self.settings.season]).mean()

    def known(self):
        """Points."""
        return {self.settings.beginning: f"{self.settings.beginning} known points"}

    def make_tasks(self, seed, known=None, start=0):
        """Tasks of one seed; validation and test have each series once, from its beginning."""
        settings = self.settings
        return maml_tf.tasks.windows(
            self.series,
            inputs=settings.inputs,
            horizon=settings.horizon,
            beginning=known or settings.beginning,
            shots=settings.shots,
            queries=settings.queries,
            targets=self.targets,
            split=settings.shares,
            split_seed=seed,
            small="leave_out" if settings.leave_out_short else "raise",
            meta_batch=settings.meta_batch,
            seed=seed,
            start=start,
            validation_tasks=len(self.series),
            test_tasks=len(self.series),
        )

    def make_network(self, sets, seed):
        """What was one season before, and what hidden layers make of the window: 0 at first."""
        settings, shape = self.settings, sets[0].element_spec[0]["query_x"].shape[2:]
        x = keras.Input(shape)
        ahead = settings.inputs - settings.season + np.arange(settings.horizon) % settings.season
        before = keras.ops.take(x, ahead.tolist(), axis=1)
        if self.targets is not None:
            before = keras.ops.take(before, self.targets, axis=2)
        hidden = keras.layers.Flatten()(x)
        for i, units in enumerate(settings.hidden):
            weights = keras.initializers.GlorotUniform(seed=100 * seed + i)
            hidden = keras.layers.Dense(units, "relu", kernel_initializer=weights)(hidden)
        outputs = before.shape[1:]
        change = keras.layers.Dense(int(np.prod(outputs)), kernel_initializer="zeros")(hidden)
        return keras.Model(x, before + keras.layers.Reshape(outputs)(change))

    def loss(self, sets):
        """The series are of one size, so that its gradient is."""
        return "mae", 1.0

    def compared(self, sets):
        """MASE."""
        size = sets[2].element_spec[1].shape[0]

        def mase(result, split):
            batches = range(-(-result.num_tasks // size))
            known = np.concatenate([sets.beginnings(split, batch) for batch in batches])
            error = np.array([self.naive_error(one) for one in known[: result.num_tasks]])
            return evaluation.Result("MASE", result.values / error[:, np.newaxis])

        return comparison.Comparison(sets, ERROR, mase)

    def simple_ways(self, compared, pooled):
        """What a forecaster would try first."""
        naive = functools.partial(
            evaluation.seasonal_naive, season=self.settings.season, targets=self.targets
        )
        ridges = {
            f"penalty {p:g}": functools.partial(evaluation.ridge, penalty=p, metric=ERROR)
            for p in self.settings.penalties
        }
        residual = functools.partial(evaluation.mean_residual, pooled, metric=ERROR)
        return {
            "pooled + mean residual": compared.measure({"": residual}),
            "autoregression for each series": compared.measure(ridges),
            "seasonal naive": compared.measure({"": naive}),
        }

    def card(self, sets):
        """What a window is."""
        settings = self.settings
        card = {"data": "windows of series, scaled by mean and deviation of what is known"}
        card |= {"inputs": settings.inputs, "horizon": settings.horizon}
        forecast = list(settings.targets or settings.value)
        return card | ({"value": list(settings.value), "targets": forecast} if forecast else {})


def main():
    """Trains, compares, draws and exports."""
    settings = common.parse(Settings, "python -m train.series", QUICK)
    by_group.run(SeriesExperiment, settings)


if __name__ == "__main__":
    common.run(main)
