"""The meta-objective of reinforcement learning as a function of the initial weights.

For task i with rollouts D_0 .. D_{K-1} before each inner step and D_K after the last one,

    theta_{k+1} = theta_k - alpha grad L_i(theta_k; D_k)            (Finn et al., 2017, equation 1)
    J(theta) = mean over tasks of L'_i(theta_K; D_K),               (equation 4, algorithm 3)

with L the inner loss and L' the surrogate of `maml_tf.rl.objectives`. `MetaObjective` gives J, its
exact gradient, the divergence between the adapted policies, and the divergence's Hessian-vector
product, from which `maml_tf.rl.trust_region` makes a step.
"""

import dataclasses

import tensorflow as tf

from maml_tf import exact
from maml_tf.learners.base.task_map import map_tasks, task_mean
from maml_tf.rl import objectives, partial_evaluation, policies


class MetaObjective:
    """See the top of this file.

    Args:
        policy: as described in `maml_tf.rl.policies`.
        loop: `maml_tf.inner.description.InnerLoop`: how the policy's weights adapt.
        inner_loss: one of `objectives.INNER`.
        outer_loss: one of `objectives.OUTER`.
        clip: of the clipped surrogate.
        decay: `float`, gamma lambda, of the inner loss `"dice"`.
        jit_compile: compile what is done for a task with XLA.
        state: list of tensors or variables in the place of the policy's variables that are not
            trained; those of the policy by default.
    """

    def __init__(
        self,
        policy,
        loop,
        *,
        inner_loss="policy_gradient",
        outer_loss="ratio",
        clip=0.2,
        decay=1.0,
        jit_compile=False,
        state=None,
    ):
        self.policy = policy
        self.loop = loop
        self.inner_loss = inner_loss
        self.outer_loss = outer_loss
        self.clip = clip
        self.decay = decay
        self.jit_compile = jit_compile
        self.state = state

    def fast_weights(self, weights, before, first_order=None):
        """The weights of one task after an inner step on each batch in `before`.

        Args:
            weights: list of tensors, theta.
            before: list of K samples (dicts of `observation` [R, H, O], `action`, `advantage`,
                `mask`, for `"dice"` `error`), one for each inner step.
            first_order: overrides that of the inner loop.

        Returns:
            List of tensors.
        """

        def loss(weights, state, step):
            return self._inner_loss(weights, before[step]), state

        loop = self.loop
        if first_order is not None:
            loop = dataclasses.replace(loop, first_order=first_order)
        return loop.adapt(loss, weights, [], len(before)).weights

    def step(self, number, weights, slots, sample):
        """One inner step of one task by itself: one of those that `fast_weights` takes.

        Args:
            number: `int` or int32 scalar, which of the inner steps it is, from 0.
            weights: list of tensors, theta_k.
            slots: list of tensors, what the inner optimizer carries from step to step; those of
                `loop.initial_slots(weights)` before the first one.
            sample: as those in `before` of `fast_weights`, drawn with these weights.

        Returns:
            `(weights, slots)` after the step.
        """

        def loss(weights, state, step):
            return self._inner_loss(weights, sample), state

        weights, _, slots = self.loop.step(loss, number, weights, [], slots)
        return weights, slots

    def _inner_loss(self, weights, sample):
        outputs = self.outputs(weights, sample["observation"])
        return objectives.inner_loss(self.inner_loss, outputs, sample, self.decay)

    def outputs(self, weights, observation):
        """The policy's outputs `[R, H, ...]` for observations `[R, H, ...]` of one task."""
        shape = tf.shape(observation)
        flat = tf.reshape(observation, tf.concat([[-1], shape[2:]], 0))
        flat.set_shape([None, *observation.shape[2:]])
        outputs = policies.apply(self.policy, weights, flat, self.state)

        def unflattened(y):
            full = tf.reshape(y, tf.concat([shape[:2], tf.shape(y)[1:]], 0))
            full.set_shape([*observation.shape[:2], *y.shape[1:]])
            return full

        return tf.nest.map_structure(unflattened, outputs)

    def adapted(self, weights, before):
        """The fast weights of every task.

        Args:
            weights: list of tensors, theta.
            before: list of K samples, each tensor `[T, ...]`.

        Returns:
            List of tensors `[T, ...]`.
        """

        def one(before, index):
            return [], self.fast_weights(weights, before, first_order=True)

        return map_tasks(one, before, "loop", jit_compile=self.jit_compile)[1]

    def value(self, weights, before, after):
        """`(J, divergence)`, means over tasks.

        Args:
            weights: list of tensors, theta.
            before: list of K samples `[T, ...]`.
            after: a sample `[T, ...]`, with `outputs`, what the policy gave when it acted.

        Returns:
            Two scalars.
        """

        def one(task, index):
            before, after = task
            outputs = self.outputs(self.fast_weights(weights, before, True), after["observation"])
            return self._losses(outputs, after), []

        return self._mean(one, (before, after))

    def value_and_gradient(self, weights, before, after):
        """`(J, gradient)`: the exact meta-gradient, a list of tensors; arguments as in `value`."""
        return self._with_gradient(0, weights, before, after)

    def divergence_gradient(self, weights, before, after):
        """Gradient of the divergence; arguments as in `value`."""
        return self._with_gradient(1, weights, before, after)[1]

    def _with_gradient(self, which, weights, before, after):
        def one(task, index):
            before, after = task
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weights)
                outputs = self.outputs(self.fast_weights(weights, before), after["observation"])
                loss = self._losses(outputs, after)[which]
            with exact.refusals(self.jit_compile, self.loop.first_order):
                gradient = _gradient(tape, loss, weights)
            return (loss, gradient), []

        return self._mean(one, (before, after))

    def curvature(self, weights, before, after):
        """The Hessian H of the divergence at the policy that acted, as a function of a vector.

        The divergence is least at that policy, so the terms with its first derivative vanish and

            H x = J' F J x,   J = d theta_K / d theta,   F the Fisher information of theta_K,

        exactly, for every kind of inner step. It takes about half the time of differentiating
        the divergence twice. What does not depend on x is computed here, once for all products,
        and kept for all tasks.

        Args:
            weights: list of tensors, theta.
            before: list of K samples `[T, ...]`.
            after: a sample `[T, ...]`.

        Returns:
            A function of x to H x, both lists of tensors like `weights`.
        """

        def product(known, vector):
            weights, before, after = known
            with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
                tape.watch(weights)
                fast = self.fast_weights(weights, before)
            tangent = _tangent(tape, fast, weights, vector)
            return _gradient(tape, fast, weights, self._fisher_product(fast, tangent, after))

        tasks = (before, after)
        one_task = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape[1:], t.dtype), tasks)
        prepare, finish = partial_evaluation.split(product, (weights, *one_task), weights)

        def prepared(task, index):
            return [], prepare((weights, *task))

        kept = map_tasks(prepared, tasks, "loop", jit_compile=self.jit_compile)[1]

        def times(vector):
            def one(task, index):
                task, kept = task
                return finish((weights, *task), kept, vector), []

            return self._mean(one, (tasks, kept))

        return times

    def curvature_product(self, weights, vector, before, after):
        """`curvature(weights, before, after)` of one vector, a list of tensors."""
        return self.curvature(weights, before, after)(vector)

    def _fisher_product(self, weights, vector, after):
        weights = [tf.stop_gradient(w) for w in weights]
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
            tape.watch(weights)
            outputs = tf.nest.flatten(self.outputs(weights, after["observation"]))
        tangents = _tangent(tape, outputs, weights, vector)
        structure = after["outputs"]
        outputs_now = [tf.stop_gradient(o) for o in outputs]
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            outer.watch(outputs_now)
            with tf.GradientTape(watch_accessed_variables=False) as inner:
                inner.watch(outputs_now)
                kl = objectives.divergence(
                    tf.nest.pack_sequence_as(structure, outputs_now),
                    tf.nest.pack_sequence_as(structure, [tf.stop_gradient(o) for o in outputs]),
                    after["mask"],
                )
            slopes = inner.gradient(kl, outputs_now)
        upstream = outer.gradient(slopes, outputs_now, output_gradients=tangents)
        return _gradient(tape, outputs, weights, upstream)

    def _losses(self, outputs, after):
        loss = objectives.outer_loss(
            self.outer_loss,
            outputs,
            after["outputs"],
            after["action"],
            after["advantage"],
            after["mask"],
            self.clip,
        )
        return loss, objectives.divergence(outputs, after["outputs"], after["mask"])

    def _mean(self, one, tasks):
        return task_mean(one, tasks, "loop", jit_compile=self.jit_compile)[0]


def _gradient(tape, target, sources, upstream=None):
    return tape.gradient(
        target,
        sources,
        output_gradients=upstream,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )


def _tangent(tape, target, sources, vector):
    """The derivative of `target` along `vector`: that of its gradient, which is linear, by u.

    `tf.autodiff.ForwardAccumulator` gives the same by functions of its own, which take what they
    do not need: `partial_evaluation` would keep it.

    Args:
        tape: a persistent `tf.GradientTape` that saw how `target` was made.
        target: list of tensors.
        sources: list of tensors that the tape watched.
        vector: list of tensors like `sources`.

    Returns:
        List of tensors like `target`.
    """
    u = [tf.zeros_like(t) for t in target]
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        outer.watch(u)
        slopes = _gradient(tape, target, sources, u)
    return _gradient(outer, slopes, u, vector)
