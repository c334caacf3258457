"""What oneDNN makes for the gradient towards a kernel, which is to be kept from call to call."""

import os
import subprocess
import sys

import pytest

VARIABLE = "TF_MKL_OPTIMIZE_PRIMITIVE_MEMUSE"
CALLS = 6
PROGRAM = f"""
import tensorflow as tf
from maml_tf import exact
tf.config.threading.set_inter_op_parallelism_threads(1)
x, w = tf.ones([2, 8, 8, 4]), tf.ones([3, 3, 4, 8])
if {{inside}}:
    with exact.operations():
        pass
for _ in range({CALLS}):
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = tf.nn.conv2d(x, w, 2, "SAME")
    tape.gradient(y, w)
"""


def made(inside, setting=None):
    """How often oneDNN made something for the gradient towards the kernel, which it tells."""
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE}
    environment |= {"ONEDNN_VERBOSE": "profile_create", "TF_ENABLE_ONEDNN_OPTS": "1"}
    if setting is not None:
        environment[VARIABLE] = setting
    command = [sys.executable, "-c", PROGRAM.format(inside=inside)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = told.stdout.splitlines()
    if not any("onednn_verbose" in line for line in lines):
        pytest.skip("This TensorFlow computes without oneDNN.")
    return sum(",create" in line and "backward_weights" in line for line in lines)


def test_it_is_made_once():
    assert made(inside=True) == 1


def test_elsewhere_it_is_made_at_every_call():
    """If this fails, TensorFlow keeps it by itself, and `maml_tf/exact/primitives.py` may go."""
    assert made(inside=False) == CALLS


def test_what_the_environment_says_stays():
    assert made(inside=True, setting="1") == CALLS
