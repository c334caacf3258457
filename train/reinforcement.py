"""What the scripts of reinforcement learning share: settings, learners, the report."""

import dataclasses
import math

import numpy as np

import maml_tf
from maml_tf import files, plots, rl
from train import checkpoints, common, options, runs

# What may change between a run and its continuation: nothing that training depends on.
FREE = (
    "iterations",
    "baselines",
    "test_tasks",
    "test_rollouts",
    "test_steps",
    "fine_tuning",
    "tensorboard",
)
BASELINES = ("pretrained", "random", "oracle", "context")
# Few and short rollouts: what takes time then is what is compiled.
QUICK = {
    "iterations": 4,
    "epoch_iterations": 2,
    "meta_batch": 4,
    "rollouts": 4,
    "horizon": 20,
    "test_tasks": 4,
    "test_rollouts": 4,
    "test_steps": 1,
    "baselines": "random",
}
# The smallest whole numbers that make sense, beside those that all scripts share.
_LEAST = {"rollouts": 1, "horizon": 1, "curvature_tasks": 1, "test_rollouts": 1, "test_steps": 0}
# Entries of the context vector; the paper does not say how many it has.
CONTEXT = 8


@dataclasses.dataclass
class Settings:
    """The fields that navigation and locomotion share."""

    inner_step_size: float = 0.1
    """Inner step size in training and of the first step at test; half of it for later ones."""
    inner_steps: int = 1
    """Inner steps in training (paper: 1)."""
    output_scale: float = 1.0
    """Factor on the initial weights of the policy's means (paper: 1)."""
    log_scale: float = 0.0
    """Logarithm of the policy's initial standard deviation (paper: 0)."""
    inner_loss: str = "policy_gradient"
    """Inner loss: policy_gradient (paper), ratio or dice; see maml_tf.rl.objectives."""
    first_order: bool = common.switch("First-order MAML.")
    iterations: int = 100
    """Meta-iterations in all; a finished run goes on when this is raised."""
    meta_batch: int = 40
    """Tasks in a meta-iteration."""
    rollouts: int = 20
    """Rollouts of each task before and after each inner step."""
    horizon: int = 200
    """Steps of a rollout."""
    max_divergence: float = 0.01
    """Trust region: mean Kullback-Leibler divergence of a step, nats."""
    curvature_tasks: int | None = None
    """Tasks that the trust region's curvature is formed from; all by default (paper)."""
    discount: float = 0.99
    """Discount factor gamma (paper: 0.99)."""
    gae_lambda: float = 1.0
    """Lambda of the advantages (paper: 1)."""
    test_tasks: int = 40
    """Held-out tasks (paper: 40)."""
    test_rollouts: int = 20
    """Rollouts of each task and step at test."""
    test_steps: int = 3
    """Gradient steps at test (paper: 3)."""
    fine_tuning: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0)
    """Step sizes that all but MAML take the best of, on other tasks."""
    baselines: str = "pretrained random oracle"
    """What is trained and shown beside MAML, of: pretrained random oracle context."""
    epoch_iterations: int = 5
    """Meta-iterations from one checkpoint to the next."""
    patience: int | None = None
    """Stop early after so many epochs without a better return, and keep the best epoch."""
    seed: int = 0
    """Seed of the initial weights, tasks, actions and resets."""
    fresh: bool = common.switch("Delete what the run directory holds and start anew.")
    tensorboard: bool = common.switch("Write logs for TensorBoard into the run directory.")
    quick: bool = common.switch("A tiny run of some seconds, to see that everything works.")


def check(settings):
    """Ends the script in one line where an option makes no sense, before a run is opened.

    Args:
        settings: `Settings`, complete.

    Raises:
        SystemExit: naming the option, its value and what it should be.
    """
    options.check(settings, **_LEAST)
    for name in ("output_scale", "max_divergence"):
        value = getattr(settings, name)
        if not 0 < value < math.inf:
            _refuse(name, value, "a positive number")
    for name in ("discount", "gae_lambda"):
        value = getattr(settings, name)
        if not 0 <= value <= 1:
            _refuse(name, value, "a number from 0 to 1")
    if not math.isfinite(settings.log_scale):
        _refuse("log_scale", settings.log_scale, "a finite number")
    check_choice("inner_loss", settings.inner_loss, rl.objectives.INNER)
    for name in settings.baselines.split():
        check_choice("baselines", name, BASELINES)


def check_choice(name, value, allowed):
    """Ends the script in one line where an option is none of the words that are allowed."""
    if value not in allowed:
        _refuse(name, value, f"of {', '.join(allowed)}")


def _refuse(name, value, expected):
    option = options.option(name)
    options.refuse(
        f"Expected {option} to be {expected}. Received: {option} {value!r}. Give such a one."
    )


def make_learner(settings, environment, inner_steps, context=0):
    """A compiled meta-policy; without inner steps it is TRPO over all tasks.

    Args:
        settings: `Settings`.
        environment: one of `maml_tf.rl.environments`.
        inner_steps: int, in training.
        context: int, size of a context vector that adapts in place of the weights.
    """
    sizes = environment.observation_spec().shape[0], environment.action_spec().shape[0]
    learner = rl.MetaPolicy(
        rl.policies.gaussian(
            *sizes,
            log_scale=settings.log_scale,
            output_scale=settings.output_scale,
            context=context,
            seed=settings.seed,
        ),
        maml_tf.inner_optimizers.SGD(settings.inner_step_size),
        inner_steps,
        inner_loss=settings.inner_loss,
        first_order=settings.first_order,
        adaptable="context" if context else None,
        discount=settings.discount,
        gae_lambda=settings.gae_lambda,
        seed=settings.seed,
    )
    learner.compile(
        rl.TrustRegion(settings.max_divergence, curvature_tasks=settings.curvature_tasks)
    )
    return learner


