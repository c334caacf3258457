"""What comes after a limit on the time: against plain NumPy, closed forms, and in what is drawn."""

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import rl
from maml_tf.rl import advantages
from maml_tf.rl.environments import Navigation2D, from_gymnasium
from maml_tf.rl.sampling import Sampler

GAMMA = 0.9


def rollouts(seed=0, shape=(2, 4, 12), size=2):
    """`(observation, reward, mask, last_observation, truncated)`, float64, of unequal lengths."""
    rng = np.random.default_rng(seed)
    tasks, number, horizon = shape
    lengths = rng.integers(3, horizon + 1, size=(tasks, number, 1))
    mask = (np.arange(horizon) < lengths).astype(float)
    truncated = rng.integers(0, 2, size=(tasks, number)).astype(bool)
    truncated[0, :2] = True, False
    observation = rng.normal(size=(*shape, size)) * 6
    last = rng.normal(size=(tasks, number, size)) * 6
    return observation, rng.normal(size=shape), mask, last, truncated


def plain_values(observation, reward, mask, last, truncated, ridge=1e-5):
    """`continuing_value` once more, rollout by rollout and step by step."""

    def phi(o):
        o = np.clip(o, -10, 10)
        return np.concatenate([o, o**2, [1.0]])

    result = np.zeros(truncated.shape)
    for i in range(len(reward)):
        rows, targets = [], []
        for j in range(reward.shape[1]):
            length = int(mask[i, j].sum())
            for t in range(length):
                row = phi(observation[i, j, t])
                if truncated[i, j]:
                    row = row - GAMMA ** (length - t) * phi(last[i, j])
                rows.append(row)
                targets.append(sum(GAMMA ** (k - t) * reward[i, j, k] for k in range(t, length)))
        x, y = np.array(rows), np.array(targets)
        beta = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y)
        for j in range(reward.shape[1]):
            result[i, j] = phi(last[i, j]) @ beta if truncated[i, j] else 0
    return result


def value(observation, reward, mask, last, truncated, **kwargs):
    returns = advantages.discounted_sums(tf.constant(reward * mask), GAMMA)
    rest = [tf.constant(x) for x in (mask, last, truncated)]
    return advantages.continuing_value(
        tf.constant(observation), returns, *rest, **{"discount": GAMMA} | kwargs
    ).numpy()


def estimate(observation, reward, mask, last=None, truncated=None, **kwargs):
    if last is not None:
        kwargs |= {"last_observation": tf.constant(last), "truncated": tf.constant(truncated)}
    data = [tf.constant(x) for x in (observation, reward, mask)]
    return [x.numpy() for x in advantages.estimate(*data, **{"discount": GAMMA} | kwargs)]


