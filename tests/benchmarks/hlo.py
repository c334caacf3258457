"""Our compiled training step without TensorFlow: written here, run and timed by JAX's XLA.

    python tests/benchmarks/hlo.py write --device gpu --workload omniglot5 --output step
    .peers/bin/python tests/benchmarks/hlo.py run --device gpu --input step

Where a machine with a GPU has JAX and no TensorFlow, this stands in for the time that the device
takes for a step of ours; what TensorFlow takes to start the step is not in it. `write` makes a
folder with the program of one training step (meta-gradient of vectorised tasks, metrics, Adam) as
StableHLO, with what goes into it, and with the loss that TensorFlow finds without XLA. `run`
compiles the program by JAX's own client, checks the loss in full float32, and times it as it is,
beside nothing else. With `--kernels 20` it also says in which twenty kernels the GPU's time is.

Parts of a model are other operations on a GPU (those of `maml_tf.exact`). `write --device gpu`
makes what would be made there, also on a machine without one.
"""

import argparse
import collections
import gzip
import json
import os
import pathlib
import re
import sys
import tempfile
import unittest.mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Run as a script where there is no more than JAX; what it shares stands beside it.
sys.path.insert(0, os.path.dirname(__file__))

import numpy as np
from inputs import STEPS_AHEAD, WORKLOADS, load_inputs, measure, write_line

FILES = ("program.mlir", "arguments.npz", "expected.json")
TOLERANCE = 1e-4  # of the loss
# A GPU multiplies float32 in TF32, of 10 bits, but where it is told not to.
PRECISION = "precision = [DEFAULT, DEFAULT]", "precision = [HIGHEST, HIGHEST]"


def training_step(learner, batch):
    """The program of one training step of a compiled learner, which stays as it is.

    Args:
        learner: a `maml_tf.Learner` with an optimizer; tasks are mapped as its `task_map` says.
        batch: a task batch, `(inputs, query_y)` of arrays or tensors.

    Returns:
        `(program, arguments, loss)`: StableHLO as text; the arrays that its `main` takes, in order;
        and the loss, which is the first of its results, by TensorFlow without XLA.
    """
    import tensorflow as tf

    batch = tf.nest.map_structure(tf.constant, batch)
    flat = tf.nest.flatten(batch)
    # One step makes the variables of metrics; then all others are as they were.
    learner.optimizer.build(learner.trainable_variables)
    kept = [(v, v.numpy()) for v in (*learner.variables, *learner.optimizer.variables)]
    learner.train_on_batch(*batch)
    for variable, value in kept:
        variable.assign(value)
    learner.reset_metrics()
    loss = float(tf.function(learner.meta_gradient, autograph=False)(*batch)[0])

    def step(*tensors):
        return learner.train_step(tf.nest.pack_sequence_as(batch, tensors))["loss"]

    function = tf.function(step, autograph=False, jit_compile=True)
    concrete = function.get_concrete_function(*flat)
    program = function.experimental_get_compiler_ir(*flat)(stage="stablehlo")
    variables = {id(v.handle): v for v in concrete.graph.variables}
    captured = [variables.get(id(t), t) for t in concrete.captured_inputs]
    # A copy, which StableHLO lacks, and without which versions of XLA that know no other would do.
    program = program.replace(" mhlo.copy ", " stablehlo.optimization_barrier ")
    return program, [np.asarray(t) for t in (*flat, *captured)], loss


