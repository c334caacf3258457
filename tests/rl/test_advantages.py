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


def constant(reward, lengths, horizon=30, dtype=np.float32):
    """Rollouts of one task with the same reward at every step; observations differ."""
    rng = np.random.default_rng(4)
    mask = (np.arange(horizon) < np.array(lengths)[:, None]).astype(dtype)[None]
    observation = rng.normal(size=(*mask.shape, 2)).astype(dtype)
    return tf.constant(observation), tf.constant(reward * mask), tf.constant(mask)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reward", [-1.0, 0.1, 0.0, 1e12])
@pytest.mark.parametrize("rollouts", [1, 5])
def test_without_a_signal_there_is_no_advantage(reward, rollouts, dtype):
    """What the baseline leaves of equal returns is its own error, not a reason to act."""
    for result in advantages.estimate(*constant(reward, [30] * rollouts, dtype=dtype)):
        np.testing.assert_array_equal(result, np.zeros(result.shape))


def test_rewards_of_time_alone_are_no_signal_and_a_task_beside_keeps_its_own():
    observation, reward, mask = constant(-1.0, [30] * 4)
    timed = reward * tf.range(30, dtype=tf.float32)
    noisy = tf.constant(np.random.default_rng(5).normal(size=reward.shape), tf.float32)
    alone, _ = advantages.estimate(observation, noisy, mask)
    data = [tf.concat(pair, 0) for pair in ([observation] * 2, [timed, noisy], [mask] * 2)]
    both, _ = advantages.estimate(*data)
    np.testing.assert_array_equal(both[0], np.zeros(both[0].shape))
    np.testing.assert_allclose(both[1], alone[0], rtol=1e-5, atol=1e-6)


def test_equal_rewards_of_rollouts_that_end_at_different_times_are_a_signal():
    """A step costs 1: the shorter rollout is the better one."""
    advantage, _ = advantages.estimate(*constant(-1.0, [10, 30, 30]))
    mask = constant(-1.0, [10, 30, 30])[2].numpy()
    np.testing.assert_allclose(advantage.numpy()[mask > 0].std(), 1, rtol=1e-5)
    assert advantage.numpy()[0, 0, :10].mean() > advantage.numpy()[0, 1:, :10].mean() + 0.5


def test_a_rollout_that_broke_is_no_comparison():
    observation, reward, mask = constant(-1.0, [30, 0, 30])
    for result in advantages.estimate(observation, reward, mask):
        np.testing.assert_array_equal(result, np.zeros(result.shape))


@pytest.mark.parametrize("unit", [1e-12, 1e20, 1e30])
def test_the_unit_of_rewards_does_not_matter(unit):
    """Squares of 1e20 overflow in single precision, those of 1e-12 vanish."""
    rng = np.random.default_rng(6)
    observation = tf.constant(rng.normal(size=(2, 3, 9, 2)), tf.float32)
    reward = rng.normal(size=(2, 3, 9)).astype(np.float32)
    ones = tf.ones(reward.shape)
    for one, other in zip(
        advantages.estimate(observation, tf.constant(reward), ones),
        advantages.estimate(observation, tf.constant(reward * np.float32(unit)), ones),
        strict=True,
    ):
        assert np.abs(one).max() > 1
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_what_overflows_is_seen():
    observation, reward, mask = constant(1.0, [30] * 3)
    sign = tf.constant([1.0, -1.0, 1.0])[None, :, None]
    advantage, _ = advantages.estimate(observation, reward * sign * 3e38, mask)
    assert not np.isfinite(advantage).all()


def test_the_features_are_those_of_the_paper():
    """[o, o^2, t/100, (t/100)^2, (t/100)^3, 1], o clipped to +-10."""
    observation = tf.constant([[[[1.5, -20.0], [0.0, 3.0], [11.0, -10.0]]]], tf.float32)
    features = advantages.baseline_features(observation)
    assert features.dtype == tf.float64
    expected = [
        [1.5, -10.0, 2.25, 100.0, 0.00, 0.0000, 0.000000, 1.0],
        [0.0, 3.00, 0.0, 9.0, 0.01, 0.0001, 0.000001, 1.0],
        [10.0, -10.0, 100.0, 100.0, 0.02, 0.0004, 0.000008, 1.0],
    ]
    np.testing.assert_allclose(features[0, 0], expected, rtol=1e-12, atol=1e-15)


def test_the_baseline_is_a_ridge_regression_of_the_steps_that_count():
    rng = np.random.default_rng(3)
    observation, returns = rng.normal(size=(1, 2, 30, 2)), rng.normal(size=(1, 2, 30))
    mask = np.ones((1, 2, 30))
    mask[0, 1, 7:] = 0
    x = advantages.baseline_features(tf.constant(observation)).numpy()[mask > 0]
    y = returns[mask > 0]
    for arguments, ridge in (((), 1e-5), ((0.5,), 0.5)):
        fitted = advantages.linear_baseline(
            *map(tf.constant, (observation, returns, mask)), *arguments
        )
        expected = x @ np.linalg.solve(x.T @ x + ridge * np.eye(8), x.T @ y)
        np.testing.assert_allclose(fitted.numpy()[mask > 0], expected, rtol=1e-6)
        np.testing.assert_array_equal(fitted.numpy()[mask == 0], 0)
        assert fitted.dtype == tf.float64
    half = [tf.constant(x, tf.float32) for x in (observation, returns, mask)]
    single = advantages.linear_baseline(*half)
    assert single.dtype == tf.float32
    np.testing.assert_allclose(single, advantages.linear_baseline(*half, ridge=1e-5))