def test_values_and_advantages_equal_plain_loops():
    observation, reward, mask, last, truncated = data = rollouts()
    expected = plain_values(*data)
    np.testing.assert_allclose(value(*data), expected, rtol=1e-9)
    np.testing.assert_allclose(value(*data, ridge=0.5), plain_values(*data, ridge=0.5), rtol=1e-9)
    more = reward.copy()
    for i, j in np.ndindex(*truncated.shape):
        more[i, j, int(mask[i, j].sum()) - 1] += GAMMA * expected[i, j]
    for one, other in zip(
        estimate(*data, gae_lambda=0.8),
        estimate(observation, more, mask, gae_lambda=0.8),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
        assert np.abs(one).max() > 1


def test_where_every_rollout_ended_by_itself_it_changes_nothing():
    observation, reward, mask, last, truncated = rollouts()
    for one, other in zip(
        estimate(observation, reward, mask, last, truncated & False),
        estimate(observation, reward, mask),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def decaying(horizon, rate=0.8):
    """`o' = rate o` for ever, the reward o: V(o) = o / (1 - gamma rate)."""
    start = np.random.default_rng(1).normal(size=(1, 5, 1))
    observation = start * rate ** np.arange(horizon)
    last = start * rate**horizon
    return (
        observation[..., None],
        observation,
        np.ones((1, 5, horizon)),
        last,
        np.ones((1, 5), bool),
    )


@pytest.mark.parametrize("horizon", [1, 4, 30])
def test_the_value_is_that_of_the_task_without_a_limit(horizon):
    data = decaying(horizon)
    expected = data[3][..., 0] / (1 - GAMMA * 0.8)
    np.testing.assert_allclose(value(*data), expected, rtol=1e-3, atol=2e-5)


def test_returns_are_those_of_a_rollout_that_was_not_cut(monkeypatch):
    """The baseline sees what four steps and the value make: V(o) at every one of them."""
    data, seen = decaying(4), []
    monkeypatch.setattr(
        advantages,
        "linear_baseline",
        lambda o, returns, mask, ridge: seen.append(returns) or returns * 0,
    )
    estimate(*data)
    np.testing.assert_allclose(seen[0], data[1] / (1 - GAMMA * 0.8), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_reward_for_ever_is_worth_its_geometric_series_and_no_advantage(dtype):
    rng = np.random.default_rng(2)
    shape = (1, 3, 8)
    data = (
        rng.normal(size=(*shape, 2)),
        np.full(shape, -2.0),
        np.ones(shape),
        rng.normal(size=(1, 3, 2)),
    )
    data = *(x.astype(dtype) for x in data), np.ones((1, 3), bool)
    np.testing.assert_allclose(value(*data), [[-20.0] * 3], rtol=1e-4)
    for received in estimate(*data):
        np.testing.assert_array_equal(received, np.zeros(shape))


def test_a_task_that_ended_is_worse_than_one_that_was_cut():
    """Equal rewards and lengths: without the value they cannot be told apart."""
    rng = np.random.default_rng(3)
    shape = (1, 4, 8)
    observation, reward, mask = rng.normal(size=(*shape, 1)), np.ones(shape), np.ones(shape)
    last, truncated = rng.normal(size=(1, 4, 1)), np.array([[True, True, False, False]])
    assert not estimate(observation, reward, mask)[0].any()
    advantage = estimate(observation, reward, mask, last, truncated)[0]
    assert advantage[0, :2].mean() > advantage[0, 2:].mean() + 0.5
    # One that broke and does not count is no end of the task.
    mask[0, 2:] = 0
    assert not estimate(observation, reward, mask, last, truncated)[0].any()


def test_a_discount_of_one_and_rollouts_without_steps_give_finite_numbers():
    observation, reward, mask, last, truncated = rollouts()
    mask[0] = 0
    received = estimate(observation, reward, mask, last, truncated | True, discount=1.0)
    assert all(np.isfinite(x).all() for x in received)


class Walk(gymnasium.Env):
    """A rollout of task n ends by itself after n steps; the observation tells the steps so far."""

    observation_space = gymnasium.spaces.Box(-100, 100, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def set_task(self, task):
        self.length = int(task[0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.length == 13 and self.steps == 3:
            raise OSError("no simulator")
        seen = np.full(1, self.steps, np.float32)
        return seen, 1.0, self.steps == self.length, False, {}


def walks(lengths, horizon, limit=100, at_once=16):
    tasks = np.array(lengths, np.float32)[:, None]
    environment = from_gymnasium(
        lambda: gymnasium.wrappers.TimeLimit(Walk(), limit),
        tasks,
        task_count=len(lengths),
        rollouts=2,
        horizon=horizon,
        workers=0,
        at_once=at_once,
    )
    environment.set_tasks(tasks)
    return environment


def collect(environment):
    width = environment.observation_spec().shape[0]
    policy = rl.policies.gaussian(width, width, hidden=(4,))
    weights = [tf.repeat(w[None], environment.tasks, 0) for w in policy.get_weights()]
    return Sampler(policy, environment).collect(weights, 1)


@pytest.mark.parametrize("limits", [(4, 100), (100, 4)], ids=["horizon", "TimeLimit"])
@pytest.mark.parametrize("at_once", [16, 3])
def test_rollouts_tell_what_a_limit_ended_and_what_was_seen_then(limits, at_once):
    drawn = collect(walks((2, 4, 9, 13), *limits, at_once=at_once))
    np.testing.assert_array_equal(
        drawn.truncated, [[False] * 2, [False] * 2, [True] * 2, [False] * 2]
    )
    np.testing.assert_array_equal(
        drawn.last_observation[..., 0], [[0] * 2, [0] * 2, [4] * 2, [0] * 2]
    )
    np.testing.assert_array_equal(drawn.mask.numpy().sum(-1)[:, 0], [2, 4, 4, 0])


def test_rollouts_in_the_graph_tell_it_too():
    environment = Navigation2D(2, 3, horizon=3)
    environment.set_tasks([[0.5, 0.5], [0.0, 0.0]])
    policy = rl.policies.gaussian(2, 2, hidden=(4,), log_scale=-9.0, output_scale=1e-4)
    still = [tf.repeat(w[None], 2, 0) for w in policy.get_weights()]
    drawn = Sampler(policy, environment).collect(still, 1)
    np.testing.assert_array_equal(drawn.truncated, [[True] * 3, [False] * 3])
    moved = drawn.observation[0, :, -1] + 0.1 * drawn.action[0, :, -1]
    np.testing.assert_allclose(drawn.last_observation[0], moved, atol=1e-7)
    assert np.abs(moved).min() > 0
    np.testing.assert_array_equal(drawn.last_observation[1], np.zeros([3, 2]))


def learner(**kwargs):
    policy = rl.policies.gaussian(2, 2, hidden=(4,), log_scale=-1.0)
    return rl.MetaPolicy(policy, 0.5, discount=GAMMA, gae_lambda=0.8, **kwargs)


def test_a_meta_policy_does_so_where_it_is_asked_to_and_keeps_it(tmp_path):
    drawn = collect(Navigation2D(2, 3, horizon=5))
    data = [drawn.observation, drawn.reward, drawn.mask]
    ends = {"last_observation": drawn.last_observation, "truncated": drawn.truncated}
    for made, kwargs in ((learner(), {}), (learner(bootstrap=True), ends)):
        expected = advantages.estimate(*data, discount=GAMMA, gae_lambda=0.8, **kwargs)
        np.testing.assert_allclose(made.sample(drawn)["advantage"], expected[0], atol=1e-5)
    made.save(tmp_path / "learner.keras")
    assert keras.saving.load_model(tmp_path / "learner.keras").bootstrap is True
    config = learner().get_config()
    del config["bootstrap"]  # of a learner that was saved before
    assert rl.MetaPolicy.from_config(config).bootstrap is False
    with pytest.raises(TypeError, match="`bootstrap`.*'yes'"):
        learner(bootstrap="yes")


def test_it_adapts_so_once_it_is_exported(tmp_path):
    made, space = learner(bootstrap=True), Navigation2D(1, 4, horizon=5)
    space.set_tasks([[0.3, -0.2]])
    fast, drawn = made.adapt_and_sample(space, None, 1, seed=1)
    names = ("observation", "action", "reward", "mask", "last_observation", "truncated")
    request = {name: getattr(drawn[0], name)[0] for name in names}
    folder = rl.export(made, tmp_path, warm_up=False)
    adapt = tf.saved_model.load(str(folder)).signatures["adapt"]
    state = {"weights": tf.zeros([0]), "step": tf.constant(0)}
    received = adapt(**request, **state)["weights"]
    expected = np.concatenate([np.ravel(w[0]) for w in fast])
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-6)
    none = request | {"truncated": tf.zeros([4], tf.bool)}
    assert np.abs(adapt(**none, **state)["weights"] - received).max() > 1e-4
    with pytest.raises(tf.errors.InvalidArgumentError, match="rollouts in truncated"):
        adapt(**request | {"truncated": tf.zeros([3], tf.bool)}, **state)
