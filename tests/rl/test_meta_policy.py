import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import inner_optimizers, rl
from maml_tf.rl.environments import Navigation2D
from maml_tf.rl.sampling import Sampler
from maml_tf.rl.tf_agents_policy import KerasPolicy
from tests.rl.problems import assert_training_teaches_to_adapt


def learner(inner_steps=1, optimizer=None, seed=0, surrogate="ratio", **kwargs):
    policy = rl.policies.gaussian(2, 2, hidden=(16,), seed=seed)
    made = rl.MetaPolicy(policy, inner_optimizers.SGD(0.5), inner_steps, seed=seed, **kwargs)
    made.compile(optimizer or rl.TrustRegion(0.01), surrogate=surrogate)
    return made


def environment(tasks=4, rollouts=6, **kwargs):
    return Navigation2D(tasks, rollouts, horizon=15, **kwargs)


def test_rollouts_of_the_compiled_sampler_are_those_of_the_environment():
    space, policy = environment(), rl.policies.gaussian(2, 2, hidden=(4,))
    space.set_tasks(space.sample_tasks(4, seed=0))
    weights = [tf.repeat(tf.convert_to_tensor(v)[None], 4, 0) for v in policy.trainable_variables]
    drawn = Sampler(policy, space).collect(weights, seed=3)
    step = space.reset()
    alive = np.ones(24)
    for t in range(15):
        seen = tf.reshape(drawn.observation[:, :, t], [24, 2])
        np.testing.assert_allclose(seen[alive > 0], step.observation[alive > 0], atol=1e-6)
        np.testing.assert_array_equal(tf.reshape(drawn.mask[:, :, t], [24]), alive)
        step = space.step(tf.reshape(drawn.action[:, :, t], [24, 2]))
        reward = tf.reshape(drawn.reward[:, :, t], [24])
        np.testing.assert_allclose(reward, step.reward * alive, atol=1e-6)
        alive = alive * (step.discount.numpy() > 0)


def test_divergence_stays_within_the_trust_region_in_every_step():
    made = learner()
    seen = []
    record = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: seen.append(dict(logs)))
    made.fit(environment(), 1, epochs=8, callbacks=[record], verbose=0)
    assert all(logs["divergence"] <= 0.01 for logs in seen)
    assert all(logs["surrogate"] < logs["surrogate_before"] for logs in seen if logs["accepted"])
    assert sum(logs["accepted"] for logs in seen) >= 6


def test_without_inner_steps_it_is_trpo_and_solves_control():
    """An oracle that sees the goal: the return of standing still is about -5.7."""
    space = Navigation2D(10, 10, horizon=15, observe_task=True)
    policy = rl.policies.gaussian(4, 2, hidden=(32,), log_scale=-0.5)
    made = rl.MetaPolicy(policy, inner_optimizers.SGD(0.1), 0)
    made.compile(rl.TrustRegion(0.05))
    history = made.fit(space, 1, epochs=40, verbose=0).history
    assert set(history) >= {"return_0", "divergence"}
    assert "return_1" not in history
    assert history["return_0"][0] < -5
    assert np.mean(history["return_0"][-3:]) > -2.5


def test_learns_to_adapt():
    assert_training_teaches_to_adapt(learner, environment)


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"a\.h5.*\.keras"):
        learner().save(tmp_path / "a.h5")


