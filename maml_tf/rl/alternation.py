"""Rollouts and inner steps in turn: what a meta-policy does before an outer step, and to adapt.

    for k < K:  draw D_k with theta_k; theta_{k+1} = theta_k - alpha grad L(theta_k; D_k)

and rollouts with theta_K at last, for tasks of training and for those of another environment.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments, copying
from maml_tf.inner.adaptable import weight_constraints
from maml_tf.inner.description import InnerLoop
from maml_tf.rl import advantages, checks, policies
from maml_tf.rl.environments.base import TaskEnvironment
from maml_tf.rl.meta_objective import MetaObjective
from maml_tf.rl.sampling import Sampler

_COMPARED = 64  # observations on which an adapted policy is compared with the policy


class Alternation(keras.Model):
    """The part of `maml_tf.rl.MetaPolicy` that draws rollouts and takes inner steps.

    `policy`, `inner_optimizer` and what else it uses are set by the constructor of that class.

    Args:
        name: of the model.
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name=name, autocast=False)
        # Beside that of training: the latest, as evaluation asks for the same environment often.
        self._other_sampler: Any = None
        self._advantages = tf.function(advantages.estimate, autograph=False, reduce_retracing=True)

    def weights_of_policy(self) -> list[Any]:
        """The meta-learned weights theta as tensors."""
        checks.check_trained(self)
        return [tf.convert_to_tensor(v) for v in self.policy.trainable_variables]

    def adapt_and_sample(
        self, environment: TaskEnvironment, inner_optimizer: Any, inner_steps: int, seed: int
    ) -> tuple[list[Any], list[Any]]:
        """Rollouts before each inner step and after the last, on the environment's tasks.

        Args:
            environment: one of `maml_tf.rl.environments`, its tasks set.
            inner_optimizer: one of `maml_tf.inner_optimizers`; None for that of training.
            inner_steps: `int`, K.
            seed: `int`, of actions and resets.

        Returns:
            `(weights, drawn)`: the weights after the last step, each `[T, ...]`, and K + 1
            `maml_tf.rl.sampling.Rollouts`.
        """
        if inner_optimizer is None:
            inner_optimizer = self.inner_optimizer
        inner_optimizer = checks.fixed_optimizer(inner_optimizer)
        inner_steps = arguments.integer("inner_steps", inner_steps, minimum=0)
        seed = arguments.integer("seed", seed, minimum=0)
        if self._other_sampler is None or self._other_sampler.environment is not environment:
            self._other_sampler = Sampler(self.policy, environment)
        graph = tf.function(self.make_objective(inner_optimizer).adapted, autograph=False)

        def adapted(*arguments):
            # A call would have TensorFlow warn of retracing where several optimizers are tried.
            return graph.get_concrete_function(*arguments)(*arguments)

        weights = self.weights_of_policy()
        return self._alternate(self._other_sampler, adapted, weights, inner_steps, seed)

    def make_objective(self, inner_optimizer: Any, **kwargs: Any) -> MetaObjective:
        """The `MetaObjective` of this policy and inner loss.

        Args:
            inner_optimizer: one of `maml_tf.inner_optimizers`.
            **kwargs: of `MetaObjective`.
        """
        loop = InnerLoop(
            inner_optimizer,
            self.inner_steps,
            adaptable=self.adaptable,
            constraints=weight_constraints(self.policy),
            first_order=self.first_order,
        )
        return MetaObjective(
            self.policy,
            loop,
            inner_loss=self.inner_loss,
            decay=self.discount * self.gae_lambda,
            **kwargs,
        )

    def _alternate(
        self, sampler: Sampler, adapted: Any, weights: list[Any], inner_steps: int, seed: int
    ) -> tuple[list[Any], list[Any]]:
        """Rollouts before each inner step and after the last, as `adapt_and_sample` has them.

        Args:
            sampler: `maml_tf.rl.sampling.Sampler` of the policy.
            adapted: `MetaObjective.adapted` of the inner optimizer, compiled.
            weights: list of tensors, the weights to begin at.
            inner_steps: `int`, K.
            seed: `int`, of actions and resets.
        """
        fast = [tf.repeat(w[None], sampler.environment.tasks, 0) for w in weights]
        drawn: list[Any] = []
        for k in range(inner_steps + 1):
            if k:
                fast = adapted(weights, [self.sample(d) for d in drawn])
            drawn.append(sampler.collect(fast, mixed(seed, k)))
        return fast, drawn

    def sample(self, drawn: Any) -> Any:
        """What `MetaObjective` learns from: a dict of `[T, R, H, ...]`.

        Args:
            drawn: `maml_tf.rl.sampling.Rollouts`.
        """
        ends = {"last_observation": drawn.last_observation, "truncated": drawn.truncated}
        advantage, error = self._advantages(
            drawn.observation,
            drawn.reward,
            drawn.mask,
            discount=self.discount,
            gae_lambda=self.gae_lambda,
            **(ends if self.bootstrap else {}),
        )
        return {
            "observation": drawn.observation,
            "action": drawn.action,
            "advantage": advantage,
            "error": error,
            "mask": drawn.mask,
            "outputs": drawn.outputs,
        }


def mean_return(drawn: Any) -> float:
    """Mean return over tasks and rollouts, those that were discarded left out."""
    returns = drawn.returns().numpy()
    return np.nanmean(returns) if np.isfinite(returns).any() else np.nan


def with_weights(policy: keras.Model, weights: list[Any], drawn: Any) -> keras.Model:
    """A copy of a policy with these weights, which acts as it acted on what was drawn.

    Args:
        policy: a built `keras.Model` as described in `maml_tf.rl.policies`.
        weights: list of tensors in the order of `policy.trainable_variables`.
        drawn: `maml_tf.rl.sampling.Rollouts`, on whose observations the two are compared.

    Raises:
        ValueError: a policy that its configuration makes another one.
    """
    seen = tf.boolean_mask(drawn.observation, drawn.mask > 0)[:_COMPARED]
    copy = copying.copy_of(policy, seen)
    for variable, value in zip(copy.trainable_variables, weights, strict=True):
        variable.assign(value)
    copying.finalize(copy)
    if not copying.same(policies.apply(policy, weights, seen), copy(seen)):
        raise ValueError(
            "Expected a policy whose copy acts as it does with the same weights. Received: "
            f"{type(policy).__name__} {policy.name!r}, whose copy does not. Make "
            "what it keeps beside its weights a variable, by `add_weight`."
        )
    return copy


def mixed(seed: int, stream: int) -> int:
    """A seed for one of the things that are random under a seed."""
    # SeedSequence mixes: neighbouring seeds and streams share nothing.
    return int(np.random.SeedSequence([seed, stream]).generate_state(1)[0] >> 1)
