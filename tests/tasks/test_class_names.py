"""The names of a batch's classes are those of the examples in it."""

import copy

import numpy as np
import pytest
from PIL import Image

from maml_tf import tasks
from maml_tf.tasks import Episodes, class_lists, sampling, splits
from maml_tf.tasks.glyphs import readable_name
from tests.tasks import made_up


def numbers(images):
    """The classes that `made_up.numbered` wrote into its images `[..., 2, 2, 1]`."""
    digits = np.rint(255 * images.reshape(*images.shape[:-3], 4)).astype(int)
    return digits[..., 0] + 256 * digits[..., 1]


def check(sets, split, batch, name_of, classes_of=numbers):
    """Compares the names of one batch with what its images say."""
    dataset = sets[splits.NAMES.index(split)]
    inputs, query_y = next(dataset.skip(batch).as_numpy_iterator())
    names = sets.class_names(split, batch)
    for t in range(len(names)):
        examples = {"support_x": inputs["support_y"], "query_x": query_y}
        for part, labels in examples.items():
            expected = [name_of(c) for c in classes_of(inputs[part][t])]
            assert [names[t, label] for label in labels[t]] == expected


@pytest.mark.parametrize("split", splits.NAMES)
@pytest.mark.parametrize("batch", [0, 2])
def test_of_each_split_and_batch(split, batch):
    rows = made_up.numbered(12, 6).reshape(-1, 2, 2, 1)
    classes = sampling.index_by_class(rows, [f"class {c}" for c in range(12) for _ in range(6)])
    parts = [np.array([0, 5, 2, 8]), np.array([4, 3, 1]), np.array([11, 6, 7, 9, 10])]
    few = Episodes(ways=3, test_ways=2, shots=2, queries=1, meta_batch=2, seed=7, start=5)
    sets = splits.three_way(classes, parts, few)
    check(sets, split, batch, lambda c: f"class {c}")


@pytest.mark.parametrize("family", ["glyphs", "cifar_fs", "from_tfds", "omniglot", "mini_imagenet"])
def test_every_family_knows_what_its_classes_are_called(family, monkeypatch):
    loaded = {}
    replace = made_up._replace

    def remember(monkeypatch, module, loader, data):
        loaded["names"] = getattr(data, "names", getattr(data, "characters", None))
        replace(monkeypatch, module, loader, data)

    monkeypatch.setattr(made_up, "_replace", remember)
    getattr(made_up, family)(monkeypatch)
    options = {"name": "made_up"} if family == "from_tfds" else {}
    options |= {"rotate": False} if family == "omniglot" else {}
    sets = getattr(tasks, family)(**options, ways=3, meta_batch=2)
    of_imagenet = class_lists.words().get
    shown = {"glyphs": readable_name, "mini_imagenet": of_imagenet}.get(family, str)
    for split in splits.NAMES:
        check(sets, split, 1, lambda c: shown(loaded["names"][c]))


def test_a_folder_gives_its_classes_their_names(tmp_path):
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}

    for name, colour in colours.items():
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (8, 8), colour).save(tmp_path / name / f"{i}.png")
    split = {"train": ["blue"], "validation": [], "test": ["green", "red"]}
    sets = tasks.image_folder(
        tmp_path, ways=1, test_ways=2, queries=1, image_size=4, split=split, meta_batch=1
    )
    shown = dict(enumerate(colours))
    check(sets, "test", 1, shown.get, lambda x: x[:, 0, 0].argmax(axis=-1))
    assert sets.class_names("train").tolist() == [["blue"]]


def test_rotations_are_told_where_they_are_classes(monkeypatch):
    made_up.omniglot(monkeypatch)
    names = tasks.omniglot(rotate="classes", ways=20).class_names("train")
    assert {name.partition(" turned by ")[2] for name in names.ravel()} == {"0", "90", "180", "270"}


def test_what_has_no_names_is_told(monkeypatch):
    made_up.cifar_fs(monkeypatch)
    sets = tasks.cifar_fs(test_tasks=8, meta_batch=4)
    assert sets.class_names("test", 1).shape == (4, 5)
    with pytest.raises(ValueError, match="`batch`.*batch=2"):
        sets.class_names("test", 2)
    with pytest.raises(TypeError, match="`batch`.*batch=0.5"):
        sets.class_names("train", 0.5)
    with pytest.raises(ValueError, match="`split`.*'tests'"):
        sets.class_names("tests")
    again = copy.copy(sets)
    np.testing.assert_array_equal(again.class_names("train"), sets.class_names("train"))
