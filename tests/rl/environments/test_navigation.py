import numpy as np
import pytest
import tensorflow as tf
from tf_agents.drivers import dynamic_episode_driver
from tf_agents.metrics import tf_metrics
from tf_agents.policies import random_tf_policy

from maml_tf.rl.environments import Navigation2D


def plain_loop(goal, actions, horizon, squared=False):
    """Observations, rewards and the number of steps, in plain Python on float32."""
    position = np.zeros(2, np.float32)
    rewards = []
    for action in actions[:horizon]:
        position = position + np.float32(0.1) * np.clip(action, -1, 1).astype(np.float32)
        away = position - goal
        distance = np.sum(away**2)
        rewards.append(-distance if squared else -np.sqrt(distance))
        if (np.abs(away) < 0.01).all():
            break
    return rewards, position


@pytest.mark.parametrize("squared", [False, True])
def test_equals_a_plain_loop(squared):
    environment = Navigation2D(2, 2, horizon=6, squared=squared)
    goals = np.array([[0.2, 0.0], [-0.3, 0.4]], np.float32)
    environment.set_tasks(goals)
    actions = np.random.default_rng(0).normal(size=(4, 6, 2)).astype(np.float32) * 2
    actions[0] = [1, 0]  # reaches its goal after two steps
    environment.reset()
    steps = [environment.step(actions[:, t]) for t in range(6)]
    for row in range(4):
        rewards, _ = plain_loop(goals[row // 2], actions[row], 6, squared)
        got = [s.reward[row].numpy() for s in steps[: len(rewards)]]
        np.testing.assert_allclose(got, rewards, rtol=1e-6)
        assert steps[len(rewards) - 1].step_type[row] == 2
        ended_at_goal = len(rewards) < 6
        assert steps[len(rewards) - 1].discount[row] == (0 if ended_at_goal else 1)
        if ended_at_goal:  # begins anew, whatever the action
            assert steps[len(rewards)].step_type[row] == 0
            np.testing.assert_array_equal(steps[len(rewards)].observation[row], [0, 0])


def test_a_row_does_the_same_alone():
    many, one = Navigation2D(3, 2), Navigation2D(1, 1)
    goals = many.sample_tasks(3, seed=1)
    many.set_tasks(goals)
    one.set_tasks(goals[2:])
    many.reset(), one.reset()
    actions = np.random.default_rng(0).normal(size=(20, 6, 2)).astype(np.float32)
    for action in actions:
        among, alone = many.step(action), one.step(action[5:])
        np.testing.assert_array_equal(among.observation[5], alone.observation[0])
        np.testing.assert_array_equal(among.reward[5], alone.reward[0])


def test_works_with_drivers_and_metrics():
    environment = Navigation2D(2, 2, horizon=7)
    environment.set_tasks(np.full((2, 2), 0.5, np.float32))
    policy = random_tf_policy.RandomTFPolicy(
        environment.time_step_spec(), environment.action_spec()
    )
    metrics = [tf_metrics.AverageReturnMetric(batch_size=4), tf_metrics.NumberOfEpisodes()]
    driver = dynamic_episode_driver.DynamicEpisodeDriver(
        environment, policy, metrics, num_episodes=4
    )
    driver.run()
    assert int(metrics[1].result()) == 4
    assert -7 * 1.5 < float(metrics[0].result()) < -7 * 0.1


def test_pure_transition_is_the_environment_and_compiles_with_xla():
    environment = Navigation2D(2, 3, observe_task=True)
    goals = environment.sample_tasks(2, seed=3)
    environment.set_tasks(goals)
    action = np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
    environment.reset()
    step = environment.step(action)
    position, first = environment.initial(goals)
    move = tf.function(environment.transition, jit_compile=True)
    _, observation, reward, _ = move(position, action.reshape(2, 3, 2), goals)
    assert first.shape == (2, 3, 4)
    np.testing.assert_allclose(np.reshape(observation, (6, 4)), step.observation, rtol=1e-6)
    np.testing.assert_allclose(np.reshape(reward, 6), step.reward, rtol=1e-6)


def test_tasks_lie_in_the_square_and_follow_the_seed():
    environment = Navigation2D()
    tasks = environment.sample_tasks(1000, seed=0)
    assert tasks.dtype == np.float32
    assert np.abs(tasks).max() <= 0.5
    assert np.abs(tasks.mean(0)).max() < 0.05
    np.testing.assert_array_equal(tasks, environment.sample_tasks(1000, seed=0))
    assert not np.array_equal(tasks, environment.sample_tasks(1000, seed=1))


@pytest.mark.parametrize("wrong", [np.zeros((3, 2)), np.zeros((2, 3)), np.full((2, 2), np.nan)])
def test_unknown_tasks_are_refused(wrong):
    with pytest.raises(ValueError, match="Received"):
        Navigation2D(2, 2).set_tasks(wrong)


@pytest.mark.parametrize("size", [{"tasks": 0}, {"rollouts": 2.5}, {"horizon": True}])
def test_sizes_are_checked(size):
    with pytest.raises((TypeError, ValueError), match="an integer of at least 1"):
        Navigation2D(**size)


def test_nan_actions_are_refused():
    environment = Navigation2D()
    environment.reset()
    with pytest.raises(tf.errors.InvalidArgumentError, match="finite actions"):
        environment.step(np.full((1, 2), np.nan, np.float32))