def write(workload, folder, device):
    """Writes `FILES` for a workload of `inputs.py`, as made on a machine with that device."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
    import tensorflow as tf

    from tests.benchmarks import ours

    devices = {"cpu": [], "gpu": [tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")]}
    with unittest.mock.patch.object(
        tf.config,
        "list_physical_devices",
        lambda kind=None: devices[device] if kind == "GPU" else [],
    ):
        weights, arrays = load_inputs(workload)
        learner = ours.make_learner(workload, "fit", weights, device)
        learner.task_map = "vectorized"
        batch = next(iter(ours.make_data(workload, "fit", arrays)))
        save(folder, *training_step(learner, batch), workload=workload)


def save(folder, program, arguments, loss, **about):
    """Puts what `training_step` gives into a folder, as `FILES`."""
    folder.mkdir(parents=True, exist_ok=True)
    text, arrays, expected = (folder / name for name in FILES)
    text.write_text(program)
    np.savez_compressed(arrays, **{f"a{i:04}": value for i, value in enumerate(arguments)})
    expected.write_text(json.dumps({"loss": loss, **about}) + "\n")


def load(folder):
    """`(program, arguments, expected)` of a folder that `save` filled; the last one is a dict."""
    text, arrays, expected = (folder / name for name in FILES)
    with np.load(arrays) as file:
        arguments = [file[name] for name in sorted(file)]
    return text.read_text(), arguments, json.loads(expected.read_text())


def prepare(folder, device, full_precision=False):
    """Compiles by JAX what `write` wrote, for the device of that name.

    Args:
        folder: that of `write`.
        device: `"cpu"` or `"gpu"`.
        full_precision: whether a GPU is to multiply in all bits of float32.

    Returns:
        `(call, expected)`: the function that makes so many training steps, waits for them and
        returns the first loss; and what `load` gives beside the program.
    """
    os.environ["JAX_PLATFORMS"] = {"cpu": "cpu", "gpu": "cuda"}[device]
    import jax
    from jax._src import xla_bridge
    from jax._src.interpreters import mlir
    from jax._src.lib import xla_client
    from jax.extend.mlir import ir

    jax.config.update("jax_enable_x64", True)  # counters of steps are int64
    program, arguments, expected = load(folder)
    if full_precision:
        program = program.replace(*PRECISION)
    backend = xla_bridge.get_backend()
    with mlir.make_ir_context():
        module = ir.Module.parse(program)
        devices = xla_client.DeviceList((jax.devices()[0],))
        loaded = backend.compile_and_load(module, devices, xla_client.CompileOptions())
    arguments = [jax.device_put(value) for value in arguments]

    # Variables are updated in place: what a step made of them goes into the next one.
    places = re.findall(
        r"parameter_number = (\d+) : i64}, output_index = array<i64: (\d+)>", program
    )

    def call(steps=1):
        losses = []
        for _ in range(steps):
            results = loaded.execute_sharded(arguments).disassemble_into_single_device_arrays()
            losses.append(results[0][0])
            for parameter, output in places:
                arguments[int(parameter)] = results[int(output)][0]
        jax.block_until_ready(results)
        return float(losses[0])

    return call, expected


def trace(call, steps):
    """What JAX's profiler records of so many steps, a list of events."""
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            call(steps)
        (path,) = pathlib.Path(folder).rglob("*.trace.json.gz")
        return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def kernels(events):
    """Milliseconds of a GPU's kernels by their names without numbers, a `collections.Counter`."""
    about = [e for e in events if e.get("ph") == "M"]
    devices = {e["pid"]: e["args"]["name"] for e in about if e["name"] == "process_name"}
    lines = {(e["pid"], e["tid"]): e["args"]["name"] for e in about if e["name"] == "thread_name"}
    times = collections.Counter()
    for e in (e for e in events if e.get("ph") == "X"):
        line = lines.get((e["pid"], e["tid"]), "")
        if "GPU" in devices.get(e["pid"], "") and "Stream" in line:
            times[re.sub(r"_?\d+", "", e["name"])[:60]] += e["dur"] / 1e3
    return times


def run(folder, device, seconds, most=0):
    """Compiles and times by JAX what `write` wrote, on the device of that name."""
    call, expected = prepare(folder, device, full_precision=True)
    loss = call()
    if not abs(loss - expected["loss"]) <= TOLERANCE * abs(expected["loss"]):
        raise SystemExit(f"The loss is {loss}; in TensorFlow it was {expected['loss']}.")
    losses = {"expected_loss": expected["loss"], "loss": loss}
    times = {}
    if seconds:
        call, _ = prepare(folder, device)
        losses["loss_as_timed"] = call()
        steps = STEPS_AHEAD if device == "gpu" else 1
        times = measure(lambda: call(steps), seconds, steps_per_call=steps)
    write_line(framework="maml_tf by JAX", device=device, **expected | losses | times)
    if most:
        found = kernels(trace(call, steps=1))
        write_line(all_kernels_ms=round(found.total(), 3))
        for name, ms in found.most_common(most):
            write_line(kernel=name, ms=round(ms, 4))


def main():
    """Writes or runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    writing = parts.add_parser("write", help="with TensorFlow and maml_tf")
    writing.add_argument("--workload", choices=list(WORKLOADS), required=True)
    writing.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    writing.add_argument("--output", type=pathlib.Path, required=True)
    running = parts.add_parser("run", help="with JAX alone")
    running.add_argument("--input", type=pathlib.Path, required=True)
    running.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    running.add_argument("--seconds", type=float, default=5.0, help="timed; 0: the loss alone")
    running.add_argument("--kernels", type=int, default=0, help="how many to list, of a GPU")
    arguments = parser.parse_args()
    if arguments.part == "write":
        write(arguments.workload, arguments.output, arguments.device)
    else:
        run(arguments.input, arguments.device, arguments.seconds, arguments.kernels)


if __name__ == "__main__":
    main()
