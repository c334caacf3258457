"""Tasks that are no arrays: they come to `set_task` as they are."""

from typing import NamedTuple

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import rl
from maml_tf.rl.environments import from_gymnasium
from maml_tf.rl.environments.task_values import as_tasks


class Goal(NamedTuple):
    """Of numbers alone: NumPy would make a row of an array of it."""

    x: float
    y: float


class Seeing(gymnasium.Env):
    """Keeps the tasks that it was given."""

    observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    seen = []

    def set_task(self, task):
        self.seen.append(task)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), float(action[0]), False, False, {}


def make(tasks, task_count=2, rollouts=2):
    return from_gymnasium(
        Seeing, tasks, task_count=task_count, rollouts=rollouts, horizon=2, workers=0
    )


OBJECTS = {
    "named tuples": [Goal(1.0, 2.0), Goal(3.0, 4.0)],
    "dicts": [{"goal": 1.0}, {"goal": 2.0}],
    "names": ["open", "close"],
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_come_as_they_are_task_by_task(kind):
    tasks = OBJECTS[kind]
    environment = make(tasks)
    assert environment.task_shape == ()
    environment.set_tasks(tasks)
    Seeing.seen.clear()
    environment.reset_rows()
    assert [id(task) for task in Seeing.seen] == [id(tasks[i]) for i in (0, 0, 1, 1)]


@pytest.mark.parametrize("kind", OBJECTS)
def test_they_are_drawn_by_the_seed_from_a_list_or_by_a_function(kind):
    tasks = OBJECTS[kind]
    for given in (tasks, lambda n, rng: [tasks[i] for i in rng.integers(0, 2, n)]):
        environment = make(given, task_count=6)
        drawn, again = environment.sample_tasks(6, 3), environment.sample_tasks(6, 3)
        assert drawn.shape == (6,)
        assert [id(task) for task in drawn] == [id(task) for task in again]
        assert {id(task) for task in drawn} == {id(task) for task in tasks}


def test_numbers_stay_arrays():
    for tasks in ([[0.0], [1.0]], ((0, 1),), [np.zeros(2), np.ones(2)], [1, 2], [tf.zeros(2)]):
        assert as_tasks(tasks).dtype == np.float32
    np.testing.assert_array_equal(as_tasks([(1, 2), [3, 4]]), [[1, 2], [3, 4]])


def test_a_meta_policy_is_evaluated_on_drawn_and_on_given_ones():
    environment = make(OBJECTS["named tuples"])
    learner = rl.MetaPolicy(rl.policies.gaussian(1, 1, hidden=(4,)), 0.1)
    Seeing.seen.clear()
    rl.evaluation.evaluate(learner, environment, 0)
    assert len(Seeing.seen) == 4
    assert set(Seeing.seen) <= set(OBJECTS["named tuples"])
    result = rl.evaluation.evaluate(learner, environment, 0, tasks=[Goal(5.0, 6.0)] * 2)
    assert Seeing.seen[-4:] == [Goal(5.0, 6.0)] * 4
    assert result.values.shape == (2, 1)
