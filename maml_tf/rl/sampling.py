"""Rollouts of all tasks at once.

A batch of rollouts is a pure function of (weights, tasks, seed). Letters for shapes: T tasks,
R rollouts of each, H steps (the horizon).
"""

import concurrent.futures
import logging
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from maml_tf.rl import host_policy, policies

_log = logging.getLogger(__name__)


class Rollouts(NamedTuple):
    """Rollouts of T tasks; what lies after the end of a rollout is masked."""

    observation: tf.Tensor  # [T, R, H, O], before the action
    action: tf.Tensor  # [T, R, H, A] or [T, R, H], as the policy drew it, not clipped
    reward: tf.Tensor  # [T, R, H]
    mask: tf.Tensor  # [T, R, H], 1 where the step belongs to its rollout
    outputs: dict  # [T, R, H, ...], the policy's outputs when it acted

    def returns(self):
        """Undiscounted return of each rollout, `[T, R]`; NaN for one that was discarded."""
        totals = tf.reduce_sum(self.reward * self.mask, -1)
        none = tf.reduce_sum(self.mask, -1) == 0
        return tf.where(none, tf.constant(np.nan, totals.dtype), totals)


class Sampler:
    """Draws rollouts of a policy in an environment.

    Args:
        policy: as described in `maml_tf.rl.policies`.
        environment: one of `maml_tf.rl.environments`. Two kinds are fast: those with
            `transition` (a pure function: the whole batch of rollouts is one compiled call) and
            those with `step_rows` (NumPy, all rows at once; so acts the policy, where
            `maml_tf.rl.host_policy` supports it).
    """

    def __init__(self, policy, environment):
        if not hasattr(environment, "transition") and not hasattr(environment, "step_rows"):
            raise TypeError(
                "Expected an environment of `maml_tf.rl.environments` (with `step_rows` or "
                f"`transition`), received {type(environment).__name__}. "
                "`maml_tf.rl.environments.from_gymnasium` makes one of a gymnasium environment."
            )
        self.policy = policy
        self.environment = environment
        self._parts = [] if hasattr(environment, "transition") else environment.split()
        self._on_host = host_policy.supported(policy)
        self._act = tf.function(self._act)
        self._in_graph = tf.function(self._in_graph)

    def collect(self, weights, seed):
        """One rollout in every row of the environment, from its beginning.

        Args:
            weights: list of tensors, each `[T, ...]`: the fast weights of every task.
            seed: `int`, of the actions and of the environment.

        Returns:
            `Rollouts`.
        """
        environment = self.environment
        weights = [tf.convert_to_tensor(w) for w in weights]
        words = [seed & 0x7FFFFFFF, seed >> 31 & 0x7FFFFFFF]
        seed = tf.constant(words, tf.int32)
        if hasattr(environment, "transition"):
            drawn = self._in_graph(weights, environment.current_tasks(), seed)
        else:
            for part in self._parts:
                part.seed(words[0])
            drawn = self._at_once(weights, seed)
        return _without_broken(drawn)

    def _at_once(self, weights, seed):
        """`_row_by_row` in all parts of the environment, a thread for each."""
        parts = self._parts
        sizes = [part.tasks for part in parts]
        if len(parts) > 1:
            tasks = np.split(self.environment.current_tasks(), np.cumsum(sizes)[:-1])
            for part, some in zip(parts, tasks, strict=True):
                part.set_tasks(some)
        weights = zip(*(tf.split(w, sizes) for w in weights), strict=True)
        seeds = [tf.random.experimental.stateless_fold_in(seed, i) for i in range(len(sizes))]
        actors = [
            self._host_actor(w, s) if self._on_host else self._graph_actor(w, s, part)
            for w, s, part in zip(map(list, weights), seeds, parts, strict=True)
        ]
        # What counts is done outside of Python's lock: physics in MuJoCo, policies in BLAS.
        with concurrent.futures.ThreadPoolExecutor(len(sizes)) as pool:
            drawn = list(pool.map(_row_by_row, actors, parts))
        arrays = [np.concatenate(a) for a in zip(*map(tf.nest.flatten, drawn), strict=True)]
        return tf.nest.pack_sequence_as(drawn[0], [tf.constant(a) for a in arrays])

    def _host_actor(self, weights, seed):
        network = host_policy.network(self.policy, weights)
        generator = np.random.Generator(np.random.Philox(key=seed.numpy().astype(np.uint64)))

        def actor(observation, t):
            outputs = network(observation)
            return host_policy.drawn_action(outputs, generator), outputs

        return actor

    def _graph_actor(self, weights, seed, environment):
        shape = (environment.tasks, environment.rollouts)
        spec = environment.observation_spec()
        # Chosen once: to find the graph for its arguments takes as long as to run it.
        act = self._act.get_concrete_function(
            weights,
            tf.TensorSpec((*shape, *spec.shape), spec.dtype),
            seed,
            tf.TensorSpec([], tf.int32),
        )

        def actor(observation, t):
            result = act(weights, tf.constant(observation), seed, tf.constant(t))
            return tf.nest.map_structure(lambda tensor: tensor.numpy(), result)

        return actor

    def _act(self, weights, observation, seed, t):
        outputs = policies.apply_tasks(self.policy, weights, observation)
        step_seed = tf.random.experimental.stateless_fold_in(seed, t)
        return policies.distribution(outputs).sample(seed=step_seed), outputs

    def _in_graph(self, weights, tasks, seed):
        environment = self.environment
        state, observation = environment.initial(tasks)

        def body(carry, t):
            state, observation, running = carry[:3]
            action, outputs = self._act(weights, observation, seed, t)
            state, following, reward, terminated = environment.transition(state, action, tasks)
            record = (observation, action, reward * running, running, outputs)
            running = running * (1 - tf.cast(terminated, running.dtype))
            return (state, following, running), record

        running = tf.ones([environment.tasks, environment.rollouts])
        return _scan(body, (state, observation, running), environment.horizon)


