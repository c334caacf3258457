"""Ordinary classification of all training classes, for MAML to begin with (`--start-from`).

python -m train.pretrain --data cifar_fs --data-dir DIR
python -m train.images --data cifar_fs --data-dir DIR --last-layer zero \
    --start-from runs/pretrain/checkpoint.keras

No meta-learning: the network has an output for each of the 60 or 64 training classes, and sees no
image of the validation and test classes. MAML takes its convolutions over and begins with a last
layer of its own. Numbers reached that way are not the paper's method: name the pretraining.

Of Omniglot each rotation of a training character is a class, 4,400 in all (`--data omniglot`).
"""

import dataclasses
import sys
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

import maml_tf
from maml_tf.tasks import class_lists
from maml_tf.tasks.omniglot import split_characters
from train import common, image_learners, mini_imagenet, options, runs


@dataclasses.dataclass
class Settings:
    """Which images, and how long."""

    data: Literal["cifar_fs", "fc100", "mini_imagenet", "omniglot"] = "cifar_fs"
    """Whose training classes."""
    data_dir: str | None = None
    """Directory of TensorFlow Datasets, where the data are; its own default where not given."""
    image_size: int | None = None
    """Height and width that mini-ImageNet's 84x84 images are made smaller to, a divisor of 84."""
    filters: int | None = None
    """Filters of each convolution, 64 for characters and 32 for photographs where not given."""
    start_from: str | None = None
    """A network (.keras) whose weights to begin with, such as a shorter pretraining's."""
    batch_size: int = 64
    """Images in a training step."""
    learning_rate: float = 2e-3
    """Adam's step size at the beginning; it falls to 0 along a cosine."""
    iterations: int = 6_000
    """Training steps in all."""
    epoch_iterations: int = 500
    """Training steps from one checkpoint to the next."""
    seed: int = 0
    """Seed of the initial weights, and of the order and, but for characters, the mirroring of the
    images."""
    output: str = "runs/pretrain"
    """Run directory: checkpoints and history."""
    fresh: bool = common.switch("Delete what the run directory holds and start anew.")
    quick: bool = common.switch("A tiny run of some seconds, to see that everything works.")


def training_images(settings):
    """All images of the training classes, and the number of each image's class.

    Args:
        settings: a `Settings`.

    Returns:
        uint8 `[images, height, width, channels]`, memory-mapped where they are not made smaller,
        int64 rows of it `[rows]` that are of training classes, and int32 classes `[rows]`.

    Raises:
        SystemExit: the data are not there.
    """
    try:
        if settings.data == "omniglot":
            return turned_characters(maml_tf.tasks.load_omniglot(settings.data_dir))
        if settings.data == "mini_imagenet":
            data = maml_tf.tasks.load_mini_imagenet(settings.data_dir)
            chosen = np.flatnonzero(data.groups == "train")
        else:
            data = maml_tf.tasks.load_tfds_images("cifar100", data_dir=settings.data_dir)
            chosen = np.flatnonzero(np.isin(data.names, class_lists.load(settings.data)["train"]))
    except (OSError, ImportError) as error:
        sys.exit(
            f"{error} `python -m train.images`, `train.mini_imagenet` and `train.omniglot` prepare "
            "them."
        )
    rows = np.flatnonzero(np.isin(data.labels, chosen))
    return data.images, rows, np.searchsorted(chosen, data.labels[rows]).astype(np.int32)


def turned_characters(data):
    """The training characters of the paper's split, each of their four rotations a class.

    Args:
        data: a `maml_tf.tasks.Omniglot`.

    Returns:
        As `training_images`.
    """
    chosen = data.images[split_characters("paper", data.characters)[0]]
    turned = np.stack([np.rot90(chosen, turn, axes=(2, 3)) for turn in range(4)], axis=1)
    classes = np.repeat(np.arange(4 * len(chosen), dtype=np.int32), chosen.shape[1])
    return turned.reshape(-1, *chosen.shape[2:]), np.arange(len(classes)), classes


def make_batches(settings, images, rows, classes, start=0):
    """Endless training batches; batch `i` is a function of the seed and `i`.

    Args:
        settings: a `Settings`.
        images: uint8 `[images, height, width, channels]`.
        rows: int `[rows]`, which of them to draw from.
        classes: int32 `[rows]`.
        start: int, index of the first batch.

    Returns:
        A `tf.data.Dataset` of float32 `[batch_size, height, width, channels]` in [0, 1], each
        photograph mirrored or not, and int32 `[batch_size]`.
    """
    height, width, channels = images.shape[1:]
    size = settings.image_size or height

    def batch(index):
        random = np.random.default_rng([settings.seed, int(index)])
        drawn = random.integers(len(rows), size=settings.batch_size)
        x = np.asarray(images[rows[drawn]], np.float32) / 255
        if settings.data != "omniglot":  # a character in the mirror is another one
            mirrored = random.random(settings.batch_size) < 0.5
            x[mirrored] = x[mirrored, :, ::-1]
        x = x.reshape(-1, size, height // size, size, width // size, channels).mean(axis=(2, 4))
        return x, classes[drawn]

    def shaped(index):
        x, y = tf.numpy_function(batch, [index], (tf.float32, tf.int32))
        x.set_shape([settings.batch_size, size, size, channels])
        y.set_shape([settings.batch_size])
        return x, y

    return tf.data.Dataset.counter(start).map(shaped).prefetch(2)


def make_network(settings, classes, shape):
    """The network that MAML has for such images, an output for each training class, compiled."""
    characters = settings.data == "omniglot"
    build = maml_tf.models.conv4 if characters else maml_tf.models.conv4_max_pool
    wide = image_learners.width(build, settings.filters)
    network = build(classes, **wide, input_shape=shape, seed=settings.seed)
    network.layers[-1].kernel.assign(tf.zeros_like(network.layers[-1].kernel))
    if settings.start_from:
        image_learners.start_from(network, settings.start_from)
    rate = keras.optimizers.schedules.CosineDecay(settings.learning_rate, settings.iterations)
    network.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=common.on_gpu(),
    )
    return network


def main():
    """Trains, or goes on where it was."""
    quick = {"iterations": 4, "epoch_iterations": 2, "output": "runs/pretrain-quick"}
    settings = common.parse(Settings, "python -m train.pretrain", quick)
    if settings.image_size and settings.data != "mini_imagenet":
        sys.exit(
            "Expected --image-size beside --data mini_imagenet only. Received: --image-size "
            f"{settings.image_size} --data {settings.data}. Leave it out."
        )
    mini_imagenet.check_size(settings.image_size, options.option("image_size"))
    common.use_threads_for_tasks()
    images, rows, classes = training_images(settings)
    size = settings.image_size or images.shape[1]
    shape = size, size, images.shape[3]
    outputs = int(classes.max()) + 1
    # Before the run directory is made, to hear of a --start-from that does not fit.
    make_network(settings, outputs, shape)
    folder = runs.open_run(settings, free=("data_dir",))
    network = common.train(
        lambda: make_network(settings, outputs, shape),
        lambda start: make_batches(settings, images, rows, classes, start),
        folder,
        iterations=settings.iterations,
        epoch_iterations=settings.epoch_iterations,
    )
    minutes = common.training_seconds(folder) / 60
    print(
        f"{settings.data}, ordinary classification of {outputs} training classes: "
        f"{int(network.optimizer.iterations):,} iterations in {minutes:.1f} minutes. "
        f"Begin with it: --start-from {folder}/checkpoint.keras"
    )


if __name__ == "__main__":
    common.run(main)
