import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_tf.tasks import class_index, sampling, streams


def named_rows(sizes):
    """Rows `[rows, 2]` that say which class and which example they are: integers, so not cast."""
    return np.concatenate([[(c, e) for e in range(size)] for c, size in enumerate(sizes) if size])


def draw(classes, seed=0, ways=5, shots=1, queries=1, meta_batch=4):
    key = streams.batch_seed(seed, 0, 0)
    inputs, query_y = sampling.sample_episodes(classes, key, ways, shots, queries, meta_batch)
    named = (inputs["support_x"], inputs["support_y"], inputs["query_x"], query_y)
    return [tensor.numpy() for tensor in named]


@st.composite
def problems(draw):
    ways, shots, queries = (draw(st.integers(1, 4)) for _ in range(3))
    spare = st.lists(st.integers(0, 5), min_size=ways, max_size=ways + 3)
    sizes = [shots + queries + extra for extra in draw(spare)]
    return sizes, ways, shots, queries, draw(st.integers(1, 5)), draw(st.integers(-9, 9))


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from(["class_sizes", "labels"]))
def test_episode_invariants(problem, form):
    sizes, ways, shots, queries, meta_batch, seed = problem
    rows = named_rows(sizes)
    if form == "labels":
        rows = np.random.default_rng(0).permutation(rows)
        classes = sampling.index_by_class(rows, labels=10 * rows[:, 0] - 7)
    else:
        classes = sampling.index_by_class(rows, class_sizes=sizes)
    support_x, support_y, query_x, query_y = draw(classes, seed, ways, shots, queries, meta_batch)
    assert support_x.shape == (meta_batch, ways * shots, 2)
    assert query_y.shape == (meta_batch, ways * queries)
    for task in range(meta_batch):
        y = np.concatenate([support_y[task], query_y[task]])
        x = np.concatenate([support_x[task], query_x[task]])
        np.testing.assert_array_equal(np.sort(support_y[task]), np.repeat(range(ways), shots))
        np.testing.assert_array_equal(np.sort(query_y[task]), np.repeat(range(ways), queries))
        assert len({tuple(row) for row in x}) == len(x)  # no example twice
        assert len(set(x[:, 0])) == ways
        assert len(set(zip(x[:, 0], y, strict=True))) == ways  # one label a class


def turned_images(classes, examples):
    """Images 2x2 that say which class and example they are, and by their zero how they lie."""
    number = np.arange(1, classes * examples + 1, dtype=np.float32)
    images = np.repeat(number, 4).reshape(classes, examples, 2, 2, 1)
    images[:, :, 0, 0] = 0
    return images


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_a_class_of_a_task_is_turned_as_one(ways, shots, queries, seed):
    classes = sampling.index_by_class(turned_images(6, 6), rotate=True)
    support_x, support_y, query_x, query_y = draw(classes, seed, ways, shots, queries)
    for task in range(4):
        x = np.concatenate([support_x[task], query_x[task]]).reshape(-1, 4)
        y = np.concatenate([support_y[task], query_y[task]])
        label_class = (x.max(axis=1).astype(int) - 1) // 6
        zeros = x.argmin(axis=1)
        assert len(set(zip(y, label_class, zeros, strict=True))) == ways


def test_turns_are_those_of_the_plane_and_equally_frequent():
    image = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3, 1).repeat(8, 0).repeat(2, 1)
    classes = sampling.index_by_class(image, rotate=True)
    support_x, *_ = draw(classes, meta_batch=2000)
    turns = [np.rot90(image[0, 0], k) for k in range(4)]
    is_turn = np.stack([np.all(support_x == turn, axis=(2, 3, 4)) for turn in turns])
    assert np.all(is_turn.sum(axis=0) == 1)
    np.testing.assert_allclose(is_turn.mean(axis=(1, 2)), 0.25, atol=0.02)


def test_without_rotation_images_lie_as_they_were():
    support_x, *_ = draw(sampling.index_by_class(turned_images(6, 6)))
    assert np.all(support_x.reshape(-1, 4).argmin(axis=1) == 0)


def test_a_rotation_may_be_a_class_of_its_own():
    """Class 4 c + k has the examples of class c, all turned by k quarters."""
    images = turned_images(5, 4)
    rows = images.reshape(20, 2, 2, 1)
    turned = sampling.index_by_class(rows, class_sizes=[4, 4, 3, 5, 4], rotate=True)
    apart = class_index.turns_as_classes(turned)
    assert list(apart.sizes) == list(np.repeat([4, 4, 3, 5, 4], 4))
    assert list(apart.labels[8:10]) == ["2 turned by 0", "2 turned by 90"]
    first = np.cumsum([0, 4, 4, 3, 5, 4])
    for c, k in [(0, 0), (2, 3), (4, 1)]:
        one = class_index.select(apart, np.array([4 * c + k]))
        size = first[c + 1] - first[c]
        support_x, *_ = draw(one, ways=1, shots=size - 1)
        expected = {np.rot90(row, k).tobytes() for row in rows[first[c] : first[c + 1]]}
        assert {row.tobytes() for task in support_x for row in task} == expected


