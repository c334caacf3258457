"""2D navigation with MAML and its baselines (Finn et al., 2017, section 5.3, figure 4).

Trains MAML, a policy pretrained on all goals with TRPO and an oracle that sees the goal; compares
them and a random policy after 0 to 3 gradient steps on 40 held-out goals; draws returns and paths.
With --baselines context also a policy of which only a context vector adapts (appendix C.2):
python -m train.navigation
"""

import dataclasses

import numpy as np

import maml_tf
from maml_tf import rl
from maml_tf.rl import plots
from train import common, reinforcement, runs

PAPER = {
    "MAML": [-40.41, -11.68, -3.33, -3.23],
    "random": [-82.7, -58.0, -53.8, -46.8],
    "oracle": [-2.29],
    "context": [-42.42, -13.90, -5.17, -3.18],
}
QUICK = {
    **reinforcement.QUICK,
    "fine_tuning": (0.5,),
    "output_scale": 0.1,
    "output": "runs/navigation-quick",
}


@dataclasses.dataclass
class Settings(reinforcement.Settings):
    """The defaults are those of the authors' code."""

    inner_step_size: float = 0.5
    """Inner step size in training and of the first step at test (the text says 0.1)."""
    meta_batch: int = 20
    """Tasks in a meta-iteration (paper: 20)."""
    horizon: int = 100
    """Steps of a rollout (paper: 100)."""
    test_rollouts: int = 40
    """Rollouts of each task and step at test (paper: 40)."""
    output: str = "runs/navigation"
    """Run directory: checkpoints, history, results, figures."""


def draw_paths(settings, learner, folder):
    """Figure 4: paths to one goal before adapting and after each gradient step."""
    environment = rl.environments.Navigation2D(1, 5, horizon=settings.horizon)
    goal = environment.sample_tasks(1, seed=settings.seed + 7)
    environment.set_tasks(goal)
    size = settings.inner_step_size
    drawn = rl.evaluation.rollouts(
        learner,
        environment,
        inner_steps=settings.test_steps,
        inner_optimizer=maml_tf.inner_optimizers.SGD([size, size / 2]),
        seed=settings.seed,
    )
    paths = [np.asarray(d.observation[0]) for d in drawn]
    masks = [np.asarray(d.mask[0]) for d in drawn]
    runs.save_figure(plots.navigation_paths(paths, masks, goal[0]), folder / "paths.png")


def main():
    """Trains, compares and draws."""
    settings = common.parse(Settings, "python -m train.navigation", QUICK)
    reinforcement.check(settings)
    common.use_threads_for_tasks()
    folder = runs.open_run(settings, reinforcement.FREE)

    def make_environment(tasks, rollouts, observe_task):
        return rl.environments.Navigation2D(
            tasks, rollouts, horizon=settings.horizon, observe_task=observe_task
        )

    learners = reinforcement.train(settings, folder, make_environment)
    reinforcement.report(settings, folder, learners, make_environment, PAPER)
    draw_paths(settings, learners["MAML"], folder)
    print(f"Results and figures are in {folder}.")


if __name__ == "__main__":
    common.run(main)
