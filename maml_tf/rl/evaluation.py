"""The paper's protocol for reinforcement learning: returns after each gradient step.

Finn et al. (2017), section 5.3: 40 held-out tasks; the return after 0, 1, 2, 3 gradient steps, each
on fresh rollouts, averaged over tasks; the step size is halved after the first step.
"""

import dataclasses
import json
import os
import pathlib
import warnings
from typing import Any

import numpy as np

from maml_tf import arguments, evaluation
from maml_tf.rl.environments.base import TaskEnvironment
from maml_tf.rl.meta_policy import MetaPolicy

__all__ = ["Returns", "evaluate", "rollouts"]


@dataclasses.dataclass(frozen=True, eq=False)
class Returns(evaluation.Result):
    """Returns of each task after each gradient step, and how often rollouts succeeded.

    Attributes:
        metric: `"return"`.
        values: float64 `[T, inner_steps + 1]`, the mean over a task's rollouts.
        success: `maml_tf.evaluation.Result` of the same shape, metric `"success"`: the share of a
            task's rollouts in which some step succeeded, as the environment told in `info`. None
            where the environment tells nothing.
    """

    success: evaluation.Result | None = None

    def table(self) -> str:
        """See `maml_tf.evaluation.Result`; where success is known, with a column of it."""
        lines = super().table().split("\n")
        if self.success is None:
            return "\n".join(lines)
        pairs = zip(self.success.mean, self.success.interval, strict=True)
        cells = [f"{mean:.1%} ± {interval:.1%}" for mean, interval in pairs]
        column = [" success, mean ± 95 % |", "---:|", *(f" {cell} |" for cell in cells)]
        return "\n".join(line + cell for line, cell in zip(lines, column, strict=True))

    def to_dict(self, values: bool = True) -> dict[str, Any]:
        """See `maml_tf.evaluation.Result`; where success is known, with an entry of it."""
        content = super().to_dict(values)
        return content | ({} if self.success is None else {"success": self.success.to_dict(values)})

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> "Returns":
        """See `maml_tf.evaluation.Result`."""
        result = super().from_json(path)
        success = json.loads(pathlib.Path(path).read_text()).get("success")
        if success is None:
            return result
        try:
            success = evaluation.Result("success", np.asarray(success["values"], np.float64))
        except (KeyError, TypeError) as error:
            raise ValueError(
                "Expected the success rates that `Returns.to_json` wrote. Received: "
                f"success={success!r}. Measure again."
            ) from error
        return dataclasses.replace(result, success=success)


def evaluate(
    learner: MetaPolicy,
    environment: TaskEnvironment,
    inner_steps: int = 3,
    *,
    inner_optimizer: Any = None,
    tasks: Any = None,
    seed: int = 0,
) -> Returns:
    """Returns of every task after 0 to `inner_steps` gradient steps.

    Args:
        learner: `maml_tf.rl.MetaPolicy`.
        environment: one of `maml_tf.rl.environments`; it sets the numbers of tasks and rollouts.
        inner_steps: `int`.
        inner_optimizer: that of the learner by default; the paper's at test is
            `SGD([alpha, alpha / 2])`.
        tasks: `[T, ...]`, as the environment's `sample_tasks` gives them; drawn with `seed` by
            default.
        seed: `int`, of tasks, actions and resets.

    Returns:
        `Returns`, a `maml_tf.evaluation.Result` of metric `"return"`: the mean over a task's
        rollouts, `[T, inner_steps + 1]`. NaN where all rollouts of a task were discarded. Its
        `success` holds the success rates where the environment tells of success.

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
    returns = [d.returns() for d in drawn]
    successes, success = [d.successes() for d in drawn], None
    if any(s is not None for s in successes):
        known = [np.nan * returns[0] if s is None else s for s in successes]
        success = evaluation.Result("success", _means(known))
    return Returns("return", _means(returns), success)


def rollouts(
    learner: MetaPolicy,
    environment: TaskEnvironment,
    inner_steps: int,
    *,
    inner_optimizer: Any = None,
    seed: int = 0,
) -> list[Any]:
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


def _means(columns):
    """The means over rollouts that are known, float64 `[T, steps]`, of tensors `[T, R]`."""
    with warnings.catch_warnings():
        # A task all of whose rollouts were discarded has none: NaN.
        warnings.simplefilter("ignore", RuntimeWarning)
        means = [np.nanmean(np.asarray(c, np.float64), 1) for c in columns]
    return np.stack(means, 1)


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
