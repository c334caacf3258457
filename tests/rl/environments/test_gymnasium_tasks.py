import os

import gymnasium
import numpy as np
import pytest
from tf_agents.environments import tf_py_environment, utils

from maml_tf import inner_optimizers, rl
from maml_tf.rl.environments import from_gymnasium


class Line(gymnasium.Env):
    """A point on a line, which shall be where the task says; noise by the seed of the reset."""

    observation_space = gymnasium.spaces.Box(-10, 10, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-2.0, 4.0, (1,), np.float32)
    goal = 0.0

    def set_task(self, task):
        self.goal = float(task[0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = float(self.np_random.normal())
        return np.array([self.x], np.float32), {}

    def step(self, action):
        self.x += float(action[0])
        if self.goal == 13:
            raise RuntimeError("unlucky")
        reward = np.nan if self.goal == 14 else -abs(self.x - self.goal)
        if self.goal == 15:
            os._exit(3)
        return np.array([self.x], np.float32), reward, abs(self.x) > 5, False, {}


class Lever(Line):
    """The same with two discrete actions."""

    action_space = gymnasium.spaces.Discrete(2)

    def step(self, action):
        return super().step([float(action)])


def line():
    return gymnasium.wrappers.TimeLimit(Line(), 1000)


def make(task_count=2, rollouts=3, workers=0, make_env=line, tasks=((-1.0,), (1.0,)), **kwargs):
    return from_gymnasium(
        make_env,
        np.array(tasks),
        task_count=task_count,
        rollouts=rollouts,
        workers=workers,
        **kwargs,
    )


def play(environment, tasks, steps=6):
    environment.set_tasks(tasks)
    environment.seed(4)
    results = [environment.reset_rows()]
    plan = np.random.default_rng(0).uniform(-1, 1, (steps, environment.batch_size, 1))
    for action in plan:
        results.extend(environment.step_rows(action))
    return results


def test_tf_agents_validates_and_wraps():
    environment = make(horizon=4)
    environment.set_tasks(environment.sample_tasks(2, 0))
    utils.validate_py_environment(environment, episodes=8)
    assert tf_py_environment.TFPyEnvironment(make()).reset().observation.shape == (6, 1)


def test_steps_as_gymnasium_does():
    environment = make(task_count=1, rollouts=1)
    environment.set_tasks([[1.0]])
    start = environment.reset_rows()[0, 0]
    observation, reward, ended, _ = environment.step_rows([[0.5]])
    # 0.5 of [-1, 1] is 2.5 of [-2, 4].
    np.testing.assert_allclose(observation[0, 0], start + 2.5, rtol=1e-6)
    np.testing.assert_allclose(reward[0], -abs(start + 2.5 - 1), rtol=1e-5)
    assert not ended[0]
    for _ in range(2):
        _, _, ended, terminated = environment.step_rows([[1.0]])
        if ended[0]:
            break
    assert terminated[0]  # beyond 5


def test_processes_do_the_same_as_this_one():
    here, there = make(), make(workers=2)
    try:
        tasks = here.sample_tasks(2, seed=1)
        for a, b in zip(play(here, tasks), play(there, tasks), strict=True):
            np.testing.assert_array_equal(a, b)
    finally:
        there.close()


@pytest.mark.parametrize(("unlucky", "text"), [(13.0, "unlucky"), (14.0, "nan")])
def test_a_broken_rollout_is_discarded_and_the_others_go_on(unlucky, text, caplog):
    environment, healthy = make(rollouts=1), make(rollouts=1)
    environment.set_tasks([[0.5], [unlucky]])
    healthy.set_tasks([[0.5], [0.5]])
    environment.reset_rows(), healthy.reset_rows()
    observation, reward, ended, _ = environment.step_rows(np.zeros((2, 1)))
    expected = healthy.step_rows(np.zeros((2, 1)))
    assert environment.discarded.tolist() == ended.tolist() == [False, True]
    assert reward[0] == expected[1][0]
    assert reward[1] == observation[1, 0] == 0
    assert text in caplog.text
    environment.step_rows(np.zeros((2, 1)))  # begins anew
    assert not environment.discarded.any()


def test_an_oracle_sees_its_task_behind_what_the_others_see():
    plain, oracle = make(), make(observe_task=True)
    tasks = np.array([[-1.0], [1.0]], np.float32)
    rows = np.repeat(tasks, 3, 0)
    assert oracle.resized(1, 2).observation_spec().shape == oracle.observation_spec().shape == (2,)
    for one, other in zip(play(plain, tasks), play(oracle, tasks), strict=True):
        expected = np.concatenate([one, rows], 1) if one.ndim == 2 else one
        np.testing.assert_array_equal(other, expected)


def test_an_oracle_sees_a_task_of_any_shape():
    tasks = np.arange(12.0).reshape(3, 2, 2)
    environment = make(1, 2, tasks=tasks, observe_task=True)
    environment.set_tasks(tasks[1:2])
    np.testing.assert_array_equal(environment.reset_rows()[:, 1:], [[4, 5, 6, 7]] * 2)


def test_a_dead_worker_is_told_with_its_exit_code():
    environment = make(workers=1)
    environment.set_tasks([[15.0], [0.0]])
    environment.reset_rows()
    with pytest.raises(RuntimeError, match="exit code 3"):
        environment.step_rows(np.zeros((6, 1)))
    environment.close()


def test_mistakes_are_told():
    with pytest.raises(TypeError, match="set_task"):
        make(make_env=lambda: gymnasium.make("CartPole-v1"))
    with pytest.raises(ValueError, match=r"shape \(6, 1\)"):
        make().step_rows(np.zeros((6, 2)))
    with pytest.raises(ValueError, match="finite actions"):
        make().step_rows(np.full((6, 1), np.nan))


@pytest.mark.parametrize("make_env", [Line, Lever])
def test_a_meta_policy_trains_on_it(make_env):
    environment = make(4, 5, make_env=make_env, horizon=5)
    discrete = environment.action_spec().shape == ()
    build = rl.policies.categorical if discrete else rl.policies.gaussian
    learner = rl.MetaPolicy(build(1, 2 if discrete else 1, hidden=(8,)), inner_optimizers.SGD(0.1))
    learner.compile(rl.TrustRegion())
    before = learner.policy.get_weights()
    history = learner.fit(environment, 3, verbose=0).history
    assert history["divergence"][0] <= 0.01
    assert any((a != b).any() for a, b in zip(before, learner.policy.get_weights(), strict=True))
