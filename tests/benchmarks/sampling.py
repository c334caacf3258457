"""How many tasks a second the task pipelines deliver: `python -m tests.benchmarks.sampling`.

Omniglot is synthetic, of its size, unless `--data-dir` names a TensorFlow Datasets directory.
"""

import argparse
import time

import numpy as np
import tensorflow as tf

from maml_tf import tasks


def omniglot_train(data_dir, ways, meta_batch):
    """Builds the training tasks of `ways`-way 1-shot, from the real data set or a synthetic one."""
    if data_dir is not None:
        return tasks.omniglot(ways=ways, meta_batch=meta_batch, data_dir=data_dir)[0]
    images = np.random.default_rng(0).integers(0, 256, [1100, 20, 28, 28, 1], np.uint8)
    return tasks.sampling.episodes(
        images, ways=ways, shots=1, queries=1, meta_batch=meta_batch, rotate=True
    )


def measure(dataset, seconds):
    """Consumes a data set inside a graph: batches a second, and CPU microseconds a batch."""
    batches = iter(dataset)

    @tf.function
    def consume(count):
        total = 0.0
        for _ in tf.range(count):
            inputs, _ = next(batches)
            total += tf.reshape(inputs["support_x"], [-1])[0]
        return total

    count, wall = tf.constant(8), 0.0
    consume(count)
    while wall < seconds:
        count *= 2
        wall, cpu = time.perf_counter(), time.process_time()
        consume(count)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return int(count) / wall, 1e6 * cpu / int(count)


def main():
    """Prints one row a pipeline."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", help="TensorFlow Datasets directory that holds Omniglot")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each row, at least")
    options = parser.parse_args()
    rows = {
        "sine, 25 tasks": (25, tasks.sinusoid()[0]),
        "Omniglot 5-way 1-shot, 32 tasks": (32, omniglot_train(options.data_dir, 5, 32)),
        "Omniglot 20-way 1-shot, 16 tasks": (16, omniglot_train(options.data_dir, 20, 16)),
    }
    print(f"| {'pipeline':32} | {'batches/s':>9} | {'tasks/s':>9} | {'CPU us/batch':>12} |")
    print("|---|---|---|---|")
    for name, (meta_batch, dataset) in rows.items():
        rate, cpu = measure(dataset, options.seconds)
        print(f"| {name:32} | {rate:9,.0f} | {rate * meta_batch:9,.0f} | {cpu:12,.0f} |")


if __name__ == "__main__":
    main()
