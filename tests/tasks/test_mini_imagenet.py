import io
import logging
import pickle
import sys

import keras
import numpy as np
import PIL.Image
import pytest

import maml_tf
from maml_tf import tasks
from maml_tf.tasks import class_lists
from maml_tf.tasks.data import imagenet_source, mini_imagenet_staging
from maml_tf.tasks.data.imagenet_layouts import Picture
from tests.tasks import small_imagenet
from tests.tasks.small_imagenet import FOREIGN, IMAGES, PARTS, WNIDS, chosen, encode

TFDS = "tensorflow_datasets"
tfds = pytest.importorskip(TFDS)


@pytest.fixture(autouse=True)
def _small():
    with small_imagenet.small():
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return small_imagenet.by_class(tmp_path_factory.mktemp("by_class"))


@pytest.fixture
def copy(source, tmp_path):
    """A tree of class folders, of links, that a test may damage."""
    for folder in source.iterdir():
        (tmp_path / "copy" / folder.name).mkdir(parents=True)
        for path in folder.iterdir():
            (tmp_path / "copy" / folder.name / path.name).symlink_to(path)
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def expected():
    """The images and file names, decoded here once more, class after class."""
    rows = [row for wnid in WNIDS for row in chosen(wnid)]
    images = []
    for _, jpeg in rows:
        image = PIL.Image.open(io.BytesIO(jpeg))
        images.append(np.asarray(image.resize((84, 84), PIL.Image.Resampling.LANCZOS)))
    return np.stack(images), [name for name, _ in rows]


def find(source, **settings):
    return imagenet_source.find(source, PARTS, IMAGES, **settings)


class TestLists:
    @pytest.mark.parametrize(
        ("name", "sizes"),
        [("mini_imagenet", [64, 16, 20]), ("cifar_fs", [64, 16, 20]), ("fc100", [60, 20, 20])],
    )
    def test_classes_are_in_one_part_only(self, name, sizes):
        parts = class_lists.load(name)
        assert list(parts) == ["train", "validation", "test"]
        assert [len(part) for part in parts.values()] == sizes
        assert len({label for part in parts.values() for label in part}) == 100

    def test_each_class_of_imagenet_has_a_word_of_its_own(self):
        words = class_lists.words()
        assert list(words) == WNIDS
        assert len(set(words.values())) == 100
        told = [words[wnid] for wnid in ("n01532829", "n02129165", "n07613480")]
        assert told == ["house finch", "lion", "trifle"]

    def test_unknown_name(self):
        with pytest.raises(ValueError, match=r"'cifar_fs', 'fc100', 'mini_imagenet'.*'mine'"):
            class_lists.load("mine")


class TestLayouts:
    @pytest.mark.parametrize("layout", small_imagenet.LAYOUTS, ids=lambda f: f.__name__)
    def test_every_layout_gives_the_same_images(self, layout, tmp_path):
        found = find(layout(tmp_path / "source"))
        assert list(found) == WNIDS
        for wnid in WNIDS:
            assert [picture.read() for picture in found[wnid]] == [jpeg for _, jpeg in chosen(wnid)]

    @pytest.mark.parametrize("layout", [small_imagenet.imagenet, small_imagenet.tar_of_tars])
    def test_without_lists_the_first_by_number_and_a_warning(self, layout, tmp_path, caplog):
        source = layout(tmp_path)
        for path in tmp_path.glob("*.csv"):
            path.unlink()
        with caplog.at_level(logging.WARNING):
            found = find(source)
        for wnid in WNIDS:
            first = [name for name, *_ in small_imagenet.pictures()[wnid]][:IMAGES]
            assert [picture.name for picture in found[wnid]] == first
        assert "not the published ones. `csv_dir`" in caplog.text

    def test_lists_from_another_folder(self, tmp_path):
        source = small_imagenet.tar_of_tars(tmp_path / "source")
        lists = small_imagenet.write_lists(tmp_path / "lists")
        expected = find(source)
        for path in source.parent.glob("*.csv"):
            path.unlink()
        assert find(source, csv_dir=lists) == expected
        assert find(source.parent, csv_dir=lists) == expected

    def test_other_suffixes_and_files_of_the_system(self, copy):
        folder = copy / WNIDS[0]
        names = ["1.JPEG", "2.jpeg", "03.png", "10.Jpg"]
        for path, name in zip(sorted(folder.iterdir()), names, strict=True):
            path.rename(folder / name)
        for name in ["._1.JPEG", ".DS_Store", "synset.txt", "Thumbs.db"]:
            (folder / name).write_bytes(b"no image")
        assert [picture.name for picture in find(copy)[WNIDS[0]]] == names

    def test_lists_tell_the_class_where_names_do_not(self, tmp_path):
        source = small_imagenet.flat(tmp_path)
        for path in source.glob("*.csv"):
            rows = path.read_text().replace("\nn", "\nphoto-")
            path.write_text(rows)
        for path in (source / "images").iterdir():
            path.rename(path.with_name(f"photo-{path.name[1:]}"))
        found = find(source)
        for wnid in WNIDS:
            assert [picture.read() for picture in found[wnid]] == [jpeg for _, jpeg in chosen(wnid)]

    def test_imagenet_with_its_validation_images_beside(self, tmp_path):
        small_imagenet.imagenet(tmp_path / "train")
        for wnid in WNIDS:
            (tmp_path / "val" / wnid).mkdir(parents=True)
            (tmp_path / "val" / wnid / "ILSVRC2012_val_00000293.JPEG").write_bytes(b"")
        found = find(tmp_path, csv_dir=tmp_path / "train")
        assert found == find(tmp_path / "train")


