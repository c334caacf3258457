"""Rollouts of gymnasium environments: how many objects and steps they take, and what breaks."""

import collections

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import rl
from maml_tf.rl.environments import from_gymnasium
from maml_tf.rl.sampling import Sampler

counts = collections.Counter()


class Walk(gymnasium.Env):
    """A rollout of task n ends after n steps; the observation tells the steps so far."""

    observation_space = gymnasium.spaces.Box(-100, 100, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    length = 3
    fault = None

    def __init__(self):
        counts["made"] += 1
        counts["open"] += 1
        counts["most open"] = max(counts["most open"], counts["open"])

    def set_task(self, task):
        self.length = int(task[0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.start = 0, self.np_random.normal()
        if self.fault == "reset":
            raise OSError("no simulator")
        return self.seen(), {}

    def seen(self):
        size = 2 if self.fault == "shape" and self.steps == 2 and self.length == 5 else 1
        return np.full(size, self.steps, np.float32)

    def step(self, action):
        counts["steps"] += 1
        self.steps += 1
        reward = None if self.fault == "reward" else self.start + float(action[0])
        ended = self.steps >= self.length
        if self.fault == "interface":
            return self.seen(), reward, ended, {}
        return self.seen(), reward, ended, False, {}

    def close(self):
        counts["open"] -= 1


def faulty(fault, always=True):
    class Faulty(Walk):
        def reset(self, **kwargs):
            self.fault = fault if always or self.length == 5 else None
            return super().reset(**kwargs)

    return Faulty


def make(make_env=Walk, lengths=(2, 3, 5), rollouts=4, horizon=9, **kwargs):
    tasks = np.array(lengths, np.float32)[:, None]
    environment = from_gymnasium(
        make_env,
        tasks,
        task_count=len(lengths),
        rollouts=rollouts,
        horizon=horizon,
        **{"workers": 0} | kwargs,
    )
    environment.set_tasks(tasks)
    counts.clear()
    return environment


def collect(environment, seed=1, activation="relu"):
    policy = rl.policies.gaussian(1, 1, hidden=(4,))
    if activation != "relu":
        policy.get_layer("hidden_0").activation = activation
    weights = [tf.repeat(w[None], environment.tasks, 0) for w in policy.get_weights()]
    return Sampler(policy, environment).collect(weights, seed)


def test_there_are_as_many_objects_as_run_at_once_and_no_step_too_many():
    environment = make(at_once=4)
    drawn = collect(environment)
    lengths = drawn.mask.numpy().sum(-1)
    np.testing.assert_array_equal(lengths, [[2] * 4, [3] * 4, [5] * 4])
    assert counts["made"] == counts["most open"] == 4
    assert counts["steps"] == lengths.sum() == 40
    collect(environment)
    assert counts["made"] == 4


# Three is less than the four of a task, sixteen more than the twelve of all; the others take long.
@pytest.mark.parametrize(
    "at_once", [3, 16, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 5, 8))]
)
@pytest.mark.parametrize("activation", ["relu", tf.nn.gelu], ids=["host", "graph"])
def test_blocks_draw_the_same_kind_of_rollouts(at_once, activation):
    """Whatever runs at once: starts of (seed, row), every row its own noise, the same masks."""
    environment, whole = make(at_once=at_once), make(at_once=12)
    drawn, again = (collect(environment, activation=activation) for _ in range(2))
    reference = collect(whole, activation=activation)
    for one, two in zip(tf.nest.flatten(drawn), tf.nest.flatten(again), strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(drawn.mask, reference.mask)
    counted = drawn.mask.numpy() > 0
    seen, expected = (d.observation.numpy()[counted] for d in (drawn, reference))
    np.testing.assert_array_equal(seen, expected)
    taken = np.clip(drawn.action.numpy()[..., 0], -1, 1)
    start = (drawn.reward.numpy() - taken)[counted]
    expected = (reference.reward - np.clip(reference.action.numpy()[..., 0], -1, 1)).numpy()
    np.testing.assert_allclose(start, expected[counted], atol=1e-6)
    noise = (drawn.action - drawn.outputs["loc"]).numpy()[counted]
    assert np.unique(noise.round(6)).size == noise.size


def test_blocks_hold_every_rollout_once_and_no_more_than_run_at_once():
    for rollouts in (1, 3, 4, 20):
        for at_once in (1, 4, 7, 100):
            environment = make(rollouts=rollouts, at_once=at_once)
            seen = np.zeros((3, rollouts), int)
            for block in environment.blocks():
                seen[block] += 1
                assert seen[block].size <= at_once
            assert (seen == 1).all()


def test_processes_draw_the_same_rollouts():
    here, there = make(at_once=5), make(at_once=5, workers=2)
    try:
        for a, b in zip(*(tf.nest.flatten(collect(e)) for e in (here, there)), strict=True):
            np.testing.assert_array_equal(a, b)
    finally:
        there.close()


class Outer(gymnasium.Wrapper):
    """Chooses the task by itself, as Meta-World's wrappers do; the inner one knows no arrays."""

    def set_task(self, task):
        self.env.unwrapped.length = int(task[0]) + 1


class Strict(Walk):
    def set_task(self, task):
        raise TypeError("not an object of mine")


def test_the_outermost_set_task_is_called():
    environment = make(lambda: gymnasium.wrappers.TimeLimit(Outer(Strict()), 50), lengths=(2, 4))
    np.testing.assert_array_equal(collect(environment).mask.numpy().sum(-1)[:, 0], [3, 5])


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("reset", "OSError: no simulator"),
        ("interface", "ValueError: not enough values to unpack"),
        ("reward", "reward=None"),
    ],
)
def test_training_ends_with_the_first_traceback_where_every_rollout_breaks(fault, text):
    learner = rl.MetaPolicy(rl.policies.gaussian(1, 1, hidden=(4,)), 0.1)
    learner.compile(rl.TrustRegion())
    before = learner.get_weights()
    with pytest.raises(
        RuntimeError, match="(?s)12 rollouts, of which every one broke.*Traceback"
    ) as e:
        learner.fit(make(faulty(fault)), 3, verbose=0)
    assert text in str(e.value)
    for one, two in zip(before, learner.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("fault", ["reset", "shape", "reward"])
def test_what_breaks_is_masked_and_the_others_count(fault, caplog):
    drawn = collect(make(faulty(fault, always=False)))
    np.testing.assert_array_equal(drawn.mask.numpy().sum(-1), [[2] * 4, [3] * 4, [0] * 4])
    assert "4 of 12 rollouts broke" in caplog.text
    assert all(np.isfinite(t).all() for t in tf.nest.flatten(drawn))


class Flaky(Walk):
    """Every second reset fails."""

    def reset(self, **kwargs):
        counts["resets"] += 1
        if counts["resets"] % 2:
            raise OSError("busy")
        return super().reset(**kwargs)


def test_a_reset_that_fails_once_is_not_tried_again_within_its_rollout():
    drawn = collect(make(Flaky, lengths=(5,), rollouts=2))
    assert sorted(drawn.mask.numpy().sum(-1)[0]) == [0, 5]
    np.testing.assert_array_equal(np.max(drawn.observation[0, :, :5, 0], 0), range(5))


class Pictures(Walk):
    observation_space = gymnasium.spaces.Box(0, 255, (4, 4, 3), np.uint8)


class Named(Walk):
    observation_space = gymnasium.spaces.Dict({"x": gymnasium.spaces.Box(0, 1, (1,))})


class Bytes(Walk):
    observation_space = gymnasium.spaces.Box(0, 255, (1,), np.uint8)

    def seen(self):
        return np.array([self.steps], np.uint8)


def test_pictures_and_dicts_are_refused_before_anything_moves_and_bytes_are_numbers():
    with pytest.raises(ValueError, match=r"vectors \[O\].*\(4, 4, 3\).*FlattenObservation"):
        collect(make(Pictures))
    assert not counts["steps"]
    with pytest.raises(TypeError, match=r"Dict\('x'.*FlattenObservation"):
        make(Named)
    drawn = collect(make(Bytes))
    assert drawn.observation.dtype == tf.float32
    np.testing.assert_array_equal(drawn.observation[2, 0, :, 0], [0, 1, 2, 3, 4, 0, 0, 0, 0])