def test_temporal_differences_by_hand():
    reward = tf.constant([[1.0, 2.0, 3.0, 100.0]])
    values = tf.constant([[10.0, 20.0, 30.0, 1000.0]])
    mask = tf.constant([[1.0, 1.0, 1.0, 0.0]])
    received = advantages.temporal_differences(reward, values, mask, 0.5)
    np.testing.assert_array_equal(received, [[1.0, -3.0, -27.0, 0.0]])
    whole = advantages.temporal_differences(reward, values, tf.ones_like(mask), 0.5)
    np.testing.assert_array_equal(whole, [[1.0, -3.0, 473.0, -900.0]])


def test_discounted_sums_by_hand():
    x = tf.constant([[[1.0, 2.0, 4.0], [0.0, 0.0, 8.0]]])
    received = advantages.discounted_sums(x, 0.5)
    np.testing.assert_array_equal(received, [[[3.0, 4.0, 4.0], [2.0, 4.0, 8.0]]])
    np.testing.assert_array_equal(advantages.discounted_sums(x, 0.0), x)
    np.testing.assert_array_equal(advantages.discounted_sums(x, 1.0)[0, 0], [7.0, 6.0, 4.0])
    assert advantages.discounted_sums(x, 0.5).dtype == tf.float32


def rollouts(seed=4, shape=(2, 3, 9)):
    rng = np.random.default_rng(seed)
    mask = np.ones(shape)
    mask[0, 0, 4:] = 0
    return [tf.constant(x) for x in (rng.normal(size=(*shape, 2)), rng.normal(size=shape), mask)]


def test_the_defaults_are_the_papers():
    data = rollouts()
    plain = advantages.estimate(*data)
    by_name = advantages.estimate(*data, discount=0.99, gae_lambda=1.0, ridge=1e-5)
    others = [{"discount": 0.98}, {"gae_lambda": 0.99}, {"ridge": 1e-2}]
    for one, other in zip(plain, by_name, strict=True):
        np.testing.assert_array_equal(one, other)
    for other in others:
        assert not np.allclose(plain[0], advantages.estimate(*data, **other)[0], rtol=1e-4)


def test_advantages_are_standardised_and_errors_are_in_their_unit():
    observation, reward, mask = rollouts()
    advantage, error = advantages.estimate(observation, reward, mask, discount=0.9, gae_lambda=0.5)
    for one, counts in zip(advantage.numpy(), mask.numpy() > 0, strict=True):
        np.testing.assert_allclose(one[counts].mean(), 0, atol=1e-12)
        np.testing.assert_allclose(one[counts].std(), 1, rtol=1e-7)
        np.testing.assert_array_equal(one[~counts], 0)
    values = advantages.linear_baseline(
        observation, advantages.discounted_sums(reward * mask, 0.9), mask
    )
    plain = advantages.temporal_differences(reward, values, mask, 0.9)
    sums = advantages.discounted_sums(plain, 0.45).numpy()
    for task in range(2):
        unit = sums[task][mask[task] > 0].std()
        np.testing.assert_allclose(error[task], plain[task] / unit, rtol=1e-6)


def test_rollouts_without_reward_or_without_steps_give_zeros():
    observation, reward, mask = rollouts()
    for gone in ((reward * 0, mask), (reward, mask * 0)):
        for received in advantages.estimate(observation, *gone):
            np.testing.assert_array_equal(received, np.zeros([2, 3, 9]))


def test_sizes_may_be_unknown_while_a_graph_is_traced():
    spec = [tf.TensorSpec(s, tf.float64) for s in ([None] * 3 + [2], [None] * 3, [None] * 3)]
    traced = tf.function(advantages.estimate, autograph=False, input_signature=spec)
    for one, other in zip(traced(*rollouts()), advantages.estimate(*rollouts()), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_a_task_without_a_signal_silences_no_other():
    observation, reward, mask = rollouts(shape=(4, 3, 9))
    reward, mask = reward.numpy(), mask.numpy()
    reward[1] = 2.5  # every rollout the same
    reward[2] = np.arange(9.0)  # not constant, and yet every rollout the same
    mask[3, 1:] = 0  # one rollout counts, and its reward differs
    data = [observation, tf.constant(reward), tf.constant(mask)]
    together = advantages.estimate(*data)
    for task in range(4):
        alone = advantages.estimate(*(x[task : task + 1] for x in data))
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_allclose(one[task], other[0], rtol=1e-6, atol=1e-9)
            assert np.any(one[task]) == (task in (0, 3))


def test_one_rollout_of_a_constant_reward_has_no_signal():
    observation, reward, mask = rollouts(shape=(1, 2, 9))
    only = tf.constant(np.stack([[np.ones(9), np.zeros(9)]]))
    for constant, silent in ((reward * 0 + 3, True), (reward, False)):
        received, error = advantages.estimate(observation, constant, only)
        assert np.any(received) == np.any(error) != silent
