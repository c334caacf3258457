"""Wrong calls of the public functions of reinforcement learning, each with its error."""

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import inner_optimizers, rl
from maml_tf.rl import video
from maml_tf.rl.environments import HalfCheetahDirection, Navigation2D, from_gymnasium
from maml_tf.rl.sampling import Sampler
from maml_tf.rl.tf_agents_policy import KerasPolicy
from tests.wrong_calls import Wrong, check


class Lever(gymnasium.Env):
    """Two actions, one number seen."""

    observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def set_task(self, task):
        self.task = task

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {}


class Untasked(gymnasium.Wrapper):
    """An environment without `set_task`."""

    def has_wrapper_attr(self, name):
        return name != "set_task" and super().has_wrapper_attr(name)


class Many(Lever):
    action_space = gymnasium.spaces.MultiDiscrete([2, 3])


class Worded(Lever):
    observation_space = gymnasium.spaces.Text(5)


class Seen(Lever):
    observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)


def gaussian(observations=2, actions=2):
    return rl.policies.gaussian(observations, actions, hidden=(3,))


def categorical(observations=1, actions=2):
    return rl.policies.categorical(observations, actions, hidden=(3,))


def meta(policy=None, *args, compiled=True, **kwargs):
    made = rl.MetaPolicy(gaussian() if policy is None else policy, *args, **kwargs)
    if compiled:
        made.compile(rl.TrustRegion())
    return made


def levers(make_env=Lever, tasks=((0.0,), (1.0,)), **kwargs):
    return from_gymnasium(make_env, tasks, **{"workers": 0, "horizon": 3} | kwargs)


def navigation(tasks=1, rollouts=2, **kwargs):
    return Navigation2D(tasks, rollouts, horizon=3, **kwargs)


def robot(tasks=1, rollouts=1, **kwargs):
    return HalfCheetahDirection(tasks, rollouts, **{"horizon": 3, "threads": 1} | kwargs)


def named(loc=2, log_scale=2, name="loc"):
    x = keras.Input((2,))
    outputs = {name: keras.layers.Dense(loc)(x), "log_scale": keras.layers.Dense(log_scale)(x)}
    return keras.Model(x, outputs)


