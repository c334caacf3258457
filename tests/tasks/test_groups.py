"""Groups as tasks: which rows a task holds, which groups a part has, and what a model is told."""

import csv
import json
import logging

import keras
import numpy as np
import pandas
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import tasks

SIZES = [5, 9, 7, 12, 6, 8, 30, 5, 10, 11]


def table(sizes=SIZES, seed=0):
    """A frame whose rows say which ones they are: group g, row r (in time), x = 1000 g + r."""
    random = np.random.default_rng(seed)
    frame = pandas.DataFrame(
        {
            "person": np.repeat([f"p{g}" for g in range(len(sizes))], sizes),
            "place": np.concatenate([1000.0 * g + np.arange(n) for g, n in enumerate(sizes)]),
            "day": np.concatenate([np.arange(n) for n in sizes]),
        }
    )
    frame["score"] = 2.0 * frame["place"]
    frame["mood"] = np.where(frame["day"] % 3 == 0, "low", "high")
    return frame.iloc[random.permutation(len(frame))]


def made(frame, **settings):
    settings = {"shots": 2, "queries": 3, "features": ["place"], **settings}
    return tasks.groups(frame, settings.pop("y", "score"), "person", **settings)


def batches(dataset, count):
    return [tf.nest.map_structure(np.asarray, b) for b in dataset.take(count)]


