"""Series as tasks: what a window shows and asks for, and that nothing of it is known before."""

import keras
import numpy as np
import pandas
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import tasks
from tests.wrong_calls import Wrong, check

LENGTHS = [40, 60, 45, 50, 80, 41, 42, 43, 44, 70]
# Point p of series s is 1000 s + p: every number says where it comes from.
SERIES = [1000.0 * s + np.arange(n) for s, n in enumerate(LENGTHS)]


def made(series=SERIES, **settings):
    settings = {"inputs": 6, "horizon": 3, "shots": 4, "queries": 2, "scale": False} | settings
    return tasks.windows(series, **settings)


def batches(dataset, count):
    return [tf.nest.map_structure(np.asarray, b) for b in dataset.take(count)]


def test_queries_ask_for_what_follows_all_that_the_support_has():
    sets = made()
    starts = set()
    for dataset in sets:
        for inputs, query_y in batches(dataset, 15):
            sx, sy, qx = (inputs[k] for k in ("support_x", "support_y", "query_x"))
            assert sx.shape == (4, 4, 6)
            assert qx.shape == (4, 2, 6)
            assert query_y.shape == (4, 2, 3)
            for task in range(4):
                known = np.concatenate([sx[task].ravel(), sy[task].ravel()])
                assert known.max() < query_y[task].min()
                # All of one series, and each window a run of points that its label goes on with.
                assert len({*(known // 1000), *(query_y[task].ravel() // 1000)}) == 1
                for x, y in [*zip(sx[task], sy[task]), *zip(qx[task], query_y[task])]:  # noqa: B905
                    np.testing.assert_array_equal(np.diff([*x, *y]), 1)
                # The beginning has 6 + 4 * 3 points; queries follow it at once, one after another.
                first = known.min()
                starts.add((first // 1000, first % 1000) if dataset is sets[0] else None)
                np.testing.assert_array_equal(query_y[task].ravel(), first + 18 + np.arange(6))
                assert known.max() == first + 17
                if dataset is not sets[0]:
                    assert first % 1000 == 0
    # Stretches of training begin anywhere, where there is room.
    assert len(starts) > 30
    assert all(first + 24 <= LENGTHS[int(s)] for s, first in starts - {None})


def test_the_last_stretch_of_a_series_is_drawn_too():
    series = [1000.0 * s + np.arange(26) for s in range(5)]
    sets = made(series, split=(0.6, 0.2, 0.2))
    first = {b[0]["support_x"][..., 0].min(1).astype(int)[t] % 1000 for b in batches(sets[0], 20)
             for t in range(4)}  # fmt: skip
    assert first == {0, 1, 2}


def test_series_of_a_part_are_in_no_other_and_take_turns_in_the_test():
    sets = made(test_tasks=4, split=(0.5, 0.3, 0.2))
    parts = [sets.groups(split).tolist() for split in ("train", "validation", "test")]
    assert sorted(sum(parts, [])) == list(range(10))
    assert [len(part) for part in parts] == [5, 3, 2]
    (batch,) = batches(sets[2], 9)
    assert (batch[1][:, 0, 0] // 1000).astype(int).tolist() == parts[2] * 2
    assert sets.group_names("test").tolist() == parts[2] * 2
    np.testing.assert_array_equal(sets.beginnings("test")[:, :6], batch[0]["support_x"][:, 0])
    train = batches(sets[0], 1)[0][0]["support_x"]
    np.testing.assert_array_equal(sets.beginnings("train")[:, 0], train[:, 0, 0])


def test_a_task_is_scaled_by_its_beginning_alone():
    """What follows the beginning changes nothing of the support, whatever it is."""
    random = np.random.default_rng(0)
    one = 50 + 9 * random.normal(size=[6, 24])
    other = one.copy()
    other[:, 18:] += 1e6
    sets = [made(array, scale=True, stretches="first", seed=3) for array in (one, other)]
    first, second = (batches(s[0], 1)[0] for s in sets)
    np.testing.assert_array_equal(first[0]["support_x"], second[0]["support_x"])
    np.testing.assert_array_equal(first[0]["support_y"], second[0]["support_y"])
    np.testing.assert_array_equal(first[0]["query_x"][:, 0], second[0]["query_x"][:, 0])
    assert (np.abs(first[1] - second[1]) > 1e3).all()
    beginning = sets[0].beginnings("train")
    np.testing.assert_allclose(beginning.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(beginning.std(1), 1, rtol=1e-5)
    names = sets[0].group_names("train")
    expected = (one[names] - one[names, :18].mean(1, keepdims=True)) / one[names, :18].std(
        1, keepdims=True
    )
    np.testing.assert_allclose(first[1].reshape(4, 6), expected[:, 18:], rtol=1e-4, atol=1e-5)


def test_a_series_that_never_changes_is_only_shifted():
    (inputs, y) = batches(made(np.full([9, 40], 7.1), scale=True)[0], 1)[0]
    np.testing.assert_allclose(inputs["support_x"], 0, atol=1e-5)
    np.testing.assert_allclose(y, 0, atol=1e-5)


def test_one_series_is_cut_in_time():
    sets = made(np.arange(200.0), split=(0.5, 0.2, 0.3))
    seen = []
    for dataset in sets:
        found = [tf.nest.flatten(b) for b in batches(dataset, 30)]
        numbers = np.concatenate([t.ravel() for b in found for t in b])
        seen.append((numbers.min(), numbers.max()))
    assert seen[0][1] < 100 <= seen[1][0]
    assert seen[1][1] < 140 <= seen[2][0]
    assert made(np.arange(200.0), split=(0.7, 0, 0.3))[1] is None


def test_channels_and_targets():
    series = [np.stack([s, -s, 2 * s], axis=1) for s in SERIES]
    sets = made(series, targets=[2])
    inputs, y = batches(sets[0], 1)[0]
    assert inputs["query_x"].shape == (4, 2, 6, 3)
    assert y.shape == (4, 2, 3, 1)
    np.testing.assert_array_equal(y[:, 0, 0, 0], inputs["query_x"][:, 0, -1, 2] + 2)
    assert batches(made(series)[0], 1)[0][1].shape == (4, 2, 3, 3)


def test_tables_arrays_and_dicts_are_the_same_series(tmp_path):
    array = np.full([10, 80], np.nan)
    for row, one in zip(array, SERIES, strict=True):
        row[: len(one)] = one
    frame = pandas.DataFrame(
        {
            "machine": np.repeat(np.arange(10), LENGTHS),
            "when": np.concatenate([pandas.date_range("2024", periods=n) for n in LENGTHS]),
            "load": np.concatenate(SERIES),
        }
    ).sample(frac=1.0, random_state=0)
    frame.to_csv(tmp_path / "t.csv", index=False)
    table = {"groups": "machine", "time": "when"}
    expected = batches(made()[0], 2)
    read = pandas.read_csv(tmp_path / "t.csv", parse_dates=["when"])
    for sets in (
        made(array),
        made(dict(enumerate(SERIES))),
        made(frame, values="load", **table),
        made(read, **table),
    ):
        tf.nest.map_structure(np.testing.assert_array_equal, expected, batches(sets[0], 2))
    # Rows in the order of time may do without its column, and one series without a column of them.
    frame = frame.sort_values("when").drop(columns="when")
    frame.to_csv(tmp_path / "ordered.csv", index=False)
    sets = made(tmp_path / "ordered.csv", groups="machine")
    tf.nest.map_structure(np.testing.assert_array_equal, expected, batches(sets[0], 2))
    assert made(frame, values=["load"]).groups("train").tolist() == [0]


def test_short_series_are_named_or_left_out():
    series = [*SERIES, np.arange(23.0), np.arange(9.0)]
    with pytest.raises(ValueError, match=r"24 points in every series.*1[01] with (23|9)"):
        made(series)
    sets = made(series, small="leave_out")
    assert sorted(np.concatenate(list(sets.left_out.values()))) == [10, 11]


def test_segments_have_one_label_and_do_not_overlap():
    """Series of runs of a label: a window across two runs is no segment."""
    labels = [np.repeat(["walk", "run", "walk", "sit"], [10, 6, 14, 12]) for _ in range(8)]
    series = [1000.0 * s + np.arange(42) for s in range(8)]
    sets = tasks.windows(series, labels, inputs=4, shots=2, queries=3)
    assert sets.labels.tolist() == ["run", "sit", "walk"]
    segments = sets.rows("train")
    for number, (x, y) in segments.items():
        assert (np.diff(x) == 1).all()
        assert (np.diff(x[:, 0]) >= 4).all()
        for window, label in zip(x, y, strict=True):
            inside = labels[number][window.astype(int) - 1000 * number]
            assert set(inside) == {sets.labels[label]}
    inputs, y = batches(sets[0], 1)[0]
    assert inputs["support_y"].dtype == y.dtype == np.int32
    # Support first in time: no query begins before the last support window ends.
    assert (inputs["support_x"].max((1, 2)) < inputs["query_x"].min((1, 2))).all()
    assert made_segments(series, labels, stride=6).rows("train")[sets.groups("train")[0].item()][
        0
    ].shape[0] < len(segments[sets.groups("train")[0].item()][0])


def made_segments(series, labels, **settings):
    return tasks.windows(series, labels, inputs=4, shots=1, queries=2, **settings)


def test_labels_may_be_a_column_or_a_dict():
    labels = np.repeat(["a", "b"], 21)
    frame = pandas.DataFrame(
        {
            "who": np.repeat(np.arange(8), 42),
            "v": np.arange(336.0),
            "w": -np.arange(336.0),
            "label": np.tile(labels, 8),
        }
    )
    one = made_segments(frame, "label", groups="who")
    series = {w: g[["v", "w"]].to_numpy() for w, g in frame.groupby("who")}
    other = made_segments(series, dict.fromkeys(range(8), labels))
    tf.nest.map_structure(np.testing.assert_array_equal, batches(one[0], 2), batches(other[0], 2))


def test_a_learner_forecasts_a_series_of_somebody_new_in_its_units():
    """Every series is a wave of its own period: the beginning tells what follows."""
    random = np.random.default_rng(0)
    time = np.arange(120)
    waves = [
        size * np.sin(2 * np.pi * (time / period + phase)) + 5 * size
        for size, period, phase in zip(
            10 ** random.uniform(0, 4, 40),
            random.choice([6, 8, 12], 40),
            random.uniform(0, 1, 40),
            strict=True,
        )
    ]
    sets = tasks.windows(waves, inputs=12, horizon=4, shots=6, test_tasks=8)
    network = keras.Sequential([keras.Input([12]), keras.layers.Dense(4)])
    learner = maml_tf.MAML(network, 0.05, inner_steps=3)
    learner.compile(optimizer=keras.optimizers.Adam(0.02), loss="mse", steps_per_execution=100)
    learner.fit(sets[0], steps_per_epoch=300, verbose=0)
    assert maml_tf.evaluation.evaluate(learner, sets[2], 8).mean[-1] < 0.05
    wave = waves[sets.groups("test")[0].item()]
    mine = sets.prepare(wave[:100])
    adapted = learner.adapt(mine.support_x, mine.support_y)
    forecast = mine.restore(adapted.predict(mine.query_x, verbose=0))[0]
    assert np.abs(forecast - wave[100:104]).max() < 0.4 * np.std(wave)


GAP = np.array([1.0] * 20 + [np.nan] + [1.0] * 20)
WRONG = [
    Wrong(lambda: made(inputs=0), ValueError, "`inputs`", "inputs=0"),
    Wrong(lambda: made(horizon=0), ValueError, "`horizon`", "horizon=0"),
    Wrong(lambda: made(horizon=None), ValueError, "`labels`", "neither"),
    Wrong(lambda: made(labels=SERIES), ValueError, "`horizon`", "both"),
    Wrong(lambda: made(beginning=8), ValueError, "`beginning`", "at least 9", "beginning=8"),
    Wrong(lambda: made(shots=0), ValueError, "`shots`", "shots=0"),
    Wrong(lambda: made(scale="no"), TypeError, "`scale`", "scale='no'"),
    Wrong(lambda: made(stretches="last"), ValueError, "`stretches`", "'last'"),
    Wrong(lambda: made(test_stretches="all"), ValueError, "`test_stretches`", "'all'"),
    Wrong(lambda: made(small="drop"), ValueError, "`small`", "'drop'"),
    Wrong(lambda: made(draw=None), ValueError, "`draw`", "draw=None"),
    Wrong(lambda: made(support="last"), ValueError, "`support`", "'last'"),
    Wrong(lambda: made(split=(1, 2)), ValueError, "`split`", "of the series", "(1, 2)"),
    Wrong(lambda: made(split="part"), ValueError, "`split`", "'part'"),
    Wrong(lambda: made(split=(0.95, 0.025, 0.025)), ValueError, "validation", "10 series"),
    Wrong(lambda: made(targets=[0]), ValueError, "`targets`", "targets=[0]"),
    Wrong(
        lambda: made(np.ones([9, 40, 2]), targets=[2]), ValueError, "`targets[0]`", "targets[0]=2"
    ),
    Wrong(lambda: made(3.0), ValueError, "[series, time]", "series=3.0"),
    Wrong(lambda: made([]), ValueError, "[series, time]", "series=[]"),
    Wrong(lambda: made({"a": np.array(["x"])}), TypeError, "series 'a'", "numbers"),
    Wrong(lambda: made({"a": GAP, "b": GAP}), ValueError, "missing", "point 20", "series 'a'"),
    Wrong(lambda: made([np.ones(30), np.ones([30, 2])]), ValueError, "channels", "(2,)"),
    Wrong(lambda: made(values="load"), TypeError, "columns", "values='load'"),
    Wrong(lambda: made(np.ones(60)), ValueError, "validation split", "10 of the 60"),
    Wrong(
        lambda: made(np.ones(600), split={"train": [0], "validation": [], "test": [0]}),
        ValueError,
        "several series",
        "one series",
    ),
    Wrong(
        lambda: made(pandas.DataFrame({"a": [1.0], "t": [1]}), time="when"),
        ValueError,
        "'when'",
        "columns",
    ),
    Wrong(
        lambda: made(pandas.DataFrame({"a": [1.0, 2.0], "t": [1, 1]}), time="t"),
        ValueError,
        "one row for each moment",
        "rows [0, 1]",
    ),
    Wrong(lambda: made_segments(SERIES, SERIES), TypeError, "labels", "floating"),
    Wrong(lambda: made_segments(SERIES, [["a"] * 3] * 10), ValueError, "40 points", "labels"),
    Wrong(lambda: made_segments(SERIES, [["a"]]), ValueError, "10 series", "1 arrays"),
    Wrong(lambda: made_segments({"a": GAP[:9]}, {"b": [1]}), ValueError, "`labels`", "['a']"),
    Wrong(
        lambda: made_segments(SERIES, [np.arange(n) for n in LENGTHS]),
        ValueError,
        "one label",
        "none",
    ),
    Wrong(lambda: made_segments(SERIES, SERIES, stride=3), ValueError, "`stride`", "stride=3"),
    Wrong(lambda: made().prepare(np.ones(8)), ValueError, "inputs + horizon = 9", "(8,)"),
    Wrong(lambda: made().prepare(np.ones([20, 2])), ValueError, "channels", "(20, 2)"),
    Wrong(lambda: made().groups("tset"), ValueError, "`split`", "mean 'test'"),
    Wrong(lambda: made().group_names("test", 999), ValueError, "`batch`", "batch=999"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_series_are_explained(wrong):
    check(wrong)
