"""Times the learning part of a MAML-TRPO meta-iteration beside PyTorch, in one run.

Given the rollouts before and after the inner step: the surrogate and its exact gradient, conjugate
gradients with exact Hessian-vector products, the line search. `tests.benchmarks.reinforcement
--peers` calls `against_peers`. Both sides get the same rollouts and the same weights, and take the
same step in turn, every time from those weights. The surrogate, the meta-gradient and a
Hessian-vector product must agree before anything is timed.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf

from maml_tf import inner_optimizers, rl

HERE = pathlib.Path(__file__).parent
INNER_RATE, REGION = 0.1, rl.TrustRegion(0.02)
VARIANTS = {
    "loop": "task by task",
    "threads": "a task in each thread",
    "fisher": "a task in each thread, our formula for products",
    "vmap": "vmap",
}
THREADS = {"loop": (1, 2), "threads": (2,), "fisher": (2,), "vmap": (1, 2)}
# float32 on both sides. Advantages are of unit size, their mean is zero: so is the surrogate's.
TOLERANCE = 1e-4


class Ours:
    """A learner and its rollouts of half-cheetah, whose steps always start at the same weights."""

    def __init__(self, size):
        tasks, rollouts, horizon = size
        environment = rl.environments.HalfCheetahDirection(tasks, rollouts, horizon=horizon)
        environment.set_tasks(environment.sample_tasks(tasks, 0))
        policy = rl.policies.gaussian(20, 6)
        self.learner = rl.MetaPolicy(policy, inner_optimizers.SGD(INNER_RATE))
        self.learner.compile(REGION)
        self.theta = [tf.identity(w) for w in self.learner.weights_of_policy()]
        optimizer = self.learner.inner_optimizer
        _, drawn = self.learner.adapt_and_sample(environment, optimizer, 1, seed=0)
        self.before, self.after = (self.learner.sample(d) for d in drawn)

    def check(self, elsewhere, vector):
        """What `peers_rl_torch` answers to a check."""
        objective, samples = self.learner.objective, ([self.before], self.after)
        here = tf.function(objective.value_and_gradient)(self.theta, *samples)
        there = tf.function(objective.value_and_gradient)(elsewhere, *samples)
        product = tf.function(objective.curvature_product)(self.theta, vector, *samples)
        return {
            "surrogate": here[0].numpy(),
            "gradient": _flat(here[1]),
            "surrogate elsewhere": there[0].numpy(),
            "gradient elsewhere": _flat(there[1]),
            "product": _flat(product),
        }

    def compile(self, curvature_tasks):
        """The function that takes one step, with its own compiled outer step."""
        self.learner.compile(dataclasses.replace(REGION, curvature_tasks=curvature_tasks))
        outer_step = self.learner._outer_step

        def step():
            variables = self.learner.policy.trainable_variables
            for variable, value in zip(variables, self.theta, strict=True):
                variable.assign(value)
            start = time.perf_counter()
            logs = {k: float(v) for k, v in outer_step([self.before], self.after).items()}
            return logs | {"seconds": time.perf_counter() - start}

        return step

    def save(self, path, elsewhere, vector):
        """Writes everything the peer needs."""
        arrays = {f"w{i}": w.numpy() for i, w in enumerate(self.theta)}
        for name, sample in (("before", self.before), ("after", self.after)):
            kept = {k: sample[k] for k in ("observation", "action", "advantage", "mask")}
            arrays |= {f"{name}_{k}": v.numpy() for k, v in (kept | sample["outputs"]).items()}
        settings = {"inner_rate": INNER_RATE, "region": dataclasses.asdict(REGION)}
        arrays |= {"elsewhere": _flat(elsewhere), "vector": _flat(vector)}
        np.savez(path, settings=json.dumps(settings), **arrays)


class Peer:
    """A process that answers one line of JSON with another."""

    def __init__(self, python, inputs):
        command = [python, str(HERE / "peers_rl_torch.py"), "--inputs", str(inputs)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.version = self._answer()["version"]

    def __call__(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("The peer's process ended; its message is above.")
        return json.loads(line)

    def close(self):
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def check_agreement(ours, theirs):
    """Prints by how much each variant is off, and ends the program if one is off by too much."""
    print("| off by | " + " | ".join(ours) + " |\n" + "|---" * (len(ours) + 1) + "|")
    worst = 0.0
    for variant, answer in theirs.items():
        off = []
        for name, value in ours.items():
            difference = np.linalg.norm(np.asarray(answer[name]) - value)
            off.append(difference / (np.linalg.norm(value) if np.ndim(value) else 1.0))
        print(f"| {variant} | " + " | ".join(f"{o:.1e}" for o in off) + " |", flush=True)
        worst = max(worst, *off) if np.all(np.isfinite(off)) else np.inf
    if not worst < TOLERANCE:
        sys.exit(f"Expected an agreement within {TOLERANCE:.0e}, received {worst:.1e}: no timing.")


def table(lines):
    """Markdown: median seconds of a step, and what the step reached.

    Args:
        lines: dict from (name, tasks of the curvature, threads) to the answers of all rounds. Of
            two numbers of threads the faster one is shown.
    """
    best = {}
    for (name, tasks, threads), answers in lines.items():
        seconds = [a["seconds"] for a in answers]
        row = (statistics.median(seconds), min(seconds), max(seconds), threads, answers[-1])
        best[name, tasks] = min(row, best.get((name, tasks), row), key=lambda r: r[0])
    print(
        "| | threads | curvature | median s | least, most | surrogate | divergence | backtracks |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for (name, tasks), (median, least, most, threads, last) in best.items():
        print(
            f"| {name} | {threads} | {tasks} tasks | {median:.2f} | {least:.2f}, {most:.2f} | "
            f"{last['surrogate']:.5f} | {last['divergence']:.5f} | {last['backtracks']:.0f} |"
        )


def against_peers(python, rounds, size):
    """Checks, times in turn and prints the table.

    Args:
        python: str, a Python with PyTorch.
        rounds: int, how often each takes its step, after one that does not count.
        size: tasks, rollouts of each, horizon.
    """
    ours = Ours(size)
    rng = np.random.default_rng(0)
    vector = [tf.constant(rng.normal(size=w.shape), tf.float32) for w in ours.theta]
    # Where the ratio is not 1 and the surrogate not 0.
    elsewhere = [w + 0.02 * v for w, v in zip(ours.theta, vector, strict=True)]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        inputs = pathlib.Path(folder) / "rollouts.npz"
        ours.save(inputs, elsewhere, vector)
        peer = Peer(python, inputs)
        stack.callback(peer.close)
        check_agreement(
            ours.check(elsewhere, vector),
            {f"torch {v}": peer(do="check", variant=v, threads=2) for v in VARIANTS},
        )
        contestants = {}
        for tasks in dict.fromkeys((size[0], min(10, size[0]))):
            contestants["maml_tf", tasks, os.cpu_count()] = ours.compile(tasks)
            for variant, label in VARIANTS.items():
                for threads in THREADS[variant]:
                    request = {"variant": variant, "threads": threads, "curvature_tasks": tasks}
                    step = functools.partial(peer, do="step", **request)
                    contestants[f"PyTorch, {label}", tasks, threads] = step
        lines = {key: [] for key in contestants}
        for number in range(rounds + 1):
            for key, step in contestants.items():
                line = step()
                print(number, *key, f"{line['seconds']:.2f} s", sep=", ", file=sys.stderr)
                # The first round traces, and PyTorch's memory grows.
                if number:
                    lines[key].append(line)
        print(f"\nPyTorch {peer.version}, {' x '.join(map(str, size))}, {rounds} rounds\n")
        table(lines)


def _flat(tensors):
    return np.concatenate([t.numpy().ravel() for t in tensors])
