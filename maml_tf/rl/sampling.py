"""Rollouts of all tasks at once.

A batch of rollouts is a pure function of (weights, tasks, seed). Letters for shapes: T tasks,
R rollouts of each, H steps (the horizon).
"""

import concurrent.futures
import logging

import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.rl import compatibility, host_policy, policies, row_rollouts
from maml_tf.rl.row_rollouts import Rollouts

_log = logging.getLogger(__name__)


class Sampler:
    """Draws rollouts of a policy in an environment.

    Args:
        policy: as described in `maml_tf.rl.policies`.
        environment: one of `maml_tf.rl.environments`. Two kinds are fast: those with
            `transition` (a pure function: the whole batch of rollouts is one compiled call) and
            those with `step_rows` (NumPy, all rows at once; so acts the policy, where
            `maml_tf.rl.host_policy` supports it).

    Raises:
        TypeError: another kind of environment.
        ValueError: a policy that does not fit its observations or actions.
    """

    def __init__(self, policy, environment):
        if not hasattr(environment, "transition") and not hasattr(environment, "step_rows"):
            raise TypeError(
                "Expected `environment` to be one of `maml_tf.rl.environments` (with `step_rows` "
                f"or `transition`). Received: {arguments.received('environment', environment)}. "
                "Use `maml_tf.rl.environments.from_gymnasium` to make one of a gymnasium "
                "environment."
            )
        compatibility.check(policy, environment)
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

        Raises:
            RuntimeError: every rollout broke; with the traceback of the first.
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
        drawn = _without_broken(_without_untold(drawn))
        self._refuse_nothing(drawn)
        return drawn

    def _refuse_nothing(self, drawn):
        if tf.reduce_any(drawn.mask > 0):
            return
        errors = [getattr(part, "first_error", "") for part in self._parts]
        raise RuntimeError(
            "Expected at least one rollout to learn from. Received: "
            f"{self.environment.batch_size} rollouts, of which every one broke. Correct the "
            "environment, or the policy that drives it there; the first one: "
            + (
                next(filter(None, errors), "")
                or "no finite reward or observation, or physics that diverged."
            )
        )

    def _at_once(self, weights, seed):
        """The rollouts of all parts of the environment, a thread for each."""
        parts = self._parts
        sizes = [part.tasks for part in parts]
        if len(parts) > 1:
            tasks = np.split(self.environment.current_tasks(), np.cumsum(sizes)[:-1])
            for part, some in zip(parts, tasks, strict=True):
                part.set_tasks(some)
        weights = zip(*(tf.split(w, sizes) for w in weights), strict=True)
        seeds = [_fold_in(seed, i) for i in range(len(sizes))]
        actors = list(map(self._actors, parts, weights, seeds))
        # What counts is done outside of Python's lock: physics in MuJoCo, policies in BLAS.
        with concurrent.futures.ThreadPoolExecutor(len(sizes)) as pool:
            drawn = list(pool.map(row_rollouts.draw, actors, parts))
        arrays = [np.concatenate(a) for a in zip(*map(tf.nest.flatten, drawn), strict=True)]
        return tf.nest.pack_sequence_as(drawn[0], [tf.constant(a) for a in arrays])

    def _actors(self, environment, weights, seed):
        """How the policy acts in every block of an environment."""
        actors = []
        for i, (tasks, rollouts) in enumerate(environment.blocks()):
            some, own_seed = [w[tasks] for w in weights], _fold_in(seed, i) if i else seed
            if self._on_host:
                actors.append(self._host_actor(some, own_seed))
            else:
                shape = (tasks.stop - tasks.start, rollouts.stop - rollouts.start)
                actors.append(self._graph_actor(some, own_seed, shape))
        return actors

    def _host_actor(self, weights, seed):
        network = host_policy.network(self.policy, weights)
        generator = np.random.Generator(np.random.Philox(key=seed.numpy().astype(np.uint64)))

        def actor(observation, t):
            outputs = network(observation)
            return host_policy.drawn_action(outputs, generator), outputs

        return actor

    def _graph_actor(self, weights, seed, shape):
        spec = self.environment.observation_spec()
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
        step_seed = _fold_in(seed, t)
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
        (_, following, running), record = _scan(
            body,
            (state, observation, running),
            environment.horizon,
            lambda carry: tf.reduce_any(carry[2] > 0),
        )
        # What still runs ends at the horizon.
        truncated = running > 0
        last = tf.where(truncated[..., None], following, tf.zeros_like(following))
        return Rollouts(*record, last, truncated, info={})


def _fold_in(seed, number):
    return tf.random.experimental.stateless_fold_in(seed, number)


def _without_broken(drawn):
    """Masks rollouts in which anything is NaN or infinite: they must not reach the policy."""
    counted = drawn.mask > 0
    finite = tf.math.is_finite(drawn.reward) & tf.reduce_all(
        tf.math.is_finite(drawn.observation), -1
    )
    whole = tf.reduce_all(finite | ~counted, -1, keepdims=True)
    whole &= tf.reduce_all(tf.math.is_finite(drawn.last_observation), -1, keepdims=True)
    # Rewards that are finite may still have a sum that is not.
    total = tf.reduce_sum(tf.where(counted, tf.abs(drawn.reward), 0), -1, keepdims=True)
    whole &= tf.math.is_finite(total)
    broken = int(tf.reduce_sum(tf.cast(~whole, tf.int32)))
    if not broken:
        return drawn
    _log.warning(
        "%d of %d rollouts have a return or an observation that is not finite: they are not "
        "learned from.",
        broken,
        tf.size(whole),
    )
    # Zeros, not only the mask: NaN * 0 is NaN.
    return drawn._replace(
        reward=tf.where(whole, drawn.reward, 0.0),
        observation=tf.where(whole[..., None], drawn.observation, 0.0),
        mask=tf.where(whole, drawn.mask, 0.0),
        last_observation=tf.where(whole, drawn.last_observation, 0.0),
        truncated=drawn.truncated & whole[..., 0],
    )


def _without_untold(drawn):
    """Leaves out of `info` what the environment did not tell in any step."""
    return drawn._replace(
        info={
            name: values
            for name, values in drawn.info.items()
            if not tf.reduce_all(tf.math.is_nan(values))
        }
    )


def _scan(body, carry, steps, goes_on):
    """`body(carry, t) -> (carry, record)` for every t: the last carry, records along axis 2.

    Where `goes_on(carry)` is False it stops; zeros stand for what is left of the steps.
    """
    first = tf.nest.map_structure(lambda s: s, body(carry, tf.constant(0))[1])
    arrays = [
        tf.TensorArray(r.dtype, size=steps, element_shape=r.shape) for r in tf.nest.flatten(first)
    ]

    def loop_body(t, carry, arrays):
        carry, record = body(carry, t)
        flat = tf.nest.flatten(record)
        return t + 1, carry, [a.write(t, r) for a, r in zip(arrays, flat, strict=True)]

    _, carry, arrays = tf.while_loop(
        lambda t, carry, arrays: (t < steps) & goes_on(carry),
        loop_body,
        (tf.constant(0), carry, arrays),
        parallel_iterations=1,
    )

    def stacked(array):
        values = array.stack()  # [H, T, R, ...]
        rank = values.shape.rank
        return tf.transpose(values, [1, 2, 0, *range(3, rank)])

    return carry, tf.nest.pack_sequence_as(first, [stacked(a) for a in arrays])
