"""What is wrong with a task family's settings is told before data are looked for."""

import numpy as np
import pytest
import tensorflow as tf

from maml_tf import tasks
from maml_tf.tasks import class_lists, sampling, splits
from maml_tf.tasks.data import image_decoding, image_files, imagenet_source, packed
from tests.wrong_calls import Wrong, check

IMAGES = np.zeros([4, 3, 2, 2, 1], np.uint8)
ROWS = np.zeros([6, 2, 2, 1], np.float32)
CLASSES = sampling.index_by_class(IMAGES)
NAMED = {"train": ["a"], "validation": [], "test": ["b"]}


def with_nan():
    images = ROWS.copy()
    images[4, 1, 0, 0] = np.nan
    return images


def episodes(images=IMAGES, labels=None, **options):
    return sampling.episodes(images, labels, **{"ways": 2, "queries": 2, **options})


def folder(path="nowhere", **options):
    return tasks.image_folder(path, **options)


def flowers(**options):
    return tasks.from_tfds("oxford_flowers102", data_dir="nowhere", **options)


FAMILIES = {
    "sinusoid": tasks.sinusoid,
    "glyphs": tasks.glyphs,
    "omniglot": tasks.omniglot,
    "mini_imagenet": tasks.mini_imagenet,
    "cifar_fs": tasks.cifar_fs,
    "from_tfds": lambda **options: flowers(**options),
    "image_folder": folder,
    "episodes": episodes,
}
# Of every family; `support` and `query` of the sines are the others' `shots` and `queries`.
NUMBERS = [
    ("ways", 0, ValueError),
    ("ways", 2.0, TypeError),
    ("shots", -1, ValueError),
    ("shots", True, TypeError),
    ("queries", 0, ValueError),
    ("queries", "15", TypeError),
    ("meta_batch", 0, ValueError),
    ("meta_batch", None, TypeError),
    ("seed", 0.5, TypeError),
    ("seed", 2**63, ValueError),
    ("start", -1, ValueError),
]
OF_SINES = {"ways": "query", "shots": "support", "queries": "test_query"}


def of_family(family, name, value, error):
    name = OF_SINES.get(name, name) if family == "sinusoid" else name
    return Wrong(
        lambda: FAMILIES[family](**{name: value}),
        error,
        f"`{name}`",
        f"{name}={value!r}",
        id=f"{family}({name}={value!r})",
    )


# Of families that take the options of `tasks.Episodes`.
OPTIONS = [("test_ways", 0, ValueError), ("test_shots", 1.5, TypeError)]
OPTIONS += [("test_queries", -1, ValueError), ("validation_tasks", None, TypeError)]
OF_EPISODES = [family for family in FAMILIES if family not in ("sinusoid", "episodes")]


def misspelled(family):
    return Wrong(
        lambda: FAMILIES[family](test_quries=5),
        TypeError,
        "`test_shots`, ",
        "test_quries=5",
        "Did you mean `test_queries`?",
        id=f"{family}(test_quries=5)",
    )


