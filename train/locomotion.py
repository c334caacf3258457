"""Half-cheetah and ant with MAML and its baselines (Finn et al., 2017, section 5.3, figure 5).

Trains MAML and a policy pretrained on all tasks with TRPO; compares them and a random policy after
0 to 3 gradient steps on 40 held-out tasks; draws returns; films an adapted runner with --video.
With --baselines context also a policy of which only a context vector adapts (appendix C.2):
python -m train.locomotion --environment half_cheetah_direction
"""

import dataclasses

from maml_tf import rl
from train import common, reinforcement, runs

ENVIRONMENTS = {
    "half_cheetah_direction": "HalfCheetahDirection",
    "half_cheetah_velocity": "HalfCheetahVelocity",
    "ant_direction": "AntDirection",
    "ant_velocity": "AntVelocity",
    "ant_goal": "AntGoal",
}
PAPER = {
    "half_cheetah_velocity": {
        "MAML": [-129.5, -78.6, -66.6, -60.8],
        "pretrained": [-158, -135, -128, -134],
        "random": [-255, -254, -247, -231],
        "oracle": [-54.5],
    },
    "half_cheetah_direction": {
        "MAML": [-50.69, 293.19, 313.48, 315.65],
        "pretrained": [-43, -25, -13, 20],
        "random": [-36, 22, 62, 86],
        "oracle": [442.7],
        "context": [-40.49, -44.08, -38.27, -42.50],
    },
    "ant_velocity": {
        "MAML": [30.6, 96.7, 100.1, 101.4],
        "pretrained": [-1.8, 6.1, 8.5, 9.5],
        "random": [-79, -63, -49, -36],
        "oracle": [107.9],
    },
    "ant_direction": {
        "MAML": [8.7, 499.2, 500.7, 499.1],
        "pretrained": [3, 1, 7, 7],
        "random": [3, 9, 16, 26],
        "oracle": [524.8],
    },
}
# The paper's settings for all environments.
COMMON = {
    "rollouts": 20,
    "test_rollouts": 20,
    "iterations": 100,
    "max_divergence": 0.01,
    "meta_batch": 40,
    "log_scale": 0.0,
    "inner_loss": "policy_gradient",
    "gae_lambda": 1.0,
    "output_scale": 1.0,
    "curvature_tasks": None,
}
# What differs from them, per environment, as in the authors' code.
RECIPES = {
    "half_cheetah_velocity": {"rollouts": 10, "iterations": 475},
    "half_cheetah_direction": {"max_divergence": 0.02, "iterations": 100},
    "ant_velocity": {"iterations": 375},
    "ant_direction": {"rollouts": 40, "test_rollouts": 40, "iterations": 575},
    "ant_goal": {"iterations": 400},
}
# Learns in fewer iterations; docs/results/locomotion.md says what was tried.
MODERN = {"inner_loss": "ratio", "gae_lambda": 0.97, "output_scale": 0.1, "curvature_tasks": 6}
MODERN_RECIPES = {
    "half_cheetah_velocity": {"max_divergence": 0.02},
    "ant_velocity": {"max_divergence": 0.02, "meta_batch": 20},
    "ant_direction": {"max_divergence": 0.05, "meta_batch": 10, "log_scale": -1.2},
    "ant_goal": {"max_divergence": 0.05, "meta_batch": 20, "log_scale": -1.2},
}
QUICK = {
    **reinforcement.QUICK,
    "recipe": "modern",
    "fine_tuning": (0.1,),
    "output": "runs/locomotion-quick",
}
PHYSICS = ("paper", "v5")


@dataclasses.dataclass
class Settings(reinforcement.Settings):
    """The defaults are those of the authors' code; some depend on the environment."""

    environment: str = "half_cheetah_direction"
    """half_cheetah_direction, half_cheetah_velocity, ant_direction, ant_velocity or ant_goal."""
    physics: str = "paper"
    """paper (rllab's time step, rewards, observations) or v5 (gymnasium's)."""
    recipe: str = "paper"
    """paper, or modern: low-variance inner loss and advantages, small means, cheap curvature."""
    rollouts: int | None = None
    """Rollouts of each task and step; the paper's for the environment by default."""
    test_rollouts: int | None = None
    """Rollouts of each task and step at test; the paper's for the environment by default."""
    iterations: int | None = None
    """Meta-iterations in all; the paper's for the environment by default."""
    max_divergence: float | None = None
    """Trust region, nats; the recipe's for the environment by default."""
    meta_batch: int | None = None
    """Tasks in a meta-iteration; 40 (paper), or the recipe's for the environment by default."""
    log_scale: float | None = None
    """Logarithm of the policy's initial standard deviation; 0 (paper), or the recipe's."""
    inner_loss: str | None = None
    """policy_gradient (paper), ratio or dice; the recipe's by default."""
    gae_lambda: float | None = None
    """Lambda of the advantages; 1 (paper), or the recipe's by default."""
    output_scale: float | None = None
    """Factor on the initial weights of the policy's means; 1 (paper), or the recipe's."""
    curvature_tasks: int | None = None
    """Tasks that the trust region's curvature is formed from; all (paper), or the recipe's."""
    baselines: str = "pretrained random"
    """What is trained and shown beside MAML, of: pretrained random oracle context."""
    video: bool = common.switch("Render an adapted runner to a GIF, without a screen.")
    output: str = ""
    """Run directory; runs/ and the environment's name by default."""


def complete(settings):
    """Fills in what depends on the environment and the recipe; what was given holds."""
    for name, allowed in (
        ("environment", ENVIRONMENTS),
        ("physics", PHYSICS),
        ("recipe", ("paper", "modern")),
    ):
        reinforcement.check_choice(name, getattr(settings, name), allowed)
    defaults = COMMON | RECIPES[settings.environment]
    if settings.recipe == "modern":
        defaults |= MODERN | MODERN_RECIPES.get(settings.environment, {})
    for name, value in defaults.items():
        if getattr(settings, name) is None:
            setattr(settings, name, value)
    settings.output = settings.output or f"runs/{settings.environment}"
    return settings


def film(settings, learner, environment, folder):
    """Adapts to one task by one step and renders a rollout of it."""
    from maml_tf.rl import video

    task = environment.sample_tasks(1, settings.seed)
    adapting = environment.resized(1, settings.rollouts)
    for each in (environment, adapting):
        each.set_tasks(task)
    policy, _ = learner.adapt(adapting, 1)
    path = folder / "adapted.gif"
    video.record(policy, environment, path, seed=settings.seed)
    print(f"An adapted runner: {path}")


def main():
    """Trains, compares, draws and films."""
    settings = complete(common.parse(Settings, "python -m train.locomotion", QUICK))
    reinforcement.check(settings)
    common.use_threads_for_tasks()
    folder = runs.open_run(settings, (*reinforcement.FREE, "video"))

    def make_environment(tasks, rollouts, observe_task):
        return getattr(rl.environments, ENVIRONMENTS[settings.environment])(
            tasks,
            rollouts,
            horizon=settings.horizon,
            physics=settings.physics,
            observe_task=observe_task,
        )

    learners = reinforcement.train(settings, folder, make_environment)
    paper = PAPER.get(settings.environment, {}) if settings.physics == "paper" else {}
    reinforcement.report(settings, folder, learners, make_environment, paper)
    if settings.video:
        film(settings, learners["MAML"], make_environment(1, 1, False), folder)
    print(f"Results and figures are in {folder}.")


if __name__ == "__main__":
    common.run(main)
