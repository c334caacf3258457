"""Environment steps a second and the time of a MAML-TRPO iteration.

Sampling: half-cheetah at one frame an action with the paper's policy, 40 tasks x 20 rollouts in one
batch, beside gymnasium's `SyncVectorEnv` with 800 environments and its `AsyncVectorEnv`, a process
an environment, with 16. Learning: one meta-iteration of the paper's half-cheetah size, in parts.

    python -m tests.benchmarks.reinforcement [--rounds 3]

With `--peers` nothing but the learning part is timed, beside PyTorch on the same rollouts:

    python3.11 -m venv .peers
    .peers/bin/pip install -r tests/benchmarks/requirements-peers.txt
    python -m tests.benchmarks.reinforcement --peers .peers/bin/python
"""

import argparse
import statistics
import time

import gymnasium
import numpy as np
import tensorflow as tf

from maml_tf import inner_optimizers, rl
from maml_tf.rl import host_policy
from maml_tf.rl.sampling import Sampler
from tests.benchmarks.rl_against_peers import against_peers
from train.common import use_threads_for_tasks

TASKS, ROLLOUTS, HORIZON = 40, 20, 200


def policy_of(observation_size, action_size=6):
    return rl.policies.gaussian(observation_size, action_size)


class Ours:
    """All tasks in one batch, weights of its own for each task."""

    def __init__(self, environment):
        self.environment = environment
        policy = policy_of(
            environment.observation_spec().shape[0], environment.action_spec().shape[0]
        )
        self.weights = [
            tf.repeat(tf.convert_to_tensor(v)[None], TASKS, 0) for v in policy.trainable_variables
        ]
        environment.set_tasks(environment.sample_tasks(TASKS, 0))
        self.sampler = Sampler(policy, environment)

    def __call__(self):
        self.sampler.collect(self.weights, 0)
        return self.environment.batch_size * self.environment.horizon


class Gymnasium:
    """A vector environment of gymnasium and the same network, acting as ours, for `steps` steps."""

    def __init__(self, kind, count, steps):
        make = [lambda: gymnasium.make("HalfCheetah-v5", frame_skip=1)] * count
        self.environment = getattr(gymnasium.vector, kind)(make)
        self.count, self.steps = count, steps
        policy = policy_of(17)
        self.network = host_policy.network(policy, [w[None] for w in policy.get_weights()])

    def __call__(self):
        observation, _ = self.environment.reset(seed=0)
        generator = np.random.default_rng(0)
        for _ in range(self.steps):
            outputs = self.network(observation[None])
            action = host_policy.drawn_action(outputs, generator)[0]
            observation, *_ = self.environment.step(np.clip(action, -1, 1))
        return self.count * self.steps


def sampling(rounds):
    """Steps a second of each, interleaved."""
    contestants = {
        "ours, the paper's physics": Ours(rl.environments.HalfCheetahDirection(TASKS, ROLLOUTS)),
        "ours, ant, the paper's physics": Ours(
            rl.environments.AntDirection(TASKS, ROLLOUTS, horizon=20)
        ),
        "gymnasium SyncVectorEnv, 800": Gymnasium("SyncVectorEnv", TASKS * ROLLOUTS, 4),
        "gymnasium AsyncVectorEnv, 16": Gymnasium("AsyncVectorEnv", 16, 200),
    }
    rates = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            steps = run()
            rates[name].append(steps / (time.perf_counter() - start))
    contestants["gymnasium AsyncVectorEnv, 16"].environment.close()
    print("| sampling | environment steps a second |\n|---|---|")
    for name, values in rates.items():
        # The first round traces and starts processes.
        print(f"| {name} | {statistics.median(values[1:]):,.0f} |")


def learning(rounds):
    """Median seconds of a meta-iteration and of its parts."""
    environment = rl.environments.HalfCheetahDirection(TASKS, ROLLOUTS, horizon=HORIZON)
    environment.set_tasks(environment.sample_tasks(TASKS, 0))
    for curvature in (None, 6):
        learner = rl.MetaPolicy(policy_of(20), inner_optimizers.SGD(0.1))
        learner.compile(rl.TrustRegion(0.02, curvature_tasks=curvature))
        sampler = Sampler(learner.policy, environment)
        theta = learner.weights_of_policy()
        same = [tf.repeat(w[None], TASKS, 0) for w in theta]
        parts = {"rollouts, twice": [], "advantages, twice": [], "inner step": [], "outer step": []}

        def timed(name, function, parts=parts):
            start = time.perf_counter()
            result = function()
            tf.nest.map_structure(lambda t: t.numpy(), result)
            parts[name].append(time.perf_counter() - start)
            return result

        for _ in range(rounds + 1):
            for variable, value in zip(learner.policy.trainable_variables, theta, strict=True):
                variable.assign(value)
            drawn = timed("rollouts, twice", lambda s=sampler, w=same: s.collect(w, 0))
            sample = timed("advantages, twice", lambda d=drawn, m=learner: m.sample(d))
            fast = timed("inner step", lambda s=sample, m=learner, w=theta: m._adapted(w, [s]))
            after = learner.sample(sampler.collect(fast, 1))
            timed(
                "outer step",
                lambda s=sample, a=after, m=learner: m._outer_step([s], a),
            )
        medians = {
            n: statistics.median(v[1:]) * (2 if "twice" in n else 1) for n, v in parts.items()
        }
        cells = ", ".join(f"{name} {value:.2f}" for name, value in medians.items())
        print(
            f"\nA meta-iteration, {TASKS} x {ROLLOUTS} x {HORIZON}, curvature from "
            f"{curvature or TASKS} tasks: {sum(medians.values()):.2f} s ({cells})"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", help="Python with PyTorch: compares the learning part with it")
    parser.add_argument(
        "--size",
        type=int,
        nargs=3,
        metavar=("TASKS", "ROLLOUTS", "HORIZON"),
        default=(TASKS, ROLLOUTS, HORIZON),
        help="of the comparison with --peers",
    )
    arguments = parser.parse_args()
    use_threads_for_tasks()
    if arguments.peers:
        against_peers(arguments.peers, arguments.rounds, tuple(arguments.size))
        return
    sampling(arguments.rounds)
    learning(arguments.rounds)


if __name__ == "__main__":
    main()
