"""Exported policies act and adapt through the C API, with no TensorFlow Python, as the learner."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import inner_optimizers, rl
from maml_tf.rl._tf_agents import tensor_spec
from maml_tf.rl.environments import Navigation2D
from maml_tf.serving import warmup

NONE = np.zeros(0, np.float32)  # no weights: the meta-learned ones
STEPS = inner_optimizers.SGD([0.5, 0.1])
STATEFUL = {
    "momentum": inner_optimizers.SGD([0.5, 0.1], momentum=0.9),
    "adam": inner_optimizers.Adam(0.05),
}


class Fenced(Navigation2D):
    """Rollouts end at a fence, so that masks matter."""

    def transition(self, position, action, goals):
        position, observation, reward, _ = super().transition(position, action, goals)
        return position, observation, reward, position[..., 0] > 0.15


class Compass(Fenced):
    """The same with four directions."""

    def action_spec(self):
        return tensor_spec.BoundedTensorSpec([], tf.int32, 0, 3, "action")

    def transition(self, position, action, goals):
        action = tf.gather(tf.constant([[1.0, 0], [-1, 0], [0, 1], [0, -1]]), action)
        return super().transition(position, action, goals)


def make_learner(kind="gaussian", inner_loss="policy_gradient", adaptable=None):
    if kind == "gaussian":
        policy = rl.policies.gaussian(2, 2, hidden=(5,), log_scale=-0.3)
    else:
        policy = rl.policies.categorical(2, 4, hidden=(5,))
    return rl.MetaPolicy(
        policy, 0.5, inner_loss=inner_loss, adaptable=adaptable, discount=0.95, gae_lambda=0.9
    )


def trajectories(learner, optimizer, steps):
    """The learner's own fast weights as one vector, and the rollouts that it took them on."""
    discrete = "logits" in learner.policy.output
    space = (Compass if discrete else Fenced)(1, 6, horizon=7)
    space.set_tasks([[0.3, -0.2]])
    fast, drawn = learner.adapt_and_sample(space, optimizer, steps, seed=1)
    assert 0 < np.mean(drawn[0].mask) < 1
    return np.concatenate([np.ravel(w[0]) for w in fast]), drawn


def request(drawn, step):
    """What `adapt` takes but for the weights."""
    names = ("observation", "action", "reward", "mask")
    return {name: getattr(drawn, name)[0].numpy() for name in names} | {"step": np.int32(step)}


def adapted(server, drawn):
    weights = NONE
    for step, rollouts in enumerate(drawn):
        weights = server("adapt", weights=weights, **request(rollouts, step))["weights"]
    return weights


@pytest.fixture(scope="module", params=["gaussian", "categorical"])
def policy(request, tmp_path_factory):
    """A learner, the same exported, and two steps of its rollouts."""
    learner = make_learner(request.param)
    folder = rl.export(learner, tmp_path_factory.mktemp(request.param), inner_optimizer=STEPS)
    fast, drawn = trajectories(learner, STEPS, 2)
    return learner, folder, fast, drawn[:2]


def test_the_process_has_no_tensorflow_python(serve, policy):
    unwanted = ("tensorflow", "keras", "tf_agents", "tensorflow_probability")
    modules = serve(policy[1]).modules
    assert "numpy" in modules
    assert not [name for name in modules if name.split(".")[0] in unwanted]