@pytest.mark.parametrize("kind", ["trust region", pytest.param("adam", marks=pytest.mark.slow)])
def test_a_saved_run_goes_on_bit_equal(tmp_path, kind):
    optimizer = None if kind == "trust region" else keras.optimizers.Adam(1e-3)
    surrogate = "ratio" if kind == "trust region" else "clipped"
    whole = learner(optimizer=optimizer, surrogate=surrogate, inner_loss="ratio")
    whole.fit(environment(), 2, verbose=0)
    whole.save(tmp_path / "half.keras")
    whole.fit(environment(), 2, verbose=0)
    resumed = keras.saving.load_model(tmp_path / "half.keras")
    assert resumed.inner_loss == "ratio"
    resumed.fit(environment(), 2, verbose=0)
    assert int(resumed.iteration) == int(whole.iteration) == 4
    for a, b in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_adapting_to_one_task_gives_a_keras_model_and_leaves_the_learner():
    made = learner()
    before = made.get_weights()
    space = environment(1, 20)
    space.set_tasks([[0.4, 0.4]])
    policy, returns = made.adapt(space, 2)
    assert returns.shape == (3,)
    assert isinstance(policy, keras.Model)
    for a, b in zip(before, made.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    # By hand: one gradient step on the very same rollouts.
    theta = [tf.Variable(v) for v in made.policy.trainable_variables]
    optimizer = inner_optimizers.SGD(0.5)
    fast, drawn = made.adapt_and_sample(space, optimizer, 1, seed=0)
    sample = tf.nest.map_structure(lambda t: t[0], made.sample(drawn[0]))
    with tf.GradientTape() as tape:
        flat = tf.reshape(sample["observation"], [-1, 2])
        outputs = rl.policies.apply(made.policy, [tf.identity(t) for t in theta], flat)
        log_prob = rl.policies.distribution(outputs).log_prob(tf.reshape(sample["action"], [-1, 2]))
        weight = tf.reshape(sample["mask"], [-1])
        gain = log_prob * tf.reshape(sample["advantage"], [-1]) * weight
        loss = -tf.reduce_sum(gain) / tf.reduce_sum(weight)
    gradient = tape.gradient(loss, theta)
    for w, g, f in zip(theta, gradient, fast, strict=True):
        np.testing.assert_allclose(w - 0.5 * g, f[0], atol=1e-6)


def test_runs_as_a_policy_of_tf_agents(tmp_path):
    from tf_agents.policies import policy_saver

    space = Navigation2D(1, 3, horizon=5)
    network = rl.policies.gaussian(2, 2, hidden=(4,))
    policy = KerasPolicy(network, space)
    step = policy.distribution(space.reset()).action
    np.testing.assert_allclose(step.mean(), network(np.zeros((3, 2)))["loc"], atol=1e-6)
    policy_saver.PolicySaver(policy, batch_size=None).save(str(tmp_path / "policy"))
    loaded = tf.saved_model.load(str(tmp_path / "policy"))
    assert loaded.action(space.reset()).action.shape == (3, 2)


class Broken(Navigation2D):
    """A reward that is NaN in one task."""

    def transition(self, position, action, goals):
        position, observation, reward, terminated = super().transition(position, action, goals)
        nan = tf.fill([1, self.rollouts], np.nan)
        return position, observation, tf.concat([nan, reward[1:]], 0), terminated


@pytest.mark.parametrize(
    "optimizer", [None, pytest.param(keras.optimizers.Adam(1e-3), marks=pytest.mark.slow)]
)
def test_nan_rewards_never_poison_the_policy(optimizer, caplog):
    made = learner(optimizer=optimizer)
    before = made.policy.get_weights()
    history = made.fit(Broken(4, 6, horizon=15), 2, verbose=0).history
    assert "6 of 24 rollouts" in caplog.text
    assert np.isfinite(history["return_1"]).all()
    assert any((a != b).any() for a, b in zip(before, made.policy.get_weights(), strict=True))
    assert all(np.isfinite(w).all() for w in made.get_weights())


class Costly(Navigation2D):
    """Every step costs 1, whatever one does."""

    def transition(self, position, action, goals):
        position, observation, reward, terminated = super().transition(position, action, goals)
        return position, observation, -tf.ones_like(reward), tf.zeros_like(terminated)


def test_where_nothing_can_be_learned_the_weights_stay():
    made = learner()
    before = made.policy.get_weights()
    made.fit(Costly(4, 6, horizon=15), 3, verbose=0)
    for one, two in zip(before, made.policy.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


class Hopeless(Broken):
    """A reward that is NaN in all tasks."""

    def transition(self, position, action, goals):
        position, observation, reward, terminated = super().transition(position, action, goals)
        return position, observation, reward * np.nan, terminated


def test_training_ends_where_every_rollout_breaks():
    with pytest.raises(RuntimeError, match="24 rollouts, of which every one broke"):
        learner().fit(Hopeless(4, 6, horizon=15), 2, verbose=0)


def test_mistakes_are_told():
    made = rl.MetaPolicy(rl.policies.gaussian(2, 2), inner_optimizers.SGD(0.5))
    with pytest.raises(ValueError, match="compile"):
        made.fit(environment(), 1)
    with pytest.raises(ValueError, match="tasks=4"):
        learner().adapt(environment())
    with pytest.raises(ValueError, match="at least one of the 7 trainable weights"):
        rl.MetaPolicy(rl.policies.gaussian(2, 2), adaptable="context")
    with pytest.raises(ValueError, match="a list of 7 booleans"):
        rl.MetaPolicy(rl.policies.gaussian(2, 2), adaptable=[True])
    with pytest.raises(ValueError, match="'dise'"):
        rl.MetaPolicy(rl.policies.gaussian(2, 2), inner_loss="dise")
    with pytest.raises(TypeError, match="from_gymnasium|step_rows"):
        learner().fit(object(), 1)
    with pytest.raises(ValueError, match="log_scale"):
        rl.policies.distribution({"mean": 0})


def test_trying_step_sizes_gives_no_warning(caplog):
    made, space = learner(), environment(2, 2)
    for size in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6):
        optimizer = inner_optimizers.SGD(size)
        rl.evaluation.evaluate(made, space, 2, inner_optimizer=optimizer)
    assert not caplog.records
