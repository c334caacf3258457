"""Classes as tasks: arrays, texts and tables give the same tasks, and what is wrong is told."""

import numpy as np
import pandas
import pytest
import tensorflow as tf

from maml_tf import tasks
from tests.wrong_calls import Wrong, check

LABELS = np.repeat([f"c{i}" for i in range(10)], 6)
# Example e of class c is 100 c + e, in both columns.
NUMBERS = np.stack([100.0 * np.repeat(np.arange(10), 6) + np.tile(np.arange(6), 10)] * 2, axis=1)
FRAME = pandas.DataFrame({"a": NUMBERS[:, 0], "label": LABELS, "b": NUMBERS[:, 1]})
TEXTS = np.array([f"text {n:g}" for n in NUMBERS[:, 0]])
SPLIT = {"train": ["c0", "c1", "c2", "c3", "c9"], "validation": [], "test": ["c4", "c5", "c6"]}


def made(x=NUMBERS, y=LABELS, **settings):
    return tasks.classes(x, y, **{"ways": 2, "shots": 2, "queries": 3, "split": SPLIT, **settings})


def batch(sets, part=0):
    return tf.nest.map_structure(np.asarray, next(iter(sets[part])))


def assert_same(sets, other):
    for one, same in zip(tf.nest.flatten(batch(sets)), tf.nest.flatten(batch(other)), strict=True):
        np.testing.assert_array_equal(one, same)


def test_a_task_tells_classes_of_its_part_apart():
    sets = made()
    assert sets[1] is None
    for part, names in ((0, SPLIT["train"]), (2, SPLIT["test"])):
        inputs, query_y = batch(sets, part)
        assert inputs["support_x"].shape == (4, 4, 2)
        assert inputs["query_x"].shape == (4, 6, 2)
        called = sets.class_names("train" if part == 0 else "test")
        for t in range(4):
            x = np.concatenate([inputs["support_x"][t], inputs["query_x"][t]])
            y = np.concatenate([inputs["support_y"][t], query_y[t]])
            assert len(np.unique(x[:, 0])) == 10  # no example twice
            assert [f"c{int(n // 100)}" for n in x[:, 0]] == called[t][y].tolist()
            assert set(called[t]) <= set(names)


def test_a_table_a_file_and_arrays_give_the_same_tasks(tmp_path):
    FRAME.to_csv(tmp_path / "t.csv", index=False)
    expected, of_texts = made(), made(TEXTS.tolist(), LABELS.tolist())
    for table in (FRAME, str(tmp_path / "t.csv")):
        assert_same(made(table, "label"), expected)
    assert batch(made(FRAME, "label", features=["b"]))[0]["support_x"].shape == (4, 4, 1)
    assert_same(made(FRAME.assign(a=TEXTS), "label", features=["a"]), of_texts)
    drawn = batch(of_texts)[0]["support_x"]
    assert drawn.shape == (4, 4, 1)
    assert drawn[0, 0, 0].startswith(b"text ")


def test_shares_are_those_of_the_other_families():
    shares = {"split": (0.5, 0.2, 0.3), "split_seed": 3}
    sets = made(**shares)
    parts = tasks.splits.shuffled(10, *shares.values())
    for name, part in zip(("train", "validation", "test"), parts, strict=True):
        assert sets.drawn_from[name][0].labels.tolist() == [f"c{i}" for i in part]


WRONG = [
    Wrong(lambda: made(FRAME, "lable"), ValueError, "`y`", "y='lable'", "mean 'label'"),
    Wrong(lambda: made(FRAME, LABELS), ValueError, "`y`", "columns"),
    Wrong(lambda: made(FRAME, "label", features=["c"]), ValueError, "`features`", "'c'"),
    Wrong(lambda: made(FRAME, "label", features="a"), TypeError, "`features`", "features='a'"),
    Wrong(lambda: made(FRAME[["label"]], "label"), TypeError, "`features`", "features=[]"),
    Wrong(lambda: made(FRAME, "a"), TypeError, "classes", "'a'", "floating"),
    Wrong(
        lambda: made(FRAME.assign(a=TEXTS), "label"), TypeError, "the text 'text 0' in row 0", "'a'"
    ),
    Wrong(
        lambda: made(FRAME.assign(a=[None, *TEXTS[1:]]), "label", features=["a"]),
        ValueError,
        "a missing value in row 0",
        "texts",
    ),
    Wrong(lambda: made(y="label"), TypeError, "y='label'", "`pandas.DataFrame`"),
    Wrong(lambda: made(features=["a"]), TypeError, "features=['a']"),
    Wrong(lambda: made(y=LABELS[:9]), ValueError, "labels", "60"),
    Wrong(lambda: made(y=np.arange(60.0)), TypeError, "labels", "float64"),
    Wrong(lambda: made(shots=5), ValueError, "In the train split", "shots + queries"),
    Wrong(lambda: made(split=(0.9, 0.2)), ValueError, "`split`", "(0.9, 0.2)"),
    Wrong(lambda: made(split={**SPLIT, "test": ["c11"]}), ValueError, "unknown ['c11']"),
    Wrong(lambda: made("nowhere.csv", "label"), FileNotFoundError, "'nowhere.csv'"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_calls_are_explained(wrong):
    check(wrong)
