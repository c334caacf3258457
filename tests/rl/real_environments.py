"""A table of environments that others wrote: what a meta-policy does on each of them.

    python -m tests.rl.real_environments
    python -m tests.rl.real_environments --rows "CartPole-v1,ML1 reach-v3" --iterations 5

Each row trains for some iterations, adapts to a task, is saved and loaded (and then adapts to the
same numbers) and exported (and then acts and adapts to the same numbers), or says in a line why
not. What must be installed beside `maml_tf[rl]` stands in the rows; what is not there is told. With
Meta-World, which pins MuJoCo 3.3.0: `pip install "gymnasium[mujoco,box2d]" metaworld`.
"""

import argparse
import dataclasses
import functools
import importlib.util
import pathlib
import tempfile
import time
import warnings
from collections.abc import Callable

import gymnasium
import keras
import numpy as np
import tensorflow as tf

from maml_tf import rl
from maml_tf.rl.environments import from_gymnasium

TASKS, ROLLOUTS = 4, 5


class Tasked(gymnasium.Wrapper):
    """`set_task` by a function of the environment and the task."""

    def __init__(self, env, apply):
        super().__init__(env)
        self._apply = apply

    def set_task(self, task):
        self._apply(self.unwrapped, task)


class Direction(gymnasium.Wrapper):
    """Forward or backward, as in the paper."""

    sign = 1.0

    def set_task(self, task):
        self.sign = float(task[0])

    def step(self, action):
        observation, _, terminated, truncated, info = self.env.step(action)
        reward = self.sign * info["x_velocity"] + info["reward_ctrl"]
        return observation, reward, terminated, truncated, info


def attribute(name):
    """A task is the number that an attribute of the environment has."""

    def apply(env, task):
        setattr(env, name, float(task[0]))

    return apply


def pole_length(env, task):
    env.length = float(task[0])
    env.polemass_length = env.masspole * env.length


def strength(env, task):
    """How strong the motors of a MuJoCo model are, as a share of what they were."""
    if not hasattr(env, "gear_before"):
        env.gear_before = env.model.actuator_gear.copy()
    env.model.actuator_gear[:] = float(task[0]) * env.gear_before


def made(name, apply, **kwargs):
    return lambda: Tasked(gymnasium.make(name, **kwargs), apply)


def robotics(name, apply):
    """Of gymnasium-robotics: a dict of observations, flattened."""

    def make():
        import gymnasium_robotics

        gymnasium.register_envs(gymnasium_robotics)
        return Tasked(gymnasium.wrappers.FlattenObservation(gymnasium.make(name)), apply)

    return make


def metaworld_env(name):
    def make():
        import metaworld

        return metaworld.ML1(name, seed=0).train_classes[name]()

    return make


def metaworld_tasks(name):
    """Meta-World's own objects."""
    import metaworld

    return metaworld.ML1(name, seed=0).train_tasks


def numbers(*values):
    return lambda: np.array(values, np.float32)[:, None]


@dataclasses.dataclass(frozen=True)
class Row:
    make: Callable  # () -> an environment
    tasks: Callable  # () -> tasks, as `from_gymnasium` takes them
    what: str  # a task is
    needs: str = ""  # modules, beside gymnasium
    horizon: int = 100
    workers: int = 0


MUJOCO = "mujoco imageio"
ROWS = {
    "CartPole-v1": Row(made("CartPole-v1", pole_length), numbers(0.3, 0.5, 1.0), "length"),
    "Pendulum-v1": Row(made("Pendulum-v1", attribute("g")), numbers(5, 10, 15), "gravity"),
    "MountainCar-v0": Row(
        made("MountainCar-v0", attribute("gravity")), numbers(0.002, 0.003), "gravity"
    ),
    "MountainCarContinuous-v0": Row(
        made("MountainCarContinuous-v0", attribute("power")), numbers(0.001, 0.002), "power"
    ),
    "Acrobot-v1": Row(
        made("Acrobot-v1", attribute("LINK_LENGTH_1")), numbers(0.7, 1, 1.3), "length of a link"
    ),
    "LunarLander-v3": Row(
        made("LunarLander-v3", attribute("gravity")), numbers(-11, -8, -4), "gravity", "Box2D"
    ),
    "LunarLander-v3 (continuous)": Row(
        made("LunarLander-v3", attribute("gravity"), continuous=True),
        numbers(-11, -8, -4),
        "gravity",
        "Box2D",
    ),
    "BipedalWalker-v3": Row(
        lambda: Tasked(gymnasium.make("BipedalWalker-v3"), attribute("task")),
        numbers(0),
        "one alone",
        "Box2D",
    ),
    "CarRacing-v3": Row(
        made("CarRacing-v3", attribute("task")), numbers(0), "one alone", "Box2D pygame", 20
    ),
    "FrozenLake-v1": Row(made("FrozenLake-v1", attribute("task")), numbers(0), "one alone"),
    "FrozenLake-v1 (flattened)": Row(
        lambda: gymnasium.wrappers.FlattenObservation(made("FrozenLake-v1", attribute("task"))()),
        numbers(0),
        "one alone",
    ),
    "HalfCheetah-v5": Row(
        lambda: Direction(gymnasium.make("HalfCheetah-v5")), numbers(-1, 1), "direction", MUJOCO
    ),
    **{
        name: Row(made(name, strength), numbers(0.5, 1, 1.5), "strength of the motors", MUJOCO)
        for name in (
            "Hopper-v5",
            "Walker2d-v5",
            "Swimmer-v5",
            "Reacher-v5",
            "Pusher-v5",
            "InvertedPendulum-v5",
            "InvertedDoublePendulum-v5",
            "Ant-v5",
            "Humanoid-v5",
        )
    },
    "FetchReach-v4": Row(
        robotics("FetchReach-v4", attribute("task")),
        numbers(0),
        "one alone",
        f"{MUJOCO} gymnasium_robotics",
        50,
    ),
    **{
        f"ML1 {name}": Row(
            metaworld_env(name),
            functools.partial(metaworld_tasks, name),
            "Meta-World's `Task`",
            f"{MUJOCO} metaworld",
            150,
            workers,
        )
        for name, workers in (("reach-v3", 0), ("push-v3", 0), ("door-open-v3", 2))
    },
}


