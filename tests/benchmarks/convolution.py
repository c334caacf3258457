"""Times what a meta-step does with small convolutions: TensorFlow's own beside matrix products.

``python -m tests.benchmarks.convolution`` prints, for each layer of the Omniglot network and 5 or
20 images on one core, the microseconds of the convolution with the gradients of its kernel and
input and with their gradients again, in both forms, and which form `maml_tf` takes.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from maml_tf.exact import convolution

LAYERS = {"28x28x1": (28, 1), "14x14x64": (14, 64), "7x7x64": (7, 64), "4x4x64": (4, 64)}


def second_order(function, x, w):
    with tf.GradientTape() as outer:
        outer.watch(w)
        with tf.GradientTape() as inner:
            inner.watch(w)
            loss = tf.reduce_sum(tf.tanh(function(x, w)))
        scalar = tf.reduce_sum(tf.square(inner.gradient(loss, w)))
    return outer.gradient(scalar, w)


def microseconds(function, x, w, repeats=100):
    @tf.function(autograph=False)
    def run():
        def body(i, total):
            # Each turn depends on the one before it, so that nothing is hoisted or merged.
            return i + 1, total + second_order(function, x, w + 1e-20 * total)

        return tf.while_loop(lambda i, _: i < repeats, body, (0, tf.zeros_like(w)))[1]

    run()
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        run().numpy()
        times.append(time.perf_counter() - begin)
    return np.median(times) / repeats * 1e6


def main():
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    print("| layer | images | TensorFlow, µs | maml_tf, µs |\n|---|---|---|---|")
    original = tf.nn.convolution
    for name, (size, channels) in LAYERS.items():
        for images in (5, 20):
            x = tf.random.stateless_normal([images, size, size, channels], [0, 1])
            w = tf.random.stateless_normal([3, 3, channels, 64], [0, 2])
            theirs = microseconds(lambda x, w: original(x, w, 2, "SAME"), x, w)
            ours = microseconds(
                lambda x, w: convolution.convolution(original, x, w, 2, "SAME"), x, w
            )
            print(f"| {name} | {images} | {theirs:.0f} | {ours:.0f} |", flush=True)


if __name__ == "__main__":
    main()