def test_two_steps_are_the_learners(serve, policy):
    learner, folder, fast, drawn = policy
    weights = adapted(serve(folder), drawn)
    np.testing.assert_allclose(weights, fast, rtol=1e-5, atol=1e-6)
    # The tolerance tells the step sizes apart: 0.5 then 0.1, and not 0.5 twice.
    server = serve(folder)
    once = server("adapt", weights=NONE, **request(drawn[0], 0))["weights"]
    again = server("adapt", weights=once, **request(drawn[1], 0))["weights"]
    np.testing.assert_allclose(again - once, 5 * (weights - once), atol=1e-5)
    assert np.abs(again - fast).max() > 1e-3


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
@pytest.mark.parametrize("inner_loss", ["policy_gradient", "ratio", "dice"])
def test_one_step_of_every_inner_loss_is_the_learners(tmp_path, kind, inner_loss):
    learner = make_learner(kind, inner_loss)
    folder = rl.export(learner, tmp_path, warm_up=False)
    fast, drawn = trajectories(learner, learner.inner_optimizer, 1)
    # By Python: a process for each would take longer than all of them.
    adapt = tf.saved_model.load(str(folder)).signatures["adapt"]
    inputs = {name: tf.constant(a) for name, a in request(drawn[0], 0).items()}
    weights = adapt(weights=tf.constant(NONE), **inputs)["weights"].numpy()
    np.testing.assert_allclose(weights, fast, rtol=1e-5, atol=1e-6)
    before = np.concatenate([np.ravel(w) for w in learner.policy.get_weights()])
    assert np.abs(weights - before).max() > 1e-2


@pytest.mark.parametrize(
    ("name", "adaptable"), [("momentum", None), ("adam", None), ("momentum", "loc")]
)
def test_what_an_inner_optimizer_carries_goes_along(tmp_path, name, adaptable):
    learner, optimizer = make_learner(adaptable=adaptable), STATEFUL[name]
    folder = rl.export(learner, tmp_path, inner_optimizer=optimizer, warm_up=False)
    fast, drawn = trajectories(learner, optimizer, 3)
    adapt = tf.saved_model.load(str(folder)).signatures["adapt"]
    weights = tf.constant(NONE)
    for step in range(3):
        inputs = {name: tf.constant(a) for name, a in request(drawn[step], step).items()}
        weights = adapt(weights=weights, **inputs)["weights"]
    assert weights.shape[0] > fast.size
    np.testing.assert_allclose(weights[: fast.size], fast, rtol=1e-4, atol=1e-5)


def test_acting_is_the_policys(serve, policy):
    learner, folder, fast, _ = policy
    observation = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    meta_learned = learner.policy.get_weights()
    own = keras.models.clone_model(learner.policy)
    cuts = np.cumsum([w.size for w in meta_learned])[:-1]
    parts = zip(np.split(fast, cuts), meta_learned, strict=True)
    own.set_weights([part.reshape(w.shape) for part, w in parts])
    server = serve(folder)
    for answer, network in (
        (server("act", observation=observation), learner.policy),
        (server("act_with", weights=NONE, observation=observation), learner.policy),
        (server("act_with", weights=fast, observation=observation), own),
    ):
        outputs = network(observation)
        assert set(answer) == {"action", *outputs}
        for name, output in outputs.items():
            np.testing.assert_allclose(answer[name], output, rtol=1e-5, atol=1e-6)
        if "loc" in outputs:
            np.testing.assert_array_equal(answer["action"], answer["loc"])
        else:
            np.testing.assert_array_equal(answer["action"], answer["logits"].argmax(-1))
    assert any(
        np.abs(server("act", observation=observation)[name] - output).max() > 1e-3
        for name, output in own(observation).items()
    )


def test_drawn_actions_follow_the_seed_and_the_distribution(serve, policy):
    _, folder, fast, _ = policy
    observation = np.full((20000, 2), 0.3, np.float32)

    def drawn(*seed):
        seed = np.array(seed, np.int32)
        return serve(folder)("sample", weights=fast, observation=observation, seed=seed)

    answer = drawn(3, 4)
    np.testing.assert_array_equal(answer["action"], drawn(3, 4)["action"])
    assert (answer["action"] != drawn(3, 5)["action"]).mean() > 0.2
    if "logits" in answer:
        expected = tf.nn.softmax(answer["logits"][0])
        np.testing.assert_allclose(np.bincount(answer["action"]) / 20000, expected, atol=0.02)
    else:
        np.testing.assert_allclose(answer["action"].mean(0), answer["loc"][0], atol=0.04)
        scale = np.exp(answer["log_scale"][0])
        np.testing.assert_allclose(answer["action"].std(0), scale, rtol=0.03)


