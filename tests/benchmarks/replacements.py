"""What the replaced operations of `maml_tf.exact` are worth, on a machine that others use too.

    python -m tests.benchmarks.replacements --workload mini_imagenet --rounds 5

One process traces the meta-gradient of a workload of `inputs.py` twice, as it is and with the
operations of these names as TensorFlow and Keras have them, and runs the two in turns. What is
compared is the time that processors spent on it, which others disturb less than the clock, beside
the time and the size of a trace. Both must give the same meta-gradient.

Names are those that `maml_tf.exact.dispatch.install` was given: `batch_normalization`, `add_n`,
`convolution_internal`, `max_pool` and others.
"""

import argparse
import contextlib
import functools
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, os.path.dirname(__file__))

import numpy as np
import tensorflow as tf
from inputs import WORKLOADS, load_inputs, peak_mb

from maml_tf.exact import dispatch
from tests.benchmarks import ours


def traced(name, kept):
    """A traced meta-gradient, what to keep alive for it, seconds of tracing, number of nodes."""
    weights, arrays = load_inputs(name)
    learner = ours.make_learner(name, "fit", weights, "cpu")
    batch = next(iter(ours.make_data(name, "fit", arrays)))
    function = tf.function(functools.partial(learner.meta_gradient, *batch), autograph=False)
    begin = time.process_time()
    with dispatch.kept_here(*kept) if kept else contextlib.nullcontext():
        concrete = function.get_concrete_function()
    seconds = time.process_time() - begin
    library = concrete.graph.as_graph_def().library.function
    return concrete, learner, seconds, sum(len(f.node_def) for f in library)


def gradient(function):
    return np.concatenate([np.ravel(g) for g in function()[1]])


def main():
    """Prints a line for each side and the ratio of the two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", choices=list(WORKLOADS), required=True)
    parser.add_argument("--kept", default="batch_normalization,add_n")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(os.cpu_count())
    names = {"kept": arguments.kept.split(","), "replaced": []}
    sides = {side: traced(arguments.workload, kept) for side, kept in names.items()}
    # The first call, which optimizes the graph.
    first = {side: gradient(function) for side, (function, *_) in sides.items()}
    off = np.linalg.norm(first["replaced"] - first["kept"]) / np.linalg.norm(first["kept"])
    times = {side: [] for side in sides}
    for _ in range(arguments.rounds):
        for side, (function, *_) in sides.items():
            begin = time.process_time()
            gradient(function)
            times[side].append((time.process_time() - begin) * 1e3)
    for side, (_, _, seconds, nodes) in sides.items():
        print(
            f"{side}: {np.median(times[side]):.1f} ms of processors, "
            f"traced in {seconds:.2f} s, {nodes} nodes"
        )
    ratio = np.median(np.divide(times["replaced"], times["kept"]))
    print(f"ratio {ratio:.3f}; meta-gradients differ by {off:.1e}; peak {peak_mb():.0f} MB")


if __name__ == "__main__":
    main()
