"""A client of TensorFlow Serving for exported policies: NumPy in, NumPy out."""

import numpy as np
from numpy.typing import ArrayLike

from maml_tf import arguments
from maml_tf.serving import wire
from maml_tf.serving.connection import Connection

# How the exported graph is asked for the meta-learned weights.
_META_LEARNED = np.zeros(0, np.float32)


class PolicyClient(Connection):
    """Acts and adapts by a policy on a server that serves what `maml_tf.rl.export` wrote.

    Arguments are those of `Connection`: address, model; version, timeout, retries.

    Example:
        >>> client = maml_tf.serving.PolicyClient("localhost:8500", "navigation")
        >>> policy = client.policy()
        >>> observation = np.zeros([20, 2])
        >>> for step in range(3):
        ...     action = policy.sample(observation, seed=step)  # yours: rollouts of many such steps
        ...     reward = -np.abs(action).sum(-1)
        ...     policy = policy.adapt(observation[:, None], action[:, None], reward[:, None])
        >>> policy.act(observation).shape
        (20, 2)
    """

    def policy(self) -> "ServedPolicy":
        """The meta-learned policy, a `ServedPolicy` that has taken no step."""
        return ServedPolicy(self, _META_LEARNED, 0)


class ServedPolicy:
    """A policy of one task: its weights are here, the server computes and keeps nothing.

    Letters for shapes: n observations, O observation entries, A actions, R rollouts, H steps.

    Attributes:
        weights: float32 `[P]`, or `[0]` for the meta-learned ones.
        steps: int, the inner steps that it has taken.
    """

    def __init__(self, client: PolicyClient, weights: np.ndarray, steps: int) -> None:
        self._client = client
        self.weights = weights
        self.steps = steps

    def act(self, observation: ArrayLike) -> np.ndarray:
        """The most likely actions.

        Args:
            observation: `[n, O]`.

        Returns:
            `[n, A]`, not clipped, or int32 `[n]`.

        Raises:
            ServingError: the server refused the request or could not be reached.
        """
        return self._actions("act_with", observation, {})

    def sample(self, observation: ArrayLike, seed: int) -> np.ndarray:
        """Actions drawn from the policy, which explore a task.

        Args:
            observation: `[n, O]`.
            seed: int from 0 to 2**62 - 1; the same one draws the same, so that each request needs
                one of its own.

        Returns:
            As `act`.

        Raises:
            ServingError: as `act`.
            TypeError, ValueError: a seed or an observation that is none.
        """
        seed = arguments.integer("seed", seed, 0, 2**62 - 1)
        halves = np.array([seed & 0x7FFFFFFF, seed >> 31], np.int32)
        return self._actions("sample", observation, {"seed": halves})

    def _actions(self, signature, observation, more):
        inputs = {"weights": self.weights, "observation": observation, **more}
        outputs = wire.only(self._client._call(signature, inputs), ["action"])
        action = wire.finite(outputs)["action"]
        if np.shape(action)[:1] != np.shape(observation)[:1]:
            what = f"actions of shape {np.shape(action)} for {np.shape(observation)[0]} states"
            raise wire.malformed(what)
        return action

    def adapt(
        self,
        observation: ArrayLike,
        action: ArrayLike,
        reward: ArrayLike,
        mask: ArrayLike | None = None,
        *,
        last_observation: ArrayLike | None = None,
        truncated: ArrayLike | None = None,
    ) -> "ServedPolicy":
        """One inner step on rollouts that this policy drew by `sample`.

        Args:
            observation: `[R, H, O]`, before each action.
            action: `[R, H, A]` or int `[R, H]`, as drawn.
            reward: `[R, H]`.
            mask: `[R, H]`, 1 up to the end of a rollout and 0 after it; all of it by default.
            last_observation: `[R, O]`, after the last action of each rollout. This and the next are
                for policies that were exported of a `MetaPolicy` with `bootstrap=True`, alone.
            truncated: bool `[R]`, whether a limit on the time ended the rollout.

        Returns:
            `ServedPolicy` after the step.

        Raises:
            ServingError: the server refused the request (rollouts whose parts differ in size),
                gave no answer or could not be reached.
            ValueError: arrays that the policy cannot take, or that are not finite.
        """
        known = self._client._signature("adapt").inputs.get("reward")
        if mask is None and known is not None:
            reward = wire.cast("reward", reward, known)
            mask = np.ones_like(reward)
        inputs = {
            "weights": self.weights,
            "observation": observation,
            "action": action,
            "reward": reward,
            "mask": mask,
            "step": self.steps,
        }
        ends = {"last_observation": last_observation, "truncated": truncated}
        inputs |= {name: value for name, value in ends.items() if value is not None}
        outputs = wire.only(self._client._call("adapt", inputs), ["weights"])
        return ServedPolicy(self._client, wire.finite(outputs)["weights"], self.steps + 1)
