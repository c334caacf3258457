"""What gymnasium's spaces are as specs of TF-Agents, and what a policy's actions are in them."""

import gymnasium
import numpy as np

from maml_tf.rl._tf_agents import array_spec


def observation_spec(space):
    """The spec of an observation: float32, whatever numbers the environment gives.

    Args:
        space: `gymnasium.Space`.

    Raises:
        TypeError: not a `Box`.
    """
    if not isinstance(space, gymnasium.spaces.Box):
        raise TypeError(
            f"Expected an environment whose observations are a `Box`. Received: {space}. Wrap it "
            "in `gymnasium.wrappers.FlattenObservation`."
        )
    return array_spec.ArraySpec(space.shape, np.float32, "observation")


class Actions:
    """From actions as a policy draws them to those that a gymnasium environment takes.

    - `Discrete`: integers from 0 on; the space's own first number is added.
    - `Box`: where an entry has two bounds, [-1, 1] is rescaled to them and clipped; where it has
      one, it is clipped there; where it has none, it stays. Whole numbers are rounded, and all
      are cast to the type of the space.

    Args:
        space: `gymnasium.Space`.

    Attributes:
        spec: `BoundedArraySpec` of what the policy draws.

    Raises:
        TypeError: neither `Box` nor `Discrete`.
    """

    def __init__(self, space):
        self._space = space
        if isinstance(space, gymnasium.spaces.Discrete):
            self.spec = array_spec.BoundedArraySpec((), np.int32, 0, int(space.n) - 1, "action")
        elif isinstance(space, gymnasium.spaces.Box):
            # The spaces of integers have bounds that are none: the limits of their type.
            self._low = np.where(space.bounded_below, space.low.astype(np.float64), -np.inf)
            self._high = np.where(space.bounded_above, space.high.astype(np.float64), np.inf)
            self._scaled = space.bounded_below & space.bounded_above
            low = np.where(self._scaled, -1, self._low)
            high = np.where(self._scaled, 1, self._high)
            self.spec = array_spec.BoundedArraySpec(space.shape, np.float32, low, high, "action")
        else:
            raise TypeError(
                "Expected an environment whose actions are a `Box` or `Discrete`. Received: "
                f"{space}. Wrap it in a `gymnasium.ActionWrapper` that makes one of it."
            )

    def __call__(self, action):
        """`action` `[rows, ...]` as the environment takes it, an array of its type."""
        space = self._space
        if isinstance(space, gymnasium.spaces.Discrete):
            return action.astype(space.dtype) + space.start
        action = action.astype(np.float64)
        low, high = (np.where(self._scaled, bound, 0) for bound in (self._low, self._high))
        inside = low + (np.clip(action, -1, 1) + 1) / 2 * (high - low)
        action = np.where(self._scaled, inside, np.clip(action, self._low, self._high))
        if np.issubdtype(space.dtype, np.integer):
            action = np.rint(action)
        # Once more: rounding to the type may end just outside.
        return np.clip(action.astype(space.dtype), space.low, space.high)
