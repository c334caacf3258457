"""Fixed data and first weights of the speed benchmark, the same for every framework.

``python tests/benchmarks/inputs.py --workload omniglot5 --output omniglot5.npz`` writes one
file. It holds

* ``w0`` ... ``w{n-1}``: the weights, in the layout of Keras. Sine: kernel, bias of three dense
  layers. Images: kernel ``[3, 3, channels, filters]``, bias and beta of four blocks, then kernel
  ``[features, ways]`` and bias of the dense layer.
* ``support_x``, ``support_y``, ``query_x``, ``query_y``: sine ``[batches, tasks, points, 1]``,
  images ``[tasks, examples, size, size, channels]`` (float32; 28 and 1 for Omniglot, 84 and 3 for
  mini-ImageNet) and labels ``[tasks, examples]`` (int32).

Only NumPy is needed. The settings of a workload and the small helpers that the scripts of the
other frameworks share are here too.
"""

import argparse
import dataclasses
import json
import pathlib
import resource
import time

import numpy as np


@dataclasses.dataclass(frozen=True)
class Workload:
    """Settings of one workload.

    Attributes:
        tasks: Number of tasks in a meta-batch.
        ways: Number of classes of a task; 0 for regression.
        support: Number of support examples of a task.
        query: Number of query examples of a task.
        inner_steps: Number of inner gradient steps.
        inner_lr: Inner step size, on the mean loss.
        batches: Number of different meta-batches in the file.
        max_pool: Whether the network is the one for mini-ImageNet, with max-pooling, not the
            one for Omniglot, with strides.
    """

    tasks: int
    ways: int
    support: int
    query: int
    inner_steps: int
    inner_lr: float
    batches: int = 1
    max_pool: bool = False


WORKLOADS = {
    "sine": Workload(25, 0, 10, 10, 1, 0.01, batches=100),
    "omniglot5": Workload(32, 5, 5, 5, 1, 2.0),
    "omniglot20": Workload(16, 20, 20, 20, 5, 2.0),
    "mini_imagenet": Workload(4, 5, 5, 75, 5, 0.05, max_pool=True),
}

OUTER_LR = 1e-3
NORM_EPSILON = 1e-3
# On a GPU so many meta-steps are started before their results are waited for: starting one takes
# the processor as long as the GPU needs for a small one.
STEPS_AHEAD = 10
# Padding before and after, height and width, of TensorFlow's SAME with stride 2: 28-14-7-4-2.
SAME_PADDING = ((0, 1), (0, 1), (1, 1), (0, 1))


def _sine(rng, workload):
    weights = []
    for rows, columns in ((1, 40), (40, 40), (40, 1)):
        weights += [rng.normal(0.0, 0.1, (rows, columns)), np.zeros(columns)]
    shape = (workload.batches, workload.tasks, 1, 1)
    amplitude = rng.uniform(0.1, 5.0, shape)
    phase = rng.uniform(0.0, np.pi, shape)
    data = {}
    for part, points in (("support", workload.support), ("query", workload.query)):
        x = rng.uniform(-5.0, 5.0, (*shape[:2], points, 1))
        data[f"{part}_x"] = x
        data[f"{part}_y"] = amplitude * np.sin(x - phase)
    return weights, data


def _characters(rng, number, examples):
    """Draws smooth strokes: ``[number, examples, 28, 28, 1]``, every number a class."""
    control = rng.uniform(4.0, 24.0, (number, 1, 3, 3, 2))  # three curves of three points
    control = control + rng.normal(0.0, 0.7, (number, examples, 3, 3, 2))
    t = np.linspace(0.0, 1.0, 16)
    bezier = np.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2])
    points = np.einsum("ncskd,kp->ncspd", control, bezier)
    points = points.reshape(number, examples, -1, 2)
    pixels = np.arange(28.0)
    near = np.exp(-0.5 * (points[..., None] - pixels) ** 2)  # [number, examples, points, 2, 28]
    images = np.einsum("ncpi,ncpj->ncij", near[..., 0, :], near[..., 1, :])
    # With noise no two places are equal, and rounding cannot switch many of them on at once.
    images = 0.7 * np.clip(images, 0.0, 1.0) + 0.3 * rng.uniform(size=images.shape)
    return images[..., None]


