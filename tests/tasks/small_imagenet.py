"""A small ImageNet in the layouts in which people keep it: 6 images a class, lists choose 4."""

import csv
import functools
import io
import tarfile
from unittest import mock

import numpy as np
import PIL.Image

from maml_tf.tasks import class_lists
from maml_tf.tasks.data import mini_imagenet_staging

PARTS = class_lists.load("mini_imagenet")
WNIDS = [wnid for part in PARTS.values() for wnid in part]
FOREIGN = "n01440764"  # a class of ImageNet that is not one of mini-ImageNet's
ALL, IMAGES = 6, 4
FOLDERS = {"train": "train", "validation": "val", "test": "test"}


def small():
    """While it lasts, mini-ImageNet has 4 images a class."""
    return mock.patch.object(mini_imagenet_staging, "IMAGES", IMAGES)


@functools.cache
def pictures():
    """By class, (name in ImageNet, name in mini-ImageNet, JPEG) of all, and which are chosen."""
    random = np.random.default_rng(0)
    return {wnid: _class(wnid, random) for wnid in [*WNIDS, FOREIGN]}


def _class(wnid, random):
    colour = random.uniform(0, 256, 3)
    # Sorted as text, the numbers of ImageNet's file names are in another order.
    numbers = np.sort(random.choice(20000, ALL, replace=False))
    chosen = set(random.permutation(ALL)[:IMAGES])
    images = []
    for rank, number in enumerate(numbers):
        height, width = random.integers(60, 120, 2)
        image = np.clip(random.normal(colour, 20, [height, width, 3]), 0, 255)
        names = f"{wnid}_{number}.JPEG", f"{wnid}{rank + 1:08d}.jpg"
        images.append((*names, encode(image.astype(np.uint8)), rank in chosen))
    return images


def encode(image, **settings):
    stream = io.BytesIO()
    if not isinstance(image, PIL.Image.Image):
        image = PIL.Image.fromarray(image)
    image.save(stream, **{"format": "JPEG", **settings})
    return stream.getvalue()


def chosen(wnid):
    """Names and bytes of the chosen images of a class, as mini-ImageNet has them."""
    return [(mini, jpeg) for _, mini, jpeg, is_chosen in pictures()[wnid] if is_chosen]


def by_class(root, place="{wnid}"):
    for part, wnids in PARTS.items():
        for wnid in wnids:
            folder = root / place.format(wnid=wnid, part=FOLDERS[part])
            folder.mkdir(parents=True, exist_ok=True)
            for name, jpeg in chosen(wnid):
                (folder / name).write_bytes(jpeg)
    return root


def by_split(root):
    return by_class(root, "{part}/{wnid}")


def in_images(root):
    return by_class(root, "images/{wnid}")


def flat_by_split(root):
    return by_class(root, "{part}")


def flat(root):
    return write_lists(by_class(root, "images"))


def flatter(root):
    return write_lists(by_class(root, "."))


def write_lists(root):
    root.mkdir(parents=True, exist_ok=True)
    for part, wnids in PARTS.items():
        with (root / f"{FOLDERS[part]}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["filename", "label"])
            rows.writerows((name, wnid) for wnid in wnids for name, _ in chosen(wnid))
    return root


def imagenet(root):
    for wnid, images in pictures().items():
        (root / wnid).mkdir(parents=True)
        for name, _, jpeg, _ in images:
            (root / wnid / name).write_bytes(jpeg)
    return write_lists(root)


def imagenet_chosen_before(root):
    """4 images a class under ImageNet's names, of which no list can choose by rank."""
    for wnid in WNIDS:
        (root / "train" / wnid).mkdir(parents=True)
        for name, _, jpeg, is_chosen in pictures()[wnid]:
            if is_chosen:
                (root / "train" / wnid / name).write_bytes(jpeg)
    return write_lists(root)


def class_tars(root):
    write_lists(root)
    for wnid in pictures():
        (root / f"{wnid}.tar").write_bytes(_tar_of_class(wnid))
    return root


def tar_of_tars(root):
    write_lists(root)
    files = ((f"{wnid}.tar", _tar_of_class(wnid)) for wnid in reversed(pictures()))
    (root / "ILSVRC2012_img_train.tar").write_bytes(_tar(files))
    return root / "ILSVRC2012_img_train.tar"


def _tar_of_class(wnid):
    # In no order, as in the real one.
    files = [(name, jpeg) for name, _, jpeg, _ in pictures()[wnid]]
    return _tar(files[::2] + files[1::2])


def _tar(files):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


LAYOUTS = [
    by_class,
    by_split,
    in_images,
    flat_by_split,
    flat,
    flatter,
    imagenet,
    imagenet_chosen_before,
    class_tars,
    tar_of_tars,
]
