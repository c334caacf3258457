"""The same seed gives the same tasks in every version: digests of what the families drew first.

Made-up examples stand in the place of each data set, so that no drawing, no decoder and no download
has a part in it.
"""

import hashlib

import numpy as np
import pytest

from maml_tf import tasks
from tests.tasks import made_up


def from_tfds(**options):
    return tasks.from_tfds("flowers", **options)


def episodes(**options):
    images = made_up.numbered(30, 25)
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
    ("omniglot", {}, "98c8a341ae8c57ce"),
    (
        "omniglot",
        {"ways": 20, "shots": 5, "queries": 2, "meta_batch": 3, "seed": 7, "start": 4},
        "2014a4858297ec74",
    ),
    (
        "omniglot",
        {"split": "alphabet", "rotate": False, "test_queries": 3, "test_tasks": 40},
        "0243edee424ccb1d",
    ),
    (
        "omniglot",
        {"ways": 8, "test_ways": 3, "test_shots": 2, "validation_tasks": 5},
        "c6e8718679c99d90",
    ),
    ("glyphs", {"seed": -3}, "7cd1a5d0dbad23c9"),
    (
        "glyphs",
        {"rotate": True, "shots": 3, "test_queries": 2, "meta_batch": 2, "start": 9},
        "f7edf86908f85fd1",
    ),
    ("mini_imagenet", {}, "8df57ce4e28b8c4f"),
    (
        "mini_imagenet",
        {"shots": 5, "queries": None, "test_queries": 7, "seed": 2**40},
        "a69e20268f4050a1",
    ),
    ("cifar_fs", {"shots": 5, "seed": 1}, "9b3860a2a204d7ce"),
    (
        "from_tfds",
        {"ways": 3, "split_seed": 4, "validation_tasks": 7, "meta_batch": 5},
        "47369677b6197dc3",
    ),
    ("episodes", {}, "626fa70a87467d0b"),
    (
        "episodes",
        {"rotate": True, "shots": 2, "queries": 3, "seed": 11, "start": 2},
        "be92e393e05d3766",
    ),
]


@pytest.mark.parametrize(
    ("family", "options", "expected"),
    [pytest.param(*row, id=f"{row[0]} {row[2][:4]}") for row in ROWS],
)
def test_the_same_tasks_as_ever(family, options, expected, monkeypatch):
    if hasattr(made_up, family):
        getattr(made_up, family)(monkeypatch)
    build = {"from_tfds": from_tfds, "episodes": episodes}.get(family) or getattr(tasks, family)
    assert digest(build(**options)) == expected


def test_rotations_of_omniglot_as_classes(monkeypatch):
    """Each label has one character in one rotation, and all four of a character are in one part."""
    made_up.omniglot(monkeypatch, base=250)
    sets = tasks.omniglot(40, 2, split="alphabet", rotate="classes", meta_batch=8)
    seen = []
    for dataset in sets:
        inputs, query_y = next(dataset.as_numpy_iterator())
        x = np.concatenate([inputs["support_x"], inputs["query_x"]], axis=1)
        x = np.rint(255 * x).astype(int).reshape(8, -1, 2, 2)
        y = np.concatenate([inputs["support_y"], query_y], axis=1)
        # The pixel of 255 lies below on the right where nothing is turned.
        turn = [[(np.rot90(one, -k)[1, 1] == 255) for k in range(4)] for one in x.reshape(-1, 2, 2)]
        turn = np.argmax(turn, axis=1).reshape(y.shape)
        character = [
            np.rot90(one, -k)[0] @ [1, 250]
            for one, k in zip(x.reshape(-1, 2, 2), turn.ravel(), strict=True)
        ]
        character = np.reshape(character, y.shape)
        for labels, chars, turns in zip(y, character, turn, strict=True):
            assert len(set(zip(labels, chars, turns, strict=True))) == 40
            assert len(set(zip(chars, turns, strict=True))) == 40
        assert set(turn.ravel()) == {0, 1, 2, 3}
        seen.append(set(character.ravel()))
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]
    # Some task of 40 ways has a character twice, in different rotations.
    assert any(len(set(chars)) < 40 for chars in character)