def _omniglot(rng, workload):
    """Makes weights and tasks of a few-shot workload.

    Five inner steps of size 2 from the usual first weights are chaotic: float32 then keeps two
    or three digits of the meta-gradient, and frameworks could not be compared. Batch
    normalisation makes the outputs independent of the kernels' scale, and the inner steps
    small against large kernels: these are 30 times Xavier's. The work is the same.
    """
    weights = _weights(rng, 1, 64, 64, workload.ways)
    tasks, ways = workload.tasks, workload.ways
    images = _characters(rng, tasks * ways, (workload.support + workload.query) // ways)
    return weights, _episodes(images, workload)


def _mini_imagenet(rng, workload):
    """Makes weights and tasks of the workload with max-pooling.

    With the usual first weights float32 is 1 to 75 % off the meta-gradient of float64, whatever
    the framework; with kernels as large as Omniglot's, 1e-5.
    """
    weights = _weights(rng, 3, 32, 5 * 5 * 32, workload.ways)
    # A class is a coarse pattern; bytes as in photographs, and noise in place of their detail.
    examples = (workload.support + workload.query) // workload.ways
    pattern = rng.uniform(size=(workload.tasks * workload.ways, 1, 7, 7, 3))
    pattern = pattern.repeat(12, axis=2).repeat(12, axis=3)
    noise = rng.uniform(size=(len(pattern), examples, 84, 84, 3))
    images = np.floor(256 * (0.5 * pattern + 0.5 * noise)) / 255
    return weights, _episodes(images, workload)


def _weights(rng, channels, filters, features, ways):
    """Makes weights of four blocks, with kernels 30 times Xavier's, and a dense layer."""
    weights = []
    for before in (channels, filters, filters, filters):
        limit = 30.0 * np.sqrt(6.0 / (9 * before + 9 * filters))
        kernel = rng.uniform(-limit, limit, (3, 3, before, filters))
        weights += [kernel, np.zeros(filters), np.zeros(filters)]
    return [*weights, rng.normal(0.0, 0.01, (features, ways)), np.zeros(ways)]


def _episodes(images, workload):
    """Shares images ``[tasks * ways, examples, ...]`` out to support and query sets."""
    tasks, ways, shots = workload.tasks, workload.ways, workload.support // workload.ways
    images = images.reshape(tasks, ways, *images.shape[1:]).swapaxes(1, 2)
    data = {}
    for part, chosen in (("support", images[:, :shots]), ("query", images[:, shots:])):
        data[f"{part}_x"] = chosen.reshape(tasks, -1, *chosen.shape[3:])
        labels = np.broadcast_to(np.arange(ways, dtype=np.int32), chosen.shape[:3])
        data[f"{part}_y"] = labels.reshape(tasks, -1)
    return data


def make_inputs(workload, seed=0):
    """Makes the arrays of a workload.

    Args:
        workload: A name in ``WORKLOADS``.
        seed: Seed of the random numbers.

    Returns:
        A dictionary of arrays: float32, labels int32.
    """
    rng = np.random.default_rng(seed)
    settings = WORKLOADS[workload]
    make = _sine if settings.ways == 0 else _mini_imagenet if settings.max_pool else _omniglot
    weights, data = make(rng, settings)
    arrays = {f"w{i}": weight for i, weight in enumerate(weights)} | data
    return {
        name: np.ascontiguousarray(array, np.int32 if array.dtype == np.int32 else np.float32)
        for name, array in arrays.items()
    }


def load_inputs(workload, path=None):
    """Reads, or where no path is given makes, the arrays of a workload.

    Returns:
        The list of weights and the tuple of support_x, support_y, query_x, query_y.
    """
    if path is None:
        arrays = make_inputs(workload)
    else:
        with np.load(path) as file:
            arrays = dict(file)
    number = sum(name.startswith("w") for name in arrays)
    weights = [arrays[f"w{i}"] for i in range(number)]
    return weights, tuple(arrays[n] for n in ("support_x", "support_y", "query_x", "query_y"))


def peer_arguments(description, argv=None):
    """Reads the command line that the scripts of the other frameworks share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", choices=list(WORKLOADS), required=True)
    parser.add_argument("--variant", help="one or several, separated by commas", required=True)
    parser.add_argument("--inputs", type=pathlib.Path, help=".npz file; made anew without")
    parser.add_argument("--threads", type=int, help="default: as the framework chooses")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--min-steps", type=int, default=10)
    return parser.parse_args(argv)


def peak_mb():
    """Peak resident memory of this process in MiB.

    The kernel carries ``ru_maxrss`` from the process that started this one over into it, so
    that a small script started by a large one would report the large one's: where there is a
    /proc, its own peak is read there.
    """
    try:
        status = pathlib.Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(call, seconds, min_steps=10, steps_per_call=1, warm_up=2):
    """Times a call that runs ``steps_per_call`` meta-steps and returns when they are done.

    Returns:
        A dictionary of milliseconds of a meta-step (median, 10 % and 90 % over the calls) and
        the number of steps timed.
    """
    for _ in range(warm_up):
        call()
    times = []
    start = time.perf_counter()
    while (
        time.perf_counter() - start < seconds
        or len(times) * steps_per_call < min_steps
        or len(times) < 3
    ):
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    p10, median, p90 = np.percentile(np.array(times) * 1e3 / steps_per_call, [10, 50, 90])
    return {
        "ms_per_step": round(float(median), 4),
        "p10": round(float(p10), 4),
        "p90": round(float(p90), 4),
        "steps": len(times) * steps_per_call,
    }


def write_line(**values):
    """Prints one JSON line."""
    print(json.dumps(values), flush=True)


def main():
    """Writes the arrays of a workload to a file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workload", choices=list(WORKLOADS), required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    np.savez(arguments.output, **make_inputs(arguments.workload, arguments.seed))


if __name__ == "__main__":
    main()
