"""Folders of pictures. A picture's red value says its class, its green value which one it is."""

import logging
import os
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from maml_tf import tasks
from maml_tf.tasks import class_index, splits
from maml_tf.tasks.data import image_decoding, image_files

SMALL = {"ways": 2, "shots": 1, "queries": 2, "image_size": 4, "meta_batch": 3}
TINY = {"validation_tasks": 6, "test_tasks": 6}


def red(c):
    return 10 + 20 * c


def draw(folder, classes, count=4, first=0):
    """Writes `count` pictures for each class name, the class being its position from `first`."""
    for c, name in enumerate(classes, first):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (6, 5), (red(c), 10 * i, 7)).save(folder / name / f"{i}.png")
    return folder


def classes_of(images):
    """The class of each image in a batch, read off its red value."""
    values = np.round(np.asarray(images)[..., 0, 0, 0] * 255).astype(int)
    return (values - 10) // 20


def batches(dataset, count=2):
    return list(dataset.take(count).as_numpy_iterator())


def decode(path, size=(4, 6), channels=3):
    (_, images), *_ = image_decoding.read([path], size, channels)
    return images[0].astype(int)


@pytest.fixture
def picture():
    """A picture of 40x60 whose quarters differ: red, green; blue, white."""
    pixels = np.full([40, 60, 3], 255, np.uint8)
    pixels[:20, :30], pixels[:20, 30:], pixels[20:, :30] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return Image.fromarray(pixels)


# Decoding.


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("a.jpg", "RGB", {"quality": 95, "subsampling": 0}),
        ("a.JPEG", "CMYK", {"quality": 95}),
        ("a.PNG", "RGB", {}),
        ("palette.png", "P", {}),
        ("alpha.png", "RGBA", {}),
        ("a.gif", "P", {}),
        ("a.bmp", "RGB", {}),
        ("palette.bmp", "P", {}),
        ("a.webp", "RGB", {"lossless": True}),
        ("a.tif", "RGB", {}),
    ],
)
def test_every_format_decodes_to_the_same_picture(tmp_path, picture, name, mode, options):
    converted = picture.convert(mode) if mode != "P" else picture.quantize(8)
    converted.save(tmp_path / name, **options)
    picture.save(tmp_path / "expected.png")
    assert tmp_path / name in image_files.list_images(tmp_path)
    # One block at a time: where quarters meet, JPEG rings.
    size = (4, 6)
    received, expected = decode(tmp_path / name, size), decode(tmp_path / "expected.png", size)
    np.testing.assert_allclose(received, expected, atol=8)


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path, picture, name):
    options = {} if name == "a.gif" else {"lossless": True}
    more = [ImageOps.invert(picture)]
    picture.save(tmp_path / name, save_all=True, append_images=more, **options)
    picture.save(tmp_path / "expected.png")
    np.testing.assert_allclose(decode(tmp_path / name), decode(tmp_path / "expected.png"), atol=3)


@pytest.mark.parametrize("name", ["one.png", "one.bmp", "sixteen.png", "sixteen.tif"])
def test_other_depths_keep_black_and_white_apart(tmp_path, name):
    pixels = np.repeat([[0] * 6, [255] * 6], 2, axis=0).astype(np.uint8)
    if name.startswith("one"):
        Image.fromarray(pixels).convert("1").save(tmp_path / name)
    else:
        Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / name)
    np.testing.assert_array_equal(decode(tmp_path / name, channels=1)[..., 0], pixels)


def test_a_transparent_ground_becomes_white(tmp_path):
    ink = np.zeros([4, 6, 4], np.uint8)
    ink[1:3, 2:4, 3] = 255  # black, and outside of it transparent black
    Image.fromarray(ink).save(tmp_path / "drawing.png")
    np.testing.assert_array_equal(decode(tmp_path / "drawing.png")[..., 0], 255 - ink[..., 3])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(tmp_path, picture, orientation):
    # How the pixels lie in the file, for a picture that is upright after turning (EXIF 2.3, 4.6.4).
    pixels = np.asarray(picture)
    lying = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: pixels.swapaxes(0, 1)[::-1],
        7: pixels.swapaxes(0, 1)[::-1, ::-1],
        8: pixels.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(lying))
    stored.save(tmp_path / "photo.jpg", exif=exif, quality=95, subsampling=0)
    picture.save(tmp_path / "upright.png")
    received, expected = decode(tmp_path / "photo.jpg"), decode(tmp_path / "upright.png")
    np.testing.assert_allclose(received, expected, atol=10)