POLICIES = [
    Wrong(lambda: gaussian("two"), TypeError, "`observation_size`", "'two'"),
    Wrong(lambda: gaussian(0), ValueError, "`observation_size`", "observation_size=0"),
    Wrong(lambda: gaussian(2, 0), ValueError, "`action_size`", "action_size=0"),
    Wrong(lambda: gaussian(2, 1.5), TypeError, "`action_size`", "1.5"),
    Wrong(lambda: categorical(2, 1), ValueError, "`actions`", "actions=1"),
    Wrong(lambda: categorical(2, True), TypeError, "`actions`", "True"),
    Wrong(lambda: rl.policies.gaussian(2, 2, 100), TypeError, "`hidden`", "hidden=100"),
    Wrong(lambda: rl.policies.gaussian(2, 2, (100, 0)), ValueError, "`hidden`", "hidden=0"),
    Wrong(
        lambda: rl.policies.gaussian(2, 2, log_scale=float("nan")), ValueError, "`log_scale`", "nan"
    ),
    Wrong(lambda: rl.policies.gaussian(2, 2, log_scale="0"), TypeError, "`log_scale`", "'0'"),
    Wrong(lambda: rl.policies.gaussian(2, 2, output_scale=0), ValueError, "`output_scale`", "0"),
    Wrong(lambda: rl.policies.gaussian(2, 2, context=-1), ValueError, "`context`", "context=-1"),
    Wrong(lambda: rl.policies.gaussian(2, 2, seed=1.5), TypeError, "`seed`", "seed=1.5"),
    Wrong(lambda: rl.policies.gaussian(2, 2, units=3), TypeError, "`dtype` and `name`", "units"),
    Wrong(lambda: rl.policies.distribution({"mean": 0}), ValueError, "log_scale", "['mean']"),
    Wrong(lambda: rl.policies.distribution(tf.zeros([1, 2])), ValueError, "logits", "Tensor"),
]
LEARNERS = [
    Wrong(lambda: meta("gaussian"), TypeError, "`policy`", "'gaussian'"),
    Wrong(lambda: meta(meta()), TypeError, "`policy`", "MetaPolicy"),
    Wrong(lambda: meta(keras.Sequential(name="bare")), ValueError, "`policy`", "'bare'"),
    Wrong(lambda: meta(inner_steps=-1), ValueError, "`inner_steps`", "inner_steps=-1"),
    Wrong(lambda: meta(inner_steps=1.5), TypeError, "`inner_steps`", "1.5"),
    Wrong(lambda: meta(inner_steps=True), TypeError, "`inner_steps`", "True"),
    Wrong(lambda: meta(inner_loss="dise"), ValueError, "`inner_loss`", "'dise'", "'dice'"),
    Wrong(lambda: meta(first_order="no"), TypeError, "`first_order`", "'no'"),
    Wrong(
        lambda: meta(inner_optimizer=inner_optimizers.LearnedRates(0.1)),
        NotImplementedError,
        "SGD(0.1)",
        "which learns",
    ),
    Wrong(lambda: meta(discount=1.5), ValueError, "`discount`", "1.5"),
    Wrong(lambda: meta(discount="0.9"), TypeError, "`discount`", "'0.9'"),
    Wrong(lambda: meta(gae_lambda=float("nan")), ValueError, "`gae_lambda`", "nan"),
    Wrong(lambda: meta(seed=-1), ValueError, "`seed`", "seed=-1"),
    Wrong(lambda: meta(seed=None), TypeError, "`seed`", "None"),
    Wrong(lambda: meta().compile(5), TypeError, "`optimizer`", "optimizer=5"),
    Wrong(lambda: meta().compile(rl.TrustRegion), TypeError, "`optimizer`", "TrustRegion"),
    Wrong(lambda: meta().compile("sgdd"), ValueError, "`optimizer`", "'sgdd'", "'sgd'"),
    Wrong(lambda: meta().compile(""), ValueError, "`optimizer`", "optimizer=''"),
    Wrong(lambda: meta().compile(surrogate="clip"), ValueError, "`surrogate`", "'clip'"),
    Wrong(lambda: meta().compile(updates=0), ValueError, "`updates`", "updates=0"),
    Wrong(lambda: meta().compile(clip=-0.2), ValueError, "`clip`", "-0.2"),
    Wrong(lambda: meta().compile(jit_compile="yes"), TypeError, "`jit_compile`", "'yes'"),
    Wrong(lambda: rl.TrustRegion(0), ValueError, "`max_divergence`", "0"),
    Wrong(lambda: rl.TrustRegion("0.01"), TypeError, "`max_divergence`", "'0.01'"),
    Wrong(lambda: rl.TrustRegion(damping=-1), ValueError, "`damping`", "-1"),
    Wrong(lambda: rl.TrustRegion(backtrack_ratio=1), ValueError, "`backtrack_ratio`", "1"),
    Wrong(lambda: rl.TrustRegion(max_backtracks=0), ValueError, "`max_backtracks`", "0"),
    Wrong(lambda: rl.TrustRegion(product="hessian"), ValueError, "`product`", "'hessian'"),
    Wrong(lambda: rl.TrustRegion(curvature_tasks=0), ValueError, "`curvature_tasks`", "0"),
    Wrong(
        lambda: rl.TrustRegion(conjugate_gradient_steps=2.5),
        TypeError,
        "`conjugate_gradient_steps`",
        "2.5",
    ),
]
TRAINING = [
    Wrong(lambda: meta(compiled=False).fit(navigation(), 1), ValueError, "compile"),
    Wrong(lambda: meta().fit(None, 1), TypeError, "`environment`", "None", "from_gymnasium"),
    Wrong(lambda: meta().fit(Lever(), 1), TypeError, "`environment`", "Lever"),
    Wrong(lambda: meta().fit(navigation(), 0), ValueError, "`steps_per_epoch`", "=0"),
    Wrong(lambda: meta().fit(navigation(), None), TypeError, "`steps_per_epoch`", "None"),
    Wrong(lambda: meta().fit(navigation(), 1, epochs=0), ValueError, "`epochs`", "epochs=0"),
    Wrong(lambda: meta().fit(navigation(), 1, callbacks=5), TypeError, "`callbacks`", "=5"),
    Wrong(
        lambda: meta().fit(navigation(), 1, callbacks=[keras.callbacks.History]),
        TypeError,
        "`callbacks`",
        "History",
        id="a class of callbacks",
    ),
    Wrong(lambda: meta().fit(navigation(), 1, batch_size=3), TypeError, "`steps_per_", "size=3"),
    Wrong(
        lambda: meta().fit(navigation(), 1, validation_data=navigation()),
        TypeError,
        "validation_data=",
        "Navigation2D",
        "evaluation.evaluate",
    ),
    Wrong(lambda: meta().fit(navigation(), 1, shuffle=True), TypeError, "shuffle=True"),
    Wrong(lambda: meta().fit(navigation(), 1, callback=[]), TypeError, "`callbacks`", "callback="),
    Wrong(lambda: meta().fit(navigation(), 1, initial_epoch="1"), TypeError, "initial_epoch='1'"),
    Wrong(
        lambda: meta().evaluate(navigation()), NotImplementedError, "`evaluate`", "rl.evaluation"
    ),
    Wrong(lambda: meta().train_on_batch(1), NotImplementedError, "`train_on_batch`", "learner.fit"),
    Wrong(lambda: meta().test_on_batch(1), NotImplementedError, "`test_on_batch`", "evaluate"),
    Wrong(lambda: meta().adapt(navigation(3)), ValueError, "tasks=1", "tasks=3"),
    Wrong(lambda: meta().adapt(None), TypeError, "`environment`", "None"),
    Wrong(lambda: meta().adapt(navigation(), -1), ValueError, "`inner_steps`", "-1"),
    Wrong(lambda: meta().adapt(navigation(), 1.5), TypeError, "`inner_steps`", "1.5"),
    Wrong(lambda: meta().adapt(navigation(), seed=-1), ValueError, "`seed`", "seed=-1"),
    Wrong(lambda: rl.evaluation.evaluate(gaussian(), navigation()), TypeError, "`learner`"),
    Wrong(lambda: rl.evaluation.evaluate(meta(), Lever()), TypeError, "`environment`", "Lever"),
    Wrong(
        lambda: rl.evaluation.evaluate(meta(), navigation(), -1), ValueError, "`inner_steps`", "-1"
    ),
    Wrong(
        lambda: rl.evaluation.evaluate(meta(), navigation(), tasks=[[0.0]]),
        ValueError,
        "`tasks`",
        "(1, 1)",
    ),
    Wrong(
        lambda: rl.evaluation.rollouts(meta(), navigation(), None),
        TypeError,
        "`inner_steps`",
        "None",
    ),
]
FITTING = [
    Wrong(
        lambda: meta(categorical(1, 3)).fit(levers(), 1), ValueError, "2 discrete", "(1, 3)", id="3"
    ),
    Wrong(lambda: meta(gaussian(1, 1)).fit(levers(), 1), ValueError, "discrete", "'loc': (1, 1)"),
    Wrong(lambda: meta(gaussian(2, 3)).fit(navigation(), 1), ValueError, "2 entries", "(1, 3)"),
    Wrong(lambda: meta(categorical(2, 2)).fit(navigation(), 1), ValueError, "gaussian", "logits"),
    Wrong(lambda: meta(gaussian(4)).adapt(navigation()), ValueError, "[batch, 2]", "(None, 4)"),
    Wrong(lambda: rl.evaluation.evaluate(meta(gaussian(4)), navigation()), ValueError, "(None, 4)"),
    Wrong(lambda: meta(named(2, 1)).fit(navigation(), 1), ValueError, "log_scale", "(1, 1)"),
    Wrong(lambda: meta(named(name="mean")).fit(navigation(), 1), ValueError, "loc", "mean"),
    Wrong(lambda: meta(categorical(1)).fit(levers(Seen), 1), ValueError, "vectors", "(8, 8, 3)"),
    Wrong(lambda: Sampler(gaussian(), None), TypeError, "`environment`", "None"),
    Wrong(lambda: KerasPolicy(gaussian(2, 3), navigation()), ValueError, "2 entries", "(1, 3)"),
]
ENVIRONMENTS = [
    Wrong(lambda: Navigation2D(0), ValueError, "`tasks`", "tasks=0"),
    Wrong(lambda: Navigation2D(rollouts=2.5), TypeError, "`rollouts`", "2.5"),
    Wrong(lambda: Navigation2D(horizon=-1), ValueError, "`horizon`", "horizon=-1"),
    Wrong(lambda: Navigation2D(observe_task="no"), TypeError, "`observe_task`", "'no'"),
    Wrong(lambda: Navigation2D(squared=1), TypeError, "`squared`", "1"),
    Wrong(lambda: navigation().set_tasks([[0.0]]), ValueError, "`tasks`", "(1, 1)"),
    Wrong(lambda: navigation().set_tasks([[0, np.nan]]), ValueError, "`tasks`", "nan"),
    Wrong(lambda: navigation().set_tasks("left"), TypeError, "`tasks`", "'left'"),
    Wrong(lambda: navigation().sample_tasks(0, 0), ValueError, "`n`", "n=0"),
    Wrong(lambda: navigation().sample_tasks(1, -1), ValueError, "`seed`", "seed=-1"),
    Wrong(lambda: navigation().resized(0, 1), ValueError, "`tasks`", "tasks=0"),
    Wrong(lambda: robot(physics="v4"), ValueError, "`physics`", "'v4'"),
    Wrong(lambda: robot(threads=0), ValueError, "`threads`", "threads=0"),
    Wrong(lambda: robot(seed="0"), TypeError, "`seed`", "'0'"),
    Wrong(lambda: robot().sample_tasks(1.5, 0), TypeError, "`n`", "1.5"),
    Wrong(lambda: robot().step_rows(np.zeros((2, 6))), ValueError, "`action`", "(2, 6)"),
    Wrong(lambda: robot().step_rows(np.full((1, 6), np.nan)), ValueError, "action", "row 0"),
    Wrong(lambda: robot().step_rows([["up"] * 6]), TypeError, "`action`", "(1, 6)"),
    Wrong(lambda: levers("CartPole-v1"), TypeError, "`make_env`", "'CartPole-v1'"),
    Wrong(lambda: levers(object), TypeError, "`make_env`", "object"),
    Wrong(lambda: levers(lambda: Untasked(Lever())), TypeError, "set_task", "Untasked"),
    Wrong(lambda: levers(Many), TypeError, "Discrete", "MultiDiscrete([2 3])"),
    Wrong(lambda: levers(Worded), TypeError, "`Box`", "Text"),
    Wrong(lambda: levers(lambda: Lever(), workers=1), TypeError, "`make_env`", "workers=0"),
    Wrong(lambda: levers(tasks=[]), ValueError, "`tasks`", "tasks=[]"),
    Wrong(lambda: levers(tasks="a"), ValueError, "`tasks`", "'a'"),
    Wrong(lambda: levers(tasks=["a", None]), ValueError, "`tasks`", "None"),
    Wrong(lambda: levers(tasks=["a", "b"]).set_tasks([[0.0]]), ValueError, "`tasks`", "0.0"),
    Wrong(lambda: levers(tasks=["a", "b"]).set_tasks(["a", "b"]), ValueError, "1 objects", "'b'"),
    Wrong(lambda: levers(tasks=lambda n, rng: ["a"] * 2), ValueError, "(2,)", "n=1"),
    Wrong(lambda: levers(tasks=["a"], observe_task=True), ValueError, "objects", "observe_task"),
    Wrong(lambda: levers(Seen, observe_task=True), ValueError, "(8, 8, 3)", "observe_task"),
    Wrong(lambda: levers(observe_task=1), TypeError, "`observe_task`", "1"),
    Wrong(lambda: levers(tasks=lambda n, rng: np.zeros((n + 1, 1))), ValueError, "(2, 1)", "n=1"),
    Wrong(lambda: levers(task_count=0), ValueError, "`task_count`", "task_count=0"),
    Wrong(lambda: levers(workers=-1), ValueError, "`workers`", "workers=-1"),
    Wrong(lambda: levers(at_once=0), ValueError, "`at_once`", "at_once=0"),
    Wrong(lambda: levers(seed=1.5), TypeError, "`seed`", "1.5"),
    Wrong(lambda: video.record(gaussian(), navigation(), "a.gif"), TypeError, "`environment`"),
    Wrong(lambda: video.record(gaussian(20, 6), robot(2), "a.gif"), ValueError, "batch_size=2"),
    Wrong(lambda: video.record(gaussian(), robot(), "a.gif"), ValueError, "20", "(None, 2)"),
    Wrong(
        lambda: video.record(gaussian(20, 6), robot(), "a.gif", width=0), ValueError, "`width`", "0"
    ),
    Wrong(lambda: rl.export(gaussian(), "nowhere"), TypeError, "`learner`", "Functional"),
    Wrong(
        lambda: rl.export(meta(), "nowhere", card={"returns": np.nan}),
        ValueError,
        "JSON can hold",
        "card['returns']=nan",
    ),
    Wrong(
        lambda: rl.export(meta(), "nowhere", card={"discount": 1.0}),
        ValueError,
        "which the export itself writes",
        "card['discount']=1.0",
    ),
    Wrong(
        lambda: rl.export(meta(), "nowhere", observation_spec=(None, 2)),
        ValueError,
        "[batch, O]",
        "(None, 2)",
    ),
]
WRONG = [*POLICIES, *LEARNERS, *TRAINING, *FITTING, *ENVIRONMENTS]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_calls_are_explained(wrong):
    check(wrong)


