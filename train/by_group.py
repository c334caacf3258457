"""What the scripts of tables and of series share: settings, two trainings, a table, an export.

MAML and one model for all groups are trained alike, and measured beside simple ways on groups that
neither has seen. A script says what its tasks, its network and its simple ways are.
"""

import dataclasses
import math
import sys

import keras

import maml_tf
from maml_tf import evaluation, files, plots, serving
from train import checkpoints, common, comparison, options, runs

# What may change between a run and its continuation: nothing that training depends on.
FREE = ("iterations", "test_inner_steps", "fine_tuning", "penalties", "seeds")


@dataclasses.dataclass
class Settings:
    """What both scripts ask for."""

    data: str = ""
    """CSV or Parquet file with a line of column names; with --quick one is drawn."""
    shares: tuple[float, ...] = (0.6, 0.15, 0.25)
    """Shares of the groups in training, validation and test; another split for each seed."""
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
    """Penalties that linear models take the best of, on validation groups."""
    no_xla: bool = common.switch("Do not compile with XLA: slower, and other rounding.")
    seeds: int = 1
    """How many runs, each with other held-out groups and other initial weights."""
    seed: int = 0
    """Seed of the first of them."""
    output: str = "runs/tabular"
    """Run directory: checkpoints, history, results, figures, exported model."""
    fresh: bool = common.switch("Delete what the run directory holds and start anew.")
    quick: bool = common.switch("A tiny run of some seconds on drawn data.")


class Experiment:
    """One script: what it is about, which a subclass says, and what is done with it.

    A subclass has:

        what, groups                 str, what is predicted, and what a group is called
        spoken                       how errors call arguments, and how the options are called
        free                         names of settings that a continuation may change
        known()                      how much is known of a test group: by number, how one says it
        make_tasks(seed, known=None, start=0)   task sets; None stands for as much as in training
        make_network(sets, seed)     with initial weights of a seed
        loss(sets)                   the loss, and the size of its gradient, the unit of step sizes
        compared(sets)               a `comparison.Comparison`
        simple_ways(compared, pooled)           `comparison.Measured` by name, of what takes no
                                     steps; `pooled` is the network that was trained on all groups
        card(sets)                   facts for the model card, a dict

    Args:
        settings: a `Settings`.
    """

    groups = "groups"
    free = FREE
    spoken: dict = {}

    def __init__(self, settings):
        self.settings = settings

    def make_learner(self, sets, network, inner_steps, step_size):
        """A compiled learner."""
        settings, (loss, unit) = self.settings, self.loss(sets)
        optimizer = maml_tf.inner_optimizers.SGD(
            step_size / unit, global_clipnorm=settings.clip_norm * unit
        )
        learner = maml_tf.MAML(network, optimizer, inner_steps)
        learner.compile(
            keras.optimizers.Adam(settings.meta_learning_rate),
            loss,
            jit_compile=not settings.no_xla,
            steps_per_execution=math.gcd(100, settings.epoch_iterations),
        )
        return learner

    def train(self, folder, seed):
        """MAML and the pooled model, of the epoch that was best on validation groups, by name."""
        settings, sets, learners = self.settings, self.make_tasks(seed), {}
        for name, steps in (("MAML", settings.inner_steps), ("pooled", 0)):
            print(f"{name}, seed {seed}:")
            place = folder / f"seed_{seed}" / name.lower()

            def make(steps=steps):
                network = self.make_network(sets, seed)
                return self.make_learner(sets, network, steps, settings.step_size)

            trained = common.train(
                make,
                lambda start: self.make_tasks(seed, start=start)[0],
                place,
                iterations=settings.iterations,
                epoch_iterations=settings.epoch_iterations,
                validation=sets[1],
                best="-val_loss",
            )
            learners[name] = checkpoints.load_best(place, trained.jit_compile)
        return learners

    def compare(self, seed, known, learners):
        """Every way on the groups that a seed holds out: `comparison.Measured` by name."""
        settings, pooled = self.settings, learners["pooled"].model
        sets = self.make_tasks(seed, known)
        compared, steps = self.compared(sets), settings.test_inner_steps
        tuned = {size: self.make_learner(sets, pooled, 1, size) for size in settings.fine_tuning}

        def without_steps(tasks, count):
            learner = tuned[settings.fine_tuning[0]]
            return evaluation.evaluate(learner, tasks, count, 0, compared.metric)

        return {
            "MAML": compared.measure_steps({settings.step_size: learners["MAML"]}, steps),
            "pooled, fine-tuned": compared.measure_steps(tuned, steps),
            "pooled": compared.measure({"": without_steps}),
            **self.simple_ways(compared, pooled),
        }

    def report(self, folder, found, sets):
        """Prints, writes and draws what came out, by how much is known."""
        settings = self.settings
        content = {"settings": dataclasses.asdict(settings), "iterations": settings.iterations}
        content["test"] = {}
        for known, text in self.known().items():
            merged = comparison.merge(found[known])
            sentence = comparison.verdict(merged, "MAML", text, self.groups)
            print(f"\n{comparison.table(merged, text, self.groups)}\n\n{sentence}")
            content["test"][known] = {"verdict": sentence, **comparison.summary(merged)}
            title = f"{self.what} of unseen {self.groups}, {text}"
            figure = plots.error_against_steps(
                {name: one.result for name, one in merged.items()}, title=title
            )
            runs.save_figure(figure, folder / f"error_{known}.png")
        content["left_out"] = {part: names.tolist() for part, names in sets.left_out.items()}
        runs.write_json(folder / "results.json", content)

    def export(self, folder, learner, sets):
        """Writes MAML as a model that adapts where it is served."""
        steps = self.settings.test_inner_steps
        with files.whole_folder(folder / "saved_model", replace=True) as beside:
            serving.export(learner, beside, inner_steps=steps, card=self.card(sets))


def run(make_experiment, settings):
    """Trains, compares, draws and exports.

    Args:
        make_experiment: an `Experiment`, called with the settings.
        settings: its `Settings`.

    Raises:
        SystemExit: the data are not what is expected.
    """
    common.use_threads_for_tasks()
    try:
        experiment = make_experiment(settings)
        sets = experiment.make_tasks(settings.seed, max(experiment.known()))
    except (ValueError, TypeError, ImportError, FileNotFoundError) as error:
        line = str(error)
        for name, option in make_experiment.spoken.items():
            line = line.replace(name, option)
        sys.exit(line)
    if sets[1] is None:
        options.refuse(
            f"Expected validation {experiment.groups}, to choose settings on. Received: "
            f"--shares {settings.shares}. Give them a share."
        )
    folder = runs.open_run(settings, experiment.free, digest_of_data=runs.digest(settings.data))
    seeds = range(settings.seed, settings.seed + settings.seeds)
    learners = {seed: experiment.train(folder, seed) for seed in seeds}
    found = {
        known: [experiment.compare(seed, known, learners[seed]) for seed in seeds]
        for known in experiment.known()
    }
    experiment.report(folder, found, sets)
    experiment.export(folder, learners[settings.seed]["MAML"], sets)
    print(f"\nResults, figures and the exported model are in {folder}.")
