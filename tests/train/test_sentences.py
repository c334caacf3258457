"""The script for sentences: strings go in, and into what it saves."""

import csv
import itertools
import json
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from train import common, sentences

OPTIONS = ["--quick", "--ways", "2", "--shots", "2", "--queries", "2", "--iterations", "2"]
OPTIONS += ["--epoch-iterations", "1", "--validation-tasks", "2", "--test-tasks", "8"]
OPTIONS += ["--meta-batch", "2", "--vocabulary", "60", "--length", "24", "--dimensions", "8"]


@pytest.fixture
def rows():
    """Sentences of 15 classes, each of two of six letters."""
    rng = np.random.default_rng(0)
    pairs = list(itertools.combinations("abcdeß", 2))
    return [
        (" ".join("".join(rng.choice(pair, 3)) for _ in range(4)), f"c{c}")
        for c, pair in enumerate(pairs)
        for _ in range(6)
    ]


def run(monkeypatch, *options):
    monkeypatch.setattr("sys.argv", ["script", *map(str, options)])
    sentences.main()


def test_what_it_saves_takes_strings(rows, monkeypatch, capsys, tmp_path):
    path = tmp_path / "intents.json"
    path.write_text(json.dumps({"train": rows[::2], "test": rows[1::2], "oos": [["x", "oos"]]}))
    output = tmp_path / "run"
    given = [*OPTIONS, "--data", path, "--output", output, "--cache", tmp_path]
    run(monkeypatch, *given)
    printed = capsys.readouterr().out
    assert "2-way 2-shot, sentences of classes that training has not seen: test accuracy" in printed
    assert "chance 50.0 %, nearest class mean of token counts" in printed
    results = json.loads((output / "results.json").read_text())
    # Letters are shared with training classes: counts alone tell the classes apart.
    assert results["nearest_class_mean_of_counts"]["mean"][-1] > 0.7
    assert results["test"]["num_tasks"] == 8

    learner = keras.saving.load_model(output / "sentences.keras")
    x, y = np.array([rows[0][0], rows[6][0]]), np.array([0, 1], np.int32)
    query = np.array([rows[1][0], rows[7][0], "", "語"])
    expected = learner.adapt(x, y).predict(query, verbose=0)
    assert np.isfinite(expected).all()
    served = tf.saved_model.load(str(output / "saved_model" / "1")).signatures["serving_default"]
    answer = served(support_x=tf.constant(x), support_y=tf.constant(y), query_x=tf.constant(query))
    np.testing.assert_allclose(answer["predictions"], expected, atol=1e-5)

    # It goes on, with the tokeniser and the tasks that it had.
    run(monkeypatch, *given, "--iterations", "3")
    assert json.loads((output / "results.json").read_text())["iterations"] == 3


def test_quick_draws_sentences_where_no_file_is_given(monkeypatch):
    texts, labels = sentences.read(sentences.Settings(data="", quick=True))
    assert len(set(labels)) == 40
    # Enough of each for the script's five shots and fifteen queries.
    assert min(np.unique(labels, return_counts=True)[1]) >= 20
    again, _ = sentences.read(sentences.Settings(data="", quick=True))
    np.testing.assert_array_equal(texts, again)


@pytest.mark.slow
def test_quick_takes_seconds(monkeypatch, tmp_path):
    spent = time.process_time()
    run(monkeypatch, "--quick", "--output", tmp_path / "run", "--cache", tmp_path)
    assert time.process_time() - spent < 60
    result = json.loads((tmp_path / "run" / "results.json").read_text())
    assert result["test"]["mean"][-1] > result["chance"]


def test_a_csv_file_is_read_as_the_json_file_is(rows, tmp_path):
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("label", "text"), *((c, t) for t, c in rows)])
    (tmp_path / "a.json").write_text(json.dumps(rows))
    read = [
        sentences.read(sentences.Settings(data=str(tmp_path / f"a.{kind}")))
        for kind in ("csv", "json")
    ]
    for one, other in zip(*read, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(read[0][0]) == len(rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "sentence,intent\na,b\n", 'the columns "text" and "label".*KeyError: \'text\''),
        ("a.json", "[[1, 2]]", "TypeError: text and label are str, not 1"),
        ("a.json", "[", "JSONDecodeError"),
        ("a.json", '[["x", "oos"]]', "Expected sentences in --data.*none"),
        ("a.json", '[["x", "y"], ["z", "y"]]', "Expected at least ways=2 classes|at least"),
        (None, None, "Expected --data to be a file of sentences.*No such file"),
    ],
    ids=["columns", "numbers", "damaged", "left out", "few", "nowhere"],
)
def test_wrong_data_are_told_in_a_line(name, content, message, monkeypatch, tmp_path):
    if name:
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(common, "use_threads_for_tasks", lambda: None)
    data = tmp_path / (name or "nowhere.json")
    with pytest.raises(SystemExit, match=message):
        run(monkeypatch, *OPTIONS, "--data", data, "--output", tmp_path / "run")
    assert not (tmp_path / "run").exists()