def places(batch):
    """Groups and rows of the support and of the queries: `[T, S]` and `[T, Q]` each."""
    inputs, _ = batch
    return [(x[..., 0] // 1000, x[..., 0] % 1000) for x in (inputs["support_x"], inputs["query_x"])]


def test_a_task_has_distinct_rows_of_one_group_with_their_labels():
    sets = made(table())
    for dataset, split in zip(sets, ("train", "validation", "test"), strict=True):
        seen = set()
        for batch in batches(dataset, 20):
            (group, support), (same, query) = places(batch)
            assert (group == group[:, :1]).all()
            assert (same == group[:, :1]).all()
            for rows in np.concatenate([support, query], axis=1):
                assert len(set(rows)) == 5
            inputs, y = batch
            np.testing.assert_array_equal(inputs["support_y"], 2 * inputs["support_x"])
            np.testing.assert_array_equal(y, 2 * inputs["query_x"])
            seen |= {f"p{int(g)}" for g in group[:, 0]}
        assert seen == set(sets.groups(split))


def test_parts_have_no_group_in_common_and_all_of_them():
    sets = made(table(), split=(0.5, 0.2, 0.3))
    parts = [set(sets.groups(split)) for split in ("train", "validation", "test")]
    assert [len(p) for p in parts] == [5, 2, 3]
    assert set.union(*parts) == {f"p{g}" for g in range(10)}


def test_the_order_of_the_rows_of_a_table_changes_no_split():
    one, other = made(table(seed=1)), made(table(seed=2))
    assert one.groups("test").tolist() == other.groups("test").tolist()


def test_in_time_the_first_rows_are_the_support_and_queries_come_later_in_order():
    sets = made(table(), time="day")
    for batch in batches(sets[0], 10):
        (_, support), (_, query) = places(batch)
        np.testing.assert_array_equal(support, np.tile([0, 1], [4, 1]))
        assert (query > 1).all()
        assert (np.diff(query) > 0).all()
    # All later rows are asked for, not the next ones alone.
    assert max(places(b)[1][1].max() for b in batches(sets[0], 10)) > 8


def test_time_may_be_dates_and_without_it_rows_stay_as_they_come():
    frame = table()
    frame["when"] = pandas.Timestamp("2024-01-31") + pandas.to_timedelta(frame["day"], unit="D")
    zone = frame["when"].dt.tz_localize("Europe/Berlin")
    text = frame["when"].dt.strftime("%Y-%m-%d %H:%M")  # as files have it
    for time in ("when", zone, frame["when"].dt.date, text):
        rows = made(frame, time=time).rows("train")
        assert all((np.diff(x[:, 0]) == 1).all() for x, _ in rows.values())
    rows = made(frame, support="first").rows("train")
    for name, (x, _) in rows.items():
        np.testing.assert_array_equal(x[:, 0], frame["place"][frame["person"] == name])


def test_groups_are_drawn_uniformly_or_by_size():
    share = {}
    for draw in ("uniform", "size"):
        sets = made(table(), draw=draw, split=(0.8, 0, 0.2), meta_batch=500)
        group = np.concatenate([places(b)[0][0][:, 0] for b in batches(sets[0], 4)]).astype(int)
        names = [int(name[1:]) for name in sets.groups("train")]
        counted = np.bincount(group, minlength=10)[names] / 2000
        weight = np.array(SIZES)[names] if draw == "size" else np.ones(8)
        expected = weight / weight.sum()
        # Four standard deviations of a share of 2,000.
        assert (np.abs(counted - expected) < 4 * np.sqrt(expected / 2000)).all()
        share[draw] = counted
    assert np.abs(share["uniform"] - share["size"]).max() > 0.1


def test_in_a_test_groups_take_turns_and_the_names_say_which():
    sets = made(table(), split=(0.5, 0, 0.5), test_tasks=10, meta_batch=4)
    assert sets[1] is None
    found = []
    for i, batch in enumerate(batches(sets[2], 9)):
        names = sets.group_names("test", i)
        assert [f"p{int(g)}" for g in places(batch)[0][0][:, 0]] == names.tolist()
        found += names.tolist()
    assert found[:10] == sets.groups("test").tolist() * 2
    for i, batch in enumerate(batches(sets[0], 3)):
        expected = [f"p{int(g)}" for g in places(batch)[0][0][:, 0]]
        assert expected == sets.group_names("train", i).tolist()


def test_groups_that_are_too_small_are_named_or_left_out(caplog):
    with pytest.raises(ValueError, match=r"shots \+ queries = 8 rows.*'p\d' with \d"):
        made(table(), queries=6)
    with caplog.at_level(logging.WARNING):
        sets = made(table(), queries=6, small="leave_out", test_queries=3)
    small = [f"p{g}" for g, n in enumerate(SIZES) if n < 8]
    out = sets.left_out
    assert set(out["train"]) == set(small) - set(sets.groups("test")) - set(
        sets.groups("validation")
    )
    assert not len(out["test"])
    assert all(name in caplog.text for name in out["train"])
    # Who is left out takes no one's place in another part.
    assert sets.groups("test").tolist() == made(table()).groups("test").tolist()


def test_a_split_may_be_a_list_or_a_column():
    frame = table()
    lists = {"train": ["p0", "p1", "p2"], "validation": [], "test": ["p6", "p8"]}
    by_list = made(frame, split=lists)
    frame["part"] = [
        "test" if p in lists["test"] else "valid" if p == "p9" else "train" for p in frame["person"]
    ]
    by_column = made(frame, split="part")
    by_array = made(frame.drop(columns="part"), split=frame["part"].to_numpy())
    assert by_list.groups("train").tolist() == ["p0", "p1", "p2"]
    assert by_list[1] is None
    for sets in (by_column, by_array):
        assert sets.groups("test").tolist() == ["p6", "p8"]
        assert sets.groups("validation").tolist() == ["p9"]
        assert len(sets.groups("train")) == 7


def test_all_other_columns_are_what_the_model_sees():
    frame = table().assign(part="train", mood=1.5)
    frame.loc[frame["person"].isin(["p6", "p8"]), "part"] = "test"
    sets = made(frame, features=None, time="day", split="part")
    assert sets.columns == ["place", "mood"]


def test_classes_mean_the_same_in_every_group():
    sets = made(table(), y="mood")
    assert sets.labels.tolist() == ["high", "low"]
    for inputs, y in batches(sets[0], 5):
        assert y.dtype == inputs["support_y"].dtype == np.int32
        np.testing.assert_array_equal(y, (inputs["query_x"][..., 0] % 1000 % 3 == 0))
    numbered = made(table(), y="day", kind="classification")
    assert numbered.labels.tolist() == list(range(30))


def test_classes_that_training_has_not_are_named(caplog):
    frame = table()
    frame.loc[frame["person"] == "p8", "mood"] = "odd"
    split = {"train": ["p0", "p1"], "validation": [], "test": ["p6", "p8"]}
    with caplog.at_level(logging.WARNING):
        made(frame, y="mood", split=split)
    assert "not learned: ['odd']" in caplog.text


def test_several_inputs_and_several_targets():
    frame = table()
    frame["late"] = frame["day"] + 100
    sets = made(frame, features={"a": ["place"], "b": ["day", "place"]}, y=["score", "late"])
    inputs, y = batches(sets[0], 1)[0]
    assert {k: v.shape for k, v in inputs["query_x"].items()} == {"a": (4, 3, 1), "b": (4, 3, 2)}
    assert y.shape == (4, 3, 2)
    np.testing.assert_array_equal(y[..., 1], inputs["query_x"]["b"][..., 0] + 100)
    assert set(sets.normalization()) == {"a", "b"}
    assert len(sets.normalization("b").get_config()["mean"]) == 2


def test_arrays_do_what_a_table_does():
    frame = table()
    columns = [frame[name].to_numpy() for name in ("place", "score", "person")]
    settings = {"shots": 2, "queries": 3, "meta_batch": 2}
    one = tasks.groups(columns[0], columns[1], columns[2], **settings)
    # A frame of the model's columns, and series of the same index.
    other = tasks.groups(frame[["place"]], frame["score"], frame["person"], **settings)
    third = tasks.groups([columns[0][:, None]], columns[1][:, None], columns[2], **settings)
    expected = batches(made(frame, meta_batch=2)[0], 2)
    tf.nest.map_structure(np.testing.assert_array_equal, expected, batches(one[0], 2))
    tf.nest.map_structure(np.testing.assert_array_equal, expected, batches(other[0], 2))
    (x,) = batches(third[0], 1)[0][0]["query_x"]
    np.testing.assert_array_equal(x, batches(one[0], 1)[0][0]["query_x"])


def test_pictures_and_numbers_of_words_keep_their_kind():
    person = np.repeat(np.arange(6), 5)
    x = {
        "picture": np.full([30, 4, 4, 3], 51, np.uint8),
        "word": np.arange(30, dtype=np.int64),
    }
    sets = tasks.groups(x, np.arange(30.0), person, shots=2, queries=3)
    query = batches(sets[0], 1)[0][0]["query_x"]
    np.testing.assert_allclose(query["picture"], 0.2)
    assert query["word"].dtype == np.int64
    assert query["word"].shape == (4, 3, 1)
    layers = sets.normalization()
    assert layers["word"] is None
    np.testing.assert_allclose(layers["picture"](query["picture"]), 0.0, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["t.csv", "t.tsv", "t.csv.gz", "quoted.csv", "semicolon.csv", "t.parquet"]
)
def test_a_file_is_its_table(tmp_path, name):
    frame = table()
    path = tmp_path / name
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
        frame.to_parquet(path, index=False)
    else:
        separator = {"t.tsv": "\t", "semicolon.csv": ";"}.get(name, ",")
        quoting = csv.QUOTE_NONNUMERIC if name == "quoted.csv" else csv.QUOTE_MINIMAL
        frame.to_csv(path, index=False, sep=separator, quoting=quoting)
    one, other = made(path if name == "t.csv" else str(path)), made(frame)
    tf.nest.map_structure(
        np.testing.assert_array_equal, batches(one[0], 1)[0], batches(other[0], 1)[0]
    )


@pytest.mark.parametrize("change", ["values", "rows", "arrays"])
def test_what_changes_later_changes_no_task(change):
    frame = table()
    x, y, person = (frame[name].to_numpy(copy=True) for name in ("place", "score", "person"))
    sets = made(frame) if change != "arrays" else tasks.groups(x, y, person, shots=2, queries=3)
    before = batches(sets[0], 2)
    if change == "values":
        frame.loc[:, "place"] = -1.0
        frame.loc[:, "score"] = np.nan
    elif change == "rows":
        frame.drop(index=frame.index[5:], inplace=True)
    else:
        x[:], y[:], person[:] = -1, np.nan, "p0"
    after = batches(sets[0], 2)
    tf.nest.map_structure(np.testing.assert_array_equal, before, after)
    assert len(sets.rows("train")) == 6


def test_normalization_is_of_the_training_groups_alone():
    frame = table()
    held_out = frame["person"].isin(["p6", "p8"])
    frame.loc[held_out, ["place", "score"]] = 1e9
    frame["same"] = 0.1
    split = {"train": [p for p in frame["person"].unique() if p not in ("p6", "p8")]}
    split |= {"validation": [], "test": ["p6", "p8"]}
    sets = made(frame, features=["place", "same"], split=split)
    layer, last = sets.normalization(), sets.denormalization()
    train = frame[~held_out]
    x = train[["place", "same"]].to_numpy(np.float32)
    z = layer(x).numpy()
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(z[:, 0].std(), 1, rtol=1e-5)
    np.testing.assert_array_equal(z[:, 1], 0)
    # Where a column never changed in training, another value is moved, not blown up.
    assert abs(layer(np.array([[0.0, 1.1]], np.float32)).numpy()[0, 1] - 1.0) < 1e-6
    mean, deviation = sets.target_scale()
    np.testing.assert_allclose(mean, train["score"].mean())
    np.testing.assert_allclose(deviation, train["score"].std(ddof=0))
    np.testing.assert_allclose(last(np.ones([1, 1], np.float32)), [mean + deviation], rtol=1e-6)
    # Both are configuration: they are there after a copy without any weights.
    for one in (layer, last):
        config = json.loads(json.dumps(one.get_config()))
        again = type(one).from_config(config)
        given = x if one is layer else np.ones([2, 1], np.float32)
        np.testing.assert_array_equal(again(given), one(given))
        assert not again.trainable_weights


def test_arrays_of_somebody_new_are_made_as_those_of_training():
    sets = made(table(), y="mood", features=["day", "place"])
    new = pandas.DataFrame({"place": [7.0, 8.0], "mood": ["low", "high"], "day": [1, 2]})
    x, y = sets.arrays(new)
    np.testing.assert_array_equal(x, [[1, 7], [2, 8]])
    np.testing.assert_array_equal(y, [1, 0])
    assert sets.arrays(new.drop(columns="mood"))[1] is None
    x, y = made(table()).arrays(new.assign(score=[1.0, 2.0]))
    np.testing.assert_array_equal(y, [[1.0], [2.0]])


def test_a_learner_learns_what_differs_from_group_to_group(tmp_path):
    """Every group has a slope of its own: a pooled model cannot know it, five rows tell it."""
    random = np.random.default_rng(0)
    person = np.repeat(np.arange(40), 25)
    x = random.normal(5, 3, [1000, 1])
    y = 100 + 10 * random.choice([-1.0, 1.0], 40)[person] * (x[:, 0] - 5)
    sets = tasks.groups(x, y, person, shots=5, queries=15, split=(0.7, 0.1, 0.2), test_tasks=40)
    network = keras.Sequential(
        [
            keras.Input([1]),
            sets.normalization(),
            keras.layers.Dense(20, "tanh"),
            keras.layers.Dense(1),
            sets.denormalization(),
        ]
    )
    variance = sets.target_scale()[1].item() ** 2
    learner = maml_tf.MAML(network, 0.1 / variance, inner_steps=3)
    learner.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse", steps_per_execution=100)
    learner.fit(sets[0], steps_per_epoch=600, verbose=0)
    error = maml_tf.evaluation.evaluate(learner, sets[2], 40).mean
    assert error[0] > 0.5 * variance
    assert error[-1] < 0.2 * variance
    x, y = sets.rows("test")[sets.groups("test")[0].item()]
    adapted = learner.adapt(x[:5], y[:5])
    learner.save(tmp_path / "learner.keras")
    again = keras.saving.load_model(tmp_path / "learner.keras")
    np.testing.assert_allclose(
        again.adapt(x[:5], y[:5]).predict(x, verbose=0), adapted.predict(x, verbose=0), rtol=1e-5
    )
