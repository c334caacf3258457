import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_tf.rl import advantages


def plain_loop(observation, reward, mask, discount, gae_lambda, ridge):
    """Everything once more, rollout by rollout and step by step."""
    tasks, rollouts, horizon, _ = observation.shape
    result = np.zeros(reward.shape)
    for i in range(tasks):
        rows, targets = [], []
        for j in range(rollouts):
            length = int(mask[i, j].sum())
            total, totals = 0.0, np.zeros(length)
            for t in reversed(range(length)):
                total = reward[i, j, t] + discount * total
                totals[t] = total
            for t in range(length):
                o = np.clip(observation[i, j, t], -10, 10)
                h = t / 100
                rows.append(np.concatenate([o, o**2, [h, h**2, h**3, 1]]))
                targets.append(totals[t])
        x, y = np.array(rows), np.array(targets)
        beta = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y)
        values = iter(x @ beta)
        for j in range(rollouts):
            length = int(mask[i, j].sum())
            v = [next(values) for _ in range(length)] + [0.0]
            running = 0.0
            for t in reversed(range(length)):
                error = reward[i, j, t] + discount * v[t + 1] - v[t]
                running = error + discount * gae_lambda * running
                result[i, j, t] = running
        counted = result[i][mask[i] > 0]
        result[i] = (result[i] - counted.mean()) / (counted.std() + 1e-8) * mask[i]
    return result


@pytest.mark.parametrize("gae_lambda", [1.0, 0.9, 0.0])
def test_equals_a_plain_loop(gae_lambda):
    rng = np.random.default_rng(0)
    observation = rng.normal(size=(3, 4, 20, 2)) * 6
    reward = rng.normal(size=(3, 4, 20))
    mask = (np.arange(20) < rng.integers(5, 21, size=(3, 4, 1))).astype(float)
    given_ = [tf.constant(x) for x in (observation, reward, mask)]
    result, _ = advantages.estimate(*given_, discount=0.95, gae_lambda=gae_lambda)
    expected = plain_loop(observation, reward, mask, 0.95, gae_lambda, 1e-5)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-8)


@given(discount=st.floats(0, 1), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_discounted_sums_obey_their_recursion(discount, seed):
    x = np.random.default_rng(seed).normal(size=(2, 7))
    y = advantages.discounted_sums(tf.constant(x), discount).numpy()
    np.testing.assert_allclose(y[:, :-1], x[:, :-1] + discount * y[:, 1:], atol=1e-12)
    np.testing.assert_allclose(y[:, -1], x[:, -1])


def test_a_task_does_not_see_another():
    rng = np.random.default_rng(1)
    data = [rng.normal(size=(2, 3, 6, 2)), rng.normal(size=(2, 3, 6)), np.ones((2, 3, 6))]
    both, _ = advantages.estimate(*map(tf.constant, data))
    alone, _ = advantages.estimate(*[tf.constant(x[1:]) for x in data])
    np.testing.assert_allclose(both[1:], alone, rtol=1e-9)


def test_advantages_are_sums_of_the_errors():
    rng = np.random.default_rng(2)
    data = [rng.normal(size=(2, 3, 9, 2)), rng.normal(size=(2, 3, 9)), np.ones((2, 3, 9))]
    advantage, error = advantages.estimate(*map(tf.constant, data), discount=0.9, gae_lambda=0.8)
    sums = advantages.discounted_sums(error, 0.72).numpy()
    np.testing.assert_allclose(sums - sums.mean((1, 2), keepdims=True), advantage, atol=1e-6)
