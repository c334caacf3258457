"""What every task family must do. A new family joins by a row in FAMILIES."""

import ast
import functools
import graphlib
import pathlib
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from maml_tf import tasks
from tests.tasks import small_imagenet

T = 4


def own_arrays(data_dir, **settings):
    del data_dir
    images = np.random.default_rng(0).integers(0, 256, [12, 6, 5, 5, 1], np.uint8)
    settings |= {"meta_batch": T, "ways": 3, "shots": 2, "queries": 1}
    start = settings.pop("start")
    held_out = [
        tasks.sampling.episodes(images, tasks=10, stream=stream, **settings) for stream in (1, 2)
    ]
    return tasks.sampling.episodes(images, start=start, **settings), *held_out


def classes(data_dir, **settings):
    del data_dir
    x, y = np.random.default_rng(0).normal(size=[72, 2]), np.arange(72) % 12
    settings |= {"meta_batch": T, "validation_tasks": 10, "test_tasks": 10}
    return tasks.classes(x, y, 2, 2, queries=3, split=(0.5, 0.25, 0.25), **settings)


def sinusoid(data_dir, **settings):
    del data_dir
    return tasks.sinusoid(meta_batch=T, validation_tasks=10, test_tasks=10, **settings)


def oracle(data_dir, **settings):
    return sinusoid(data_dir, oracle=True, **settings)


def omniglot(data_dir, **settings):
    return tasks.omniglot(
        shots=2, meta_batch=T, validation_tasks=10, test_tasks=10, data_dir=data_dir, **settings
    )


def glyphs(keras_home, **settings):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(keras_home))
        return tasks.glyphs(shots=2, meta_batch=T, validation_tasks=10, test_tasks=10, **settings)


def mini_imagenet(data_dir, **settings):
    settings |= {"queries": 3, "meta_batch": T, "validation_tasks": 10, "test_tasks": 10}
    with small_imagenet.small():
        return tasks.mini_imagenet(data_dir=data_dir, **settings)


def pictures(data_dir, **settings):
    del data_dir
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(12 * 4):
            path = pathlib.Path(folder, f"class {i % 12}", f"{i}.png")
            path.parent.mkdir(exist_ok=True)
            pixels = tf.constant(random.integers(0, 256, [5, 6, 3], np.uint8))
            tf.io.write_file(str(path), tf.io.encode_png(pixels))
        return tasks.image_folder(
            folder,
            ways=3,
            shots=2,
            queries=1,
            meta_batch=T,
            image_size=(5, 6),
            split=(1 / 3, 1 / 3, 1 / 3),
            validation_tasks=10,
            test_tasks=10,
            **settings,
        )


def groups(data_dir, **settings):
    del data_dir
    random = np.random.default_rng(0)
    x, person = random.normal(size=[240, 2]), np.repeat(np.arange(24), 10)
    held_out = {"meta_batch": T, "validation_tasks": 10, "test_tasks": 10}
    return tasks.groups(x, x[:, 0], person, shots=3, queries=5, **held_out, **settings)


def windows(data_dir, **settings):
    del data_dir
    series = np.random.default_rng(0).normal(size=[24, 90])
    sizes = {"inputs": 6, "horizon": 3, "shots": 4, "queries": 2, "test_stretches": "any"}
    held_out = {"meta_batch": T, "validation_tasks": 10, "test_tasks": 10}
    return tasks.windows(series, **sizes, **held_out, **settings)


class Family(NamedTuple):
    build: Callable
    support: int
    train_query: int
    test_query: int
    x: list = [1]
    y: list = [1]
    y_dtype: tf.DType = tf.float32


IMAGES = {"y": [], "y_dtype": tf.int32}
FAMILIES = [
    pytest.param(Family(sinusoid, 10, 10, 100), id="sinusoid"),
    pytest.param(Family(groups, 3, 5, 5, x=[2]), id="groups"),
    pytest.param(Family(windows, 4, 2, 2, x=[6], y=[3]), id="windows"),
    pytest.param(Family(oracle, 10, 10, 100, x=[3]), id="oracle"),
    pytest.param(Family(own_arrays, 6, 3, 3, x=[5, 5, 1], **IMAGES), id="episodes"),
    pytest.param(Family(classes, 4, 6, 6, x=[2], **IMAGES), id="classes"),
    pytest.param(Family(pictures, 6, 3, 3, x=[5, 6, 3], **IMAGES), id="pictures"),
    pytest.param(
        Family(omniglot, 10, 10, 10, x=[28, 28, 1], **IMAGES),
        id="omniglot",
        marks=pytest.mark.omniglot,
    ),
    pytest.param(Family(glyphs, 10, 10, 10, x=[28, 28, 1], **IMAGES), id="glyphs"),
    pytest.param(Family(mini_imagenet, 5, 15, 5, x=[84, 84, 3], **IMAGES), id="mini_imagenet"),
]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """Gives `build(seed=..., start=...)`, which builds each set of tasks once, and the row."""
    row = request.param
    data_dir = request.getfixturevalue("omniglot_dir") if row.build is omniglot else None
    if row.build is mini_imagenet:
        data_dir = request.getfixturevalue("mini_imagenet_dir")
    if row.build is glyphs:  # test_glyphs.py draws them in the same place
        data_dir = request.getfixturevalue("tmp_path_factory").getbasetemp() / "keras"

    @functools.cache
    def build(seed=0, start=0):
        return row.build(data_dir, seed=seed, start=start)

    return build, row