class TestErrors:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nowhere', which does not exist"):
            find(tmp_path / "nowhere")

    def test_unknown_layouts(self, tmp_path):
        with pytest.raises(ValueError, match=r"class folders, n01532829/\*\.jpg.*Found: nothing"):
            find(tmp_path)
        (tmp_path / FOREIGN).mkdir()
        (tmp_path / "notes.txt").write_text("")
        with pytest.raises(ValueError, match=rf"Found: {FOREIGN}, notes\.txt\."):
            find(tmp_path)

    def test_too_few_images_and_missing_classes(self, copy):
        next((copy / WNIDS[3]).iterdir()).unlink()
        (copy / WNIDS[99]).rename(copy / "elsewhere")
        with pytest.raises(
            ValueError,
            match=rf"4 images of each of the 100 classes in .*copy\. Too few of 2 classes: "
            rf"{WNIDS[3]} with 3, {WNIDS[99]} missing\.",
        ):
            find(copy)

    def test_many_missing_classes_are_counted(self, copy):
        for wnid in WNIDS[1:]:
            (copy / wnid).rename(copy / f"not {wnid}")
        with pytest.raises(ValueError, match=r"Too few of 99.*missing and 94 more\.$"):
            find(copy)

    @pytest.mark.parametrize("at", [0.3, 0.999])
    def test_cut_tar(self, tmp_path, at):
        path = small_imagenet.tar_of_tars(tmp_path)
        data = path.read_bytes().rstrip(b"\0")
        path.write_bytes(data[: int(at * len(data))])
        with pytest.raises(ValueError, match=r"ILSVRC2012_img_train\.tar to be a whole tar"):
            find(path)

    def test_no_tar(self, tmp_path):
        (tmp_path / "train.zip").write_bytes(b"PK" * 1000)
        with pytest.raises(ValueError, match=r"train\.zip to be a whole tar, not compressed"):
            find(tmp_path / "train.zip")

    def test_missing_lists(self, tmp_path):
        source = small_imagenet.flat(tmp_path)
        with pytest.raises(FileNotFoundError, match=r"Missing: train\.csv, val\.csv, test\.csv"):
            find(source, csv_dir=tmp_path / "images")
        (tmp_path / "val.csv").unlink()
        with pytest.raises(FileNotFoundError, match=r"Missing: val\.csv\."):
            find(source)

    def test_other_columns(self, tmp_path):
        source = small_imagenet.flat(tmp_path)
        (source / "val.csv").write_text("file,class\n")
        with pytest.raises(ValueError, match=r"filename and label in .*val\.csv.*\['file', 'cl"):
            find(source)

    def test_lists_of_another_split(self, tmp_path):
        source = small_imagenet.flat(tmp_path)
        (source / "val.csv").rename(source / "old.csv")
        (source / "test.csv").rename(source / "val.csv")
        (source / "old.csv").rename(source / "test.csv")
        with pytest.raises(ValueError, match=rf"16 validation classes.*{PARTS['validation'][0]} w"):
            find(source)

    def test_listed_image_is_missing(self, tmp_path):
        source = small_imagenet.flat(tmp_path)
        name = chosen(WNIDS[7])[2][0]
        (source / "images" / name).rename(source / "images" / f"{WNIDS[7]}00000999.jpg")
        with pytest.raises(ValueError, match=rf"class {WNIDS[7]}, 1 are not there, such as {name}"):
            find(source)

    def test_ranks_need_the_whole_class(self, tmp_path):
        source = small_imagenet.imagenet(tmp_path)
        wnid = next(w for w in WNIDS if chosen(w)[-1][0].endswith("6.jpg"))
        next((source / wnid).iterdir()).unlink()
        with pytest.raises(ValueError, match=rf"all images of class {wnid}.*to 6\. Found 5\."):
            find(source)


