"""Runs the scripts as a user does, and kills them where it hurts."""

import zipfile

import h5py
import numpy as np
import pytest

from tests import forks

# Runs a script that sends a signal to itself: "batch N" after the N-th call of the training
# function, which is in the middle of an epoch; "checkpoint N" when the N-th checkpoint is
# written but not yet in its place.
SIGNALLED = """
import os, runpy, signal, sys
from train import checkpoints

point, at, sent, module = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
del sys.argv[1:5]
counts = {"batch": 0, "checkpoint": 0}

def count(name):
    counts[name] += 1
    if name == point and counts[name] == at:
        os.kill(os.getpid(), getattr(signal, sent))

def on_train_batch_end(self, batch, logs=None):
    count("batch")

replace = os.replace

def counted_replace(source, target):
    if str(target).endswith("checkpoint.keras"):
        count("checkpoint")
    replace(source, target)

checkpoints.Checkpoint.on_train_batch_end = on_train_batch_end
os.replace = counted_replace
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


# Two layers in the place of the paper's convolutions, whose graphs take most of the time of a short
# run, for what a script does around its network. Statistics are kept, and weights drawn, as there.
TINY_NETWORK = """
import keras, maml_tf

def conv4(ways=5, input_shape=(28, 28, 1), seed=0):
    start = keras.initializers.GlorotUniform(seed)
    inputs = keras.Input(input_shape)
    x = keras.layers.Dense(4, kernel_initializer=start)(keras.layers.Flatten()(inputs))
    x = keras.layers.Activation("relu")(keras.layers.BatchNormalization()(x))
    return keras.Model(inputs, keras.layers.Dense(ways, kernel_initializer=start)(x))

maml_tf.models.conv4 = conv4
"""
# `python -m`.
PLAIN = """
import runpy, sys

module = sys.argv.pop(1)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="session")
def run_script():
    """`run_script(module, *options, stop=None, tiny=False)`: a finished process with its output.

    Each is a fork of one that has imported what takes time, but none of the scripts.
    """
    parent = forks.Parent("import maml_tf.rl, tensorboard, train.classification")

    def run(module, *options, stop=None, tiny=False):
        code, words = (SIGNALLED, [*stop]) if stop else (PLAIN, [])
        return parent.run(TINY_NETWORK * tiny + code, *words, f"train.{module}", *options)

    yield run
    parent.close()


@pytest.fixture(scope="session")
def saved_arrays():
    """`saved_arrays(path)`: all arrays of a `.keras` file by name, weights and optimizer."""

    def read(path):
        arrays = {}

        def collect(name, item):
            if isinstance(item, h5py.Dataset):
                arrays[name] = np.asarray(item)

        with (
            zipfile.ZipFile(path) as archive,
            archive.open("model.weights.h5") as file,
            h5py.File(file) as h5,
        ):
            h5.visititems(collect)
        return arrays

    return read
