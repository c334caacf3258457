"""Sine regression with MAML and its baselines (Finn et al., 2017, section 5.1, figures 2 and 3).

Trains MAML, first-order MAML, a network pretrained on all tasks and an oracle that is told each
task's amplitude and phase, compares them and a random network after 0 to 10 gradient steps on 5,
10 and 20 points, and draws the paper's figures: python -m train.sinusoid
"""

import dataclasses
import math

import keras
import numpy as np

import maml_tf
from maml_tf import evaluation, plots, serving
from train import common

# Mean squared error after 1, 5 and 10 steps on 5 points, as the paper reports it.
PAPER = {"MAML": (0.67, 0.38, 0.35), "pretrained": (2.41, 2.23, 2.19)}
REPORTED_STEPS = (0, 1, 5, 10)
# What the step size of fine-tuning is chosen from, on validation tasks, for the baselines.
FINE_TUNING = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
QUICK = {
    "iterations": 40,
    "epoch_iterations": 20,
    "test_tasks": 50,
    "output": "runs/sinusoid-quick",
}
# What may change between a run and its continuation: nothing that training depends on.
FREE = ("iterations", "test_points", "test_tasks", "test_inner_steps", "tensorboard")


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


def make_learner(settings, inner_steps, first_order=False, oracle=False):
    """A compiled learner; without inner steps it is regression on all tasks at once."""
    network = maml_tf.models.sinusoid_mlp(features=3 if oracle else 1, seed=settings.seed)
    learner = maml_tf.MAML(network, settings.inner_step_size, inner_steps, first_order)
    learner.compile(
        optimizer=keras.optimizers.Adam(settings.meta_learning_rate),
        loss="mean_squared_error",
        jit_compile=not settings.no_xla,
        steps_per_execution=math.gcd(100, settings.epoch_iterations),
    )
    return learner


def train(settings, folder):
    """Trains what is trained: learners by name."""
    options = {
        "MAML": {"inner_steps": settings.inner_steps},
        "first-order MAML": {"inner_steps": settings.inner_steps, "first_order": True},
        "pretrained": {"inner_steps": 0},
        "oracle": {"inner_steps": 0, "oracle": True},
    }
    learners = {}
    for name, option in options.items():
        oracle = option.get("oracle", False)
        print(f"{name}:")
        learners[name] = common.train(
            lambda option=option: make_learner(settings, **option),
            lambda start, oracle=oracle: make_tasks(settings, start, oracle=oracle)[0],
            folder / name.replace(" ", "_"),
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
    """Results by name, and the step size of each, on test tasks of so many points."""
    results, step_sizes = {}, {}
    for name, learner in learners.items():
        _, validation, test = make_tasks(settings, 0, points, oracle=name == "oracle")

        def measure(step_size, tasks, learner=learner):
            return evaluation.evaluate(
                with_step_size(learner, step_size),
                tasks,
                settings.test_tasks,
                settings.test_inner_steps,
            )

        step_size = settings.inner_step_size
        if "MAML" not in name:
            errors = [measure(size, validation).mean[-1] for size in FINE_TUNING]
            step_size = FINE_TUNING[np.nanargmin(errors)]
        results[name], step_sizes[name] = measure(step_size, test), step_size
    return results, step_sizes


if __name__ == "__main__":
    import sys
    settings = common.parse(Settings, "python -m train.sinusoid", QUICK)
    common.use_threads_for_tasks()
    folder = common.open_run(settings, FREE)
    learners = train(settings, folder)
    for p in settings.test_points:
        r, s = evaluate(settings, learners, p)
        for n, x in r.items():
            print(p, n, s[n], x.mean[[0,1,5,10]], x.interval[[0,1,5,10]], x.median[[0,1,5,10]], x.non_finite[-1])
