"""The same seed gives the same tasks in every version: digests of what the families drew first.

Made-up examples stand in the place of each data set, so that no drawing, no decoder and no download
has a part in it; every example says its class and its place in the class.
"""

import hashlib
import sys

import numpy as np
import pytest

from maml_tf import tasks
from maml_tf.tasks import class_lists, packed
from maml_tf.tasks.glyphs import PARTS
from maml_tf.tasks.omniglot_data import Omniglot


def numbered(classes, examples):
    """uint8 `[classes, examples, 2, 2, 1]`, no two alike and none like another one turned."""
    c, e = np.meshgrid(np.arange(classes), np.arange(examples), indexing="ij")
    pixels = np.stack([c % 256, c // 256, e, np.full_like(c, 255)], axis=-1)
    return pixels.astype(np.uint8).reshape(classes, examples, 2, 2, 1)


def packed_images(names, groups, examples=40):
    images = numbered(len(names), examples).reshape(-1, 2, 2, 1)
    labels = np.repeat(np.arange(len(names)), examples)
    return packed.Images(images, labels, np.array(names), np.array(groups))


def replace(monkeypatch, family, loader, data):
    monkeypatch.setattr(sys.modules[f"maml_tf.tasks.{family}"], loader, lambda *args: data)


def omniglot(monkeypatch, **options):
    names = np.array([f"Alphabet_{i}" for i in range(1623)])
    data = Omniglot(numbered(1623, 20), names, np.array(["Alphabet"] * 1623))
    replace(monkeypatch, "omniglot", "load_omniglot", data)
    return tasks.omniglot(**options)


def glyphs(monkeypatch, **options):
    scripts = [script for part in PARTS.values() for script in part for _ in range(10)]
    data = packed_images([f"{s}_{i}" for i, s in enumerate(scripts)], scripts, 20)
    replace(monkeypatch, "glyphs", "load_glyphs", data)
    return tasks.glyphs(**options)


def mini_imagenet(monkeypatch, **options):
    parts = class_lists.load("mini_imagenet")
    names = [name for part in parts.values() for name in part]
    groups = [part for part, names in parts.items() for _ in names]
    replace(monkeypatch, "mini_imagenet", "load_mini_imagenet", packed_images(names, groups))
    return tasks.mini_imagenet(**options)


def cifar_fs(monkeypatch, **options):
    parts = class_lists.load("cifar_fs")
    names = sorted(name for part in parts.values() for name in part)
    replace(monkeypatch, "from_tfds", "load_tfds_images", packed_images(names, [""] * 100))
    return tasks.cifar_fs(**options)


def from_tfds(monkeypatch, **options):
    names = [f"c{i}" for i in range(50)]
    replace(monkeypatch, "from_tfds", "load_tfds_images", packed_images(names, [""] * 50))
    return tasks.from_tfds("flowers", **options)


def own_arrays(monkeypatch, **options):
    del monkeypatch
    images = numbered(30, 25)
    held_out = [tasks.sampling.episodes(images, tasks=9, stream=s, **options) for s in (1, 2)]
    return tasks.sampling.episodes(images, **options), *held_out


def digest(sets):
    """Of the second training batch, and of the first of validation and of test."""
    found = hashlib.sha256()
    for dataset, skipped in zip(sets, (1, 0, 0), strict=True):
        inputs, query_y = next(dataset.skip(skipped).as_numpy_iterator())
        for name in ("support_x", "query_x"):
            found.update(np.rint(255 * inputs[name]).astype(np.uint8).tobytes())
        found.update(inputs["support_y"].tobytes() + query_y.tobytes())
        found.update(str([*inputs["query_x"].shape, int(dataset.cardinality())]).encode())
    return found.hexdigest()[:16]


ROWS = [
    (omniglot, {}, "98c8a341ae8c57ce"),
    (
        omniglot,
        {"ways": 20, "shots": 5, "queries": 2, "meta_batch": 3, "seed": 7, "start": 4},
        "2014a4858297ec74",
    ),
    (
        omniglot,
        {"split": "alphabet", "rotate": False, "test_queries": 3, "test_tasks": 40},
        "0243edee424ccb1d",
    ),
    (
        omniglot,
        {"ways": 8, "test_ways": 3, "test_shots": 2, "validation_tasks": 5},
        "c6e8718679c99d90",
    ),
    (glyphs, {"seed": -3}, "7cd1a5d0dbad23c9"),
    (
        glyphs,
        {"rotate": True, "shots": 3, "test_queries": 2, "meta_batch": 2, "start": 9},
        "f7edf86908f85fd1",
    ),
    (mini_imagenet, {}, "8df57ce4e28b8c4f"),
    (
        mini_imagenet,
        {"shots": 5, "queries": None, "test_queries": 7, "seed": 2**40},
        "a69e20268f4050a1",
    ),
    (cifar_fs, {"shots": 5, "seed": 1}, "9b3860a2a204d7ce"),
    (
        from_tfds,
        {"ways": 3, "split_seed": 4, "validation_tasks": 7, "meta_batch": 5},
        "47369677b6197dc3",
    ),
    (own_arrays, {}, "626fa70a87467d0b"),
    (
        own_arrays,
        {"rotate": True, "shots": 2, "queries": 3, "seed": 11, "start": 2},
        "be92e393e05d3766",
    ),
]


@pytest.mark.parametrize(
    ("family", "options", "expected"),
    [pytest.param(*row, id=f"{row[0].__name__} {row[2][:4]}") for row in ROWS],
)
def test_the_same_tasks_as_ever(family, options, expected, monkeypatch):
    assert digest(family(monkeypatch, **options)) == expected
