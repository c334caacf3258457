"""What the layers of a policy ask for beside weights: constraints, penalties, being frozen."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import inner_optimizers, rl
from maml_tf.inner.adaptable import weight_constraints
from maml_tf.inner.description import InnerLoop
from maml_tf.rl import meta_objective, policies
from maml_tf.rl.environments import Navigation2D
from tests.rl.problems import central_difference, flat, sample, unflat
from tests.wrong_calls import Wrong, check

LIMIT = 0.1


def policy(adds=None, dtype="float32", **kwargs):
    """A Gaussian policy whose hidden layer is called "hidden" and made with `kwargs`."""
    inputs = keras.Input((2,), dtype=dtype)
    x = keras.layers.Dense(4, "tanh", name="hidden", dtype=dtype, **kwargs)(inputs)
    x = x if adds is None else adds(x)
    loc = keras.layers.Dense(2, name="loc", dtype=dtype)(x)
    return keras.Model(inputs, {"loc": loc, "log_scale": policies.LogScale(2, dtype=dtype)(inputs)})


def held(dtype="float32"):
    keras.utils.set_random_seed(0)
    return policy(kernel_constraint=keras.constraints.MaxNorm(LIMIT), dtype=dtype)


def longest(model):
    return np.linalg.norm(model.get_layer("hidden").kernel, axis=0).max()


def navigation(tasks=1):
    return Navigation2D(tasks, 4, horizon=5)


def test_constraints_hold_in_training_and_in_adapted_policies():
    learner = rl.MetaPolicy(held(), 0.5, 1)
    learner.compile(keras.optimizers.Adam(0.05), updates=1)
    learner.fit(navigation(2), 2, verbose=0)
    assert longest(learner.policy) <= LIMIT + 1e-6
    space = navigation()
    space.set_tasks([[0.4, 0.4]])
    adapted, _ = learner.adapt(space, 2)
    assert longest(adapted) <= LIMIT + 1e-6


def constrained_problem():
    model = held("float64")
    objective = meta_objective.MetaObjective(
        model, InnerLoop(inner_optimizers.SGD(0.5), constraints=weight_constraints(model))
    )
    weights = [tf.convert_to_tensor(v) for v in model.trainable_variables]
    before = sample(model, [tf.repeat(w[None], 3, 0) for w in weights], seed=0)
    after = sample(model, objective.adapted(weights, [before]), seed=1)
    return objective, weights, [before], after


def test_an_inner_step_is_a_gradient_step_and_then_the_constraint():
    constrained, weights, before, _ = constrained_problem()
    free = policy(dtype="float64")
    stepped = meta_objective.MetaObjective(free, InnerLoop(inner_optimizers.SGD(0.5)))
    one = [tf.nest.map_structure(lambda t: t[0], b) for b in before]
    expected = [w.numpy() for w in stepped.fast_weights(weights, one)]
    norms = np.linalg.norm(expected[0], axis=0)
    assert norms.max() > LIMIT
    expected[0] *= np.minimum(1, LIMIT / norms)
    of_signature, _ = constrained.step(0, weights, constrained.loop.initial_slots(weights), one[0])
    for actual in (constrained.fast_weights(weights, one), of_signature):
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)  # Keras adds 1e-7 to the norms


def test_the_meta_gradient_goes_through_the_constraint():
    objective, weights, before, after = constrained_problem()
    _, gradient = objective.value_and_gradient(weights, before, after)
    direction = np.random.default_rng(0).normal(size=flat(weights).shape)

    def value(vector):
        return objective.value(unflat(vector, weights), before, after)[0]

    expected = central_difference(value, flat(weights), direction)
    np.testing.assert_allclose(flat(gradient) @ direction, expected, rtol=1e-6)


class Added(keras.layers.Layer):
    """A penalty of its own."""

    def call(self, x):
        self.add_loss(tf.reduce_sum(x**2))
        return x


class Subclassed(keras.Model):
    """The same, which does not tell its inputs."""

    def __init__(self):
        super().__init__(name="own")
        self.added, self.logits = Added(), keras.layers.Dense(3)

    def call(self, x):
        return {"logits": self.logits(self.added(x))}


def subclassed():
    made = Subclassed()
    made(tf.ones([1, 2]))
    return made


def thawed():
    model = policy(kernel_regularizer="l2")
    model.get_layer("hidden").trainable = False
    learner = rl.MetaPolicy(model)
    model.get_layer("hidden").trainable = True
    learner.compile()


def meta(*args, **kwargs):
    return lambda: rl.MetaPolicy(policy(*args, **kwargs))


WRONG = [
    Wrong(
        lambda: rl.MetaPolicy(held()).compile(rl.TrustRegion()),
        ValueError,
        "without constraints for a trust region",
        "hidden/kernel",
        "use a Keras optimizer",
        id="trust region",
    ),
    Wrong(
        lambda: rl.MetaPolicy(held()).compile(), ValueError, "hidden/kernel", id="the default one"
    ),
    Wrong(meta(kernel_regularizer="l2"), ValueError, "`policy`", "hidden/kernel", id="kernel"),
    Wrong(meta(bias_regularizer="l1"), ValueError, "`policy`", "hidden/bias", id="bias"),
    Wrong(meta(activity_regularizer="l2"), ValueError, "activity", "'hidden'", id="activity"),
    Wrong(meta(Added()), ValueError, "`policy`", "1 of `add_loss`", id="add_loss"),
    Wrong(lambda: rl.MetaPolicy(subclassed()), ValueError, "'own'", "1 of `add_loss`", id="own"),
    Wrong(thawed, ValueError, "`policy`", "hidden/kernel", id="thawed"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_would_be_ignored_is_refused(wrong):
    check(wrong)


def test_a_frozen_layer_may_have_a_regularizer():
    """Keras does not count it either."""
    model = policy(kernel_regularizer="l2")
    model.get_layer("hidden").trainable = False
    assert not model.losses
    rl.MetaPolicy(model).compile()


def frozen_after(use, optimizer=None):
    def call():
        learner = rl.MetaPolicy(policy(), adaptable=[True, True, False, False, True])
        learner.compile(optimizer)
        learner.policy.get_layer("loc").trainable = False
        use(learner)

    return call


USES = {
    "fit": lambda made: made.fit(navigation(), 1, verbose=0),
    "adapt": lambda made: made.adapt(navigation()),
    "evaluate": lambda made: rl.evaluation.evaluate(made, navigation(), 1),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("optimizer", [None, "sgd"])
def test_a_layer_frozen_after_compile_asks_for_compile(use, optimizer):
    call = frozen_after(USES[use], optimizer)
    check(Wrong(call, ValueError, "hidden/kernel", "frozen or thawed", "again"))


def test_compiled_again_it_trains_and_adapts_what_was_chosen():
    learner = rl.MetaPolicy(policy(), 0.5, adaptable=[False, True, False, False, True])
    learner.compile()
    space = navigation()
    space.set_tasks([[0.4, 0.4]])
    learner.adapt(space)
    hidden = learner.policy.get_layer("hidden")
    hidden.kernel.trainable = False
    learner.compile()
    assert learner.adaptable == learner.get_config()["adaptable"] == [True, False, False, True]
    kept = hidden.kernel.numpy()
    learner.fit(navigation(2), 1, verbose=0)
    np.testing.assert_array_equal(hidden.kernel, kept)
    adapted, _ = learner.adapt(space)
    for one, two in zip(adapted.variables, learner.policy.variables, strict=True):
        changes = two is hidden.bias or "log_scale" in two.path
        assert (np.abs(one.numpy() - two.numpy()).max() > 0) == changes, two.path


def test_low_rank_factors_go_on_where_they_were(tmp_path):
    """Keras merges them when it saves, and begins anew with factors whose gradient is zero."""
    made = policies.gaussian(2, 2, hidden=(4,), seed=1)
    made.get_layer("hidden_0").enable_lora(2)
    for i, variable in enumerate(made.trainable_variables):
        variable.assign(tf.random.stateless_normal(variable.shape, [0, i]))
    learner = rl.MetaPolicy(made, 0.5, 1)
    learner.save(tmp_path / "learner.keras")
    again = keras.saving.load_model(tmp_path / "learner.keras").policy
    pairs = list(zip(made.trainable_variables, again.trainable_variables, strict=True))
    for variable, other in pairs:
        np.testing.assert_array_equal(variable, other)
    assert any("lora" in v.path for v, _ in pairs)
    observation = tf.random.stateless_normal([3, 2], [1, 0])
    np.testing.assert_array_equal(made(observation)["loc"], again(observation)["loc"])