def first(dataset, count):
    return [tf.nest.flatten(batch) for batch in dataset.take(count).as_numpy_iterator()]


def assert_equal(one, other):
    assert len(one) == len(other)
    for batch, twin in zip(one, other, strict=True):
        for tensor, same in zip(batch, twin, strict=True):
            np.testing.assert_array_equal(tensor, same)


def differ(one, other):
    return all(np.any(a[0] != b[0]) for a, b in zip(one, other, strict=True))


def test_structure_dtypes_and_static_shapes(family):
    build, row = family
    queries = (row.train_query, row.test_query, row.test_query)
    for dataset, query in zip(build(), queries, strict=True):
        assert dataset.element_spec == (
            {
                "support_x": tf.TensorSpec([T, row.support, *row.x], tf.float32),
                "support_y": tf.TensorSpec([T, row.support, *row.y], row.y_dtype),
                "query_x": tf.TensorSpec([T, query, *row.x], tf.float32),
            },
            tf.TensorSpec([T, query, *row.y], row.y_dtype),
        )


def test_values_are_finite(family):
    build, _ = family
    for dataset in build():
        for batch in first(dataset, 3):
            assert all(np.all(np.isfinite(tensor)) for tensor in batch)


def test_training_is_infinite_and_the_rest_whole_batches(family):
    build, _ = family
    train, validation, test = build()
    assert train.cardinality() == tf.data.INFINITE_CARDINALITY
    for dataset in (validation, test):
        assert dataset.cardinality() == 3  # 10 tasks in batches of 4
        assert len(first(dataset, 100)) == 3


def test_same_tasks_at_every_pass(family):
    build, _ = family
    for dataset in build():
        assert_equal(first(dataset, 3), first(dataset, 3))


def test_batches_within_a_pass_differ(family):
    build, _ = family
    for dataset in build():
        batches = first(dataset, 3)
        assert differ(batches[:2], batches[1:])


def test_start_goes_on_where_training_was(family):
    build, _ = family
    train, validation, test = build()
    resumed, *held_out = build(start=5)
    assert_equal(first(train, 8)[5:], first(resumed, 3))
    assert_equal(first(validation, 3), first(held_out[0], 3))
    assert_equal(first(test, 3), first(held_out[1], 3))


def test_a_second_worker_takes_every_other_batch(family):
    build, _ = family
    train = build()[0]
    assert_equal(first(train, 6)[1::2], first(train.shard(2, 1), 3))


def test_seeds_and_streams_differ(family):
    build, _ = family
    train, validation, test = build()
    for dataset, other in zip((train, validation, test), build(seed=1), strict=True):
        assert differ(first(dataset, 3), first(other, 3))
    assert differ(first(validation, 3), first(test, 3))


def test_imports_are_floors_and_no_circle():
    """Imports within functions count: they hide a circle, they do not open it."""
    root = pathlib.Path(tasks.__file__).parent
    paths = [path for path in root.rglob("*.py") if path.parent != root or path.stem != "__init__"]
    names = {".".join(path.relative_to(root).with_suffix("").parts): path for path in paths}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    graph = {}
    for name, path in names.items():
        found = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
        froms = [(node.module, alias.name) for node in found for alias in node.names]
        modules = {module for module, _ in froms} | {".".join(one) for one in froms}
        graph[name] = {m.removeprefix("maml_tf.tasks.") for m in modules} & set(names)
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("data.mini_imagenet_staging") < order.index(
        "data.tfds_builders.mini_imagenet"
    )


_ROOM = pathlib.Path(tasks.__file__).parent


@pytest.mark.parametrize(
    "path",
    [*_ROOM.glob("*.py"), *(_ROOM / "data").glob("*.py")],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_modules_import_no_data_set_library_and_nothing_else_of_ours(path):
    imported = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert not any(name.startswith("tensorflow_datasets") for name in imported)
    ours = {name for name in imported if name.split(".")[0] == "maml_tf"}
    floor = ("maml_tf.tasks", "maml_tf.arguments", "maml_tf.files")
    assert all(name.startswith(floor) for name in ours)
