import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_tf.tasks import Episodes, sampling, splits


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 2**31), st.integers(0, 10), st.integers(0, 10))
def test_shares_are_disjoint_complete_and_as_large_as_asked(count, seed, first, second):
    shares = np.array([first, second, 1]) / (first + second + 1)
    parts = splits.shuffled(count, shares, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(count))
    for part, share in zip(parts, shares, strict=True):
        assert abs(len(part) - share * count) <= 1
    for part, again in zip(parts, splits.shuffled(count, shares, seed), strict=True):
        np.testing.assert_array_equal(part, again)


def test_the_shuffle_is_fixed():
    assert [list(part) for part in splits.shuffled(6, (0.5, 0, 0.5), seed=1)] == [
        [2, 1, 4],
        [],
        [0, 3, 5],
    ]


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.9, 0.2, -0.1), (0.6, 0.2, 0.1)])
def test_what_is_no_share(fractions):
    with pytest.raises(ValueError, match=r"three fractions.*add up to 1.*Received: fractions=\("):
        splits.shuffled(10, fractions)


def test_names_are_positions():
    parts = {"validation": ["d"], "train": ["c", "a"], "test": ["b"]}
    found = splits.by_name(np.array(["a", "b", "c", "d"]), parts)
    assert [list(part) for part in found] == [[2, 0], [3], [1]]


def classes(count=9, examples=6):
    rows = np.array([[c, e] for c in range(count) for e in range(examples)])
    return sampling.index_by_class(rows, labels=rows[:, 0])


def test_each_set_takes_its_own_classes_and_numbers():
    parts = [np.array([0, 1, 2, 8]), np.array([4, 3]), np.array([5, 6, 7])]
    few = Episodes(ways=2, queries=4, test_queries=2, validation_tasks=5, test_tasks=9)
    sets = splits.three_way(classes(), parts, few)
    for dataset, part, queries in zip(sets, parts, (4, 2, 2), strict=True):
        found = set()
        for inputs, query_y in dataset.take(20).as_numpy_iterator():
            assert query_y.shape == (4, 2 * queries)
            found |= set(inputs["query_x"][..., 0].ravel())
        assert found == set(part)
    assert [dataset.cardinality() for dataset in sets[1:]] == [2, 3]


def test_without_validation_classes():
    parts = [np.arange(4), np.array([], int), np.arange(4, 9)]
    train, validation, test = splits.three_way(classes(), parts, Episodes(queries=1, ways=4))
    assert validation is None
    assert next(iter(train))[1].shape == next(iter(test))[1].shape == (4, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 4}, "In the validation split: .*ways=4.*2 classes"),
        ({"test_queries": 6}, "In the validation split: .*7 examples.*class 4 with 6 examples"),
        ({"queries": 6}, "In the train split: .*7 examples"),
        ({"test_ways": 3}, "In the validation split: .*ways=3.*2 classes"),
        ({"test_shots": 5}, "In the validation split: .*7 examples.*class 4 with 6 examples"),
    ],
)
def test_too_few_are_told_with_their_split(options, message):
    parts = [np.array([0, 1, 2, 8]), np.array([4, 3]), np.array([5, 6, 7])]
    with pytest.raises(ValueError, match=message):
        splits.three_way(classes(), parts, Episodes(**{"ways": 2, "queries": 2, **options}))
