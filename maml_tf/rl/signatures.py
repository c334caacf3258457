"""What an exported meta-policy answers: pure functions of a request's tensors, one a signature.

    act(observation) -> outputs, action                            at the meta-learned weights
    act_with(weights, observation) -> outputs, action              the most likely action
    sample(weights, observation, seed) -> outputs, action          a drawn one
    adapt(weights, observation, action, reward, mask, step) -> weights
        (of a learner with `bootstrap` also last_observation, truncated)

Adaptation is one request for each inner step, because each needs rollouts of its own. Nothing is
kept between them: the vector `weights` holds the policy's weights and what the inner optimizer
carries from step to step (moments); `step` says which of the step sizes is meant. A vector of size
0 is the meta-learned weights before the first step. (A signature that gave them would have no
input, and TensorFlow Serving refuses those.)

A server that batches puts only requests to `act` together, whose rows do not see each other: the
other signatures have inputs of different first sizes, or none.
"""

import numpy as np
import tensorflow as tf

from maml_tf.rl import advantages, policies
from maml_tf.serving import requests
from maml_tf.serving.flat_tensors import FlatTensors


class Signatures:
    """Functions of an exported meta-policy over the plain variables of `module`.

    Letters for shapes: n observations, O observation entries, A actions, R rollouts, H steps,
    P numbers in `weights`.

    Args:
        learner: `maml_tf.rl.MetaPolicy`.
        inner_optimizer: one of `maml_tf.inner_optimizers`.
        observation_spec: `tf.TensorSpec` `[None, O]`.

    Raises:
        ValueError: a policy whose outputs are not those of `maml_tf.rl.policies`.
    """

    def __init__(self, learner, inner_optimizer, observation_spec):
        policy = learner.policy
        self._learner = learner
        self._observation = observation_spec
        self.module = tf.Module(name="policy")
        self.module.weights = [tf.Variable(v.value, name="w") for v in policy.trainable_variables]
        self.module.state = [tf.Variable(v.value, name="s") for v in policy.non_trainable_variables]
        self._policy_size = len(self.module.weights)
        self._objective = learner.make_objective(inner_optimizer, state=self.module.state)
        self._flat = FlatTensors(self._before_the_first_step())
        # What actions are is read off one.
        zeros = tf.zeros([1, *observation_spec.shape[1:]], observation_spec.dtype)
        outputs = policies.apply(policy, self._values(), zeros)
        one = policies.distribution(outputs)
        self._float = tf.nest.flatten(outputs)[0].dtype
        self._action = tf.TensorSpec([None, None, *one.event_shape], one.dtype)
        # What it takes to tell what rollouts that a limit ended are worth beyond it.
        self._ends = {}
        if learner.bootstrap:
            self._ends = {
                "last_observation": observation_spec,
                "truncated": tf.TensorSpec([None], tf.bool),
            }
        # How many actions integers choose from; None for vectors.
        self._choices = outputs["logits"].shape[-1] if one.dtype.is_integer else None

    def all(self):
        """Concrete functions by signature name."""
        weights = tf.TensorSpec([None], self._flat.dtype)
        rows = {"observation": self._observation}
        act = _concrete(self._act, rows)
        return {
            "serving_default": act,
            "act": act,
            "act_with": _concrete(self._act_with, {"weights": weights, **rows}),
            "sample": _concrete(
                self._sample, {"weights": weights, **rows, "seed": tf.TensorSpec([2], tf.int32)}
            ),
            "adapt": _concrete(
                self._adapt,
                {
                    "weights": weights,
                    "observation": tf.TensorSpec(
                        [None, *self._observation.shape], self._observation.dtype
                    ),
                    "action": self._action,
                    "reward": tf.TensorSpec([None, None], self._float),
                    "mask": tf.TensorSpec([None, None], self._float),
                    "step": tf.TensorSpec([], tf.int32),
                    **self._ends,
                },
            ),
        }

    def examples(self):
        """Small requests that every signature can answer: dicts of arrays by signature."""
        weights = np.zeros([self._flat.size], self._flat.dtype.as_numpy_dtype)
        observation = np.zeros(
            [1, *self._observation.shape[1:]], self._observation.dtype.as_numpy_dtype
        )
        ones = np.ones([1, 1], self._float.as_numpy_dtype)
        action = np.zeros([1, 1, *self._action.shape[2:]], self._action.dtype.as_numpy_dtype)
        rows = {"observation": observation}
        ends = {"last_observation": observation, "truncated": np.ones([1], bool)}
        return {
            "serving_default": rows,
            "act": rows,
            "act_with": {"weights": weights, **rows},
            "sample": {"weights": weights, **rows, "seed": np.zeros([2], np.int32)},
            "adapt": {
                "weights": weights,
                "observation": observation[np.newaxis],
                "action": action,
                "reward": ones,
                "mask": ones,
                "step": np.array(0, np.int32),
                **(ends if self._ends else {}),
            },
        }

    def _act(self, observation):
        outputs = self._outputs(self._values(), observation)
        return outputs | {"action": policies.distribution(outputs).mode()}

    def _act_with(self, weights, observation):
        outputs = self._outputs(self._split(weights)[0], observation)
        return outputs | {"action": policies.distribution(outputs).mode()}

    def _sample(self, weights, observation, seed):
        outputs = self._outputs(self._split(weights)[0], observation)
        return outputs | {"action": policies.distribution(outputs).sample(seed=seed)}

    def _adapt(self, weights, observation, action, reward, mask, step, **ends):
        sample = {"observation": observation, "action": action, "reward": reward, "mask": mask}
        sample |= ends
        sample = requests.after(self._checks(sample, step), sample)
        ends = {name: sample.pop(name)[None] for name in ends}
        observation, reward, mask = (sample[n][None] for n in ("observation", "reward", "mask"))
        advantage, error = advantages.estimate(
            observation,
            reward,
            mask,
            discount=self._learner.discount,
            gae_lambda=self._learner.gae_lambda,
            **ends,
        )
        sample |= {"advantage": advantage[0], "error": error[0]}
        weights, slots = self._objective.step(step, *self._split(weights), sample)
        adapted = self._flat.join([*weights, *slots])
        # Rewards that are finite may still be too large.
        check = requests.finite("the weights after the step", adapted)
        return {"weights": requests.after([check], adapted)}

    def _checks(self, sample, step):
        """Assertions that rollouts belong together and can be learned from."""
        mask, size = sample["mask"], tf.shape(sample["observation"])[:2]
        checks = [requests.finite(n, t) for n, t in sample.items() if t.dtype.is_floating]
        for name in ("action", "reward", "mask"):
            message = f"Expected as many rollouts and steps in {name} as in observation."
            checks.append(tf.debugging.assert_equal(tf.shape(sample[name])[:2], size, message))
        for name in self._ends:
            message = f"Expected as many rollouts in {name} as in observation."
            checks.append(tf.debugging.assert_equal(tf.shape(sample[name])[:1], size[:1], message))
        whole = tf.reduce_all((mask == 0) | (mask == 1))
        whole &= tf.reduce_all(mask[:, 1:] <= mask[:, :-1])
        message = "Expected a mask of 1 up to the end of each rollout and of 0 after it."
        checks.append(tf.debugging.assert_equal(whole, True, message))
        message = "Expected a mask of 1 for at least one step of a rollout."
        checks.append(tf.debugging.assert_equal(tf.reduce_any(mask == 1), True, message))
        checks.append(tf.debugging.assert_non_negative(step, "Expected `step` of at least 0."))
        if self._choices is not None:
            known = (sample["action"] >= 0) & (sample["action"] < self._choices)
            message = f"Expected actions from 0 to {self._choices - 1}."
            checks.append(tf.debugging.assert_equal(tf.reduce_all(known), True, message))
        return checks

    def _outputs(self, weights, observation):
        observation = requests.checked_x("observation", observation)
        return policies.apply(self._learner.policy, weights, observation, self.module.state)

    def _values(self):
        return [tf.convert_to_tensor(w) for w in self.module.weights]

    def _before_the_first_step(self):
        weights = self._values()
        return [*weights, *self._objective.loop.initial_slots(weights)]

    def _split(self, vector):
        """The policy's weights and the inner optimizer's slots, once the vector is good."""
        size, given = self._flat.size, tf.size(vector)
        message = (
            f"Expected the {size} weights that `adapt` gave, or none, which are the meta-learned "
            "ones."
        )
        wanted = tf.where(tf.equal(given, 0), 0, size)
        checks = [
            tf.debugging.assert_equal(given, wanted, message),
            requests.finite("weights", vector),
        ]
        vector = requests.after(checks, vector)
        # One of the two is empty.
        meta_learned = self._flat.join(self._before_the_first_step())[tf.size(vector) :]
        whole = tf.ensure_shape(tf.concat([vector, meta_learned], 0), [size])
        tensors = self._flat.split(whole)
        return tensors[: self._policy_size], tensors[self._policy_size :]


def _concrete(function, specs):
    specs = {name: tf.TensorSpec(s.shape, s.dtype, name=name) for name, s in specs.items()}

    def of_shape(**tensors):
        return function(**requests.of_shape(tensors, specs))

    return tf.function(of_shape, autograph=False).get_concrete_function(**specs)
