"""What is wrong with a table, its groups or its split is told by row, column and group."""

import datetime
import sys

import numpy as np
import pandas
import pytest

from maml_tf import tasks
from tests.wrong_calls import Wrong, check

FRAME = pandas.DataFrame(
    {
        "person": np.repeat(["ann", "bob", "cem", "dee"], 6),
        "age": np.repeat([30, 40, 50, 60], 6),
        "load": np.linspace(0, 1, 24),
        "score": np.linspace(5, 6, 24),
    }
)


def made(frame=FRAME, y="score", groups="person", **settings):
    return tasks.groups(
        frame, y, groups, **{"shots": 2, "queries": 2, "split": (0.5, 0.25, 0.25), **settings}
    )


def cell(column, row, value):
    """The frame with one other cell."""
    values = FRAME[column].astype(object)
    values[row] = value
    return FRAME.assign(**{column: values})


def of_file(tmp, text):
    (tmp / "t.csv").write_text(text)
    return made(tmp / "t.csv")


ARRAYS = {"frame": np.ones([24, 2]), "y": np.arange(24.0), "groups": np.arange(24) // 6}


def arrays(**changed):
    return made(**{**ARRAYS, **changed})


def dates(column):
    return FRAME.assign(**{column: pandas.date_range("2024-01-01", periods=24)})


ODD = pandas.DataFrame([[1.0, 2.0]], columns=["a", "a"])
SPLIT = FRAME.assign(part=["train"] * 12 + ["test"] * 12)
WRONG = [
    # Columns and files.
    Wrong(lambda: made(y="scor"), ValueError, "`y`", "y='scor'", "mean 'score'"),
    Wrong(lambda: made(groups="persn"), ValueError, "`groups`", "'persn'", "mean 'person'"),
    Wrong(lambda: made(time="day"), ValueError, "`time`", "time='day'"),
    Wrong(lambda: made(split="part"), ValueError, "`split`", "split='part'"),
    Wrong(lambda: made(features=["age", "lod"]), ValueError, "`features`", "mean 'load'"),
    Wrong(lambda: made(features=["score", "age"]), ValueError, "`features`", "['score']"),
    Wrong(lambda: made(features="age"), TypeError, "`features`", "features='age'"),
    Wrong(lambda: made(features=[]), TypeError, "`features`", "features=[]"),
    Wrong(lambda: made(features={"a": "age"}), TypeError, "`features`", "'a': 'age'"),
    Wrong(lambda: made(FRAME[["person", "score"]]), ValueError, "beside", "['person', 'score']"),
    Wrong(lambda: made(ODD), ValueError, "different names", "['a']", "Rename"),
    Wrong(lambda: made(FRAME.iloc[:0]), ValueError, "with rows", "'person'"),
    Wrong(lambda: made("nowhere.csv"), FileNotFoundError, "'nowhere.csv'", "not exist"),
    Wrong(lambda: made(__file__), ValueError, "test_wrong_tables.py", ".parquet"),
    Wrong(lambda: made(""), ValueError, "`x`", "x=''"),
    # Cells.
    Wrong(lambda: made(cell("score", 9, "six")), TypeError, "'six' in row 9", "'score'"),
    Wrong(lambda: made(FRAME.assign(score="6")), TypeError, "'6' in row 0", "classification"),
    Wrong(lambda: made(cell("load", 7, "1,5")), TypeError, "'1,5'", "row 7", "'load'"),
    Wrong(lambda: made(cell("load", 3, None)), ValueError, "missing", "row 3", "'load'"),
    Wrong(lambda: made(cell("score", 3, np.nan)), ValueError, "missing", "row 3", "'score'"),
    Wrong(lambda: made(cell("load", 5, np.inf)), ValueError, "inf", "row 5", "'load'"),
    Wrong(lambda: made(cell("load", 5, 1e300)), ValueError, "inf", "row 5", "'load'"),
    Wrong(
        lambda: made(FRAME.assign(load=1e9 + FRAME["load"])),
        ValueError,
        "float32 tells apart",
        "'load' from 1000000000 to 1000000001",
    ),
    Wrong(lambda: made(FRAME.assign(load=range(2**30, 2**30 + 24))), ValueError, "1073741824"),
    Wrong(
        lambda: arrays(frame=1e9 + FRAME[["load"]].to_numpy()), ValueError, "'x' from 1000000000"
    ),
    Wrong(
        lambda: tasks.windows(
            1e9 + np.linspace(0, 1, 540).reshape(9, 60), inputs=5, horizon=2, shots=2
        ),
        ValueError,
        "'series 0' from 1000000000",
    ),
    Wrong(lambda: arrays(frame=np.ones([24, 0])), ValueError, "something in every row", "(24, 0)"),
    Wrong(lambda: made(cell("load", 5, 1j)), TypeError, "1j", "row 5", "'load'"),
    Wrong(lambda: made(cell("age", 0, pandas.NA)), ValueError, "missing", "row 0", "'age'"),
    Wrong(
        lambda: made(FRAME.assign(load="2024-01-31 12:00")),
        TypeError,
        "the date 2024-01-31 12:00 in row 0",
        "'load'",
        "`time=`",
    ),
    Wrong(lambda: made(dates("load")), TypeError, "the date 2024-01-01", "row 0", "'load'"),
    Wrong(
        lambda: made(cell("load", 2, datetime.date(2024, 1, 2))),
        TypeError,
        "the date 2024-01-02",
        "row 2",
        "'load'",
    ),
    Wrong(
        lambda: made(FRAME.assign(sex=["F", "M"] * 12)), TypeError, "'F'", "'sex'", "get_dummies"
    ),
    Wrong(
        lambda: made(FRAME.assign(sex=pandas.Categorical(["F", "M"] * 12))),
        TypeError,
        "'F'",
        "'sex'",
        "get_dummies",
    ),
    Wrong(
        lambda: made(cell("load", 7, "x").sort_index(ascending=False)),
        TypeError,
        "'x' in row 16 (index 7)",
        "'load'",
    ),
    Wrong(lambda: made(cell("person", 4, None)), ValueError, "missing", "row 4", "'person'"),
    Wrong(lambda: made(time="person"), TypeError, "`time`", "'ann'", "to_datetime"),
    Wrong(
        lambda: made(dates("day").assign(day=lambda f: f["day"].where(f["age"] > 30)), time="day"),
        ValueError,
        "missing",
        "row 0",
        "'day'",
    ),
    # Groups.
    Wrong(lambda: made(groups="load"), TypeError, "groups", "'load'", "astype(int)"),
    Wrong(lambda: made(dates("day"), groups="day"), TypeError, "groups", "day=", "astype(str)"),
    Wrong(lambda: made(cell("person", 4, 5)), TypeError, "of one kind", "['int', 'str']", "astype"),
    Wrong(lambda: made(FRAME.assign(person="ann")), ValueError, "at least one group", "1 group "),
    Wrong(lambda: made(split=(0.9, 0.05, 0.05)), ValueError, "validation split", "(0.9, 0.05"),
    Wrong(
        lambda: made(
            FRAME.drop(index=range(4)),
            split={"train": ["cem"], "validation": ["dee"], "test": ["ann", "bob"]},
        ),
        ValueError,
        "'ann' with 2.",
        "leave_out",
    ),
    Wrong(lambda: made(shots=9, small="leave_out"), ValueError, "with 6", "`shots`"),
    # Splits.
    Wrong(lambda: made(split=(0.5, 0.5)), ValueError, "`split`", "(0.5, 0.5)", "of the groups"),
    Wrong(lambda: made(split={"train": ["ann"]}), ValueError, "`split`", "groups", "['train']"),
    Wrong(
        lambda: made(split={"train": ["ann", "eve"], "validation": [], "test": ["bob"]}),
        ValueError,
        "group",
        "unknown ['eve']",
    ),
    Wrong(
        lambda: made(split={"train": ["ann"], "validation": [], "test": ["ann"]}),
        ValueError,
        "repeated ['ann']",
    ),
    Wrong(
        lambda: made(SPLIT.assign(part=["train", "test"] * 12), split="part"),
        ValueError,
        "`split`",
        "['test', 'train']",
        "'ann'",
    ),
    Wrong(
        lambda: made(SPLIT.replace("test", "tset"), split="part"), ValueError, "`split`", "['tset']"
    ),
    Wrong(lambda: made(SPLIT[:12], split="part"), ValueError, "test split", "none of 2"),
    Wrong(lambda: made(split="age"), TypeError, "`split`", "int64"),
    # Settings.
    Wrong(lambda: made(shots=0), ValueError, "`shots`", "shots=0"),
    Wrong(lambda: made(queries=2.5), TypeError, "`queries`", "queries=2.5"),
    Wrong(lambda: made(meta_batch=0), ValueError, "`meta_batch`", "=0"),
    Wrong(lambda: made(kind="regresion"), ValueError, "`kind`", "mean 'regression'"),
    Wrong(lambda: made(support="last"), ValueError, "`support`", "support='last'"),
    Wrong(lambda: made(draw="sizes"), ValueError, "`draw`", "mean 'size'"),
    Wrong(lambda: made(small="skip"), ValueError, "`small`", "small='skip'"),
    Wrong(lambda: made(split_seed=-1), ValueError, "`split_seed`", "-1"),
    # Labels.
    Wrong(lambda: made(y="age"), ValueError, "`kind`", "'age'", "'classification'"),
    Wrong(lambda: made(y="load", kind="classification"), TypeError, "classes", "'load'"),
    Wrong(lambda: made(FRAME.assign(c="a"), y="c"), ValueError, "two classes", "['a']", "'c'"),
    Wrong(lambda: made(y=["age", "load"], kind="classification"), ValueError, "one class", "'age'"),
    # Arrays.
    Wrong(lambda: arrays(y="score"), TypeError, "`y`", "y='score'", "`pandas.DataFrame`"),
    Wrong(lambda: arrays(groups="person"), TypeError, "`groups`", "groups='person'"),
    Wrong(lambda: arrays(y=np.ones(23)), ValueError, "`y`", "24 rows", "(23,)"),
    Wrong(lambda: arrays(groups=np.arange(30)), ValueError, "`groups`", "24 rows", "(30,)"),
    Wrong(lambda: arrays(groups=np.ones([24, 2], int)), ValueError, "`groups`", "(24, 2)"),
    Wrong(lambda: arrays(groups=np.arange(24) / 6), TypeError, "groups", "floating"),
    Wrong(lambda: arrays(y=np.ones([24, 2, 2])), ValueError, "[rows, k]", "(24, 2, 2)"),
    Wrong(lambda: arrays(features=["a"]), TypeError, "`features`", "['a']"),
    Wrong(lambda: arrays(frame=np.full([24, 2], "a")), TypeError, "numbers", "(24, 2)"),
    Wrong(lambda: arrays(frame=3.0), TypeError, "rows", "array(3.)"),
    Wrong(lambda: arrays(frame=[[1.0], [1.0, 2.0]]), ValueError, "`x`", "different shapes"),
    Wrong(lambda: arrays(frame={"a": np.ones(24), "b": np.ones(23)}), ValueError, "[24, 23] rows"),
    Wrong(
        lambda: arrays(frame=np.where(np.eye(24, 2) > 0, np.nan, 1.0)),
        ValueError,
        "missing",
        "row 0",
        "[0]",
    ),
    # A frame that changed under way: what was taken from it before has other rows.
    Wrong(
        lambda: made(FRAME.sort_values("load", ascending=False), FRAME["score"]),
        ValueError,
        "`y`",
        "index",
        "mixed up",
    ),
    Wrong(lambda: made(FRAME[FRAME["age"] > 30], groups=FRAME["person"]), ValueError, "index"),
    # What was made.
    Wrong(lambda: made().groups("tests"), ValueError, "`split`", "mean 'test'"),
    Wrong(lambda: made().group_names("test", 1000), ValueError, "`batch`", "1000"),
    Wrong(lambda: made().normalization("a"), ValueError, "`keep`", "keep='a'"),
    Wrong(lambda: made().arrays(FRAME.drop(columns="age")), ValueError, "'age'", "columns"),
    Wrong(lambda: made().arrays(np.ones([2, 2])), TypeError, "table", "(2, 2)"),
    Wrong(lambda: arrays().arrays(FRAME), TypeError, "table", "arrays"),
    Wrong(
        lambda: made(FRAME.assign(c=["a", "b"] * 12), y="c").denormalization(),
        ValueError,
        "regression",
        "2 classes",
    ),
    Wrong(
        lambda: made(FRAME.assign(c=["a", "b"] * 12), y="c").arrays(FRAME.assign(c="z")),
        ValueError,
        "['a', 'b']",
        "['z']",
    ),
]


@pytest.mark.parametrize(
    "column", [0.1 * np.ones(24), 0.1 * np.ones(24) + 1e-17 * np.arange(24), 1e6 + np.arange(24)]
)
def test_numbers_that_float32_tells_apart_are_taken(column):
    made(FRAME.assign(load=column))


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_tables_are_explained(wrong):
    check(wrong)


FILES = {
    "age,score,person\n1,2,a\n1,two,a\n": (TypeError, "'two' in row 1 (line 3 of the file)"),
    "age,score,person\n1,2.5,a\n,2,a\n": (ValueError, "row 1 (line 3 of the file), column 'age'"),
    "": (ValueError, "pandas says"),
    "age,score\n1,2,3,4\n1,2\n1,2,3,4,5\n": (ValueError, "pandas says"),
}


@pytest.mark.parametrize("text", FILES, ids=["text", "missing", "empty", "ragged"])
def test_wrong_files_are_explained(tmp_path, text):
    error, fragment = FILES[text]
    check(Wrong(lambda: of_file(tmp_path, text), error, fragment))


def test_without_pandas_arrays_work_and_a_file_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    monkeypatch.setitem(sys.modules, "pandas", None)
    check(Wrong(lambda: made(tmp_path / "t.csv"), ImportError, "pandas", "maml_tf[tables]"))
    assert len(arrays().groups("train")) == 2
