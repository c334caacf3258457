"""Runs the scripts as a user does, and kills them where it hurts."""

import os
import pathlib
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]

# Runs a script that sends a signal to itself: "batch N" after the N-th call of the training
# function, which is in the middle of an epoch; "checkpoint N" when the N-th checkpoint is
# written but not yet in its place.
SIGNALLED = """
import os, runpy, signal, sys
from train import checkpoints

point, at, sent, module = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
del sys.argv[1:5]
# A shell has what it starts in the background ignore Ctrl-C, and with it these tests.
signal.signal(signal.SIGINT, signal.default_int_handler)
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


@pytest.fixture(scope="session")
def run_script():
    """`run_script(module, *options, stop=None)`: a finished process with its output."""

    def run(module, *options, stop=None):
        start = ["-c", SIGNALLED, *map(str, stop)] if stop else ["-m"]
        return subprocess.run(
            [sys.executable, *start, f"train.{module}", *map(str, options)],
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


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