def make_env(name):
    """An environment of a row: a function of a module, for workers."""
    return ROWS[name].make()


class Clock(keras.callbacks.Callback):
    """Seconds of each epoch."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self._start)


def measure(name, row, iterations):
    """What the row did, as cells of the table."""
    environment = from_gymnasium(
        functools.partial(make_env, name),
        row.tasks(),
        task_count=TASKS,
        rollouts=ROLLOUTS,
        horizon=row.horizon,
        workers=row.workers,
    )
    one = environment.resized(tasks=1, rollouts=ROLLOUTS)
    try:
        sizes = int(np.prod(environment.observation_spec().shape))
        action = environment.action_spec()
        discrete = np.issubdtype(action.dtype, np.integer)
        build = rl.policies.categorical if discrete else rl.policies.gaussian
        count = int(action.maximum) + 1 if discrete else action.shape[0]
        learner = rl.MetaPolicy(build(sizes, count, hidden=(32,)), 0.1)
        learner.compile(rl.TrustRegion())
        clock = Clock()
        history = learner.fit(environment, 1, iterations, callbacks=[clock], verbose=0).history
        one.set_tasks(one.sample_tasks(1, 7))
        with tempfile.TemporaryDirectory() as folder:
            repeats = check(learner, one, history, pathlib.Path(folder))
        result = rl.evaluation.evaluate(learner, environment, 1, seed=99)
    finally:
        environment.close(), one.close()
    success = "–"
    if result.success is not None:
        success = " / ".join(f"{rate:.0%}" for rate in result.success.mean)
    return [
        f"{sizes} → {f'{count} choices' if discrete else count}",
        row.what,
        "trains, adapts, saves, exports" + ("" if repeats else "; does not repeat itself"),
        " / ".join(f"{value:.4g}" for value in result.mean),
        success,
        f"{clock.seconds[-1]:.1f}",
    ]


def check(learner, one, history, folder):
    """Trained, adapted, saved and exported are what they should be; `AssertionError` otherwise.

    Whether the environment does the same once more, after a reset with the same seed, is returned:
    where it does not, the loaded learner is only compared by its weights.
    """
    assert all(np.isfinite(values).all() for values in history.values()), "numbers not finite"
    assert max(history["divergence"]) <= 0.01 * (1 + 1e-5), "a step left the trust region"
    adapted, returns = learner.adapt(one)
    assert np.isfinite(returns).all(), "returns of the task are not finite"
    learner.save(folder / "learner.keras")
    loaded = keras.saving.load_model(folder / "learner.keras")
    for ours, theirs in zip(learner.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs, "the loaded learner has other weights")
    repeats = same(adapted, learner.adapt(one)[0])
    assert not repeats or same(adapted, loaded.adapt(one)[0]), "the loaded learner adapts otherwise"
    path = rl.export(learner, folder / "exported", warm_up=False)
    ask = tf.saved_model.load(str(path)).signatures
    fast, drawn = learner.adapt_and_sample(one, None, 1, seed=3)
    rollouts = {n: getattr(drawn[0], n)[0] for n in ("observation", "action", "reward", "mask")}
    served = ask["adapt"](weights=tf.zeros([0]), step=tf.constant(0), **rollouts)["weights"]
    expected = np.concatenate([np.ravel(w[0]) for w in fast])
    np.testing.assert_allclose(served, expected, rtol=1e-3, atol=1e-4)
    seen = tf.reshape(drawn[0].observation, [-1, drawn[0].observation.shape[-1]])
    acted, outputs = ask["act"](observation=seen), learner.policy(seen)
    for key, output in outputs.items():
        np.testing.assert_allclose(acted[key], output, rtol=1e-4, atol=1e-5)
    return repeats


def same(policy, other):
    pairs = zip(policy.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(one, two) for one, two in pairs)


def line(name, row, iterations):
    """A row of the table as Markdown."""
    missing = [m for m in row.needs.split() if importlib.util.find_spec(m) is None]
    if missing:
        cells = ["–", row.what, f"not installed: {', '.join(missing)}", "–", "–", "–"]
    else:
        try:
            cells = measure(name, row, iterations)
        except Exception as error:
            # The reason stands in the table; the other rows go on.
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:250].replace("|", "\\|")
            cells = ["–", row.what, reason, "–", "–", "–"]
    return f"| {name} | {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", default=",".join(ROWS), help="names, with commas; all by default")
    parser.add_argument("--iterations", type=int, default=2, help="meta-iterations of each")
    settings = parser.parse_args()
    names = settings.rows.split(",")
    if unknown := set(names) - set(ROWS):
        parser.error(f"Expected --rows of {', '.join(ROWS)}. Received: {', '.join(unknown)}.")
    warnings.simplefilter("ignore")
    print(
        "| environment | observations → actions | a task is | outcome | return before / after "
        "a step | success before / after | s an iteration |"
    )
    print("|---|---|---|---|---:|---:|---:|", flush=True)
    for name in names:
        print(line(name, ROWS[name], settings.iterations), flush=True)


if __name__ == "__main__":
    main()