def test_what_asks_for_nothing_is_allowed():
    """The common training loop of the scripts gives these to every learner."""
    callbacks = [keras.callbacks.History()]
    options = {"validation_data": None, "shuffle": False, "callbacks": callbacks}
    assert meta().fit(navigation(), 1, verbose=0, **options).history["return_1"]


def test_zero_is_no_step_size_and_not_the_one_of_training():
    """It was taken for "not given"."""
    for call in (
        lambda: meta().adapt(navigation(), inner_optimizer=0),
        lambda: rl.evaluation.evaluate(meta(), navigation(), inner_optimizer=0),
        lambda: rl.export(meta(), "nowhere", inner_optimizer=0),
    ):
        with pytest.raises(ValueError, match="learning_rate"):
            call()


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    learner = rl.MetaPolicy(gaussian(), 0.1)
    folder = rl.export(learner, tmp_path_factory.mktemp("policy"), warm_up=False)
    return tf.saved_model.load(str(folder)).signatures


NONE = np.zeros(0, np.float32)
GOOD = {
    "weights": NONE,
    "observation": np.zeros((2, 3, 2), np.float32),
    "action": np.float32([[[0.1, 0], [1, 0], [2, 0]], [[0, 1], [0, 2], [0.5, 3]]]),
    "reward": np.float32([[1, 2, 3], [-1, 0, 1]]),
    "mask": np.ones((2, 3), np.float32),
    "step": np.int32(0),
}
REQUESTS = [
    ("adapt", {"reward": np.full((2, 3), np.nan, np.float32)}, "finite numbers in reward"),
    ("adapt", {"reward": GOOD["reward"] * np.float32(1e38)}, "finite numbers in the weights after"),
    ("adapt", {"action": np.full((2, 3, 2), np.inf, np.float32)}, "finite numbers in action"),
    ("adapt", {"mask": np.zeros((2, 3), np.float32)}, "1 for at least one step"),
    ("adapt", {"mask": np.full((2, 3), 0.5, np.float32)}, "1 up to the end"),
    ("adapt", {"step": np.int32(-1)}, "`step` of at least 0"),
    ("adapt", {"weights": np.zeros(3, np.float32)}, r"Expected the \d+ weights"),
    ("adapt", {"reward": np.zeros((3, 3), np.float32)}, "many rollouts and steps in reward"),
    ("act_with", {"weights": np.full(3, np.nan, np.float32)}, r"Expected the \d+ weights|finite"),
    ("act", {"observation": np.full((1, 2), np.nan, np.float32)}, "finite numbers in observation"),
]


@pytest.mark.parametrize(("signature", "change", "message"), REQUESTS)
def test_wrong_requests_of_a_served_policy_are_explained(ask, signature, change, message):
    good = {**GOOD, "observation": GOOD["observation"][0]} if signature != "adapt" else GOOD
    names = ask[signature].structured_input_signature[1]
    inputs = {name: tf.constant((good | change)[name]) for name in names}
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ask[signature](**inputs)
