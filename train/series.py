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
import math
import sys

import keras
import numpy as np

import maml_tf
from maml_tf import evaluation, files, plots, serving
from maml_tf.tasks import series_tables
from maml_tf.tasks.data import tables
from train import checkpoints, common, comparison, options

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
# What may change between a run and its continuation: nothing that training depends on.
FREE = ("iterations", "test_inner_steps", "fine_tuning", "penalties", "seeds")
ERROR = "mean_absolute_error"


@dataclasses.dataclass
class Settings:
    """The defaults are for hours, whose season is a day."""

    data: str = ""
    """CSV or Parquet file with a row for each point; with --quick series are drawn."""
    wide: bool = common.switch("A row is a series: its name, then its points.")
    group: str = ""
    """Column that says which series a row belongs to."""
    time: str = ""
    """Column of numbers or dates that orders the points; the order of the rows without it."""
    value: str = ""
    """Column to forecast."""
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
    shares: tuple[float, ...] = (0.6, 0.15, 0.25)
    """Shares of the series in training, validation and test; another split for each seed."""
    leave_out_short: bool = common.switch("Leave out series that are too short.")
    hidden: tuple[int, ...] = (128, 128)
    """Units of each hidden layer."""
    inner_steps: int = 5
    """Inner steps in training."""
    step_size: float = 0.01
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
    test_inner_steps: int = 20
    """Gradient steps at test, at most: how many is chosen on validation series."""
    fine_tuning: tuple[float, ...] = (0.003, 0.01, 0.03)
    """Step sizes that fine-tuning the pooled model takes the best of, on validation series."""
    penalties: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1000.0)
    """Penalties that the autoregression takes the best of, on validation series."""
    no_xla: bool = common.switch("Do not compile with XLA: slower, and other rounding.")
    seeds: int = 1
    """How many runs, each with other held-out series and other initial weights."""
    seed: int = 0
    """Seed of the first of them."""
    output: str = "runs/series"
    """Run directory: checkpoints, history, results, figures, exported model."""
    fresh: bool = common.switch("Delete what the run directory holds and start anew.")
    quick: bool = common.switch("A tiny run of some seconds on drawn data.")


def drawn():
    """Series for --quick: 40 days' rhythms of a shape, a size and a trend of their own."""
    random, hours = np.random.default_rng(0), np.arange(400)
    size = 10 ** random.uniform(0, 4, [40, 1])
    phase, second = random.uniform(0, 6, [40, 1]), random.uniform(0, 1, [40, 1])
    day = 2 * np.pi * hours / 24
    shape = np.sin(day + phase) + second * np.sin(2 * day) + random.normal(0, 0.05, [40, 1]) * day
    return dict(enumerate(size * (5 + shape + random.normal(0, 0.2, shape.shape))))


def read(settings):
    """Series by name, without those whose beginning repeats every season exactly: no MASE there."""
    if settings.quick and not settings.data:
        found = drawn()
    elif not settings.data:
        options.refuse("Expected --data FILE. Received: none. Give a file, or --quick to see it.")
    elif settings.wide:
        frame = tables.open_table(settings.data).frame
        found = {
            str(row[0]): np.array(row[1:], np.float64) for row in frame.itertuples(index=False)
        }
        data = series_tables.read(found, None, None, None, None)
        found = dict(zip(data.names.tolist(), data.values, strict=True))
    else:
        if not settings.value:
            options.refuse("Expected --value COLUMN, or --wide. Received: neither. Give one.")
        named = (settings.value, settings.group or None, settings.time or None)
        data = series_tables.read(settings.data, None, *named)
        found = dict(zip(data.names.tolist(), data.values, strict=True))
    known = {name: one[: settings.beginning] for name, one in found.items()}
    flat = [name for name, one in known.items() if not naive_error(one, settings.season)]
    if flat:
        print(f"Left out, because they repeat themselves exactly: {', '.join(map(str, flat))}.")
    return {name: one for name, one in found.items() if name not in flat}


def naive_error(beginning, season):
    """The mean absolute error of the seasonal naive forecast within `[..., points]`."""
    return np.abs(beginning[..., season:] - beginning[..., :-season]).mean(axis=-1)


def make_tasks(settings, series, seed, start=0):
    """Tasks of one seed; validation and test have each series once, from its beginning."""
    return maml_tf.tasks.windows(
        series,
        inputs=settings.inputs,
        horizon=settings.horizon,
        beginning=settings.beginning,
        shots=settings.shots,
        queries=settings.queries,
        split=settings.shares,
        split_seed=seed,
        small="leave_out" if settings.leave_out_short else "raise",
        meta_batch=settings.meta_batch,
        seed=seed,
        start=start,
        validation_tasks=len(series),
        test_tasks=len(series),
    )


def make_network(settings, seed):
    """What was one season before, and what hidden layers make of the window: nothing at first."""
    x = keras.Input([settings.inputs])
    before = settings.inputs - settings.season + np.arange(settings.horizon) % settings.season
    hidden = x
    for i, units in enumerate(settings.hidden):
        weights = keras.initializers.GlorotUniform(seed=100 * seed + i)
        hidden = keras.layers.Dense(units, "relu", kernel_initializer=weights)(hidden)
    change = keras.layers.Dense(settings.horizon, kernel_initializer="zeros")(hidden)
    return keras.Model(x, keras.ops.take(x, before.tolist(), axis=1) + change)


