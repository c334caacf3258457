"""The learning part of a MAML-TRPO meta-iteration in PyTorch on the CPU, written for speed.

From rollouts before and after one inner step: the surrogate and its exact gradient, ten conjugate
gradient iterations with Hessian-vector products of the mean divergence through the inner step, and
the line search. ``peers_rl_torch_products`` describes the variants.

``tests.benchmarks.rl_against_peers`` starts this script. It reads requests, a line of JSON each,
and answers each with a line: ``{"do": "check", "variant": ..., "threads": ...}`` gives the numbers
that must agree, ``{"do": "step", ..., "curvature_tasks": ...}`` times one step. ``threads`` work
inside an operation or, for the variants in `IN_THREADS`, each on a task of its own.
"""

import argparse
import concurrent.futures
import json
import sys
import time

import numpy as np
import torch
from inputs import write_line
from peers_rl_torch_products import Fisher, Loop, Policy, Vmap, log_prob

IN_THREADS = ("threads", "fisher")


def conjugate_gradient(product, b, iterations, tolerance=1e-10):
    x, residual, direction = torch.zeros_like(b), b.clone(), b.clone()
    squared = torch.dot(residual, residual)
    for _ in range(iterations):
        if squared <= tolerance:
            break
        image = product(direction)
        length = squared / torch.dot(direction, image)
        x += length * direction
        residual -= length * image
        following = torch.dot(residual, residual)
        direction = residual + following / squared * direction
        squared = following
    return x, residual


def full_step(learning, theta, region):
    """The surrogate, and the step to the border of the region; its graphs end with the call."""
    before, gradient, product = learning.linearized(theta, region["curvature_tasks"])

    def damped(x):
        return product(x) + region["damping"] * x

    steps = region["conjugate_gradient_steps"]
    direction, residual = conjugate_gradient(damped, gradient, steps)
    curvature = torch.dot(direction, gradient - residual)
    length = torch.sqrt(2 * region["max_divergence"] / (curvature + 1e-8))
    return before, length * direction


def trust_region_step(learning, theta, region):
    """The new weights and what was measured on the way; ``region`` holds our settings by name."""
    before, step = full_step(learning, theta, region)
    for backtracks in range(region["max_backtracks"]):
        candidate = theta - region["backtrack_ratio"] ** backtracks * step
        after, moved = learning.value(candidate).tolist()
        if after < before and moved <= region["max_divergence"]:
            logs = {"surrogate": after, "divergence": moved, "backtracks": backtracks}
            return candidate, logs
    return theta, {"surrogate": float(before), "divergence": 0.0, "backtracks": backtracks}


def samples(arrays):
    """Both samples as dicts of tensors ``[T, N, ...]``, all steps of a task's rollouts in a row."""
    made = []
    for name in ("before", "after"):
        part = {
            k.removeprefix(f"{name}_"): torch.tensor(v).flatten(1, 2)
            for k, v in arrays.items()
            if k.startswith(name)
        }
        weight = part.pop("mask")
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1)
        part["weighted_advantage"] = weight * part.pop("advantage")
        loc, log_scale = part.pop("loc"), part.pop("log_scale")
        if name == "after":
            # The standard deviation is the same in every step of a task.
            part["old_loc"], part["old_log_scale"] = loc, log_scale[:, 0].contiguous()
            old = zip(loc, part["old_log_scale"], part["action"], strict=True)
            part["old_log_prob"] = torch.stack([log_prob(*o) for o in old])
            part["weight"] = weight
        made.append(part)
    return made


class Server:
    """Answers the requests at the top of this file."""

    def __init__(self, arrays):
        self.settings = json.loads(str(arrays["settings"]))
        weights = [arrays[f"w{i}"] for i in range(7)]
        self.policy = Policy([w.shape for w in weights])
        self.theta = torch.tensor(np.concatenate([w.ravel() for w in weights]))
        self.elsewhere, self.vector = (torch.tensor(arrays[k]) for k in ("elsewhere", "vector"))
        self.samples = samples(arrays)

    def learning(self, variant, pool):
        arguments = (self.policy, self.settings["inner_rate"], *self.samples)
        if variant == "vmap":
            return Vmap(*arguments)
        kind = Fisher if variant == "fisher" else Loop
        return kind(*arguments, over=pool.map if variant in IN_THREADS else map)

    def answer(self, *, do, variant, threads, curvature_tasks=None):
        torch.set_num_threads(1 if variant in IN_THREADS else threads)
        count = len(self.samples[0]["observation"])
        region = self.settings["region"] | {"curvature_tasks": curvature_tasks or count}
        with concurrent.futures.ThreadPoolExecutor(
            threads, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            learning = self.learning(variant, pool)
            if do == "check":
                return self.check(learning, count)
            start = time.perf_counter()
            _, logs = trust_region_step(learning, self.theta, region)
            return logs | {"seconds": time.perf_counter() - start}

    def check(self, learning, tasks):
        surrogate_here, gradient_here, product = learning.linearized(self.theta, tasks)
        # There nobody asks for a product: the least of it is prepared.
        moved_surrogate, moved_gradient, _ = learning.linearized(self.elsewhere, 1)
        return {
            "surrogate": float(surrogate_here),
            "gradient": gradient_here.tolist(),
            "surrogate elsewhere": float(moved_surrogate),
            "gradient elsewhere": moved_gradient.tolist(),
            "product": product(self.vector).tolist(),
        }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", required=True, help=".npz file of rollouts and weights")
    with np.load(parser.parse_args().inputs) as file:
        server = Server(dict(file))
    write_line(version=torch.__version__)
    for line in sys.stdin:
        write_line(**server.answer(**json.loads(line)))


if __name__ == "__main__":
    main()