WRONG = [of_family(family, *row) for family in FAMILIES for row in NUMBERS]
WRONG += [of_family(family, *row) for family in OF_EPISODES for row in OPTIONS]
WRONG += [misspelled(family) for family in OF_EPISODES]
WRONG += [
    Wrong(lambda: tasks.sinusoid(oracle="no"), TypeError, "`oracle`", "oracle='no'"),
    Wrong(lambda: tasks.sinusoid(test_support=0), ValueError, "`test_support`", "=0"),
    Wrong(lambda: tasks.sinusoid(validation_tasks=0), ValueError, "`validation_tasks`", "=0"),
    Wrong(lambda: tasks.glyphs(rotate="no"), TypeError, "`rotate`", "rotate='no'"),
    Wrong(lambda: tasks.glyphs(test_tasks=-600), ValueError, "`test_tasks`", "=-600"),
    Wrong(lambda: tasks.omniglot(rotate=1), TypeError, "`rotate`", "rotate=1"),
    Wrong(lambda: tasks.omniglot(rotate="clases"), ValueError, "`rotate`", "mean 'classes'"),
    Wrong(lambda: tasks.omniglot(data_dri="a"), TypeError, "data_dri='a'", "mean `data_dir`"),
    Wrong(lambda: tasks.omniglot(split="papre"), ValueError, "`split`", "'papre'", "mean 'paper'"),
    Wrong(lambda: tasks.omniglot(download="no"), TypeError, "`download`", "download='no'"),
    Wrong(lambda: tasks.omniglot(data_dir=3), TypeError, "`data_dir`", "data_dir=3"),
    Wrong(lambda: tasks.omniglot(data_dir=""), ValueError, "`data_dir`", "data_dir=''"),
    Wrong(lambda: tasks.mini_imagenet(source=3), TypeError, "`source`", "source=3"),
    Wrong(lambda: tasks.mini_imagenet(csv_dir=""), ValueError, "`csv_dir`", "csv_dir=''"),
    Wrong(lambda: tasks.mini_imagenet(data_dir=3), TypeError, "`data_dir`", "data_dir=3"),
    Wrong(lambda: tasks.fc100(download=0), TypeError, "`download`", "download=0"),
    Wrong(lambda: tasks.from_tfds(5), TypeError, "`name`", "name=5"),
    Wrong(lambda: tasks.from_tfds(""), ValueError, "`name`", "name=''"),
    Wrong(lambda: tasks.from_tfds("no_such_set"), ValueError, "'no_such_set'", "list_builders"),
    Wrong(lambda: flowers(image_size=84.5), TypeError, "`image_size`", "image_size=84.5"),
    Wrong(lambda: flowers(image_size=(84,)), ValueError, "(height, width)", "image_size=(84,)"),
    Wrong(lambda: flowers(image_size=0), ValueError, "`image_size`", "image_size=0"),
    Wrong(lambda: flowers(classes=(0.5, 0.5)), ValueError, "`classes`", "classes=(0.5, 0.5)"),
    Wrong(lambda: flowers(classes="train"), ValueError, "`classes`", "classes='train'"),
    Wrong(lambda: flowers(classes=None), ValueError, "`classes`", "classes=None"),
    Wrong(lambda: flowers(classes={"train": ["a"]}), ValueError, "`classes`", "['train']"),
    Wrong(lambda: flowers(classes={**NAMED, "test": "b"}), TypeError, "'test'", "test='b'"),
    Wrong(lambda: flowers(split_seed=-1), ValueError, "`split_seed`", "split_seed=-1"),
    Wrong(lambda: folder(None), TypeError, "`path`", "path=None"),
    Wrong(lambda: folder(""), ValueError, "`path`", "path=''"),
    Wrong(lambda: folder("nowhere"), FileNotFoundError, "'nowhere'", "does not exist"),
    Wrong(lambda: folder(__file__), NotADirectoryError, "test_wrong_calls.py", "a file"),
    Wrong(lambda: folder(image_size="84"), TypeError, "`image_size`", "image_size='84'"),
    Wrong(lambda: folder(image_size=(84, 84, 3)), ValueError, "image_size=(84, 84, 3)"),
    Wrong(lambda: folder(image_size=(84, 8.5)), TypeError, "image_size=8.5"),
    Wrong(lambda: folder(channels=4), ValueError, "`channels`", "1, 3", "channels=4"),
    Wrong(lambda: folder(channels=True), ValueError, "`channels`", "channels=True"),
    Wrong(lambda: folder(on_error="ignore"), ValueError, "`on_error`", "'ignore'", "'skip'"),
    Wrong(lambda: folder(split=(0.6, 0.3, 0.2)), ValueError, "`split`", "(0.6, 0.3, 0.2)"),
    Wrong(lambda: folder(split=(float("nan"), 0.5, 0.5)), ValueError, "`split`", "nan"),
    Wrong(lambda: folder(split=("a", "b", "c")), ValueError, "`split`", "('a', 'b', 'c')"),
    Wrong(lambda: folder(split={**NAMED, "train": "a"}), TypeError, "train='a'"),
    Wrong(lambda: folder(split_seed="0"), TypeError, "`split_seed`", "split_seed='0'"),
    Wrong(lambda: folder(cache=3), TypeError, "`cache`", "cache=3"),
    Wrong(lambda: tasks.load_image_folder(""), ValueError, "`path`", "path=''"),
    Wrong(lambda: tasks.load_image_folder("nowhere", 0), ValueError, "image_size=0"),
    Wrong(lambda: tasks.load_mini_imagenet(source=b"a"), TypeError, "`source`", "source=b'a'"),
    Wrong(lambda: image_files.list_images(None), TypeError, "path=None"),
    Wrong(lambda: image_files.list_folder(5), TypeError, "path=5"),
    Wrong(lambda: image_decoding.read("cats/1.jpg"), TypeError, "`paths`", "paths='cats/1.jpg'"),
    Wrong(lambda: image_decoding.read(None), TypeError, "`paths`", "paths=None"),
    Wrong(lambda: image_decoding.read([1, 2]), TypeError, "`paths`", "paths=1"),
    Wrong(lambda: image_decoding.read([], channels=2), ValueError, "`channels`", "channels=2"),
    Wrong(lambda: imagenet_source.find(None, {}, 6), TypeError, "`source`", "source=None"),
    Wrong(lambda: imagenet_source.find("nowhere", {}, 6), FileNotFoundError, "'nowhere'"),
    Wrong(lambda: class_lists.load("mini"), ValueError, "`name`", "name='mini'"),
    Wrong(lambda: class_lists.load(None), ValueError, "`name`", "name=None"),
    Wrong(lambda: episodes(start=1.0), TypeError, "`start`", "start=1.0"),
    Wrong(lambda: episodes(tasks=0), ValueError, "`tasks`", "tasks=0"),
    Wrong(lambda: episodes(stream=-1), ValueError, "`stream`", "stream=-1"),
    Wrong(lambda: episodes(rotate="no"), TypeError, "`rotate`", "rotate='no'"),
    Wrong(lambda: episodes(np.zeros([4, 3])), ValueError, "`images`", "(4, 3)", "`labels`"),
    Wrong(lambda: episodes(3.0), ValueError, "`images`", "()"),
    Wrong(lambda: episodes([[1.0, 2.0], [3.0]]), ValueError, "`images`", "different shapes"),
    Wrong(lambda: episodes(np.array([None, 1, 2])), TypeError, "`images`", "dtype object"),
    Wrong(lambda: episodes(IMAGES.astype(complex)), TypeError, "`images`", "complex128"),
    Wrong(lambda: episodes(with_nan(), [0, 0, 0, 1, 1, 1]), ValueError, "finite", "(4, 1, 0, 0)"),
    Wrong(lambda: episodes(np.full([4, 3, 2], np.inf)), ValueError, "finite", "(0, 0, 0)"),
    Wrong(lambda: episodes(ROWS, [0.0, 0, 0, 1, 1, 1]), TypeError, "`labels`", "float64"),
    Wrong(lambda: episodes(ROWS, [0.5] * 6), TypeError, "`labels` to be integers or text", "64"),
    Wrong(lambda: episodes(ROWS, ["a", "b", None] * 2), TypeError, "`labels`", "object"),
    Wrong(lambda: episodes(IMAGES[..., 0], rotate=True), ValueError, "square", "channel axis"),
    Wrong(lambda: episodes(ROWS, [True] * 6), TypeError, "`labels`", "bool"),
    Wrong(lambda: episodes(ROWS, [0, 1]), ValueError, "`labels`", "(6, 2, 2, 1)", "(2,)"),
    Wrong(lambda: episodes(ROWS, [[0] * 6]), ValueError, "`labels`", "(1, 6)"),
    Wrong(lambda: episodes(ROWS, [0] * 6), ValueError, "ways=2", "1 classes"),
    Wrong(lambda: episodes(ROWS, [0] * 5 + [7]), ValueError, "shots + queries = 3", "class 7"),
    Wrong(lambda: episodes(ROWS, [0] * 6, class_sizes=[6]), ValueError, "`labels`", "both"),
    Wrong(lambda: episodes(ROWS, class_sizes=[3.0, 3.0]), TypeError, "`class_sizes`", "float64"),
    Wrong(lambda: episodes(ROWS, class_sizes=[3, 4]), ValueError, "`class_sizes`", "add up to 7"),
    Wrong(lambda: episodes(ROWS, class_sizes=[7, -1]), ValueError, "`class_sizes`", "negative"),
    Wrong(lambda: episodes(IMAGES[:, :, :1], rotate=True), ValueError, "square", "(1, 2, 1)"),
    Wrong(lambda: episodes(CLASSES, [0] * 12), ValueError, "`labels`", "labels=[0"),
    Wrong(lambda: episodes(CLASSES, rotate=True), ValueError, "`rotate`", "rotate=True"),
    Wrong(lambda: episodes(ways=5), ValueError, "ways=5", "4 classes"),
    Wrong(lambda: episodes(shots=2), ValueError, "shots + queries = 4", "with 3 examples"),
    Wrong(lambda: splits.shuffled(-1), ValueError, "`count`", "count=-1"),
    Wrong(lambda: splits.shuffled(9, seed=-1), ValueError, "`seed`", "seed=-1"),
    Wrong(lambda: splits.shuffled(9, (1, 2, -2)), ValueError, "fractions=(1, 2, -2)"),
    Wrong(lambda: splits.shuffled(9, 0.6), ValueError, "fractions=0.6"),
    Wrong(lambda: splits.by_name(["a"], NAMED), ValueError, "unknown ['b']"),
    Wrong(lambda: splits.by_name(["a", "b", "a"], NAMED), ValueError, "['a'] more than once"),
    Wrong(
        lambda: splits.by_name(["a", "b"], {**NAMED, "test": ["a"]}), ValueError, "repeated ['a']"
    ),
    Wrong(lambda: splits.by_name(["a", "b"], {"train": "a"}), ValueError, "['train']"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_calls_are_explained(wrong):
    check(wrong)


@pytest.mark.parametrize(
    ("labels", "shown"), [([0, 0, 1], "shape (3,)"), ([0.5, 1.5], "float64"), ([True] * 2, "bool")]
)
def test_a_packer_takes_an_integer_label_for_each_image(tmp_path, labels, shown):
    packer = packed.Packer(tmp_path)
    images = np.zeros([2, 4, 4, 1], np.uint8)
    check(Wrong(lambda: packer.add(images, labels), ValueError, "2 images", shown))


def test_a_folder_of_splits_takes_no_other_split(tmp_path):
    for part in ("train", "test"):
        for name in "ab":
            path = tmp_path / part / f"{part}-{name}"
            path.mkdir(parents=True)
            (path / "1.png").touch()
    given = (0.5, 0.25, 0.25)
    wrong = Wrong(lambda: folder(tmp_path, split=given), ValueError, "`split`", "(0.5, 0.25, 0.25)")
    check(wrong)


TEXT = ["oak", "elm", "oak", "elm", "oak", "elm"]
FORMS = {
    "list": TEXT,
    "objects, as a column of pandas": np.array(TEXT, object),
    "bytes": np.array(TEXT, "S"),
    "a tensor": tf.constant(TEXT),
    "strings of any length": np.array(TEXT, np.dtypes.StringDType()),
}


@pytest.mark.parametrize("labels", FORMS.values(), ids=FORMS)
def test_labels_may_be_text(labels):
    data = sampling.episodes(np.arange(6)[:, None], labels, ways=2, shots=1, queries=2, tasks=1)
    inputs, query_y = next(data.as_numpy_iterator())
    parity = inputs["support_x"][0, :, 0] % 2
    expected = parity[np.argsort(inputs["support_y"][0])][query_y[0]]
    np.testing.assert_array_equal(inputs["query_x"][0, :, 0] % 2, expected)
    assert sampling.index_by_class(np.arange(6)[:, None], labels).labels.tolist() == ["elm", "oak"]
