"""MAML for reinforcement learning (Finn et al., 2017, algorithm 3) as a Keras model.

A meta-policy wraps a policy network. One training step of `fit` is one meta-iteration:

    draw T tasks; with the weights theta draw R rollouts of each, D_0;
    for k < K:  theta_{k+1} = theta_k - alpha grad L(theta_k; D_k), draw D_{k+1} with theta_{k+1};
    one outer step on the surrogate of D_K as a function of theta, through all inner steps.

With `inner_steps=0` it is ordinary TRPO over all tasks: the paper's pretraining.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.inner.adaptable import chosen_weights, still_chosen
from maml_tf.learners.base.saving import SavesNetwork
from maml_tf.rl import alternation, checks, objectives, outer_steps, trust_region
from maml_tf.rl.environments.base import TaskEnvironment
from maml_tf.rl.sampling import Sampler
from maml_tf.rl.unbatched import Unbatched


@keras.saving.register_keras_serializable("maml_tf")
class MetaPolicy(SavesNetwork, alternation.Alternation, Unbatched):
    """A policy that is trained to adapt to a task from a few rollouts.

    Letters for shapes: T tasks, R rollouts of each, H steps, O observation entries, A actions.

    Args:
        policy: a built `keras.Model` as described in `maml_tf.rl.policies`. This very model is
            trained: its variables are the meta-learned initial weights.
        inner_optimizer: one of `maml_tf.inner_optimizers`, or a number: the step size of plain
            gradient descent; the paper's, 0.1, by default.
        inner_steps: `int` K, steps with fresh rollouts before each.
        inner_loss: `"policy_gradient"`, the paper's; `"ratio"`; `"dice"`. See
            `maml_tf.rl.objectives`.
        first_order: inner gradients are constants in the meta-gradient (section 5.2).
        adaptable: which trainable weights of the policy the inner loop changes, as in
            `maml_tf.MAML`: a function of a variable, a regular expression searched in
            `variable.path`, or a list of `bool`; all by default. The outer step changes all of
            them. `"context"` with `policies.gaussian(..., context=8)` is the context vector of
            appendix C.2.
        discount: `float`, gamma.
        gae_lambda: `float`, lambda of the advantages.
        bootstrap: whether a rollout that a limit on the time ended (the horizon, or one of the
            environment) is worth what would have come after it, as
            `maml_tf.rl.advantages.continuing_value` estimates; nothing by default, as in the paper.
        seed: `int`; tasks, actions and environments follow from it and the iteration.
        name: of the model.

    Raises:
        TypeError: a policy that is no `keras.Model`, an argument of another type.
        ValueError: a policy that is not built or has penalties, an unknown `inner_loss`, a number
            out of range, an `adaptable` that chooses no weight or does not fit the policy.

    The policy runs with `training=False` in training, too, so that the actions drawn and those
    learned from have the same distribution: dropout is off, and a `BatchNormalization` normalises
    with its moving mean and variance, which never change (its scale and offset are trained).
    Constraints hold after every inner step and every step of a Keras optimizer.

    Example:
        >>> from maml_tf import inner_optimizers, rl
        >>> environment = rl.environments.Navigation2D(tasks=4, rollouts=5, horizon=10)
        >>> learner = rl.MetaPolicy(rl.policies.gaussian(2, 2), inner_optimizers.SGD(0.5))
        >>> learner.compile(rl.TrustRegion(max_divergence=0.01))
        >>> history = learner.fit(environment, steps_per_epoch=1, verbose=0)
    """

    wraps = "policy"

    def __init__(
        self,
        policy: keras.Model,
        inner_optimizer: Any = 0.1,
        inner_steps: int = 1,
        *,
        inner_loss: str = "policy_gradient",
        first_order: bool = False,
        adaptable: Callable[[Any], bool] | str | Sequence[bool] | None = None,
        discount: float = 0.99,
        gae_lambda: float = 1.0,
        bootstrap: bool = False,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        checks.check_policy(policy)
        super().__init__(name=name)
        self.policy = policy
        self.inner_optimizer = checks.fixed_optimizer(inner_optimizer)
        self.inner_steps = arguments.integer("inner_steps", inner_steps, minimum=0)
        self.inner_loss = arguments.choice("inner_loss", inner_loss, objectives.INNER)
        self.first_order = arguments.boolean("first_order", first_order)
        self._adaptable = chosen_weights(adaptable, policy.trainable_variables)
        self._trained: list[int] | None = None  # until it is compiled
        self.discount = arguments.number("discount", discount, minimum=0, maximum=1)
        self.gae_lambda = arguments.number("gae_lambda", gae_lambda, minimum=0, maximum=1)
        self.bootstrap = arguments.boolean("bootstrap", bootstrap)
        self.seed = arguments.integer("seed", seed, minimum=0)
        self.iteration = self.add_weight(
            name="iteration", shape=(), dtype="int64", initializer="zeros", trainable=False
        )
        self._sampler: Any = None
        self.objective: Any = None
        self.built = True

    @property
    def adaptable(self) -> Any:
        """Which of `policy.trainable_variables` the inner loop changes: list of `bool`, or None."""
        return still_chosen(self._adaptable, self.policy.trainable_variables)

    def call(self, observation: Any) -> Any:
        """The outputs of the policy at the meta-learned weights, `[batch, ...]`."""
        return self.policy(observation)

    def compile(
        self,
        optimizer: Any = None,
        surrogate: str = "ratio",
        updates: int = 5,
        clip: float = 0.2,
        *,
        jit_compile: bool = False,
    ) -> None:
        """Chooses the outer step.

        Args:
            optimizer: `TrustRegion` (the paper's, the default) or a `keras.optimizers.Optimizer`
                or its name, which takes `updates` gradient steps on each batch of rollouts. Only
                the latter keeps the constraints of a policy.
            surrogate: `"ratio"` or `"clipped"` (PPO; as in ProMP, Rothfuss et al., 2019).
            updates: `int`, gradient steps a batch of a Keras optimizer: 1 with `"ratio"` is
                vanilla policy gradient.
            clip: of the clipped surrogate.
            jit_compile: compile what the inner and outer steps do for a task with XLA. Never by
                itself: two CPU cores are slower with it (XLA keeps them from working on two tasks
                at a time). A policy whose second-order gradient XLA gets wrong (max-pooling) is
                refused at the first step, and one that slices or concatenates (a context vector)
                by TensorFlow, which lacks a derivative there.

        Raises:
            TypeError: an `optimizer` that is none, an argument of another type.
            ValueError: an unknown surrogate or name, a number out of range, a trust region for a
                policy with constraints.
        """
        checks.check_penalties(self.policy)
        optimizer = checks.outer_optimizer(optimizer, self.policy)
        arguments.choice("surrogate", surrogate, objectives.OUTER)
        updates = arguments.integer("updates", updates, minimum=1)
        clip = arguments.positive("clip", clip)
        jit_compile = arguments.boolean("jit_compile", jit_compile)
        self.trust_region = optimizer if isinstance(optimizer, trust_region.TrustRegion) else None
        # Sampling calls into environments: the step as a whole is Python, its parts are compiled.
        super().compile(
            optimizer=None if self.trust_region else optimizer, run_eagerly=True, jit_compile=False
        )
        if not self.trust_region:
            self.optimizer.build(self.policy.trainable_variables)
        self._trained = [id(v) for v in self.policy.trainable_variables]
        self._other_sampler = None  # its graphs are of the weights that were trained before
        self.updates = updates
        self.objective = self.make_objective(
            self.inner_optimizer,
            outer_loss=surrogate,
            clip=clip,
            jit_compile=jit_compile,
        )
        self._adapted = tf.function(self.objective.adapted, autograph=False)
        if self.trust_region:
            step = outer_steps.trust_region_step(self.objective, self.trust_region)
        else:
            step = outer_steps.gradient_steps(self.objective, self.optimizer, updates)
        self._outer_step = tf.function(step, autograph=False)

    def fit(
        self, environment: TaskEnvironment, steps_per_epoch: int, epochs: int = 1, **kwargs: Any
    ) -> keras.callbacks.History:
        """Meta-trains.

        Args:
            environment: one of `maml_tf.rl.environments`; its `tasks` is the meta-batch.
            steps_per_epoch: `int`, meta-iterations an epoch.
            epochs: `int`; callbacks and the progress bar report at the end of each.
            **kwargs: `callbacks`, `verbose`, `initial_epoch` of `keras.Model.fit`; no others.

        Returns:
            `keras.callbacks.History`; `return_k` is the mean return after k inner steps, of the
            last iteration of an epoch, and `success_k`, where the environment tells of success, the
            share of the rollouts in which some step succeeded.

        Raises:
            RuntimeError: every rollout broke; with the traceback of the first.
            TypeError: another kind of environment, a number that is none, callbacks that are none,
                another argument of `keras.Model.fit`.
            ValueError: not compiled, or not again after a layer was frozen; an environment whose
                observations or actions are not the policy's.
        """
        if not self.compiled:
            raise ValueError(
                "Expected a compiled meta-policy. Received: one that is not. Call "
                "`learner.compile(maml_tf.rl.TrustRegion())` first."
            )
        steps_per_epoch = arguments.integer("steps_per_epoch", steps_per_epoch, minimum=1)
        epochs = arguments.integer("epochs", epochs, minimum=1)
        options = checks.check_fit(kwargs)
        checks.check_trained(self)
        self._sampler = Sampler(self.policy, environment)
        numbers = tf.data.Dataset.range(steps_per_epoch).repeat()
        return super().fit(
            numbers, steps_per_epoch=steps_per_epoch, epochs=epochs, shuffle=False, **options
        )

    def get_compile_config(self) -> dict[str, Any] | None:
        """What `compile_from_config` compiles it with again; None where it is not compiled."""
        if not self.compiled:
            return None
        region = self.trust_region
        return {
            "trust_region": dataclasses.asdict(region) if region else None,
            "optimizer": None if region else keras.optimizers.serialize(self.optimizer),
            "surrogate": self.objective.outer_loss,
            "updates": self.updates,
            "clip": self.objective.clip,
            "jit_compile": self.objective.jit_compile,
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles it as `get_compile_config` said."""
        region, optimizer = config.pop("trust_region"), config.pop("optimizer")
        if region:
            optimizer = trust_region.TrustRegion(**region)
        else:
            optimizer = keras.optimizers.deserialize(optimizer)
        self.compile(optimizer, **config)

    def adapt(
        self,
        environment: TaskEnvironment,
        inner_steps: int | None = None,
        *,
        inner_optimizer: Any = None,
        seed: int = 0,
    ) -> tuple[keras.Model, np.ndarray]:
        """Adapts to one task by gradient steps, each on fresh rollouts.

        Args:
            environment: one of `maml_tf.rl.environments` with `tasks=1`, its task set.
            inner_steps: `int`; that of training by default.
            inner_optimizer: one of `maml_tf.inner_optimizers`; that of training by default.
            seed: `int`, of actions and resets.

        Returns:
            `(policy, returns)`: an ordinary `keras.Model` with the adapted weights and all else
            that the policy has, and the mean return before each step and after the last, float
            `[inner_steps + 1]`.

        Raises:
            RuntimeError: every rollout broke.
            TypeError: another kind of environment, a number that is none.
            ValueError: an environment of more than one task, or whose observations or actions are
                not the policy's; a policy that its configuration makes another one.
        """
        tasks = getattr(environment, "tasks", 1)  # what has none is told of by the sampler
        if tasks != 1:
            raise ValueError(
                f"Expected an environment with `tasks=1`. Received: tasks={tasks}. Use "
                "`environment.resized(tasks=1, rollouts=...)` and `set_tasks`."
            )
        steps = self.inner_steps if inner_steps is None else inner_steps
        fast, drawn = self.adapt_and_sample(environment, inner_optimizer, steps, seed)
        policy = alternation.with_weights(self.policy, [w[0] for w in fast], drawn[-1])
        return policy, np.array([alternation.mean_return(d) for d in drawn])

    def train_step(self, data: Any) -> dict[str, Any]:
        """One meta-iteration."""
        del data
        # All that is random in an iteration follows from the seed and its number.
        seed = alternation.mixed(self.seed, int(self.iteration.numpy()))
        environment = self._sampler.environment
        environment.set_tasks(environment.sample_tasks(environment.tasks, seed))
        weights = self.weights_of_policy()
        _, drawn = self._alternate(self._sampler, self._adapted, weights, self.inner_steps, seed)
        samples = [self.sample(d) for d in drawn]
        logs = {f"return_{k}": alternation.mean_return(d) for k, d in enumerate(drawn)}
        rates = {f"success_{k}": d.success_rate() for k, d in enumerate(drawn)}
        logs |= {name: rate for name, rate in rates.items() if rate is not None}
        logs |= self._outer_step(samples[:-1], samples[-1])
        self.iteration.assign_add(1)
        return {name: tf.cast(value, tf.float32) for name, value in logs.items()}