def picture(path, data):
    path.write_bytes(data)
    return Picture(path.name, str(path))


class TestImages:
    def test_size_is_kept_where_it_is_right(self, tmp_path):
        image = np.random.default_rng(0).integers(0, 256, [84, 84, 3], np.uint8)
        kept = mini_imagenet_staging.shrink(
            picture(tmp_path / "a.png", encode(image, format="PNG"))
        )
        np.testing.assert_array_equal(kept, image)

    def test_stripes_finer_than_a_pixel_are_averaged(self, tmp_path):
        image = np.zeros([840, 336, 3], np.uint8)
        image[::2] = 200
        small = mini_imagenet_staging.shrink(
            picture(tmp_path / "a.png", encode(image, format="PNG"))
        )
        np.testing.assert_allclose(small[2:-2], 100, atol=2)

    @pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "1", "PNG"])
    def test_colour_spaces(self, tmp_path, mode):
        """A white and a black half stay what they are, and coloured ones where there is colour."""
        image = np.zeros([84, 168, 3], np.uint8)
        image[:, 84:] = 255 if mode in ("L", "1") else [255, 0, 0]
        converted = PIL.Image.fromarray(image).convert("RGB" if mode == "PNG" else mode)
        file_format = "JPEG" if mode in ("L", "CMYK") else "PNG"
        data = encode(converted, format=file_format, quality=95)
        assert PIL.Image.open(io.BytesIO(data)).mode == ("RGB" if mode == "PNG" else mode)
        small = mini_imagenet_staging.shrink(picture(tmp_path / "n01532829_1.JPEG", data))
        assert small.shape == (84, 84, 3)
        assert small.dtype == np.uint8
        np.testing.assert_allclose(small[:, :35], 0, atol=12)
        np.testing.assert_allclose(small[:, 50:], image[:, 100:134], atol=12)

    @pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: b"", lambda d: b"no"])
    def test_damaged_files_are_named(self, tmp_path, damage):
        image = np.random.default_rng(0).integers(0, 256, [90, 90, 3], np.uint8)
        for settings in ({}, {"format": "PNG"}):
            broken = picture(tmp_path / "n01532829_1.JPEG", damage(encode(image, **settings)))
            with pytest.raises(ValueError, match=r"image in .*/n01532829_1\.JPEG\. Reading it"):
                mini_imagenet_staging.shrink(broken)

    def test_damaged_image_in_a_tar_is_named_and_the_tar(self, tmp_path):
        data = b"0123456789"
        broken = picture(tmp_path / "n01532829.tar", data)._replace(name="a.JPEG", offset=3, size=4)
        assert broken.read() == b"3456"
        with pytest.raises(ValueError, match=r"image in a\.JPEG of .*n01532829\.tar\. Reading"):
            mini_imagenet_staging.shrink(broken)


class Interrupted(BaseException):
    """Stands for Ctrl-C, which threads of a test runner cannot be sent."""


