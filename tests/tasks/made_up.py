"""Made-up examples in the place of the data sets, each of which says its class and its place there.

made_up.omniglot(monkeypatch)
train, validation, test = tasks.omniglot()
"""

import sys

import numpy as np

from maml_tf.tasks import class_lists
from maml_tf.tasks.data import packed
from maml_tf.tasks.data.omniglot import Omniglot
from maml_tf.tasks.glyphs import PARTS


def numbered(classes, examples, base=256):
    """uint8 `[classes, examples, 2, 2, 1]`: two digits of the class, the example, and 255.

    With a base below 256 there is one pixel of 255, which tells how an image was turned.
    """
    c, e = np.meshgrid(np.arange(classes), np.arange(examples), indexing="ij")
    pixels = np.stack([c % base, c // base, e, np.full_like(c, 255)], axis=-1)
    return pixels.astype(np.uint8).reshape(classes, examples, 2, 2, 1)


def packed_images(names, groups, examples=40):
    images = numbered(len(names), examples).reshape(-1, 2, 2, 1)
    labels = np.repeat(np.arange(len(names)), examples)
    return packed.Images(images, labels, np.array(names), np.array(groups))


def omniglot(monkeypatch, base=256):
    names = np.array([f"Alphabet_{i}" for i in range(1623)])
    data = Omniglot(numbered(1623, 20, base), names, np.array(["Alphabet"] * 1623))
    _replace(monkeypatch, "omniglot", "load_omniglot", data)


def glyphs(monkeypatch):
    scripts = [script for part in PARTS.values() for script in part for _ in range(10)]
    data = packed_images([f"{s}_{i}" for i, s in enumerate(scripts)], scripts, 20)
    _replace(monkeypatch, "glyphs", "load_glyphs", data)


def mini_imagenet(monkeypatch):
    parts = class_lists.load("mini_imagenet")
    names = [name for part in parts.values() for name in part]
    groups = [part for part, names in parts.items() for _ in names]
    _replace(monkeypatch, "mini_imagenet", "load_mini_imagenet", packed_images(names, groups))


def cifar_fs(monkeypatch):
    parts = class_lists.load("cifar_fs")
    names = sorted(name for part in parts.values() for name in part)
    _replace(monkeypatch, "from_tfds", "load_tfds_images", packed_images(names, [""] * 100))


def from_tfds(monkeypatch):
    names = [f"c{i}" for i in range(50)]
    _replace(monkeypatch, "from_tfds", "load_tfds_images", packed_images(names, [""] * 50))


def _replace(monkeypatch, family, loader, data):
    # `maml_tf.tasks.omniglot` is the function, which hides the module of that name.
    monkeypatch.setattr(sys.modules[f"maml_tf.tasks.{family}"], loader, lambda *args: data)
