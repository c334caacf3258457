"""Mini-ImageNet few-shot classification with MAML (Finn et al., 2017, section 5.2, table 1).

The defaults are the paper's. Prepared once from the images that you have, in one of the layouts
that `maml_tf.tasks.mini_imagenet` names: python -m train.mini_imagenet --source FOLDER_OR_TAR
"""

import dataclasses
import sys

import tensorflow as tf

import maml_tf
from train import classification, common, image_learners, options

# Test accuracy in %, and its 95 % interval, by (first order, shots) at 5 ways: table 1.
PAPER = {
    (False, 1): (48.70, 1.84),
    (False, 5): (63.11, 0.92),
    (True, 1): (48.07, 1.75),
    (True, 5): (63.15, 0.91),
}
SIZE = 84  # height and width of the images
TERMS = "Trained on photographs of ImageNet, whose terms allow non-commercial research only."
FREE = (*classification.FREE, "source", "csv_dir")


@dataclasses.dataclass
class Settings(classification.Settings):
    """The defaults are the paper's."""

    source: str | None = None
    """Folder or tar to prepare the data set from, the first time."""
    csv_dir: str | None = None
    """Folder with train.csv, val.csv and test.csv, where an ImageNet folder or tar has none."""
    image_size: int | None = None
    """Height and width that the 84x84 images are made smaller to, a divisor of 84: training of a
    quarter of the cost to begin with, whose convolutions larger images take over."""
    output: str = "runs/mini-imagenet"
    """Run directory: checkpoints, history, results, figures, exported model."""


def resolve(settings):
    """The settings with what the paper chose filled in.

    The paper's inner step size of 0.01 is on the sum over the five ways: 0.05 on the mean.
    """
    if settings.download:
        sys.exit(
            "Expected no --download: ImageNet may not be handed on. Received: --download. Leave it "
            "out, and give --source FOLDER_OR_TAR with the images that you have."
        )
    check_size(settings.image_size, options.option("image_size"))
    clipped = settings.clip_value is None and settings.clip_norm is None
    return classification.fill_in(
        settings,
        queries=15,
        test_queries=settings.shots,
        network=image_learners.default_network(settings, "conv4_max_pool"),
        meta_batch=4 if settings.shots == 1 else 2,
        inner_steps=5,
        steps_to_evaluate=10,
        step_size=0.05,
        clip_value=10.0 if clipped else settings.clip_value,
    )


def check_size(size, name):
    """Refuses a size that 84 is no multiple of.

    Raises:
        SystemExit: naming the option.
    """
    if size is not None and (size < 1 or SIZE % size):
        sys.exit(
            f"Expected {name} to be a divisor of {SIZE}. Received: {name} {size}. Give 42, or "
            "leave it out."
        )


def make_tasks(settings, start=0):
    """Training tasks from batch `start` on, validation and test tasks."""
    sets = maml_tf.tasks.mini_imagenet(
        **classification.task_options(settings),
        start=start,
        data_dir=settings.data_dir,
        source=settings.source,
        csv_dir=settings.csv_dir,
    )
    if settings.image_size in (None, SIZE):
        return sets
    return sets.each(lambda tasks: smaller(tasks, settings.image_size))


def smaller(tasks, size):
    """Task batches whose images are made smaller: each pixel the mean of a block of pixels."""

    def shrink(x):
        count, examples, height, width, channels = x.shape
        blocks = [count, examples, size, height // size, size, width // size, channels]
        return tf.reduce_mean(tf.reshape(x, blocks), axis=[3, 5])

    def images(inputs, query_y):
        made = {k: shrink(x) if k.endswith("_x") else x for k, x in inputs.items()}
        return made, query_y

    return tasks.map(images, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def main():
    """Trains, evaluates the weights that were best on the validation tasks, and exports them."""
    quick = {**classification.QUICK, "meta_batch": 1, "output": "runs/mini-imagenet-quick"}
    recipes = classification.recipes_of_method(classification.PHOTOGRAPHS)
    settings = resolve(common.parse(Settings, "python -m train.mini_imagenet", quick, recipes))
    ways, shots = classification.tested(settings)
    paper_network = settings.network == "conv4_max_pool" and settings.filters in (None, 32)
    maml = settings.method == "maml" and paper_network
    paper = PAPER.get((settings.first_order, shots)) if maml and ways == 5 else None
    classification.run(
        settings,
        make_tasks,
        title=f"mini-ImageNet, {ways}-way {shots}-shot",
        paper=paper,
        figure_queries=15,
        hint="As options of this script: --data-dir DIR, or --source FOLDER_OR_TAR.",
        free=FREE,
        terms=TERMS,
    )


if __name__ == "__main__":
    common.run(main)