class TestPreparing:
    @pytest.fixture(scope="class")
    def prepared(self, mini_imagenet_dir):
        with small_imagenet.small():
            return tasks.load_mini_imagenet(mini_imagenet_dir)

    def test_images_are_those_of_the_source_in_order(self, prepared, expected):
        np.testing.assert_array_equal(prepared.images, expected[0])
        np.testing.assert_array_equal(prepared.labels, np.repeat(np.arange(100), IMAGES))
        assert prepared.labels.dtype == np.int32

    def test_images_stay_on_disk(self, prepared):
        assert isinstance(prepared.images, np.memmap)

    def test_classes_are_in_the_published_order(self, prepared):
        assert prepared.names.tolist() == WNIDS
        assert prepared.groups.tolist() == ["train"] * 64 + ["validation"] * 16 + ["test"] * 20

    def test_nothing_is_left_over(self, prepared, mini_imagenet_dir):
        del prepared
        assert [path.name for path in (mini_imagenet_dir / "mini_imagenet").iterdir()] == ["1.0.0"]

    def test_prepared_data_set_is_one_of_tensorflow_datasets(self, mini_imagenet_dir, expected):
        data, info = tfds.load(
            "mini_imagenet", split="test", data_dir=mini_imagenet_dir, with_info=True
        )
        assert {part: split.num_examples for part, split in info.splits.items()} == {
            part: IMAGES * len(wnids) for part, wnids in PARTS.items()
        }
        example = next(data.as_numpy_iterator())
        np.testing.assert_array_equal(example["image"], expected[0][80 * IMAGES])
        assert info.features["label"].int2str(example["label"]) == PARTS["test"][0]
        assert example["file_name"].decode() == expected[1][80 * IMAGES]

    def test_builder_takes_a_manual_dir(self, tmp_path, expected):
        from maml_tf.tasks.data.tfds_builders.mini_imagenet import MiniImagenet

        source = small_imagenet.tar_of_tars(tmp_path / "source").parent
        builder = MiniImagenet(data_dir=tmp_path / "data")
        config = tfds.download.DownloadConfig(manual_dir=source)
        builder.download_and_prepare(download_config=config)
        images = tasks.load_mini_imagenet(tmp_path / "data").images
        np.testing.assert_array_equal(images, expected[0])
        assert pickle.loads(pickle.dumps(builder)).is_prepared()  # noqa: S301

    def test_interrupted_preparation_goes_on(self, copy, tmp_path, monkeypatch, expected):
        shrink, done = mini_imagenet_staging.shrink, []

        def interrupt(picture):
            if picture.name.startswith(WNIDS[40]):
                raise Interrupted
            return shrink(picture)

        def count(picture):
            done.append(picture.name[:9])
            return shrink(picture)

        monkeypatch.setattr(mini_imagenet_staging, "shrink", interrupt)
        with pytest.raises(Interrupted):
            tasks.load_mini_imagenet(tmp_path / "data", copy)
        staging = tmp_path / "data" / "mini_imagenet" / ".staging-1.0.0"
        assert len(list(staging.iterdir())) == 40
        self.leave_what_a_killed_process_leaves(staging)
        # A class of which an image was replaced meanwhile is done again.
        path = copy / WNIDS[5] / chosen(WNIDS[5])[0][0]
        path.unlink()
        path.write_bytes(chosen(WNIDS[5])[0][1])

        monkeypatch.setattr(mini_imagenet_staging, "shrink", count)
        images = tasks.load_mini_imagenet(tmp_path / "data", copy).images
        np.testing.assert_array_equal(images, expected[0])
        assert set(done) == {WNIDS[2], WNIDS[5], *WNIDS[40:]}
        assert len(done) == IMAGES * 62
        assert not staging.exists()

    @staticmethod
    def leave_what_a_killed_process_leaves(staging):
        (staging / "tmpabcdef.tmp").write_bytes(b"half")
        (path,) = staging.glob(f"{WNIDS[2]}-*.npy")
        path.write_bytes(path.read_bytes()[:-1])

    def test_damaged_image_stops_it_and_what_was_done_stays(self, copy, tmp_path):
        path = copy / WNIDS[1] / chosen(WNIDS[1])[2][0]
        path.unlink()
        path.write_bytes(b"no image")
        with pytest.raises(ValueError, match=rf"image in {path}\. Reading it failed"):
            tasks.load_mini_imagenet(tmp_path / "data", copy)
        assert [path.name for path in tmp_path.glob("data/mini_imagenet/*")] == [".staging-1.0.0"]

    def test_wrong_counts_are_told_before_any_image_is_read(self, copy, tmp_path, monkeypatch):
        monkeypatch.setattr(Picture, "read", None)
        next((copy / WNIDS[99]).iterdir()).unlink()
        with pytest.raises(ValueError, match=rf"{WNIDS[99]} with 3"):
            tasks.load_mini_imagenet(tmp_path / "data", copy)

    def test_nothing_prepared_and_no_source(self, tmp_path):
        with pytest.raises(FileNotFoundError) as caught:
            tasks.mini_imagenet(data_dir=tmp_path)
        message = str(caught.value)
        assert f"Expected mini-ImageNet in {tmp_path}/mini_imagenet/1.0.0. Found none" in message
        assert f"load_mini_imagenet(data_dir='{tmp_path}', source=...)" in message
        assert "\n" not in message

    def test_missing_packages(self, monkeypatch, tmp_path, source):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "PIL.Image", None)
            with pytest.raises(ImportError, match=r"needs Pillow.*maml_tf\[datasets\]"):
                tasks.load_mini_imagenet(tmp_path, source)
        monkeypatch.setitem(sys.modules, TFDS, None)
        monkeypatch.delitem(sys.modules, "maml_tf.tasks.data.tfds_builders.mini_imagenet")
        with pytest.raises(ImportError, match=r'pip install "maml_tf\[datasets\]"'):
            tasks.mini_imagenet(data_dir=tmp_path)

    def test_prepared_with_fewer_images(self, mini_imagenet_dir, monkeypatch):
        monkeypatch.setattr(mini_imagenet_staging, "IMAGES", 600)
        with pytest.raises(ValueError, match=r"Expected {'train': 38400, 'validation': 9600, 'te"):
            tasks.load_mini_imagenet(mini_imagenet_dir)