def test_position_and_class_tell_nothing_about_the_label():
    tasks, ways = 20_000, 5
    classes = sampling.index_by_class(named_rows([3] * 7), class_sizes=[3] * 7)
    support_x, support_y, _, query_y = draw(classes, meta_batch=tasks)
    tolerance = 4.5 * np.sqrt(0.2 * 0.8 / tasks)
    for y in (support_y, query_y):
        shares = np.stack([(y == label).mean(axis=0) for label in range(ways)])
        np.testing.assert_allclose(shares, 1 / ways, atol=tolerance)
    # The order of the query set is its own.
    np.testing.assert_allclose((support_y == query_y).mean(axis=0), 1 / ways, atol=tolerance)
    table = np.zeros([7, ways])
    np.add.at(table, (support_x[:, :, 0], support_y), 1 / tasks)
    np.testing.assert_allclose(table, 1 / 7, atol=tolerance)


def test_classes_and_examples_are_drawn_evenly_whatever_their_sizes():
    sizes, tasks = [2, 4, 9, 3], 20_000
    classes = sampling.index_by_class(named_rows(sizes), class_sizes=sizes)
    support_x, *_ = draw(classes, ways=2, meta_batch=tasks)
    for name, size in enumerate(sizes):
        examples = support_x[support_x[..., 0] == name][:, 1]
        assert abs(examples.size / tasks - 0.5) < 0.02
        share = np.bincount(examples, minlength=size) / examples.size
        np.testing.assert_allclose(share, 1 / size, atol=0.025)


def test_the_three_forms_of_one_array_give_the_same_tasks():
    rows = named_rows([4] * 6).astype(np.float32)
    forms = [
        sampling.episodes(rows.reshape(6, 4, 2), queries=2),
        sampling.episodes(rows, rows[:, 0].astype(np.int64), queries=2),
        sampling.episodes(rows, class_sizes=[4] * 6, queries=2),
    ]
    batches = [tf.nest.flatten(next(iter(form))) for form in forms]
    for tensors in zip(*batches, strict=True):
        np.testing.assert_array_equal(tensors[0], tensors[1])
        np.testing.assert_array_equal(tensors[0], tensors[2])


@pytest.mark.parametrize(
    ("dtype", "expected", "factor"),
    [
        (np.uint8, tf.float32, 1 / 255),
        (np.float64, tf.float32, 1),
        (np.float16, tf.float32, 1),
        (np.int64, tf.int64, 1),
    ],
)
def test_casting(dtype, expected, factor):
    classes = sampling.index_by_class(np.full([2, 2, 3], 255, dtype))
    assert classes.examples.dtype == tf.as_dtype(dtype)  # what is held stays small
    support_x, *_ = draw(classes, ways=2)
    assert support_x.dtype == expected.as_numpy_dtype
    np.testing.assert_array_equal(support_x, 255 * factor)


IMAGES = np.zeros([6, 4, 2, 2, 1], np.uint8)
ROWS = np.zeros([10, 3], np.float32)
WRONG = [
    (IMAGES, {"ways": 7}, ValueError, r"at least ways=7 classes.*6 classes"),
    (IMAGES, {"queries": 4}, ValueError, r"shots \+ queries = 5 .*class 0 with 4 .*and 5 more"),
    (IMAGES, {"ways": 0}, ValueError, r"`ways`.*at least 1.*ways=0"),
    (IMAGES, {"shots": 1.0}, TypeError, r"`shots` to be an integer.*1\.0"),
    (IMAGES, {"tasks": 0}, ValueError, r"`tasks`.*at least 1"),
    (IMAGES, {"start": -1}, ValueError, r"`start`.*at least 0"),
    (IMAGES, {"labels": [0], "class_sizes": [1]}, ValueError, r"at most one of `labels` and"),
    (IMAGES[:, :, :, :1], {"rotate": True}, ValueError, r"square images.*\(2, 1, 1\)"),
    (IMAGES[..., 0], {"rotate": True}, ValueError, r"square images.*\(2, 2\).*channel axis"),
    (ROWS, {}, ValueError, r"\[classes, examples, \.\.\.\].*shape \(10, 3\).*give `labels`"),
    (ROWS, {"labels": [0] * 9}, ValueError, r"labels of shape \(9,\).*`class_sizes`"),
    (ROWS, {"labels": np.zeros([10, 1], int)}, ValueError, r"labels of shape \(10, 1\)"),
    (ROWS, {"labels": np.zeros(10)}, TypeError, r"`labels` to be integers.*float64"),
    (ROWS[:, 0], {"labels": [0] * 10}, ValueError, r"rank 2 or more.*shape \(10,\)"),
    (ROWS, {"class_sizes": [4, 5]}, ValueError, r"add up to the rows.*add up to 9"),
    (ROWS, {"class_sizes": [11, -1]}, ValueError, r"none of them negative"),
    (ROWS, {"class_sizes": [10.0]}, TypeError, r"`class_sizes` to be integers"),
]


