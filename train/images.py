"""Few-shot classification of any images with MAML: your own, CIFAR-FS, glyphs drawn from fonts.

python -m train.images                              characters drawn from fonts, no data needed
python -m train.images --data FOLDER                one folder a class, or train/ and test/ of such
python -m train.images --data cifar_fs --download   CIFAR-FS, or fc100
python -m train.images --data oxford_flowers102 --download   any image set of TensorFlow Datasets
python -m train.images --data FOLDER --backbone mobilenet_v2   on features of a pretrained network
"""

import argparse
import dataclasses
import os
import pathlib
import sys
from typing import Literal

import maml_tf
from maml_tf import backbones
from train import classification, common, heads, image_learners, options

FREE = (*classification.FREE, "on_error", "follow_links")


@dataclasses.dataclass
class Settings(classification.Settings):
    """The defaults are the paper's for mini-ImageNet, and for Omniglot where images are 28x28."""

    data: str = "glyphs"
    """A folder, "glyphs", "cifar_fs", "fc100", or a name of TensorFlow Datasets."""
    image_size: int | None = None
    """Height and width in pixels; 84 by default for a folder and TensorFlow Datasets."""
    channels: Literal[1, 3] = 3
    """Grey or colour, for a folder."""
    on_error: Literal["raise", "skip"] = "raise"
    """What to do about files of a folder that are no images."""
    follow_links: bool = common.switch("Links in a folder of pictures may lead out of it.")
    backbone: Literal[backbones.networks.NAMES] | None = None
    """A network pretrained on ImageNet, frozen: its features are computed once, and what is trained
    on them is a projection and what adapts behind it. Best for photographs."""
    weights: str | None = None
    """Of --backbone: "imagenet" (the default), which Keras downloads once, or a file of weights."""
    cache: str | None = None
    """Where to keep decoded images of a folder, and features, so that the next start is faster."""
    output: str = "runs/images"
    """Run directory: checkpoints, history, results, figures, exported model."""


def refuse_unused(settings):
    """Refuses options that such data do not use, in place of passing over them.

    Raises:
        SystemExit: naming them.
    """
    stored = ("data_dir", "download")
    of_folder = ("channels", "on_error") + (("cache",) if settings.backbone is None else ())
    # A backbone has a size of its own, to which such pictures are brought.
    own_size = ("image_size",) if settings.backbone is None else ()
    unused = {
        "glyphs": (*stored, *of_folder, "image_size"),
        "cifar_fs": (*of_folder, *own_size),
        "fc100": (*of_folder, *own_size),
    }.get(settings.data, stored if _is_folder(settings.data) else of_folder)
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    given = [n for n in unused if getattr(settings, n) != defaults[n]]
    if given:
        names = " and ".join(options.option(name) for name in given)
        sys.exit(
            f"Expected no {names} beside --data {settings.data}, which has no use for it. "
            f"Received: {', '.join(f'{options.option(n)} {getattr(settings, n)}' for n in given)}. "
            "Leave it out."
        )


def _is_folder(data):
    return os.sep in data or pathlib.Path(data).is_dir()


def resolve(settings):
    """The settings with what is not given filled in, by the data."""
    refuse_unused(settings)
    heads.check(settings)
    drawn = settings.data == "glyphs"
    if settings.backbone is not None:
        return classification.fill_in(
            settings,
            queries=15,
            meta_batch=4,
            inner_steps=heads.INNER_STEPS,
            steps_to_evaluate=heads.INNER_STEPS,
            step_size=heads.STEP_SIZE,
            image_size=heads.SIZE,
        )
    return classification.fill_in(
        settings,
        queries=settings.shots if drawn else 15,
        network=image_learners.default_network(settings, "conv4" if drawn else "conv4_max_pool"),
        meta_batch=(16 if settings.ways > 5 else 32) if drawn else 4,
        inner_steps=(5 if settings.ways > 5 else 1) if drawn else 5,
        steps_to_evaluate=(5 if settings.ways > 5 else 3) if drawn else 10,
        step_size=2.0 if drawn else 0.01 * settings.ways,
        image_size=None if settings.data in ("glyphs", "cifar_fs", "fc100") else 84,
    )


def make_tasks(settings, start=0):
    """Training tasks from batch `start` on, validation and test tasks."""
    options = {**classification.task_options(settings), "start": start}
    if settings.data == "glyphs":
        return maml_tf.tasks.glyphs(**options)
    stored = {"data_dir": settings.data_dir, "download": settings.download}
    if settings.data in ("cifar_fs", "fc100"):
        return getattr(maml_tf.tasks, settings.data)(**options, **stored)
    if _is_folder(settings.data):
        return maml_tf.tasks.image_folder(
            settings.data,
            **options,
            image_size=settings.image_size,
            channels=settings.channels,
            on_error=settings.on_error,
            cache=settings.cache,
            follow_links=settings.follow_links,
        )
    return maml_tf.tasks.from_tfds(
        settings.data, **options, **stored, image_size=settings.image_size
    )


def recipes():
    """What `--recipe` may be, for what `--data` and `--backbone` on the command line say."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--data", nargs="?")
    first.add_argument("--backbone", nargs="?")
    known = first.parse_known_args()[0]
    if known.backbone:
        return dict.fromkeys((None, *classification.RECIPES), heads.RECIPE)
    data = known.data or Settings.data
    found = classification.RECIPES if data == "glyphs" else classification.PHOTOGRAPHS
    return classification.recipes_of_method(found)


def main():
    """Trains, evaluates the weights that were best on the validation tasks, and exports them."""
    quick = {**classification.QUICK, "meta_batch": 2, "output": "runs/images-quick"}
    settings = resolve(common.parse(Settings, "python -m train.images", quick, recipes()))
    name = pathlib.Path(settings.data).name
    name = {"cifar_fs": "CIFAR-FS", "fc100": "FC100"}.get(settings.data, name)
    ways, shots = classification.tested(settings)
    more = {} if settings.backbone is None else on_features(settings)
    classification.run(
        settings,
        more.pop("make_tasks", make_tasks),
        title=f"{name}, {ways}-way {shots}-shot",
        # There are 20 drawings of each character: enough for a figure that shows mistakes.
        figure_queries=min(10, 20 - shots) if settings.data == "glyphs" else None,
        free=FREE,
        **more,
    )


def on_features(settings):
    """What `classification.run` is given for tasks of features of the backbone."""
    opened = []

    def backbone():
        return opened[0]

    def make_features(settings, start=0):
        pictures = make_tasks(settings, start)
        if not opened:
            opened.append(heads.open_backbone(settings, classification.image_shape(pictures[0])))
            print("Features are computed once, and kept.", flush=True)
        return backbones.features(pictures, backbone(), cache=settings.cache)

    return {"make_tasks": make_features, "make_pictures": make_tasks, "backbone": backbone}


if __name__ == "__main__":
    common.run(main)