def make_learner(settings, network, inner_steps, step_size):
    """A compiled learner."""
    optimizer = maml_tf.inner_optimizers.SGD(step_size, global_clipnorm=settings.clip_norm)
    learner = maml_tf.MAML(network, optimizer, inner_steps)
    learner.compile(
        keras.optimizers.Adam(settings.meta_learning_rate),
        "mae",
        jit_compile=not settings.no_xla,
        steps_per_execution=math.gcd(100, settings.epoch_iterations),
    )
    return learner


def train(settings, series, seed, folder):
    """MAML and the pooled model of one seed, of the epoch that was best on validation series."""
    learners = {}
    for name, steps in (("MAML", settings.inner_steps), ("pooled", 0)):
        print(f"{name}, seed {seed}:")
        place = folder / f"seed_{seed}" / name.lower()
        common.train(
            lambda steps=steps: make_learner(
                settings, make_network(settings, seed), steps, settings.step_size
            ),
            lambda start: make_tasks(settings, series, seed, start)[0],
            place,
            iterations=settings.iterations,
            epoch_iterations=settings.epoch_iterations,
            validation=make_tasks(settings, series, seed)[1],
            best="-val_loss",
        )
        learners[name] = checkpoints.load_best(place)
    return learners


def compare(settings, series, seed, learners):
    """Every way, measured on the series that this seed holds out: `comparison.Measured` by name."""
    sets = make_tasks(settings, series, seed)
    size = sets[2].element_spec[1].shape[0]

    def mase(result, split):
        batches = range(-(-result.num_tasks // size))
        known = np.concatenate([sets.beginnings(split, batch) for batch in batches])
        error = naive_error(known[: result.num_tasks], settings.season)
        return evaluation.Result("MASE", result.values / error[:, np.newaxis])

    def tuned(step_size):
        return make_learner(settings, learners["pooled"].model, 1, step_size)

    def ridge(penalty):
        return functools.partial(evaluation.ridge, penalty=penalty, metric=ERROR)

    pooled, compared = learners["pooled"].model, comparison.Comparison(sets, ERROR, mase)
    stepped = functools.partial(compared.measure_steps, steps=settings.test_inner_steps)
    naive = functools.partial(evaluation.seasonal_naive, season=settings.season)
    return {
        "MAML": stepped({settings.step_size: learners["MAML"]}),
        "pooled, fine-tuned": stepped({s: tuned(s) for s in settings.fine_tuning}),
        "pooled": compared.measure(
            {None: lambda t, n: evaluation.evaluate(tuned(1.0), t, n, 0, ERROR)}
        ),
        "pooled + mean residual": compared.measure(
            {None: lambda t, n: evaluation.mean_residual(pooled, t, n, metric=ERROR)}
        ),
        "autoregression for each series": compared.measure(
            {p: ridge(p) for p in settings.penalties}
        ),
        "seasonal naive": compared.measure({None: naive}),
    }


def report(settings, folder, by_seed, sets):
    """Prints, writes and draws what came out."""
    merged = comparison.merge(by_seed)
    known = f"{settings.beginning} known points"
    sentence = comparison.verdict(merged, "MAML", known, "series")
    print(f"\n{comparison.table(merged, known, 'series')}\n\n{sentence}")
    figure = plots.error_against_steps(
        {name: one.result for name, one in merged.items()},
        title=f"{settings.horizon} points of unseen series, {known}",
    )
    common.save_figure(figure, folder / "error.png")
    content = {"settings": dataclasses.asdict(settings), "iterations": settings.iterations}
    content["test"] = {settings.beginning: {"verdict": sentence, **comparison.summary(merged)}}
    content["left_out"] = {part: names.tolist() for part, names in sets.left_out.items()}
    common.write_json(folder / "results.json", content)


def export(settings, folder, learner):
    """Writes MAML of the first seed as a model that adapts where it is served."""
    card = {"data": "windows of series, scaled by mean and deviation of what is known"}
    card |= {"inputs": settings.inputs, "horizon": settings.horizon}
    with files.whole_folder(folder / "saved_model", replace=True) as beside:
        serving.export(learner, beside, inner_steps=settings.test_inner_steps, card=card)


def main():
    """Trains, compares, draws and exports."""
    settings = common.parse(Settings, "python -m train.series", QUICK)
    common.use_threads_for_tasks()
    if not settings.season <= settings.inputs or settings.season >= settings.beginning:
        options.refuse(
            "Expected --season to be at most --inputs, and below --beginning. Received: --season "
            f"{settings.season} --inputs {settings.inputs} --beginning {settings.beginning}. "
            "Give a shorter season."
        )
    try:
        series = read(settings)
        sets = make_tasks(settings, series, settings.seed)
    except (ValueError, TypeError, ImportError, FileNotFoundError) as error:
        sys.exit(str(error))
    if sets[1] is None:
        options.refuse(
            "Expected validation series, to choose settings on. Received: "
            f"--shares {settings.shares}. Give them a share."
        )
    folder = common.open_run(settings, FREE)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    learners = {seed: train(settings, series, seed, folder) for seed in seeds}
    by_seed = [compare(settings, series, seed, learners[seed]) for seed in seeds]
    report(settings, folder, by_seed, sets)
    export(settings, folder, learners[settings.seed]["MAML"])
    print(f"\nResults, the figure and the exported model are in {folder}.")


if __name__ == "__main__":
    common.run(main)