def train(settings, folder, make_environment):
    """Trains MAML and the baselines: learners by name.

    Args:
        settings: `Settings`.
        folder: `pathlib.Path`, the run directory.
        make_environment: `make_environment(tasks, rollouts, observe_task)`.
    """
    chosen = settings.baselines.split()
    learners = {}
    for name in ["MAML", *chosen]:
        environment = make_environment(settings.meta_batch, settings.rollouts, name == "oracle")
        steps = settings.inner_steps if name in ("MAML", "context") else 0
        context = CONTEXT if name == "context" else 0

        def make(environment=environment, steps=steps, context=context):
            return make_learner(settings, environment, steps, context)

        if name == "random":
            learners[name] = make()
            continue
        print(f"{name}:")
        # What is optimised, on the epoch's last meta-batch, whose tasks are new ones.
        best = f"return_{steps}" if settings.patience else None
        learners[name] = common.train(
            make,
            lambda done, environment=environment: environment,
            folder / name.lower(),
            iterations=settings.iterations,
            epoch_iterations=settings.epoch_iterations,
            best=best,
            patience=settings.patience,
            tensorboard=settings.tensorboard,
        )
        if best:
            compiled = learners[name].jit_compile
            learners[name] = checkpoints.load_best(folder / name.lower(), compiled)
    return learners


def evaluate(settings, learners, make_environment):
    """Results and step sizes by name, on the same held-out tasks."""
    results, step_sizes = {}, {}
    for name, learner in learners.items():
        environment = make_environment(
            settings.test_tasks, settings.test_rollouts, name == "oracle"
        )

        def measure(size, seed, steps, learner=learner, environment=environment):
            optimizer = maml_tf.inner_optimizers.SGD([size, size / 2])
            return rl.evaluation.evaluate(
                learner, environment, steps, inner_optimizer=optimizer, seed=seed
            )

        steps = 0 if name == "oracle" else settings.test_steps
        size = settings.inner_step_size
        if name in ("pretrained", "random", "context"):
            # Tuned on tasks that are neither trained nor tested on.
            scores = [measure(s, 2**20, steps).mean[-1] for s in settings.fine_tuning]
            size = settings.fine_tuning[int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))]
        results[name] = measure(size, 2**21, steps)
        step_sizes[name] = size if steps else None
    return results, step_sizes


def table(results, step_sizes, paper):
    """Returns as a Markdown table, the paper's numbers beside."""
    steps = range(max(result.inner_steps for result in results.values()) + 1)
    tasks = next(iter(results.values())).num_tasks
    lines = [
        f"Return (sum of a rollout's rewards), mean ± 95 % interval over {tasks} held-out tasks,",
        "before adapting (step 0) and after each gradient step:",
        "",
        "| method | step size | " + " | ".join(f"step {k}" for k in steps) + " | paper |",
        "|---|---|" + "---|" * (len(steps) + 1),
    ]
    for name, result in results.items():
        cells = [
            f"{result.mean[k]:.1f} ± {result.interval[k]:.1f}" if k <= result.inner_steps else "–"
            for k in steps
        ]
        published = " / ".join(str(value) for value in paper.get(name, []))
        lines.append(f"| {name} | {step_sizes[name] or '–'} | {' | '.join(cells)} | {published} |")
    return "\n".join(lines) + "\n"


def report(settings, folder, learners, make_environment, paper):
    """Evaluates, prints, writes `results.json`, draws `returns.png` and exports the learner."""
    results, step_sizes = evaluate(settings, learners, make_environment)
    print("\n" + table(results, step_sizes, paper))
    figure = plots.error_against_steps(
        results,
        ylabel="return (sum of a rollout's rewards)",
        title=f"mean return and 95 % interval over {settings.test_tasks} held-out tasks",
        references={name: dict(enumerate(values)) for name, values in paper.items()},
    )
    runs.save_figure(figure, folder / "returns.png")
    test = {
        name: {
            "step_size": step_sizes[name],
            "iterations": int(learners[name].iteration),
            **result.to_dict(),
        }
        for name, result in results.items()
    }
    content = {
        "settings": {k: v for k, v in dataclasses.asdict(settings).items() if k != "output"},
        "iterations": int(learners["MAML"].iteration),
        "training_seconds": {n: common.training_seconds(folder / n.lower()) for n in learners},
        "paper": paper,
        "test": test,
    }
    runs.write_json(folder / "results.json", content)
    export(settings, folder, learners["MAML"], results["MAML"], make_environment)


def export(settings, folder, learner, result, make_environment):
    """Writes the learner as a model that acts and adapts by itself, with the steps of the test."""
    family = type(make_environment(1, 1, False)).__name__
    size = settings.inner_step_size
    with files.whole_folder(folder / "saved_model", replace=True) as beside:
        rl.export(
            learner,
            beside,
            inner_optimizer=maml_tf.inner_optimizers.SGD([size, size / 2]),
            card=common.card(family, result, settings, int(learner.iteration)),
        )
