"""Sine regression with MAML and its baselines (Finn et al., 2017, section 5.1, figures 2 and 3).

Trains MAML, first-order MAML, a network pretrained on all tasks at once and an oracle that is told
each task's amplitude and phase; compares them and a random network after 0 to 10 gradient steps on
5, 10 and 20 points; draws the paper's figures; exports MAML and, to be looked at beside it, the
pretrained network: python -m train.sinusoid
"""

import dataclasses
import functools
import math

import keras
import numpy as np

import maml_tf
from maml_tf import evaluation, files, plots, serving
from train import common, runs

# Mean squared error after so many steps on 5 points, as the paper reports it.
PAPER = {
    "MAML": {1: 0.67, 5: 0.38, 10: 0.35},
    "pretrained": {1: 2.41, 5: 2.23, 10: 2.19},
}
TABLE_STEPS = (0, 1, 5, 10)
# Step size of the paper's text, at which a few tasks run away: trained and shown beside.
OTHER_STEP_SIZE = 0.01
# What MAML did not choose initial weights for is adapted with a step size tuned for it.
TUNED = ("pretrained", "random")
# Folders of the exports by learner.
EXPORTED = {"MAML": "saved_model", "pretrained": "saved_model_pretrained"}
QUICK = {
    "iterations": 40,
    "epoch_iterations": 20,
    "test_points": (5,),
    "fine_tuning": (0.01,),
    "test_tasks": 50,
    "output": "runs/sinusoid-quick",
}
# What may change between a run and its continuation: nothing that training depends on.
FREE = (
    "iterations",
    "test_points",
    "test_tasks",
    "test_inner_steps",
    "fine_tuning",
    "tensorboard",
)


@dataclasses.dataclass
class Settings:
    """The defaults are the paper's, but for the inner step size, of which there are two."""

    inner_step_size: float = 0.001
    """Inner step size: 0.001 in the authors' command, 0.01 in the paper's text."""
    inner_steps: int = 1
    """Inner steps in training (paper: 1)."""
    iterations: int = 70_000
    """Meta-iterations in all (paper: 70,000); a finished run goes on when this is raised."""
    meta_batch: int = 25
    """Tasks in a meta-iteration (paper: 25)."""
    points: int = 10
    """Support points and query points of each task in training (paper: 10)."""
    meta_learning_rate: float = 1e-3
    """Step size of Adam in the outer loop and in pretraining (paper: 0.001)."""
    test_points: tuple[int, ...] = (5, 10, 20)
    """Support points at test; each number is evaluated (paper: 5, 10 and 20)."""
    test_inner_steps: int = 10
    """Gradient steps at test (paper: up to 10)."""
    test_tasks: int = 600
    """Test tasks, each with 100 query points (paper: 600)."""
    fine_tuning: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03)
    """Step sizes that the pretrained and the random network take the best of, on validation tasks
    after the last step (paper: "an automatically tuned step size")."""
    epoch_iterations: int = 1000
    """Meta-iterations from one checkpoint to the next."""
    no_xla: bool = common.switch("Do not compile with XLA: slower, and other rounding.")
    seed: int = 0
    """Seed of the initial weights and of all tasks."""
    output: str = "runs/sinusoid"
    """Run directory: checkpoints, history, results, figures, exported model."""
    fresh: bool = common.switch("Delete what the run directory holds and start anew.")
    tensorboard: bool = common.switch("Write logs for TensorBoard into the run directory.")
    quick: bool = common.switch("A tiny run of some seconds, to see that everything works.")


def make_tasks(settings, start=0, test_points=10, oracle=False):
    """Training tasks from batch `start` on, validation and test tasks."""
    return maml_tf.tasks.sinusoid(
        support=settings.points,
        query=settings.points,
        meta_batch=settings.meta_batch,
        seed=settings.seed,
        start=start,
        validation_tasks=settings.test_tasks,
        test_tasks=settings.test_tasks,
        test_support=test_points,
        oracle=oracle,
    )


