"""MAML for reinforcement learning (Finn et al., 2017, algorithm 3) as a Keras model.

A meta-policy wraps a policy network. One training step of `fit` is one meta-iteration:

    draw T tasks; with the weights theta draw R rollouts of each, D_0;
    for k < K:  theta_{k+1} = theta_k - alpha grad L(theta_k; D_k), draw D_{k+1} with theta_{k+1};
    one outer step on the surrogate of D_K as a function of theta, through all inner steps.

With `inner_steps=0` it is ordinary TRPO over all tasks: the paper's pretraining.
"""

import keras
import numpy as np
import tensorflow as tf

from maml_tf import inner_optimizers
from maml_tf.rl import advantages, objectives, trust_region
from maml_tf.rl.meta_objective import MetaObjective
from maml_tf.rl.sampling import Sampler


@keras.saving.register_keras_serializable("maml_tf")
class MetaPolicy(keras.Model):
    """A policy that is trained to adapt to a task from a few rollouts.

    Letters for shapes: T tasks, R rollouts of each, H steps, O observation entries, A actions.

    Args:
        policy: a built `keras.Model` as described in `maml_tf.rl.policies`. This very model is
            trained: its variables are the meta-learned initial weights.
        inner_optimizer: one of `maml_tf.inner_optimizers`; the paper's is `SGD(0.1)`.
        inner_steps: `int` K, steps with fresh rollouts before each.
        inner_loss: `"policy_gradient"`, the paper's; `"ratio"`; `"dice"`. See
            `maml_tf.rl.objectives`.
        first_order: inner gradients are constants in the meta-gradient (section 5.2).
        discount: `float`, gamma.
        gae_lambda: `float`, lambda of the advantages.
        seed: `int`; tasks, actions and environments follow from it and the iteration.
        name: of the model.

    Raises:
        ValueError: an unknown `inner_loss`, `inner_steps` below 0.

    Example:
        >>> from maml_tf import rl
        >>> environment = rl.environments.Navigation2D(tasks=20, rollouts=20)
        >>> learner = rl.MetaPolicy(rl.policies.gaussian(2, 2), inner_optimizers.SGD(0.5))
        >>> learner.compile(rl.TrustRegion(max_divergence=0.01))
        >>> learner.fit(environment, iterations=100)
    """

    def __init__(
        self,
        policy,
        inner_optimizer="sgd",
        inner_steps=1,
        *,
        inner_loss="policy_gradient",
        first_order=False,
        discount=0.99,
        gae_lambda=1.0,
        seed=0,
        name=None,
    ):
        if inner_loss not in objectives.INNER:
            raise ValueError(
                f"Expected `inner_loss` to be one of {objectives.INNER}, received {inner_loss!r}."
            )
        if not isinstance(inner_steps, int) or inner_steps < 0:
            raise ValueError(f"Expected `inner_steps` >= 0, received {inner_steps!r}.")
        super().__init__(name=name, autocast=False)
        self.policy = policy
        self.inner_optimizer = inner_optimizers.get(inner_optimizer)
        self.inner_steps = inner_steps
        self.inner_loss = inner_loss
        self.first_order = first_order
        self.discount = discount
        self.gae_lambda = gae_lambda
        self.seed = seed
        self.iteration = self.add_weight(
            name="iteration", shape=(), dtype="int64", initializer="zeros", trainable=False
        )
        self._sampler = None
        self.built = True

    def get_config(self):
        """What `from_config` makes it from."""
        names = "inner_steps inner_loss first_order discount gae_lambda seed".split()
        return {
            "name": self.name,
            "policy": keras.saving.serialize_keras_object(self.policy),
            "inner_optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
        } | {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config):
        """The learner that `get_config` described."""
        objects = {
            key: keras.saving.deserialize_keras_object(config[key])
            for key in ("policy", "inner_optimizer")
        }
        return cls(**config | objects)

    def call(self, observation):
        """The outputs of the policy at the meta-learned weights, `[batch, ...]`."""
        return self.policy(observation)

    def compile(self, optimizer=None, surrogate="ratio", updates=5, clip=0.2):
        """Chooses the outer step.

        Args:
            optimizer: `TrustRegion` (the paper's, the default) or a `keras.optimizers.Optimizer`,
                which takes `updates` gradient steps on each batch of rollouts.
            surrogate: `"ratio"` or `"clipped"` (PPO; as in ProMP, Rothfuss et al., 2019).
            updates: `int`, gradient steps a batch of a Keras optimizer: 1 with `"ratio"` is
                vanilla policy gradient.
            clip: of the clipped surrogate.

        Raises:
            ValueError: an unknown surrogate.
        """
        if surrogate not in objectives.OUTER:
            raise ValueError(
                f"Expected `surrogate` to be one of {objectives.OUTER}, received {surrogate!r}."
            )
        optimizer = trust_region.TrustRegion() if optimizer is None else optimizer
        self.trust_region = optimizer if isinstance(optimizer, trust_region.TrustRegion) else None
        # Sampling calls into environments: the step as a whole is Python, its parts are compiled.
        super().compile(
            optimizer=None if self.trust_region else optimizer, run_eagerly=True, jit_compile=False
        )
        if not self.trust_region:
            self.optimizer.build(self.policy.trainable_variables)
        self.updates = updates
        self.objective = MetaObjective(
            self.policy,
            self.inner_optimizer,
            inner_loss=self.inner_loss,
            outer_loss=surrogate,
            first_order=self.first_order,
            clip=clip,
        )
        self._adapted = tf.function(self.objective.adapted)
        self._advantages = tf.function(advantages.estimate, reduce_retracing=True)
        step = self._trust_region_step if self.trust_region else self._gradient_steps
        self._outer_step = tf.function(step)

    def fit(self, environment, iterations, *, epochs=1, **kwargs):
        """Meta-trains.

        Args:
            environment: one of `maml_tf.rl.environments`; its `tasks` is the meta-batch.
            iterations: `int`, meta-iterations an epoch.
            epochs: `int`; callbacks and the progress bar report at the end of each.
            **kwargs: `callbacks`, `verbose`, `initial_epoch` of `keras.Model.fit`.

        Returns:
            `keras.callbacks.History`.
        """
        self._sampler = Sampler(self.policy, environment)
        numbers = tf.data.Dataset.range(iterations)
        return super().fit(numbers, epochs=epochs, shuffle=False, **kwargs)

    def train_step(self, data):
        """One meta-iteration."""
        del data
        iteration = int(self.iteration.numpy())
        environment = self._sampler.environment
        environment.set_tasks(environment.sample_tasks(environment.tasks, self._seed(iteration, 0)))
        weights = self.weights_of_policy()
        batches, returns = self.rollouts(self._sampler, weights, iteration)
        logs = {f"return_{k}": mean for k, mean in enumerate(returns)}
        logs |= self._outer_step(weights, batches[:-1], batches[-1])
        self.iteration.assign_add(1)
        return {k: float(v) for k, v in logs.items()}

    def weights_of_policy(self):
        """The meta-learned weights theta as tensors."""
        return [tf.convert_to_tensor(v) for v in self.policy.trainable_variables]

    def rollouts(self, sampler, weights, iteration, inner_steps=None):
        """Rollouts before and after each inner step.

        Args:
            sampler: `maml_tf.rl.sampling.Sampler`.
            weights: list of tensors, theta.
            iteration: `int`, from which with `seed` the random numbers follow.
            inner_steps: `int`, K; that of the learner by default.

        Returns:
            `(samples, returns)`: K + 1 samples for `MetaObjective` and their mean returns.
        """
        steps = self.inner_steps if inner_steps is None else inner_steps
        tasks = sampler.environment.tasks
        samples, returns = [], []
        fast = [tf.repeat(w[None], tasks, 0) for w in weights]
        for k in range(steps + 1):
            if k:
                fast = self._adapted(weights, samples)
            drawn = sampler.collect(fast, self._seed(iteration, k + 1))
            samples.append(self._sample(drawn))
            returns.append(np.nanmean(drawn.returns().numpy()))
        return samples, returns

    def _sample(self, drawn):
        advantage = self._advantages(
            drawn.observation,
            drawn.reward,
            drawn.mask,
            discount=self.discount,
            gae_lambda=self.gae_lambda,
        )
        return {
            "observation": drawn.observation,
            "action": drawn.action,
            "advantage": advantage,
            "mask": drawn.mask,
            "outputs": drawn.outputs,
        }

    def _seed(self, iteration, stream):
        # SeedSequence mixes: neighbouring iterations and streams share nothing.
        return int(np.random.SeedSequence([self.seed, iteration, stream]).generate_state(1)[0] >> 1)

    def _trust_region_step(self, weights, before, after):
        settings, objective = self.trust_region, self.objective
        shapes = [w.shape for w in weights]

        def flat(tensors):
            return tf.concat([tf.reshape(t, [-1]) for t in tensors], 0)

        def unflat(vector):
            parts = tf.split(vector, [shape.num_elements() for shape in shapes])
            return [tf.reshape(p, shape) for p, shape in zip(parts, shapes, strict=True)]

        n = settings.curvature_tasks
        part = tf.nest.map_structure(lambda t: t[:n], (before, after))
        theta = flat(weights)

        def product(x):
            return flat(objective.curvature_product(weights, unflat(x), *part))

        def difference(x):
            # A step of the order of the weights' rounding would give nothing but noise.
            size = 1e-2 / (tf.norm(x) + 1e-12)
            ahead = objective.divergence_gradient(unflat(theta + size * x), *part)
            behind = objective.divergence_gradient(unflat(theta - size * x), *part)
            return (flat(ahead) - flat(behind)) / (2 * size)

        surrogate, gradient = objective.value_and_gradient(weights, before, after)
        step = trust_region.step(
            settings,
            theta,
            surrogate,
            flat(gradient),
            lambda w: objective.value(unflat(w), before, after),
            product if settings.product == "exact" else difference,
        )
        for variable, value in zip(
            self.policy.trainable_variables, unflat(step.weights), strict=True
        ):
            variable.assign(value)
        return {
            "surrogate_before": step.surrogate_before,
            "surrogate": step.surrogate,
            "divergence": step.divergence,
            "accepted": tf.cast(step.accepted, tf.float32),
            "backtracks": step.backtracks,
        }

    def _gradient_steps(self, weights, before, after):
        variables = self.policy.trainable_variables
        first = None
        for _ in range(self.updates):
            weights = [tf.convert_to_tensor(v) for v in variables]
            surrogate, gradient = self.objective.value_and_gradient(weights, before, after)
            first = surrogate if first is None else first
            self.optimizer.apply_gradients(zip(gradient, variables, strict=True))
        weights = [tf.convert_to_tensor(v) for v in variables]
        surrogate, divergence = self.objective.value(weights, before, after)
        return {
            "surrogate_before": first,
            "surrogate": surrogate,
            "divergence": divergence,
        }