class TestFamily:
    @pytest.mark.parametrize(
        ("settings", "error", "message"),
        [
            ({"ways": 0}, ValueError, r"`ways`.*at least 1"),
            ({"test_queries": 0}, ValueError, r"`test_queries`.*at least 1"),
            ({"seed": 0.5}, TypeError, r"`seed`"),
        ],
    )
    def test_wrong_settings_are_told_before_data_are_looked_for(self, settings, error, message):
        with pytest.raises(error, match=message):
            tasks.mini_imagenet(data_dir="/nowhere", **settings)

    @pytest.fixture(scope="class")
    def sets(self, mini_imagenet_dir):
        with small_imagenet.small():
            return tasks.mini_imagenet(queries=3, data_dir=mini_imagenet_dir, test_tasks=200)

    def test_queries_at_test_are_the_shots(self, sets):
        assert [dataset.element_spec[1].shape for dataset in sets] == [[4, 15], [4, 5], [4, 5]]

    def test_tasks_take_classes_of_their_own_split(self, sets, expected):
        wnid = {image.tobytes(): name[:9] for image, name in zip(*expected, strict=True)}
        for wnids, dataset in zip(PARTS.values(), sets, strict=True):
            for inputs, query_y in dataset.take(5).as_numpy_iterator():
                x = np.concatenate([inputs["support_x"], inputs["query_x"]], axis=1)
                y = np.concatenate([inputs["support_y"], query_y], axis=1)
                x = np.round(255 * x).astype(np.uint8)
                for task, labels in zip(x, y, strict=True):
                    found = [wnid[image.tobytes()] for image in task]
                    assert set(found) <= set(wnids)
                    assert len(set(zip(found, labels, strict=True))) == len(set(found)) == 5

    def test_a_learner_learns_it(self, sets):
        train, _, test = sets
        keras.utils.set_random_seed(0)
        layers = [
            keras.Input([84, 84, 3]),
            keras.layers.AveragePooling2D(28),
            keras.layers.Flatten(),
            keras.layers.Dense(32, "relu"),
            keras.layers.Dense(5),
        ]
        learner = maml_tf.MAML(keras.Sequential(layers), 0.1, inner_steps=2, task_map="loop")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        learner.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"], jit_compile=False)
        learner.fit(train, steps_per_epoch=200, verbose=0)
        accuracy = learner.evaluate(test, return_dict=True, verbose=0)["accuracy"]
        assert accuracy > 0.6  # chance is 0.2, and 0.3 without training
