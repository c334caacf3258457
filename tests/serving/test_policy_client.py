"""Policies over real gRPC and real REST, to a stand-in in front of the C API."""

import numpy as np
import pytest

from maml_tf import inner_optimizers, rl
from maml_tf.rl.environments import Navigation2D
from maml_tf.serving import PolicyClient, ServingError

pytest.importorskip("tensorflow_serving")
STEPS = 2


@pytest.fixture(scope="module")
def learner():
    policy = rl.policies.gaussian(2, 2, hidden=(5,), log_scale=-0.3)
    return rl.MetaPolicy(policy, inner_optimizers.SGD([0.5, 0.1]))


@pytest.fixture(scope="module")
def server(learner, tmp_path_factory):
    from tests.serving.stand_in import StandIn

    folder = rl.export(learner, tmp_path_factory.mktemp("export") / "navigation", warm_up=False)
    stand_in = StandIn(folder, "navigation")
    yield stand_in
    stand_in.close()


@pytest.fixture(params=["grpc", "rest"])
def client(server, request):
    made = PolicyClient(getattr(server, request.param), "navigation", timeout=20)
    yield made
    made.close()


@pytest.fixture(scope="module")
def adaptation(learner):
    """Fast weights after two steps as the learner takes them, and its rollouts, one task's."""
    space = Navigation2D(1, 4, horizon=6)
    space.set_tasks([[0.3, -0.2]])
    weights, drawn = learner.adapt_and_sample(space, learner.inner_optimizer, STEPS, seed=1)
    one = [[getattr(d, n)[0].numpy() for n in ("observation", "action", "reward")] for d in drawn]
    return [w[0] for w in weights], one


def test_two_steps_over_the_wire_are_those_of_the_learner(client, learner, adaptation):
    weights, drawn = adaptation
    policy = client.policy()
    for rollouts in drawn[:STEPS]:
        policy = policy.adapt(*rollouts)
    assert policy.steps == STEPS
    np.testing.assert_allclose(
        policy.weights, np.concatenate([np.ravel(w) for w in weights]), rtol=1e-4, atol=1e-6
    )
    observation = drawn[-1][0][0]
    expected = rl.policies.apply(learner.policy, weights, observation)["loc"]
    np.testing.assert_allclose(policy.act(observation), expected, rtol=1e-4, atol=1e-6)


def test_before_adapting_it_is_the_meta_learned_policy(client, learner):
    observation = np.random.default_rng(0).normal(size=(3, 2))
    expected = learner.policy(observation.astype(np.float32))["loc"]
    np.testing.assert_allclose(client.policy().act(observation), expected, rtol=1e-5, atol=1e-6)


def test_what_is_masked_does_not_count(client, adaptation):
    observation, action, reward = adaptation[1][0]
    mask = np.ones(reward.shape)
    mask[:, 4:] = 0
    other = np.where(mask > 0, reward, 99)
    policy = client.policy()
    whole = policy.adapt(observation, action, reward)
    expected = policy.adapt(observation, action, reward, mask)
    same = policy.adapt(observation, action, other, mask)
    np.testing.assert_array_equal(expected.weights, same.weights)
    assert np.abs(whole.weights - expected.weights).max() > 1e-3


def test_draws_follow_from_the_seed_and_spread_as_the_policy_says(client):
    observation = np.zeros((4000, 2))
    policy = client.policy()
    drawn = policy.sample(observation, seed=2**40 + 3)
    np.testing.assert_array_equal(drawn, policy.sample(observation, seed=2**40 + 3))
    assert not np.array_equal(drawn, policy.sample(observation, seed=3))
    centred = drawn - policy.act(observation)
    # Four standard errors of 4,000 draws.
    np.testing.assert_allclose(centred.mean(0), 0, atol=4 * np.exp(-0.3) / 4000**0.5)
    np.testing.assert_allclose(centred.std(0), np.exp(-0.3), rtol=4 / 8000**0.5)


def test_rollouts_that_are_not_finite_are_refused_before_they_are_sent(client, adaptation):
    """That the exported graph refuses them too, the tests of `rl.export` see."""
    observation, action, reward = adaptation[1][0]
    with pytest.raises(ValueError, match="Expected `reward` as finite numbers.*nan"):
        client.policy().adapt(observation, action, np.full_like(reward, np.nan))


def test_a_model_that_is_no_policy(server):
    with pytest.raises(ServingError, match="NOT_FOUND"):
        PolicyClient(server.grpc, "other").policy().act(np.zeros((1, 2)))


@pytest.mark.slow  # a server of its own
def test_a_policy_that_bootstraps_is_told_what_a_limit_ended(tmp_path):
    from tests.serving.stand_in import StandIn

    policy = rl.policies.gaussian(2, 2, hidden=(5,), log_scale=-0.3)
    made = rl.MetaPolicy(policy, 0.5, bootstrap=True)
    space = Navigation2D(1, 4, horizon=6)
    space.set_tasks([[0.3, -0.2]])
    weights, drawn = made.adapt_and_sample(space, None, 1, seed=1)
    rollouts = [getattr(drawn[0], n)[0].numpy() for n in ("observation", "action", "reward")]
    ends = {n: getattr(drawn[0], n)[0].numpy() for n in ("last_observation", "truncated")}
    server = StandIn(rl.export(made, tmp_path / "navigation", warm_up=False), "navigation")
    try:
        for address in (server.grpc, server.rest):
            client = PolicyClient(address, "navigation", timeout=20)
            adapted = client.policy().adapt(*rollouts, **ends)
            expected = np.concatenate([np.ravel(w[0]) for w in weights])
            np.testing.assert_allclose(adapted.weights, expected, rtol=1e-4, atol=1e-6)
            none = client.policy().adapt(*rollouts, **ends | {"truncated": [False] * 4})
            assert np.abs(none.weights - expected).max() > 1e-4
            client.close()
    finally:
        server.close()


def test_a_policy_that_does_not_bootstrap_takes_no_such_thing(client, adaptation):
    with pytest.raises(ValueError, match="'truncated'.*Received: one of"):
        client.policy().adapt(*adaptation[1][0], truncated=[True] * 4)
