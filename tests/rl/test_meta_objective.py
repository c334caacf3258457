import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import inner_loop
from maml_tf.inner.description import InnerLoop
from maml_tf.inner.optimizers import SGD, Adam
from maml_tf.rl import advantages, objectives, policies
from maml_tf.rl.meta_objective import MetaObjective
from tests.rl.problems import central_difference, flat, problem, unflat

CONTEXT = {"context": 2, "adaptable": "context"}
CASES = [
    ("gaussian", 0, {}),
    ("gaussian", 1, {}),
    ("gaussian", 2, {}),
    ("gaussian", 2, CONTEXT),
    ("gaussian", 1, {"adaptable": "kernel"}),
    ("categorical", 1, {}),
    ("categorical", 1, CONTEXT),
]


@pytest.mark.parametrize(("kind", "steps", "options"), CASES)
@pytest.mark.parametrize("inner_loss", ["policy_gradient", "ratio"])
def test_meta_gradient_is_that_of_finite_differences(kind, steps, options, inner_loss):
    objective, weights, before, after = problem(kind, steps, inner_loss=inner_loss, **options)
    _, gradient = objective.value_and_gradient(weights, before, after)
    direction = np.random.default_rng(3).normal(size=flat(weights).size)
    if inner_loss == "ratio":
        # The ratio's own value is constant: its derivative is that of the stopped weights, so
        # a difference of `value` sees the inner gradient only through the policy gradient.
        by_hand = problem(kind, steps, inner_loss="policy_gradient", **options)[0]
        _, other = by_hand.value_and_gradient(weights, before, after)
        same = np.allclose(flat(gradient), flat(other), rtol=1e-9)
        assert same == (steps == 0)
        return

    def value(x):
        return objective.value(unflat(x, weights), before, after)[0]

    slope = central_difference(value, flat(weights), direction)
    np.testing.assert_allclose(flat(gradient) @ direction, slope, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(("kind", "steps", "options"), CASES)
def test_curvature_product_is_the_hessian_of_the_divergence(kind, steps, options):
    objective, weights, before, after = problem(kind, steps, **options)
    direction = np.random.default_rng(4).normal(size=flat(weights).size)
    product = objective.curvature_product(weights, unflat(direction, weights), before, after)

    def gradient(x):
        return flat(objective.divergence_gradient(unflat(x, weights), before, after))

    np.testing.assert_allclose(gradient(flat(weights)), 0, atol=1e-12)
    expected = central_difference(gradient, flat(weights), direction)
    np.testing.assert_allclose(flat(product), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("options", [{}, CONTEXT])
def test_curvature_product_equals_differentiating_twice(options):
    objective, weights, before, after = problem(**options)
    vector = unflat(np.random.default_rng(5).normal(size=flat(weights).size), weights)
    with tf.GradientTape() as outer:
        outer.watch(weights)
        gradient = objective.divergence_gradient(weights, before, after)
    twice = outer.gradient(gradient, weights, output_gradients=vector)
    product = objective.curvature_product(weights, vector, before, after)
    np.testing.assert_allclose(flat(product), flat(twice), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", [CONTEXT, {"adaptable": "loc|log_scale"}])
def test_only_adaptable_weights_change_and_by_their_gradient(options):
    objective, weights, before, _ = problem(**options)
    adapted = objective.adapted(weights, before)
    assert sum(objective.loop.adaptable) == len(objective.loop.adaptable) - sum(
        np.array_equal(a, np.repeat(w[None], 3, 0)) for a, w in zip(adapted, weights, strict=True)
    )
    for i in range(3):
        sample = tf.nest.map_structure(lambda t: t[i], before[0])  # noqa: B023
        with tf.GradientTape() as tape:
            tape.watch(weights)
            outputs = objective.outputs(weights, sample["observation"])
            loss = objectives.inner_loss("policy_gradient", outputs, sample)
        gradient = tape.gradient(loss, weights)
        for a, w, g, adapts in zip(
            adapted, weights, gradient, objective.loop.adaptable, strict=True
        ):
            np.testing.assert_allclose(a[i], w - 0.3 * g if adapts else w, rtol=1e-12)


def test_first_order_drops_the_inner_hessian():
    exact, weights, before, after = problem()
    first = problem(first_order=True)[0]
    _, gradient = first.value_and_gradient(weights, before, after)
    # By hand: the gradient at the fast weights of each task, averaged.
    total = 0
    for i in range(3):
        one = [tf.nest.map_structure(lambda t: t[i], b) for b in before]  # noqa: B023
        late = tf.nest.map_structure(lambda t: t[i], after)  # noqa: B023
        fast = [tf.identity(w) for w in exact.fast_weights(weights, one)]
        with tf.GradientTape() as tape:
            tape.watch(fast)
            outputs = exact.outputs(fast, late["observation"])
            loss = objectives.outer_loss(
                "ratio", outputs, late["outputs"], late["action"], late["advantage"], late["mask"]
            )
        total = total + flat(tape.gradient(loss, fast, unconnected_gradients="zero")) / 3
    np.testing.assert_allclose(flat(gradient), total, rtol=1e-10)
    assert not np.allclose(flat(exact.value_and_gradient(weights, before, after)[1]), total)


def test_surrogates_gradient_at_the_old_policy_is_the_policy_gradient():
    objective, weights, _, after = problem(inner_steps=0)
    _, gradient = objective.value_and_gradient(weights, [], after)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        losses = []
        for i in range(3):
            s = tf.nest.map_structure(lambda t: t[i], after)  # noqa: B023
            outputs = objective.outputs(weights, s["observation"])
            log_prob = policies.distribution(outputs).log_prob(s["action"])
            losses.append(-objectives.masked_mean(log_prob * s["advantage"], s["mask"]))
        loss = tf.add_n(losses) / 3
    np.testing.assert_allclose(flat(gradient), flat(tape.gradient(loss, weights)), rtol=1e-10)


def test_what_lies_after_the_end_changes_nothing():
    objective, weights, before, after = problem()
    value, gradient = objective.value_and_gradient(weights, before, after)

    def spoiled(s):
        gone = tf.cast(1 - s["mask"], tf.bool)
        return s | {
            "advantage": tf.where(gone, 1e6, s["advantage"]),
            "action": tf.where(gone[..., None], 5.0, s["action"]),
        }

    other = objective.value_and_gradient(weights, [spoiled(b) for b in before], spoiled(after))
    np.testing.assert_array_equal(value, other[0])
    np.testing.assert_array_equal(flat(gradient), flat(other[1]))


def test_inner_losses_share_their_gradient_but_not_their_hessian():
    """On a bandit all Hessians are known: E[(log pi)'' A] and E[(log pi)'' A + (log pi)'^2 A]."""
    logits = tf.constant([0.3, -0.2, 0.5], tf.float64)
    gains = tf.constant([1.0, 3.0, -2.0], tf.float64)

    def derivatives(kind):
        x = tf.identity(logits)
        actions = tf.range(3)[:, None]
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                # Every action once, weighted by its probability: the expectation itself.
                p = tf.stop_gradient(tf.nn.softmax(x)) * 3
                outputs = {"logits": tf.tile(x[None, None], [3, 1, 1])}
                mask = tf.ones([3, 1], tf.float64)
                gain = (p * gains)[:, None]
                sample = {"action": actions, "advantage": gain, "error": gain, "mask": mask}
                loss = objectives.inner_loss(kind, outputs, sample)
            gradient = inner.gradient(loss, x)
        return gradient.numpy(), outer.jacobian(gradient, x).numpy()

    with tf.GradientTape() as outer:
        outer.watch(logits)
        with tf.GradientTape() as inner:
            inner.watch(logits)
            expected = -tf.reduce_sum(tf.nn.softmax(logits) * gains)
        true_gradient = inner.gradient(expected, logits)
    true_hessian = outer.jacobian(true_gradient, logits).numpy()
    for kind in objectives.INNER:
        gradient, hessian = derivatives(kind)
        np.testing.assert_allclose(gradient, true_gradient, rtol=1e-12)
        # The meta-gradient through the sampling distribution is right for all but the paper's.
        assert np.allclose(hessian, true_hessian, rtol=1e-12) == (kind != "policy_gradient")


def test_dice_weights_whole_histories():
    """Two steps, two actions: the Hessian of the expected return, by enumeration."""
    logits = tf.constant([0.4, -0.3], tf.float64)
    reward = np.array([[1.0, 2.0], [0.5, -1.0]])  # [t, action]
    paths = np.array([[a, b] for a in (0, 1) for b in (0, 1)])
    gains = np.take_along_axis(reward.T, paths, axis=0)

    def expected(x):
        p = tf.nn.softmax(x)
        return -tf.reduce_sum(p * reward[0]) - tf.reduce_sum(p * reward[1])

    def dice(x):
        p = tf.stop_gradient(tf.reduce_prod(tf.gather(tf.nn.softmax(x), paths), -1)) * 4
        outputs = {"logits": tf.tile(x[None, None], [4, 2, 1])}
        mask = tf.ones([4, 2], tf.float64)
        # The mean is over paths and steps, the return a sum over steps.
        sample = {"action": paths, "error": p[:, None] * gains, "mask": mask}
        return 2 * objectives.inner_loss("dice", outputs, sample)

    hessians = []
    for function in (expected, dice):
        with tf.GradientTape() as outer:
            outer.watch(logits)
            with tf.GradientTape() as inner:
                inner.watch(logits)
                loss = function(logits)
            gradient = inner.gradient(loss, logits)
        hessians.append((gradient.numpy(), outer.jacobian(gradient, logits).numpy()))
    np.testing.assert_allclose(hessians[0][0], hessians[1][0], rtol=1e-10)
    np.testing.assert_allclose(hessians[0][1], hessians[1][1], rtol=1e-10)


def test_dice_has_the_gradient_of_generalised_advantages():
    """sum_t d_t h_t and sum_t A_t log pi_t are the same sum in another order."""
    policy = problem(inner_steps=0)[0].policy
    rng = np.random.default_rng(7)
    mask = np.ones((4, 6))
    mask[1, 4:] = 0
    error = tf.constant(rng.normal(size=(4, 6)) * mask)
    advantage = advantages.discounted_sums(error, 0.85) * mask
    observation, action = rng.normal(size=(24, 3)), tf.constant(rng.normal(size=(4, 6, 2)))
    weights = [tf.convert_to_tensor(v) for v in policy.trainable_variables]
    sample = {"action": action, "error": error, "advantage": advantage, "mask": tf.constant(mask)}
    gradients = []
    for kind in objectives.INNER:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            flat_outputs = policies.apply(policy, weights, tf.constant(observation))
            outputs = {k: tf.reshape(v, [4, 6, -1]) for k, v in flat_outputs.items()}
            loss = objectives.inner_loss(kind, outputs, sample, decay=0.85)
        gradients.append(flat(tape.gradient(loss, weights)))
    for gradient in gradients[1:]:
        np.testing.assert_allclose(gradient, gradients[0], rtol=1e-9, atol=1e-12)


def test_compiled_with_xla_gradient_and_curvature_are_the_same():
    plain, weights, before, after = problem(inner_loss="ratio")
    compiled = problem(inner_loss="ratio", jit_compile=True)[0]
    vector = unflat(np.random.default_rng(8).normal(size=flat(weights).size), weights)

    def results(objective):
        value, gradient = objective.value_and_gradient(weights, before, after)
        product = objective.curvature_product(weights, vector, before, after)
        return value, flat(gradient), flat(product), flat(objective.adapted(weights, before))

    for ours, theirs in zip(results(compiled), results(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_max_pooling_under_xla_has_the_gradient_that_it_has_without():
    """Compiled by TensorFlow's own kernels the second derivative is off by up to 2.7e-2."""
    inputs = keras.Input((4,))
    glorot = [keras.initializers.GlorotNormal(seed=i) for i in range(2)]
    maps = keras.layers.Reshape((2, 2, 1))(inputs)
    maps = keras.layers.Conv2D(2, 1, activation="tanh", kernel_initializer=glorot[0])(maps)
    pooled = keras.layers.Flatten()(keras.layers.MaxPooling2D()(maps))
    logits = keras.layers.Dense(2, kernel_initializer=glorot[1])(pooled)
    policy = keras.Model(inputs, {"logits": logits})
    sample = {
        "observation": tf.random.stateless_normal([2, 3, 4, 4], [0, 1]),
        "action": tf.zeros([2, 3, 4], tf.int32),
        "advantage": tf.random.stateless_normal([2, 3, 4], [0, 2]),
        "mask": tf.ones([2, 3, 4]),
        "outputs": {"logits": tf.zeros([2, 3, 4, 2])},
    }
    weights = [tf.convert_to_tensor(v) for v in policy.trainable_variables]
    plain, compiled = (
        tf.function(
            MetaObjective(policy, InnerLoop(SGD(2.0)), jit_compile=jit).value_and_gradient,
            autograph=False,
        )(weights, [sample], sample)
        for jit in (False, True)
    )
    np.testing.assert_allclose(compiled[0], plain[0], rtol=1e-5)
    for one, other in zip(compiled[1], plain[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def task(samples, i):
    return tf.nest.map_structure(lambda t: t[i], samples)


def test_the_defaults_are_those_of_the_paper():
    objective = MetaObjective(policies.gaussian(3, 2), InnerLoop(SGD(0.1)))
    received = [objective.inner_loss, objective.outer_loss, objective.clip, objective.decay]
    assert received == ["policy_gradient", "ratio", 0.2, 1.0]
    loop = objective.loop
    switches = [loop.first_order, objective.jit_compile, loop.adaptable, objective.state]
    assert switches == [False, False, None, None]


@pytest.mark.parametrize(
    ("optimizer", "adaptable"),
    [(SGD([0.3, 0.1], momentum=0.5), None), (Adam([0.1, 0.02]), "loc")],
    ids=["momentum", "adam"],
)
def test_single_steps_are_those_of_the_fast_weights(optimizer, adaptable):
    objective, weights, before, _ = problem(inner_steps=3, adaptable=adaptable, inner_loss="ratio")
    objective.loop = dataclasses.replace(objective.loop, optimizer=optimizer)
    samples = task(before, 1)
    expected = objective.fast_weights(weights, samples)
    received, slots = weights, objective.loop.initial_slots(weights)
    for number, sample in enumerate(samples):
        received, slots = objective.step(tf.constant(number), received, slots, sample)
    np.testing.assert_allclose(flat(received), flat(expected), rtol=1e-12)


def test_whether_fast_weights_carry_second_derivatives():
    for own, given, second in (
        (False, None, True),
        (True, None, False),
        (True, False, True),
        (False, True, False),
    ):
        objective, weights, before, _ = problem(first_order=own)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            fast = objective.fast_weights(weights, task(before, 0), given)
            total = tf.add_n([tf.reduce_sum(w) for w in fast])
        gradient = flat(tape.gradient(total, weights))
        assert np.allclose(gradient, 1) != second


@pytest.mark.parametrize(
    ("outer_loss", "clip", "inner_loss", "decay"),
    [("ratio", 0.2, "ratio", 1.0), ("clipped", 0.05, "dice", 0.5), ("clipped", 1, "dice", 1.0)],
)
def test_the_value_is_the_mean_over_tasks_by_hand(outer_loss, clip, inner_loss, decay):
    settings = {"outer_loss": outer_loss, "clip": clip, "inner_loss": inner_loss, "decay": decay}
    objective, weights, before, after = problem(inner_steps=1)
    before = [b | {"error": b["advantage"] * 0.9} for b in before]
    after["advantage"] = after["advantage"] * 10  # so that clipping shows
    objective = MetaObjective(objective.policy, InnerLoop(SGD(0.3)), **settings)
    losses, divergences = [], []
    for i in range(3):
        sample, late = task(before[0], i), task(after, i)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            outputs = objective.outputs(weights, sample["observation"])
            loss = objectives.inner_loss(inner_loss, outputs, sample, decay)
        gradients = tape.gradient(loss, weights)
        fast = [w - 0.3 * g for w, g in zip(weights, gradients, strict=True)]
        outputs, old = objective.outputs(fast, late["observation"]), late["outputs"]
        arguments = late["action"], late["advantage"], late["mask"]
        losses.append(objectives.outer_loss(outer_loss, outputs, old, *arguments, clip))
        divergences.append(objectives.divergence(outputs, old, late["mask"]))
    expected = np.mean(losses), np.mean(divergences)
    np.testing.assert_allclose(objective.value(weights, before, after), expected, rtol=1e-9)
    value, _ = objective.value_and_gradient(weights, before, after)
    np.testing.assert_allclose(value, expected[0], rtol=1e-9)


def test_outputs_keep_the_axes_of_observations_and_their_static_sizes():
    policy = policies.gaussian(3, 2, hidden=(4,), seed=1)
    objective = MetaObjective(policy, InnerLoop(SGD(0.1)))
    weights = [tf.convert_to_tensor(v) for v in policy.trainable_variables]
    observation = tf.random.stateless_normal([2, 5, 3], [0, 1])
    outputs = objective.outputs(weights, observation)
    for r in range(2):
        for name, expected in policy(observation[r]).items():
            np.testing.assert_allclose(outputs[name][r], expected, rtol=1e-5, atol=1e-6)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 5, 3])])
    def traced(observation):
        outputs = objective.outputs(weights, observation)
        assert {tuple(y.shape) for y in outputs.values()} == {(None, 5, 2)}
        return outputs

    for name, expected in traced(observation).items():
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-5, atol=1e-6)


def test_state_takes_the_place_of_the_policys_own():
    inputs = keras.Input((3,))
    normalised = keras.layers.Normalization(mean=[0.0] * 3, variance=[1.0] * 3)(inputs)
    frozen = keras.layers.Dense(2, trainable=False)
    policy = keras.Model(inputs, {"logits": frozen(keras.layers.Dense(2)(normalised))})
    weights = [tf.convert_to_tensor(v) for v in policy.trainable_variables]
    own = [tf.convert_to_tensor(v) for v in policy.non_trainable_variables]
    observation = tf.random.stateless_normal([2, 5, 3], [0, 1])
    expected = MetaObjective(policy, InnerLoop(SGD(0.1))).outputs(weights, observation)["logits"]
    other = MetaObjective(policy, InnerLoop(SGD(0.1)), state=[2 * s for s in own])
    np.testing.assert_allclose(other.outputs(weights, observation)["logits"], 2 * expected)
    other.state = own
    np.testing.assert_array_equal(other.outputs(weights, observation)["logits"], expected)


def test_adapted_weights_are_those_of_each_task_in_their_order():
    objective, weights, before, _ = problem(inner_steps=2)
    received = objective.adapted(weights, before)
    for i in range(3):
        expected = objective.fast_weights(weights, task(before, i))
        np.testing.assert_allclose(flat(task(received, i)), flat(expected), rtol=1e-12)


def test_slots_are_those_of_the_weights_that_adapt():
    objective, weights, _, _ = problem(adaptable="loc")
    objective.loop = dataclasses.replace(objective.loop, optimizer=Adam(0.1))
    shapes = [s.shape for s in objective.loop.initial_slots(weights)]
    chosen = [w.shape for w, a in zip(weights, objective.loop.adaptable, strict=True) if a]
    assert shapes == 2 * chosen
    assert len(chosen) < len(weights)
    assert inner_loop.initial_slots(SGD(0.1), weights) == []
