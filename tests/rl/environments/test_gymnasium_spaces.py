"""Actions of a policy in gymnasium's spaces: rescaled, clipped, rounded and cast."""

import gymnasium
import numpy as np
import pytest

from maml_tf.rl.environments.gymnasium_spaces import Actions

INF = np.inf
SPACES = {
    "bounded": (
        gymnasium.spaces.Box(-2, 4, (1,), np.float32),
        ([-1.0], [1.0]),
        {-3.0: -2, -1.0: -2, 0.0: 1, 0.5: 2.5, 1.0: 4, 9.0: 4},
    ),
    "unbounded": (
        gymnasium.spaces.Box(-INF, INF, (1,), np.float32),
        (None, None),
        {-3.0: -3, 0.5: 0.5, 7.0: 7},
    ),
    "from below": (
        gymnasium.spaces.Box(0, INF, (1,), np.float32),
        ([0.0], None),
        {-3.0: 0, 0.5: 0.5, 7.0: 7},
    ),
    "from above": (
        gymnasium.spaces.Box(-INF, 2, (1,), np.float64),
        (None, [2.0]),
        {-3.0: -3, 0.5: 0.5, 7.0: 2},
    ),
    "whole numbers": (
        gymnasium.spaces.Box(-2, 4, (1,), np.int64),
        ([-1.0], [1.0]),
        {-3.0: -2, 0.0: 1, 0.4: 2, 0.5: 2, 0.6: 3, 9.0: 4},
    ),
    "bytes": (
        gymnasium.spaces.Box(0, 255, (1,), np.uint8),
        ([-1.0], [1.0]),
        {-3.0: 0, -1.0: 0, 1.0: 255, 2.0: 255},
    ),
}


@pytest.mark.parametrize("name", SPACES)
def test_actions_are_what_the_space_contains(name):
    space, bounds, expected = SPACES[name]
    actions = Actions(space)
    assert actions.spec.dtype == np.float32
    for bound, limit, extreme in zip(
        (actions.spec.minimum, actions.spec.maximum),
        bounds,
        (np.finfo(np.float32).min, np.finfo(np.float32).max),
        strict=True,
    ):
        np.testing.assert_array_equal(bound, extreme if limit is None else limit)
    given = np.array(list(expected), np.float32)[:, None]
    taken = actions(given)
    assert taken.dtype == space.dtype
    np.testing.assert_array_equal(taken[:, 0], list(expected.values()))
    assert all(space.contains(one) for one in taken)


def test_every_entry_has_its_own_bounds():
    space = gymnasium.spaces.Box(
        np.float32([-INF, 0, -INF, 10]), np.float32([INF, INF, 0, 20]), dtype=np.float32
    )
    taken = Actions(space)(np.float32([[0.5, 0.5, 0.5, 0.5], [-3, -3, -3, -3]]))
    np.testing.assert_array_equal(taken, [[0.5, 0.5, 0, 17.5], [-3, 0, -3, 10]])


def test_discrete_actions_begin_where_the_space_does():
    actions = Actions(gymnasium.spaces.Discrete(3, start=5))
    assert (int(actions.spec.minimum), int(actions.spec.maximum)) == (0, 2)
    assert actions(np.array([0, 2])).tolist() == [5, 7]


def test_other_spaces_are_refused_by_name():
    with pytest.raises(TypeError, match=r"MultiDiscrete\(\[2 3\]\).*Wrap"):
        Actions(gymnasium.spaces.MultiDiscrete([2, 3]))
