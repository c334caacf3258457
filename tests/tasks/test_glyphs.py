import itertools
import sys
import unicodedata

import numpy as np
import pytest

from maml_tf import tasks
from maml_tf.tasks.data import glyphs as glyphs_data
from maml_tf.tasks.glyphs import PARTS, split_scripts


@pytest.fixture(autouse=True)
def keras_home(tmp_path_factory, monkeypatch):
    """Keeps the drawings where test_contract.py does: a session draws them once."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path_factory.getbasetemp() / "keras"))


@pytest.fixture
def drawn(keras_home):
    return tasks.load_glyphs()


@pytest.fixture(scope="module")
def faces():
    return glyphs_data.load_faces()


def characters(drawn):
    return [unicodedata.lookup(name.split("_")[1]) for name in drawn.names]


def ink(face, character):
    """The pixels that a font has for a character, cut at their edges, whatever its height."""
    mask = face.font.getmask(character)
    if not mask.size[0] * mask.size[1]:
        return b""
    pixels = np.array(mask).reshape(mask.size[::-1])
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return str(pixels.shape).encode() + pixels.tobytes()


def nearest_neighbour(batches):
    """Accuracy of the nearest support image on pixels, task by task."""
    accuracies = []
    for inputs, query_y in batches:
        support, query = (
            x.reshape(*x.shape[:2], -1) for x in (inputs["support_x"], inputs["query_x"])
        )
        distances = np.linalg.norm(query[:, :, np.newaxis] - support[:, np.newaxis], axis=-1)
        nearest = np.take_along_axis(inputs["support_y"], distances.argmin(-1), 1)
        accuracies.append(np.mean(nearest == query_y, axis=1))
    return np.concatenate(accuracies)


def test_every_character_has_20_drawings_in_place(drawn):
    count = len(drawn.names)
    assert count > 750
    assert drawn.images.shape == (20 * count, 28, 28, 1)
    assert drawn.images.dtype == np.uint8
    np.testing.assert_array_equal(drawn.labels, np.repeat(np.arange(count), 20))
    assert len(set(drawn.names)) == len(drawn.groups) == count
    for name, group in zip(drawn.names, drawn.groups, strict=True):
        assert name.startswith(f"{group}_{group.upper()} ")


def test_drawings_are_distinct_and_neither_blank_nor_clipped(drawn):
    images = np.asarray(drawn.images)[..., 0]
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)
    assert images.max((1, 2)).min() > 200
    assert np.all(images.mean((1, 2)) / 255 < 0.6)
    edge = np.ones([28, 28], bool)
    edge[1:-1, 1:-1] = False
    assert images[:, edge].max() < 32  # the jitter leaves a pixel; smoothing may reach into it


def test_a_character_is_drawn_the_same_every_time(drawn, faces):
    for label in (0, len(drawn.names) // 2, len(drawn.names) - 1):
        again = glyphs_data.draw(characters(drawn)[label], glyphs_data.load_faces())
        np.testing.assert_array_equal(again, drawn.images[20 * label : 20 * label + 20])


def test_they_are_drawn_once(drawn, monkeypatch):
    monkeypatch.setattr(glyphs_data, "draw", None)
    np.testing.assert_array_equal(tasks.load_glyphs().images[:40], drawn.images[:40])


def test_no_placeholder_is_drawn(drawn, faces):
    for face in faces:
        placeholder = ink(face, "\u0378")  # no character yet
        present = [c for c in characters(drawn) if ord(c) in face.codes]
        assert present
        assert 0x378 not in face.codes
        assert all(ink(face, character) not in (placeholder, b"") for character in present)


@pytest.mark.parametrize(
    ("first", "others"),
    [
        ("LATIN CAPITAL LETTER A", ["GREEK CAPITAL LETTER ALPHA", "CYRILLIC CAPITAL LETTER A"]),
        ("LATIN CAPITAL LETTER H", ["GREEK CAPITAL LETTER ETA", "CYRILLIC CAPITAL LETTER EN"]),
        ("LATIN CAPITAL LETTER O", ["LATIN SMALL LETTER O", "ARMENIAN CAPITAL LETTER OH"]),
        ("LATIN CAPITAL LETTER U", ["TIFINAGH LETTER YAW", "CANADIAN SYLLABICS TE"]),
        ("LATIN CAPITAL LETTER S", ["LATIN SMALL LETTER S", "CYRILLIC SMALL LETTER DZE"]),
        ("GREEK CAPITAL LETTER DELTA", ["CANADIAN SYLLABICS I"]),
    ],
)
def test_of_alike_shapes_the_first_stays(drawn, first, others):
    names = {name.split("_")[1] for name in drawn.names}
    assert [name for name in [first, *others] if name in names] == [first]
    assert all(unicodedata.lookup(name) for name in others)  # there are such characters


def test_no_two_characters_have_the_same_pixels(drawn, faces):
    shapes = [ink(faces[0], character) for character in characters(drawn)]
    assert len(set(shapes)) == len(shapes)


def test_derived_letters_are_left_out_and_others_are_not(drawn):
    names = {name.split("_")[1] for name in drawn.names}
    assert not any(" WITH " in name or "SMALL CAPITAL" in name for name in names)
    assert {
        "LATIN SMALL LETTER G",
        "GREEK CAPITAL LETTER PSI",
        "CYRILLIC CAPITAL LETTER ZHE",
        "ARABIC LETTER SHEEN",
        "HEBREW LETTER ALEF",
        "GEORGIAN LETTER AN",
        "TIFINAGH LETTER YAZ",
    } <= names


def test_parts_share_no_script_and_leave_none_out(drawn):
    parts = split_scripts(drawn.groups)
    assert [len(part) >= 20 for part in parts] == [True, True, True]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(drawn.names)))
    scripts = [set(drawn.groups[part]) for part in parts]
    assert [len(part) for part in scripts] == [6, 3, 4]
    for one, other in itertools.combinations(scripts, 2):
        assert not one & other
    assert sorted(itertools.chain(*PARTS.values())) == sorted(set(drawn.groups))


def test_tasks_are_of_their_part(drawn):
    known = {
        image.tobytes(): label for image, label in zip(drawn.images, drawn.labels, strict=True)
    }
    sets = tasks.glyphs(ways=20, meta_batch=8, validation_tasks=8, test_tasks=8)
    for dataset, part in zip(sets, split_scripts(drawn.groups), strict=True):
        inputs, _ = next(dataset.as_numpy_iterator())
        images = np.rint(inputs["support_x"] * 255).astype(np.uint8).reshape(-1, 28, 28, 1)
        assert {known[image.tobytes()] for image in images} <= set(part)


def test_nearest_neighbour_on_pixels_gets_about_45_percent(drawn):
    test = tasks.glyphs(ways=5, shots=1, meta_batch=100, test_tasks=2000)[2]
    accuracies = nearest_neighbour(test.as_numpy_iterator())
    assert len(accuracies) == 2000
    assert 0.42 < accuracies.mean() < 0.48


def test_rotation_turns_whole_classes(drawn):
    turned = tasks.glyphs(shots=2, rotate=True, meta_batch=8)[0]
    known = {image.tobytes() for image in drawn.images}
    inputs, _ = next(turned.as_numpy_iterator())
    images = np.rint(inputs["support_x"] * 255).astype(np.uint8)
    turns = [
        {k for k in range(4) if np.rot90(image, k).tobytes() in known}
        for image in images.reshape(-1, 28, 28, 1)
    ]
    assert all(turns)
    assert set.union(*turns) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"ways": 0}, ValueError, r"`ways`.*at least 1"),
        ({"seed": 0.5}, TypeError, r"`seed`"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_drawn(settings, error, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(error, match=message):
        tasks.glyphs(**settings)


@pytest.mark.parametrize("missing", ["matplotlib", "PIL"])
def test_missing_package(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r'pip install "maml_tf\[train\]"'):
        tasks.glyphs()


def test_too_many_drawings_asked_for(drawn):
    with pytest.raises(ValueError, match="In the train split: .*shots \\+ queries = 21"):
        tasks.glyphs(shots=10, queries=11)
