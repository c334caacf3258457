"""What `hlo.py` writes is our training step: run here by TensorFlow's XLA, and by JAX if any."""

import importlib.util
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

import maml_tf
from tests.benchmarks import hlo
from tests.problems import dense_model, task_batch


@pytest.fixture(scope="module")
def step():
    """A learner, a task batch, and what `hlo.training_step` makes of them."""
    learner = maml_tf.MAML(dense_model(), 0.1, task_map="vectorized")
    learner.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    batch = task_batch()
    before = [v.numpy() for v in learner.variables]
    made = hlo.training_step(learner, batch)
    for variable, value in zip(learner.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    return learner, batch, made


def of_main(program):
    """Shapes and dtypes that `main` of a program takes, and that it returns, as StableHLO says."""
    line = next(line for line in program.splitlines() if " @main(" in line)
    return (re.findall(r"tensor<(\S+?)>", part) for part in line.split(" -> "))


def written(array):
    """The same of an array."""
    kind = {"f": "f", "i": "i", "u": "ui"}[array.dtype.kind] + str(8 * array.dtype.itemsize)
    return "x".join([*map(str, array.shape), kind])


def test_the_arguments_are_those_that_the_program_takes(step):
    program, arguments, _ = step[2]
    assert list(map(written, arguments)) == list(of_main(program))[0]


def test_run_by_tensorflow_the_program_is_a_training_step(step):
    learner, batch, (program, arguments, loss) = step
    assert loss == pytest.approx(float(learner.meta_gradient(*batch)[0]), rel=1e-6)
    results = list(of_main(program))[1]
    shapes = [[int(n) for n in result.split("x")[:-1]] for result in results]
    dtypes = {"f32": tf.float32, "i32": tf.int32, "i64": tf.int64}
    dtypes = [dtypes[result.split("x")[-1]] for result in results]

    @tf.function(autograph=False, jit_compile=True)
    def run(*arguments):
        return gen_xla_ops.xla_call_module(
            args=arguments, version=5, module=program, Sout=shapes, Tout=dtypes, platforms=["CPU"]
        )

    first, *others = run(*map(tf.constant, arguments))
    assert float(first) == pytest.approx(loss, rel=1e-5)
    learner.train_on_batch(*batch)
    for weight in learner.trainable_variables:
        same = [o for o in others if o.shape == weight.shape]
        assert any(np.allclose(o, weight, rtol=1e-5, atol=1e-6) for o in same), weight.path


def test_what_is_saved_is_what_is_loaded(step, tmp_path):
    program, arguments, loss = step[2]
    hlo.save(tmp_path / "step", program, arguments, loss, workload="small")
    received = hlo.load(tmp_path / "step")
    assert received[0] == program
    assert received[2] == {"loss": loss, "workload": "small"}
    for one, other in zip(received[1], arguments, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def test_kernels_are_those_of_a_gpus_streams():
    def named(kind, pid, tid, name):
        return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}

    def took(pid, tid, name, us):
        return {"ph": "X", "name": name, "pid": pid, "tid": tid, "ts": 0, "dur": us}

    events = [
        named("process_name", 1, 0, "/device:GPU:0 NVIDIA"),
        named("process_name", 2, 0, "/host:CPU"),
        named("thread_name", 1, 13, "Stream #13(Compute)"),
        named("thread_name", 1, 14, "XLA Modules"),
        named("thread_name", 2, 13, "Stream of a host"),
        took(1, 13, "loop_add_fusion_2", 100.0),
        took(1, 13, "loop_add_fusion_15", 400.0),
        took(1, 13, "input_reduce_fusion", 250.0),
        took(1, 14, "jit_step", 9000.0),
        took(2, 13, "loop_add_fusion_2", 9000.0),
        {},  # with which such a list may end
    ]
    assert hlo.kernels(events) == {"loop_add_fusion": 0.5, "input_reduce_fusion": 0.25}


def test_what_is_written_for_a_gpu_is_its_program_and_listed_devices_stay(tmp_path):
    devices = tf.config.list_physical_devices()
    for device in ("cpu", "gpu"):
        hlo.write("sine", tmp_path / device, device)
    (cpu, arguments, expected), (gpu, *others) = (
        hlo.load(tmp_path / device) for device in ("cpu", "gpu")
    )
    assert tf.config.list_physical_devices() == devices
    # On a CPU gradients of kernels over few examples are sums, here as many as there may be.
    assert cpu.count("stablehlo.reduce") > gpu.count("stablehlo.reduce")
    assert cpu.count("stablehlo.dot_general") < gpu.count("stablehlo.dot_general")
    assert others[1]["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    for one, other in zip(arguments, others[0], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
@pytest.mark.parametrize("off", [0.0, 0.1])
def test_jax_finds_the_same_loss_and_refuses_another(step, tmp_path, off):
    program, arguments, loss = step[2]
    hlo.save(tmp_path, program, arguments, loss + off, workload="small")
    command = [sys.executable, hlo.__file__, "run", "--input", str(tmp_path), "--seconds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert bool(done.returncode) == bool(off), done.stderr