def _row_by_row(actor, environment):
    """Rollouts, of arrays, of an environment with `step_rows`.

    `actor(observation, t)` gives the action of step t and the policy's outputs.
    """
    shape = (environment.tasks, environment.rollouts)
    observation = environment.reset_rows()
    running = np.ones(environment.batch_size, bool)
    broken = np.zeros(environment.batch_size, bool)
    steps = []
    for t in range(environment.horizon):
        o = observation.reshape(*shape, *observation.shape[1:])
        action, outputs = actor(o, t)
        rows = action.reshape(environment.batch_size, *action.shape[2:])
        observation, reward, ended, _ = environment.step_rows(rows, moving=running.copy())
        steps.append((o.copy(), action, reward.reshape(shape), running.reshape(shape), outputs))
        broken = broken | (environment.discarded & running)
        running = running & ~ended
    return _stacked(steps, ~broken.reshape(shape))


def _stacked(steps, kept):
    observation, action, reward, running, outputs = zip(*steps, strict=True)
    mask = np.stack(running, 2) & kept[..., None]
    # What a row did after its end, or before it broke, must not reach a sum as NaN * 0.
    reward = np.where(mask, np.stack(reward, 2), 0).astype(np.float32)
    return Rollouts(
        np.stack(observation, 2),
        np.stack(action, 2),
        reward,
        mask.astype(np.float32),
        {k: np.stack([o[k] for o in outputs], 2) for k in outputs[0]},
    )


def _without_broken(drawn):
    """Masks rollouts in which anything is NaN or infinite: they must not reach the policy."""
    counted = drawn.mask > 0
    finite = tf.math.is_finite(drawn.reward) & tf.reduce_all(
        tf.math.is_finite(drawn.observation), -1
    )
    whole = tf.reduce_all(finite | ~counted, -1, keepdims=True)
    broken = int(tf.reduce_sum(tf.cast(~whole, tf.int32)))
    if not broken:
        return drawn
    _log.warning(
        "%d of %d rollouts have a reward or an observation that is not finite: they are not "
        "learned from.",
        broken,
        tf.size(whole),
    )
    # Zeros, not only the mask: NaN * 0 is NaN.
    return drawn._replace(
        reward=tf.where(whole, drawn.reward, 0.0),
        observation=tf.where(whole[..., None], drawn.observation, 0.0),
        mask=tf.where(whole, drawn.mask, 0.0),
    )


def _scan(body, carry, steps):
    """`body(carry, t) -> (carry, record)` for every t; the records stacked along axis 2."""
    first = tf.nest.map_structure(lambda s: s, body(carry, tf.constant(0))[1])
    arrays = [
        tf.TensorArray(r.dtype, size=steps, element_shape=r.shape) for r in tf.nest.flatten(first)
    ]

    def loop_body(t, carry, arrays):
        carry, record = body(carry, t)
        flat = tf.nest.flatten(record)
        return t + 1, carry, [a.write(t, r) for a, r in zip(arrays, flat, strict=True)]

    _, _, arrays = tf.while_loop(
        lambda t, *_: t < steps, loop_body, (tf.constant(0), carry, arrays), parallel_iterations=1
    )

    def stacked(array):
        values = array.stack()  # [H, T, R, ...]
        rank = values.shape.rank
        return tf.transpose(values, [1, 2, 0, *range(3, rank)])

    return Rollouts(*tf.nest.pack_sequence_as(first, [stacked(a) for a in arrays]))