def test_large_rewards_adapt_as_small_ones_do(serve, policy):
    """Their squares overflow; weights that did not adapt came back without a word."""
    _, folder, _, drawn = policy
    server, good = serve(folder), request(drawn[0], 0)
    expected = server("adapt", weights=NONE, **good)["weights"]
    large = good | {"reward": good["reward"] * np.float32(1e20)}
    weights = server("adapt", weights=NONE, **large)["weights"]
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-5)


def changed(name, change):
    return lambda inputs: inputs | {name: change(inputs[name])}


def with_entry(value, *index):
    def change(array):
        array = array.copy()
        array[index] = value
        return array

    return change


WRONG = {
    "NaN observation": (changed("observation", with_entry(np.nan, 1, 2, 0)), "in observation"),
    "infinite reward": (changed("reward", with_entry(np.inf, 0, 0)), "finite numbers in reward"),
    "NaN mask": (changed("mask", with_entry(np.nan, 0, 0)), "finite numbers in mask"),
    "huge reward": (changed("reward", with_entry(3e38, 0, slice(2))), "after the step"),
    "fewer rollouts": (changed("action", lambda a: a[:-1]), "many rollouts and steps in action"),
    "one rollout": (changed("reward", lambda a: a[:1]), "many rollouts and steps in reward"),
    "fewer steps": (changed("mask", lambda a: a[:, :-1]), "many rollouts and steps in mask"),
    "no rollouts": (
        lambda inputs: {n: a if n in ("step", "weights") else a[:0] for n, a in inputs.items()},
        "at least one step of a rollout",
    ),
    "empty mask": (changed("mask", np.zeros_like), "at least one step of a rollout"),
    "mask of others": (changed("mask", lambda a: a / 2), "1 up to the end"),
    "mask with a hole": (changed("mask", with_entry(0, slice(None), 0)), "1 up to the end"),
    "negative step": (changed("step", lambda s: np.int32(-1)), "`step` of at least 0"),
    "other weights": (
        lambda inputs: inputs | {"weights": np.zeros(7, np.float32)},
        r"Expected the \d+ weights that `adapt` gave, or none",
    ),
    "other observations": (changed("observation", lambda a: a[..., :1]), "[Ss]hape"),
    "rank": (changed("reward", lambda a: a[0]), "[Ss]hape|[Rr]ank"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_an_error_and_the_next_one_is_unharmed(serve, policy, name):
    _, folder, _, drawn = policy
    change, message = WRONG[name]
    server, good = serve(folder), {"weights": NONE} | request(drawn[0], 0)
    before = server("adapt", **good)["weights"]
    with pytest.raises(RuntimeError, match=message):
        server("adapt", **change(good))
    np.testing.assert_array_equal(server("adapt", **good)["weights"], before)


def test_wrong_actions_and_observations_are_refused(serve, policy):
    learner, folder, fast, drawn = policy
    server, good = serve(folder), request(drawn[0], 0)
    discrete = good["action"].dtype == np.int32
    for wrong in [4, -1] if discrete else [np.nan]:
        action = with_entry(wrong, 0, 0)(good["action"])
        with pytest.raises(RuntimeError, match="from 0 to 3" if discrete else "in action"):
            server("adapt", weights=NONE, **good | {"action": action})
    observation = np.full((3, 2), np.nan, np.float32)
    with pytest.raises(RuntimeError, match="finite numbers in observation"):
        server("act", observation=observation)
    with pytest.raises(RuntimeError, match="finite numbers in weights"):
        server("act_with", weights=fast * np.float32("nan"), observation=observation * 0)
    with pytest.raises(RuntimeError, match=rf"Expected the {fast.size} weights"):
        server("act_with", weights=fast[1:], observation=np.zeros((3, 2), np.float32))


def test_exporting_leaves_the_learner_and_holds_what_it_was(tmp_path):
    learner = make_learner()
    before = learner.get_weights()
    folder = rl.export(learner, tmp_path, warm_up=False)
    for a, b in zip(before, learner.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    loaded = tf.saved_model.load(str(folder))
    observation = tf.ones([1, 2])
    expected = learner.policy(observation)["loc"].numpy()
    learner.policy.set_weights([w + 1 for w in learner.policy.get_weights()])
    answer = loaded.signatures["serving_default"](observation=observation)["loc"]
    np.testing.assert_allclose(answer, expected, rtol=1e-6)
    assert len(loaded.weights) == len(learner.policy.trainable_variables)


def test_a_state_that_is_not_trained_is_exported(tmp_path):
    """The variables of a normalisation, which are not among the weights."""
    inputs = keras.Input((2,))
    x = keras.layers.BatchNormalization()(inputs)
    network = keras.Model(inputs, {"logits": keras.layers.Dense(3)(x)})
    network.layers[1].moving_mean.assign([2.0, -1.0])
    folder = rl.export(rl.MetaPolicy(network, 0.1), tmp_path)
    act = tf.saved_model.load(str(folder)).signatures["act"]
    observation = tf.constant([[1.0, 2.0], [0.5, -3.0]])
    expected = network(observation, training=False)["logits"]
    np.testing.assert_allclose(act(observation=observation)["logits"], expected, rtol=1e-5)


def test_warm_up_requests_of_every_signature_are_answered(serve, policy):
    prediction_log_pb2 = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    server, asked = serve(policy[1]), set()
    for record in tf.data.TFRecordDataset(str(policy[1] / warmup.FILE)).as_numpy_iterator():
        sent = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        asked.add(sent.model_spec.signature_name)
        inputs = {name: tf.make_ndarray(proto) for name, proto in sent.inputs.items()}
        for array in server(sent.model_spec.signature_name, **inputs).values():
            assert np.isfinite(array).all()
    assert asked == set(server.signatures) - {"__saved_model_init_op"}
    # TensorFlow Serving refuses signatures without inputs.
    assert all(server.signatures[name].inputs for name in asked)


def test_versions_and_card(tmp_path):
    learner = make_learner("categorical")
    folder = rl.export(learner, tmp_path / "compass", card={"returns": [-3.0, -1.5]})
    assert folder == tmp_path / "compass" / "1"
    assert rl.export(learner, tmp_path / "compass", warm_up=False).name == "2"
    with pytest.raises(FileExistsError, match="version=2"):
        rl.export(learner, tmp_path / "compass", 2)
    card = json.loads((folder / "card.json").read_text())
    assert (card["name"], card["method"], card["returns"]) == ("compass", "MetaPolicy", [-3, -1.5])
    assert (card["inner_optimizer"], card["inner_learning_rate"]) == ("SGD", 0.5)
    assert card["signatures"]["adapt"]["inputs"]["action"] == {"dtype": "int32", "shape": [-1, -1]}
    text = (folder / "README.md").read_text()
    assert '"signature_name": "act", "inputs": {"observation": [[0, 0]]}' in text
    assert "size 0 are the meta-learned ones" in " ".join(text.split())


def test_mistakes_are_told(tmp_path):
    with pytest.raises(TypeError, match="MetaPolicy.*of type Functional"):
        rl.export(rl.policies.gaussian(2, 2), tmp_path)
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="log_scale"):
        rl.export(rl.MetaPolicy(network, 0.1), tmp_path)
    inputs = keras.Input((4, 4, 1))
    logits = keras.layers.Dense(2)(keras.layers.Flatten()(inputs))
    images = keras.Model(inputs, {"logits": logits})
    with pytest.raises(ValueError, match=r"observations \[batch, O\].*None, 4, 4, 1"):
        rl.export(rl.MetaPolicy(images, 0.1), tmp_path)
    assert not list(tmp_path.iterdir())