def make_learner(settings, inner_steps, step_size=None, first_order=False, oracle=False):
    """A compiled learner; without inner steps it is regression on all tasks at once."""
    network = maml_tf.models.sinusoid_mlp(features=3 if oracle else 1, seed=settings.seed)
    step_size = step_size or settings.inner_step_size
    learner = maml_tf.MAML(network, step_size, inner_steps, first_order)
    learner.compile(
        optimizer=keras.optimizers.Adam(settings.meta_learning_rate),
        loss="mean_squared_error",
        jit_compile=not settings.no_xla,
        steps_per_execution=math.gcd(100, settings.epoch_iterations),
    )
    return learner


def directory(name):
    """Where a learner's checkpoints go within the run directory."""
    return name.lower().replace(" ", "_")


def train(settings, folder):
    """Trains what is trained: learners by name."""
    options = {
        "MAML": {"inner_steps": settings.inner_steps},
        f"MAML at {OTHER_STEP_SIZE}": {
            "inner_steps": settings.inner_steps,
            "step_size": OTHER_STEP_SIZE,
        },
        "first-order MAML": {"inner_steps": settings.inner_steps, "first_order": True},
        "pretrained": {"inner_steps": 0},
        "oracle": {"inner_steps": 0, "oracle": True},
    }
    learners = {}
    # Made once for all learners that train on the same ones.
    tasks = functools.cache(lambda start, oracle: make_tasks(settings, start, oracle=oracle)[0])
    for name, option in options.items():
        oracle = option.get("oracle", False)
        print(f"{name}:")
        learners[name] = common.train(
            lambda option=option: make_learner(settings, **option),
            functools.partial(tasks, oracle=oracle),
            folder / directory(name),
            iterations=settings.iterations,
            epoch_iterations=settings.epoch_iterations,
            tensorboard=settings.tensorboard,
        )
    learners["random"] = make_learner(settings, inner_steps=0)
    return learners


def with_step_size(learner, step_size):
    """The same network, adapted with another step size."""
    other = maml_tf.MAML(learner.model, step_size)
    other.compile(loss="mean_squared_error")
    return other


def evaluate(settings, learners, points):
    """Results and step sizes by name, on test tasks of so many support points."""
    results, step_sizes = {}, {}
    tasks = functools.cache(lambda oracle: make_tasks(settings, 0, points, oracle=oracle))
    for name, learner in learners.items():
        _, validation, test = tasks(name == "oracle")

        # What is told the task has nothing to adapt to.
        steps = 0 if name == "oracle" else settings.test_inner_steps

        def measure(step_size, tasks, learner=learner, steps=steps):
            return evaluation.evaluate(
                with_step_size(learner, step_size), tasks, settings.test_tasks, steps
            )

        step_size = learner.inner_optimizer.learning_rate
        if name in TUNED:
            sizes = settings.fine_tuning
            errors = [measure(size, validation).mean[-1] for size in sizes] if sizes[1:] else [0]
            step_size = sizes[np.nanargmin(errors)]
        results[name] = measure(step_size, test)
        step_sizes[name] = step_size if steps else None
    return results, step_sizes


