"""How many tasks a second the task pipelines deliver: `python -m tests.benchmarks.sampling`.

Data sets that have to be downloaded are synthetic, of the real one's size, but for Omniglot where
`--data-dir` names a TensorFlow Datasets directory. About 1 GB of temporary files comes and goes;
being fresh, they are read from the system's cache where there is memory for it.
`--training` adds how many tasks a second training takes in, on the networks of `meta_step`.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf
from PIL import Image

from maml_tf import tasks
from maml_tf.tasks import sampling, splits
from maml_tf.tasks.data import packed


def omniglot_train(data_dir, ways, meta_batch):
    """Builds the training tasks of `ways`-way 1-shot, from the real data set or a synthetic one."""
    if data_dir is not None:
        return tasks.omniglot(ways=ways, meta_batch=meta_batch, data_dir=data_dir)[0]
    images = np.random.default_rng(0).integers(0, 256, [1100, 20, 28, 28, 1], np.uint8)
    return sampling.episodes(
        images, ways=ways, shots=1, queries=1, meta_batch=meta_batch, rotate=True
    )


def cifar_fs_train(shots):
    """Builds training tasks from as many images as CIFAR-100 has, held in a tensor."""
    images = np.random.default_rng(0).integers(0, 256, [100, 600, 32, 32, 3], np.uint8)
    parts = splits.shuffled(100)
    few = tasks.Episodes(shots=shots)
    return splits.three_way(sampling.index_by_class(images), parts, few)[0]


def pack_mini_imagenet(folder):
    """Writes as many images as mini-ImageNet has for training, for rows to be read from disk."""

    def make(packer):
        rng = np.random.default_rng(0)
        for label in range(64):
            images = rng.integers(0, 256, [600, 84, 84, 3], np.uint8)
            packer.add(images, np.full([600], label))
        packer.finish([str(label) for label in range(64)])

    return packed.open_or_make("mini-imagenet-sized", folder, make)


def picture_folder_train(folder):
    """Builds training tasks from 2,000 JPEG files, which the library decodes beforehand."""
    pictures = pathlib.Path(folder) / "pictures"
    rng = np.random.default_rng(0)
    for label in range(50):
        (pictures / str(label)).mkdir(parents=True)
        for number in range(40):
            # Coarse noise: fine noise would make larger files than photographs do.
            image = Image.fromarray(rng.integers(0, 256, [12, 16, 3], np.uint8)).resize((160, 120))
            image.save(pictures / str(label) / f"{number}.jpg")
    return tasks.image_folder(pictures)[0]


def pipelines(data_dir, folder):
    """Yields name, tasks a batch, data set, and the workload of `meta_step` that takes its like."""
    yield "sine", 25, tasks.sinusoid()[0], "sine"
    yield "Omniglot 5-way 1-shot", 32, omniglot_train(data_dir, 5, 32), "omniglot5"
    yield "Omniglot 20-way 1-shot", 16, omniglot_train(data_dir, 20, 16), "omniglot20"
    yield "glyphs 5-way 1-shot", 32, tasks.glyphs()[0], "omniglot5"
    yield "CIFAR-FS 5-way 1-shot", 4, cifar_fs_train(1), None
    yield "CIFAR-FS 5-way 5-shot", 4, cifar_fs_train(5), None
    packed_set = pack_mini_imagenet(folder)
    for shots, workload in ((1, "mini_imagenet"), (5, None)):
        dataset = sampling.episodes(packed_set.images, packed_set.labels, shots=shots)
        yield f"mini-ImageNet 5-way {shots}-shot", 4, dataset, workload
    yield "image folder 5-way 1-shot", 4, picture_folder_train(folder), "mini_imagenet"


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


def training_rate(workload, meta_batch, seconds):
    """Tasks a second that `fit` takes in, in a process of its own, with the threads it wants."""
    command = [sys.executable, "-m", "tests.benchmarks.ours", "--workload", workload]
    command += ["--variant", "fit", "--seconds", str(seconds)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    line = json.loads(result.stdout.strip().splitlines()[-1])
    return 1e3 * meta_batch / line["ms_per_step"]


def main():
    """Prints one row a pipeline."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", help="TensorFlow Datasets directory that holds Omniglot")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each row, at least")
    parser.add_argument("--training", action="store_true", help="time training, too: minutes")
    options = parser.parse_args()
    heads = [
        "pipeline",
        "tasks a batch",
        "batches/s",
        "tasks/s",
        "CPU us/batch",
        "training, tasks/s",
    ]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    trained = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, meta_batch, dataset, workload in pipelines(options.data_dir, folder):
            rate, cpu = measure(dataset, options.seconds)
            if options.training and workload and workload not in trained:
                trained[workload] = training_rate(workload, meta_batch, options.seconds)
            taken = f"{trained[workload]:,.0f}" if workload in trained else ""
            print(
                f"| {name} | {meta_batch} | {rate:,.0f} | {rate * meta_batch:,.0f} | "
                f"{cpu:,.0f} | {taken} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