@pytest.mark.parametrize(("details", "size"), [((6, 8), (28, 20)), ((60, 80), (120, 160))])
def test_large_photographs_decode_as_if_whole(tmp_path, details, size):
    noise = np.random.default_rng(0).integers(0, 256, [*details, 3], np.uint8)
    photo = Image.fromarray(noise).resize((801, 603))
    photo.save(tmp_path / "large.jpg", quality=95)
    photo.save(tmp_path / "large.png")
    received, expected = (decode(tmp_path / f"large.{end}", size) for end in ("jpg", "png"))
    # Of noise in full colour, the hardest case: decoding at an eighth costs 3.5, at a size too
    # small 6 and more.
    assert np.abs(received - expected).mean() < 5


def test_the_middle_is_cut_out_and_not_squeezed(tmp_path):
    pixels = np.zeros([40, 120, 3], np.uint8)
    pixels[:, 40:80] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.swapaxes(0, 1)).save(tmp_path / "tall.png")
    for name in ("wide.png", "tall.png"):
        received = decode(tmp_path / name, (20, 20))
        # At its edges the filter sees some of what was cut off.
        np.testing.assert_allclose(received, np.full([20, 20, 3], 200), atol=12)


def test_fine_patterns_become_grey(tmp_path):
    board = (np.indices([64, 64]).sum(axis=0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    inner = decode(tmp_path / "board.png", (8, 8), 1)[1:-1, 1:-1]
    np.testing.assert_allclose(inner, 127, atol=3)


def test_without_pillow(tmp_path, monkeypatch):
    draw(tmp_path, "ab")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install .maml_tf\[datasets\]"):
        tasks.load_image_folder(tmp_path, 4)


# Files that cannot be decoded.


def spoil(folder, name):
    """Puts four broken files among the pictures of class `name`: their names."""
    photo = folder / name / "0.jpg"
    Image.new("RGB", (64, 64), "red").save(photo)
    half = photo.read_bytes()[:-30]
    photo.unlink()
    broken = {"half.jpg": half, "empty.png": b"", "text.gif": b"hello", "phone.HEIC": b"ftyp"}
    for file, content in broken.items():
        (folder / name / file).write_bytes(content)
    return set(broken)


def test_a_broken_file_is_named(tmp_path):
    draw(tmp_path, "abc")
    (tmp_path / "b" / "2.png").write_bytes((tmp_path / "b" / "2.png").read_bytes()[:50])
    with pytest.raises(ValueError, match=r"2\.png.*on_error=\"skip\"") as raised:
        tasks.load_image_folder(tmp_path, 4)
    assert str(tmp_path / "b" / "2.png") in str(raised.value)


@pytest.mark.parametrize("cached", [False, True])
def test_broken_files_are_left_out_and_each_is_named(tmp_path, caplog, cached):
    folder = draw(tmp_path / "pictures", "abc", count=40)  # more than one batch of files
    broken = spoil(folder, "b")
    cache = tmp_path / "cache" if cached else None
    with caplog.at_level(logging.WARNING):
        images = tasks.load_image_folder(folder, 4, on_error="skip", cache=cache)
    named = {m for m in broken if any(m in record.getMessage() for record in caplog.records)}
    assert named == broken
    assert len(images.images) == 120
    np.testing.assert_array_equal(np.bincount(images.labels), [40, 40, 40])
    np.testing.assert_array_equal(classes_of(images.images / 255), images.labels)


def test_a_class_of_broken_files_only_is_refused(tmp_path):
    folder = draw(tmp_path / "pictures", "ac")
    (folder / "b").mkdir()
    spoil(folder, "b")
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(ValueError, match=r"none in \['b'\]"):
            tasks.load_image_folder(folder, 4, on_error="skip", cache=cache)


# Layout.


def test_natural_order_and_what_is_ignored(tmp_path):
    draw(tmp_path, ["class10", "class2"], count=11)
    for name in (".DS_Store", "notes.txt", "class2/.hidden.png", "class2/Thumbs.db"):
        (tmp_path / name).write_text("no picture")
    (tmp_path / ".git").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    listing = image_files.list_folder(tmp_path)
    assert listing.names == ["class2", "class10"]
    assert listing.groups == ["", ""]
    assert [p.name for p in listing.paths[:11]] == [f"{i}.png" for i in range(11)]
    np.testing.assert_array_equal(listing.labels, [0] * 11 + [1] * 11)


def test_splits_as_given(tmp_path):
    draw(tmp_path / "train", ["a", "b", "c"])
    draw(tmp_path / "val", ["d", "e"], first=3)
    draw(tmp_path / "test", ["f", "g"], first=5)
    images = tasks.load_image_folder(tmp_path, 4)
    assert list(images.names) == list("abcdefg")
    assert list(images.groups) == ["train"] * 3 + ["validation"] * 2 + ["test"] * 2
    data = tasks.image_folder(tmp_path, **SMALL, **TINY)
    for dataset, allowed in zip(data, ({0, 1, 2}, {3, 4}, {5, 6}), strict=True):
        assert {*classes_of([x["query_x"] for x, _ in batches(dataset)]).flat} == allowed


def test_splits_as_given_without_validation(tmp_path):
    draw(tmp_path / "train", ["a", "b"])
    draw(tmp_path / "test", ["c", "d"], first=2)
    assert tasks.image_folder(tmp_path, **SMALL)[1] is None


def test_a_class_may_be_called_train(tmp_path):
    draw(tmp_path, ["boat", "test", "train"])
    assert image_files.list_folder(tmp_path).names == ["boat", "test", "train"]


def test_a_class_in_two_splits_is_refused(tmp_path):
    draw(tmp_path / "train", ["a", "b"])
    draw(tmp_path / "test", ["b", "c"])
    with pytest.raises(ValueError, match=r"\['b'\] in more than one"):
        image_files.list_folder(tmp_path)


def test_what_is_wrong_with_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        tasks.load_image_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="Received: no folders"):
        tasks.load_image_folder(tmp_path)
    draw(tmp_path / "deep" / "er", "ab")
    with pytest.raises(ValueError, match="none but folders"):
        tasks.load_image_folder(tmp_path / "deep")
    with pytest.raises(ValueError, match=r"4 pictures.*'0\.png'.*0 folders"):
        tasks.load_image_folder(tmp_path / "deep" / "er" / "a")
    with pytest.raises(NotADirectoryError, match="which is a file"):
        tasks.load_image_folder(tmp_path / "deep" / "er" / "a" / "0.png")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ways": 3}, r"ways=3 classes in the train split. Received: 2 of 4 .* split=\(0\.5"),
        ({"split": (0.9, 0.1, 0.0)}, "in the validation split. Received: 0 of 4"),
        ({"split": (0.9, 0.0, 0.1)}, "in the test split. Received: 0 of 4"),
        (
            {"shots": 3},
            r"shots \+ queries = 3 \+ 2 pictures .* train split. Received: 4 in '[abcd]'",
        ),
        ({"test_queries": 4}, "validation split. Received: 4 in '[abcd]'.*`test_queries`"),
        ({"split": {"train": ["a", "b"], "validation": ["c"], "test": ["x", "d"]}}, "unknown .'x'"),
        ({"split": (0.5, 0.5, 0.5)}, "add up to 1"),
        ({"on_error": "ignore"}, "on_error"),
        ({"channels": 4}, "channels"),
        ({"image_size": (4, 4, 3)}, "image_size"),
        ({"image_size": 0}, "image_size"),
        ({"meta_batch": 0}, "meta_batch"),
    ],
)
def test_settings_are_checked_before_anything_is_decoded(tmp_path, monkeypatch, settings, message):
    draw(tmp_path, "abcd")
    monkeypatch.setattr(image_decoding, "_decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=message):
        tasks.image_folder(tmp_path, **{**SMALL, "ways": 1, "split": (0.5, 0.25, 0.25), **settings})


# Tasks.


def test_labels_are_those_of_the_class_folders(tmp_path):
    data = tasks.image_folder(draw(tmp_path, "abcdefghijkl"), **{**SMALL, "ways": 2}, **TINY)
    seen = []
    for dataset in data:
        seen.append(set())
        for inputs, query_y in batches(dataset):
            support, query = classes_of(inputs["support_x"]), classes_of(inputs["query_x"])
            for t in range(3):
                meaning = dict(zip(inputs["support_y"][t], support[t], strict=True))
                assert len(set(meaning.values())) == 2
                assert [meaning[y] for y in query_y[t]] == list(query[t])
                # Support and queries of a class are different pictures of it.
                both = np.concatenate([inputs["support_x"][t], inputs["query_x"][t]])
                assert len(np.unique(both[:, 0, 0, :2], axis=0)) == 6
            seen[-1] |= {*support.flat}
    assert seen[0].isdisjoint(seen[1] | seen[2])
    assert seen[1].isdisjoint(seen[2])


def test_classes_named_for_each_split(tmp_path):
    split = {"train": ["a", "d"], "validation": [], "test": ["c", "b"]}
    train, validation, test = tasks.image_folder(draw(tmp_path, "abcd"), split=split, **SMALL)
    assert validation is None
    assert {*classes_of([x["query_x"] for x, _ in batches(train)]).flat} == {0, 3}
    assert {*classes_of([x["query_x"] for x, _ in batches(test)]).flat} == {1, 2}


def test_the_split_depends_on_its_own_seed(tmp_path):
    draw(tmp_path, "abcdefghijkl")

    for split_seed in (0, 1):
        expected = splits.shuffled(12, seed=split_seed)[2]
        test = tasks.image_folder(tmp_path, seed=5, split_seed=split_seed, **SMALL, **TINY)[2]
        assert {*classes_of([x["query_x"] for x, _ in batches(test)]).flat} == {*expected}


def test_beyond_memory_the_tasks_are_the_same(tmp_path, monkeypatch):
    folder = draw(tmp_path / "pictures", "abcdefghijkl", count=9)
    in_memory = tasks.image_folder(folder, **SMALL, **TINY)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(
        sys.modules["maml_tf.tasks.image_folder"], "_IN_MEMORY", 12 * 9 * 4 * 4 * 3 - 1
    )
    monkeypatch.setattr(class_index, "_LARGEST_TENSOR", 0)
    assert isinstance(tasks.load_image_folder(folder, 4).images, np.memmap)
    streamed = tasks.image_folder(folder, **SMALL, **TINY)
    for one, other in zip(in_memory, streamed, strict=True):
        for (x, y), (same_x, same_y) in zip(batches(one), batches(other), strict=True):
            np.testing.assert_array_equal(y, same_y)
            for name, array in x.items():
                np.testing.assert_array_equal(array, same_x[name])
    assert len(list((tmp_path / "keras" / "datasets").iterdir())) == 1


def test_a_packed_set_is_used_again_and_made_anew_after_a_change(tmp_path, monkeypatch):
    folder, cache = draw(tmp_path / "pictures", "abc"), tmp_path / "cache"
    read, calls = image_decoding.read, []
    monkeypatch.setattr(image_decoding, "read", lambda *a: (calls.append(a), read(*a))[1])

    def load(**settings):
        return tasks.load_image_folder(folder, **{"image_size": 4, **settings}, cache=cache)

    first = load()
    np.testing.assert_array_equal(load().images, first.images)
    assert len(calls) == 1
    assert load(channels=1).images.shape == (12, 4, 4, 1)
    assert load(image_size=(4, 5)).images.shape == (12, 4, 5, 3)
    load(on_error="skip")  # might lack files that "raise" must not pass over
    assert len(calls) == 4

    changed = folder / "a" / "0.png"
    times = changed.stat()
    Image.new("RGB", (6, 5), (200, 0, 7)).save(changed)
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert load().images[0, 0, 0, 0] == 200
    (folder / "c" / "9.png").write_bytes(changed.read_bytes())
    assert len(load().images) == 13
    (folder / "b").rename(folder / "z")
    np.testing.assert_array_equal(load().names, ["a", "c", "z"])
    assert len(calls) == 7