@pytest.mark.parametrize(("images", "arguments", "error", "message"), WRONG)
def test_wrong_arguments(images, arguments, error, message):
    with pytest.raises(error, match=message):
        sampling.episodes(images, **({"queries": 1} | arguments))


def test_a_class_too_small_is_named_by_its_label():
    labels = np.array([7] * 4 + [30] * 5 + [99])
    with pytest.raises(ValueError, match=r"= 2 examples.*class 99 with 1 examples\. "):
        sampling.episodes(ROWS, labels, ways=2, queries=1)
    with pytest.raises(ValueError, match=r"class 1 with 0 examples"):
        sampling.episodes(ROWS, class_sizes=[5, 0, 5], ways=2, queries=1)


def test_large_arrays_stay_where_they_are_and_give_the_same_tasks(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, [60, 7, 7, 1], np.uint8)
    labels = np.random.default_rng(1).permutation(np.arange(60) % 6)
    options = {"labels": labels, "ways": 3, "queries": 4, "rotate": False}
    expected = next(iter(sampling.episodes(images, **options)))
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    monkeypatch.setattr(class_index, "_LARGEST_TENSOR", 100)
    assert sampling.index_by_class(mapped, labels).examples is mapped
    dataset = sampling.episodes(mapped, **options)
    for one, other in zip(
        tf.nest.flatten(expected), tf.nest.flatten(next(iter(dataset))), strict=True
    ):
        assert one.shape == other.shape
        np.testing.assert_array_equal(one, other)


def test_selected_classes_keep_their_examples_and_names():
    rows = named_rows([4, 5, 6, 7])
    classes = sampling.index_by_class(rows, labels=10 * rows[:, 0])
    some = class_index.select(classes, np.array([3, 1]))
    assert list(some.labels) == [30, 10]
    support_x, _, query_x, _ = draw(some, ways=2, shots=2, queries=3)
    assert set(support_x[..., 0].ravel()) | set(query_x[..., 0].ravel()) == {1, 3}
    assert some.examples is classes.examples


@pytest.mark.parametrize("labels", [None, np.repeat(np.arange(6), 4)], ids=["axis", "labels"])
def test_grey_pictures_need_no_channel_axis(labels):
    grey = np.arange(6 * 4 * 9, dtype=np.uint8).reshape(6, 4, 3, 3)
    images = grey if labels is None else grey.reshape(24, 3, 3)
    with_axis = sampling.episodes(images[..., np.newaxis], labels, queries=2)
    inputs, _ = next(iter(sampling.episodes(images, labels, queries=2)))
    expected, _ = next(iter(with_axis))
    assert inputs["query_x"].shape == (4, 10, 3, 3)
    np.testing.assert_array_equal(inputs["query_x"], expected["query_x"][..., 0])


def test_classes_of_just_enough_examples_are_enough():
    inputs, query_y = next(iter(sampling.episodes(IMAGES, ways=6, shots=1, queries=3)))
    assert inputs["support_y"].shape == (4, 6)
    assert query_y.shape == (4, 18)


def test_what_is_held_as_a_tensor(monkeypatch):
    assert isinstance(sampling.index_by_class(IMAGES).examples, tf.Tensor)
    monkeypatch.setattr(class_index, "_LARGEST_TENSOR", IMAGES.nbytes)
    assert isinstance(sampling.index_by_class(IMAGES).examples, tf.Tensor)
    monkeypatch.setattr(class_index, "_LARGEST_TENSOR", IMAGES.nbytes - 1)
    assert isinstance(sampling.index_by_class(IMAGES).examples, np.ndarray)


def test_a_set_of_so_many_tasks_is_cut_from_the_endless_one():
    endless = sampling.episodes(named_rows([4] * 6), class_sizes=[4] * 6, queries=2, meta_batch=2)
    expected = [tf.nest.flatten(batch) for batch in endless.take(4)]
    some = sampling.episodes(
        named_rows([4] * 6), class_sizes=[4] * 6, queries=2, meta_batch=2, start=1, tasks=5
    )
    received = [tf.nest.flatten(batch) for batch in some]
    assert some.cardinality() == len(received) == 3  # 5 tasks, in whole batches
    for one, other in zip(received, expected[1:], strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_shapes_are_known_wherever_the_examples_lie(monkeypatch):
    held = sampling.episodes(IMAGES, queries=2).element_spec
    monkeypatch.setattr(class_index, "_LARGEST_TENSOR", 0)
    assert sampling.episodes(IMAGES, queries=2).element_spec == held
    assert held[0]["query_x"] == tf.TensorSpec([4, 10, 2, 2, 1], tf.float32)
    assert held[1] == tf.TensorSpec([4, 10], tf.int32)
