"""The paper's protocol for reinforcement learning: returns after each gradient step.

Finn et al. (2017), section 5.3: 40 held-out tasks; the return after 0, 1, 2, 3 gradient steps, each
on fresh rollouts, averaged over tasks; the step size is halved after the first step.
"""

import numpy as np

from maml_tf import arguments, evaluation
from maml_tf.rl.environments.base import TaskEnvironment
from maml_tf.rl.meta_policy import MetaPolicy


def evaluate(learner, environment, inner_steps=3, *, inner_optimizer=None, tasks=None, seed=0):
    """Returns of every task after 0 to `inner_steps` gradient steps.

    Args:
        learner: `maml_tf.rl.MetaPolicy`.
        environment: one of `maml_tf.rl.environments`; it sets the numbers of tasks and rollouts.
        inner_steps: `int`.
        inner_optimizer: that of the learner by default; the paper's at test is
            `SGD([alpha, alpha / 2])`.
        tasks: float32 `[T, ...]`; drawn with `seed` by default.
        seed: `int`, of tasks, actions and resets.

    Returns:
        `maml_tf.evaluation.Result`, metric `"return"`: the mean over a task's rollouts,
        `[T, inner_steps + 1]`. NaN where all rollouts of a task were discarded.

    Raises:
        RuntimeError: every rollout broke.
        TypeError: another kind of learner or environment, a number that is none.
        ValueError: a number out of range, tasks of another shape, an environment whose
            observations or actions are not the policy's.
    """
    _check(learner, environment)
    if tasks is None:
        tasks = environment.sample_tasks(environment.tasks, seed)
    environment.set_tasks(tasks)
    drawn = rollouts(learner, environment, inner_steps, inner_optimizer=inner_optimizer, seed=seed)
    values = [np.nanmean(d.returns().numpy(), 1) for d in drawn]
    return evaluation.Result("return", np.stack(values, 1).astype(np.float64))


def rollouts(learner, environment, inner_steps, *, inner_optimizer=None, seed=0):
    """Rollouts before each gradient step and after the last, on the environment's tasks.

    Args:
        learner: as in `evaluate`.
        environment: as in `evaluate`, its tasks set.
        inner_steps: as in `evaluate`.
        inner_optimizer: as in `evaluate`.
        seed: `int`, of actions and resets.

    Returns:
        List of `inner_steps + 1` `maml_tf.rl.sampling.Rollouts`.
    """
    _check(learner, environment)
    return learner.adapt_and_sample(environment, inner_optimizer, inner_steps, seed)[1]


def _check(learner, environment):
    if not isinstance(learner, MetaPolicy):
        raise TypeError(
            "Expected `learner` to be a `maml_tf.rl.MetaPolicy`. Received: "
            f"{arguments.received('learner', learner)}. Use `maml_tf.evaluation.evaluate` for "
            "other learners."
        )
    if not isinstance(environment, TaskEnvironment):
        raise TypeError(
            "Expected `environment` to be one of `maml_tf.rl.environments`. Received: "
            f"{arguments.received('environment', environment)}. Use "
            "`maml_tf.rl.environments.from_gymnasium` to make one of a gymnasium environment."
        )
