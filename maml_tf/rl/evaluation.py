"""The paper's protocol for reinforcement learning: held-out tasks, returns after each gradient step.

Finn et al. (2017), section 5.3: 40 tasks; the return after 0, 1, 2, 3 gradient steps, each on
fresh rollouts, averaged over tasks; the step size is halved after the first step.
"""

import numpy as np

from maml_tf import evaluation, inner_optimizers
from maml_tf.rl.meta_objective import MetaObjective
from maml_tf.rl.sampling import Sampler


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
    """
    if tasks is None:
        tasks = environment.sample_tasks(environment.tasks, seed)
    environment.set_tasks(tasks)
    optimizer = inner_optimizers.get(inner_optimizer or learner.inner_optimizer)
    objective = MetaObjective(learner.policy, optimizer, inner_loss=learner.inner_loss)
    sampler = Sampler(learner.policy, environment)
    _, drawn = learner.adapt_and_sample(
        sampler, objective, learner.weights_of_policy(), inner_steps, seed
    )
    values = [np.nanmean(d.returns().numpy(), 1) for d in drawn]
    return evaluation.Result("return", np.stack(values, 1).astype(np.float64))
