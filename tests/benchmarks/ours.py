"""Speed of maml_tf's training step inside `fit`, on the data and weights of the other frameworks.

``python -m tests.benchmarks.ours --workload omniglot5 --variant fit`` prints one JSON line. The
time of a step is that of an epoch by its number of steps: the data pipeline, Keras' loop, metrics
before and after adaptation and Adam are all in it. Variants: ``fit`` (second order),
``fit_first_order``, ``fit_rematerialized``; ``fit_after`` is ``fit`` without the predictions
before adaptation, which no peer makes; ``pipeline`` takes the tasks from `maml_tf.tasks` (sine
only) in place of the fixed arrays.
"""

import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The peers' scripts stand alone, without this package around them; so is what they share.
sys.path.insert(0, os.path.dirname(__file__))

import keras
import numpy as np
import tensorflow as tf
from inputs import (
    OUTER_LR,
    STEPS_AHEAD,
    WORKLOADS,
    load_inputs,
    peak_mb,
    peer_arguments,
    write_line,
)

import maml_tf


class _EpochTimes(keras.callbacks.Callback):
    """Times epochs, and stops after a number of seconds; the first epoch only warms up."""

    def __init__(self, seconds):
        super().__init__()
        self.times, self.seconds = [], seconds

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if epoch > 0:
            self.times.append(time.perf_counter() - self.begin)
        enough = len(self.times) >= 5 and sum(self.times) >= self.seconds
        self.model.stop_training = enough


def make_learner(name, variant, weights, device):
    workload = WORKLOADS[name]
    sine = workload.ways == 0
    if sine:
        model = maml_tf.models.sinusoid_mlp()
    elif workload.max_pool:
        model = maml_tf.models.conv4_max_pool(workload.ways)
    else:
        model = maml_tf.models.conv4(workload.ways)
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        variable.assign(value)
    learner = maml_tf.MAML(
        model,
        maml_tf.inner_optimizers.SGD(workload.inner_lr),
        workload.inner_steps,
        first_order=variant == "fit_first_order",
        rematerialize=variant == "fit_rematerialized",
    )
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learner.compile(
        optimizer=keras.optimizers.Adam(OUTER_LR),
        loss="mse" if sine else crossentropy,
        metrics=None if sine else ["accuracy"],
        jit_compile=sine or device == "gpu",
        steps_per_execution=100 if sine else 1,
        report_before=variant != "fit_after",
    )
    return learner


def make_data(name, variant, arrays):
    if variant == "pipeline":
        return maml_tf.tasks.sinusoid()[0]
    support_x, support_y, query_x, query_y = arrays
    batch = ({"support_x": support_x, "support_y": support_y, "query_x": query_x}, query_y)
    if name == "sine":
        return tf.data.Dataset.from_tensor_slices(batch).repeat().prefetch(tf.data.AUTOTUNE)
    return tf.data.Dataset.from_tensors(batch).repeat().prefetch(tf.data.AUTOTUNE)


def first_step(name, learner, data):
    """Loss and meta-gradient at the first weights."""
    if name == "sine":  # fit would take a hundred steps at once
        loss, gradients, *_ = learner.meta_gradient(*next(iter(data)))
        return loss, gradients
    first = learner.fit(data, steps_per_epoch=1, verbose=0)
    # Adam's first moment is then a multiple of the gradient.
    gradients = [m / (1 - learner.optimizer.beta_1) for m in learner.optimizer._momentums]
    return first.history["loss"][0], gradients


def main():
    arguments = peer_arguments(__doc__)
    name = arguments.workload
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(arguments.threads or os.cpu_count())
    if arguments.device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    weights, arrays = load_inputs(name, arguments.inputs)
    for variant in arguments.variant.split(","):
        learner = make_learner(name, variant, weights, arguments.device)
        data = make_data(name, variant, arrays)
        loss, gradients = first_step(name, learner, data)
        steps = {"sine": 2000, "omniglot5": 20, "omniglot20": 4, "mini_imagenet": 1}[name]
        steps *= STEPS_AHEAD if arguments.device == "gpu" else 1
        clock = _EpochTimes(arguments.seconds)
        learner.fit(data, steps_per_epoch=steps, epochs=1000, verbose=0, callbacks=[clock])
        times = np.array(clock.times) * 1e3 / steps
        p10, median, p90 = np.percentile(times, [10, 50, 90])
        write_line(
            framework="maml_tf",
            device=arguments.device,
            variant=variant,
            workload=name,
            threads=arguments.threads or os.cpu_count(),
            ms_per_step=round(float(median), 4),
            p10=round(float(p10), 4),
            p90=round(float(p90), 4),
            steps=len(times) * steps,
            peak_mb=round(peak_mb(), 1),
            loss=float(loss),
            gradient_norm=float(tf.linalg.global_norm(gradients)),
            version=maml_tf.__version__,
        )


if __name__ == "__main__":
    main()