def table(results, step_sizes, points):
    """Mean squared errors as a Markdown table, the paper's numbers beside."""
    last = next(iter(results.values())).inner_steps
    steps = [step for step in TABLE_STEPS if step <= last]
    lines = [
        f"Mean squared error with {points} points, mean ± 95 % (median):",
        "",
        "| method | step size | "
        + " | ".join(f"step {step}" for step in steps)
        + " | not finite | paper, steps 1 / 5 / 10 |",
        "|---|---|" + "---|" * len(steps) + "---|---|",
    ]
    for name, result in results.items():
        mean, interval, median = result.mean, result.interval, result.median
        cells = [
            f"{evaluation.number(mean[step])} ± {evaluation.number(interval[step])} "
            f"({evaluation.number(median[step])})"
            if step <= result.inner_steps
            else "–"
            for step in steps
        ]
        paper = PAPER.get(name, {}) if points == 5 else {}
        cells += [str(result.non_finite[-1]), " / ".join(str(value) for value in paper.values())]
        lines.append(f"| {name} | {step_sizes[name] or '–'} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def panels(learners, step_sizes, points, seed):
    """One sine of figure 2: MAML and pretraining adapt to the same points."""
    random = np.random.default_rng(seed)
    amplitude, phase = 3.0, 1.0
    x = np.linspace(-5, 5, 200, dtype=np.float32)
    support_x = random.uniform(-5, 5, points).astype(np.float32)
    support_y = amplitude * np.sin(support_x - phase)
    task = {"support_x": support_x, "support_y": support_y, "query_x": x}
    task = {name: values.reshape(1, -1, 1) for name, values in task.items()}
    return [
        plots.SinePanel(
            title=f"{name}, {points} points, step size {step_sizes[name]}",
            x=x,
            truth=amplitude * np.sin(x - phase),
            path=with_step_size(learners[name], step_sizes[name])
            .predict_path(task, max(TABLE_STEPS))
            .numpy()[0, :, :, 0],
            support_x=support_x,
            support_y=support_y,
        )
        for name in ("MAML", "pretrained")
    ]


def report(settings, folder, learners):
    """Evaluates the learners; prints, writes and draws what comes out.

    Returns:
        Step sizes by name, those of the first number of points.
    """
    test, sines, first = {}, [], None
    for points in settings.test_points:
        results, step_sizes = evaluate(settings, learners, points)
        first = first or step_sizes
        print("\n" + table(results, step_sizes, points))
        test[points] = {
            name: {"step_size": step_sizes[name], **result.to_dict(values=False)}
            for name, result in results.items()
        }
        figure = plots.error_against_steps(
            results,
            ylabel="mean squared error",
            title=f"{points} points: mean and 95 % interval over {settings.test_tasks} tasks",
            references=PAPER if points == 5 else None,
        )
        runs.save_figure(figure, folder / f"figure3_{points}_points.png")
        if points in (5, 10):
            sines.append(panels(learners, step_sizes, points, settings.seed))
    if sines:
        # Numbers of points side by side, methods below each other.
        ordered = [panel for row in zip(*sines, strict=True) for panel in row]
        figure = plots.sine_adaptation(ordered, columns=len(sines))
        runs.save_figure(figure, folder / "figure2.png")
    content = {
        "settings": dataclasses.asdict(settings),
        "iterations": int(learners["MAML"].optimizer.iterations),
        "training_seconds": {
            name: common.training_seconds(folder / directory(name)) for name in learners
        },
        "paper_5_points": PAPER,
        "test": test,
    }
    runs.write_json(folder / "results.json", content)
    return first


def export(settings, folder, learners, step_sizes):
    """Writes MAML and the pretrained network as models that adapt where they are served."""
    card = {"data": "sine waves", "results": "results.json, of the run directory"}
    for name, place in EXPORTED.items():
        with files.whole_folder(folder / place, replace=True) as beside:
            serving.export(
                with_step_size(learners[name], step_sizes[name]),
                beside,
                inner_steps=settings.test_inner_steps,
                card=card | {"inner_step_size": step_sizes[name]},
            )


def main():
    """Trains, compares, draws and exports."""
    settings = common.parse(Settings, "python -m train.sinusoid", QUICK)
    common.use_threads_for_tasks()
    folder = runs.open_run(settings, FREE)
    learners = train(settings, folder)
    step_sizes = report(settings, folder, learners)
    export(settings, folder, learners, step_sizes)
    print(f"Results, figures and the exported models are in {folder}.")


if __name__ == "__main__":
    common.run(main)
