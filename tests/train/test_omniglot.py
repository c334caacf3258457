"""The Omniglot script, on a few tasks of the real drawings."""

import csv
import json

import numpy as np
import pytest

from train import omniglot

SMALL = ("--quick", "--iterations", 12, "--epoch-iterations", 6)


@pytest.fixture(scope="session")
def data_options(omniglot_dir):
    return "--data-dir", omniglot_dir


@pytest.fixture(scope="module")
def never_stopped(run_script, data_options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("omniglot") / "run"
    done = run_script("omniglot", *SMALL, *data_options, "--output", folder, tiny=True)
    assert done.returncode == 0, done.stderr
    return folder, done


def results(folder):
    content = json.loads((folder / "results.json").read_text())
    content["settings"].pop("output")
    return content, content.pop("training_seconds")


def rows(folder):
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_settings_follow_the_ways():
    five = omniglot.resolve(omniglot.Settings())
    assert (five.meta_batch, five.inner_steps, five.steps_to_evaluate) == (32, 1, 3)
    assert five.queries == 1
    twenty = omniglot.resolve(omniglot.Settings(ways=20, shots=5, meta_batch=4))
    assert (twenty.meta_batch, twenty.inner_steps, twenty.steps_to_evaluate) == (4, 5, 5)
    assert twenty.queries == twenty.test_queries == 5
    assert five.step_size == twenty.step_size == 2.0


def test_help_names_the_papers_numbers(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["omniglot", "--help"])
    with pytest.raises(SystemExit):
        omniglot.main()
    text = capsys.readouterr().out
    for word in ("--data-dir", "paper: 60,000", "paper: 10 for mini", "--inductive"):
        assert word in " ".join(text.split())


def test_where_there_are_no_data(run_script, tmp_path):
    failed = run_script("omniglot", "--quick", "--data-dir", tmp_path, "--output", tmp_path / "run")
    assert failed.returncode == 2
    assert "Expected the data set 'omniglot'" in failed.stderr
    assert "--download" in failed.stderr
    assert "--data glyphs" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.omniglot
def test_results_figures_and_export(never_stopped):
    folder, done = never_stopped
    content, seconds = results(folder)
    assert content["iterations"] == 12
    assert content["best_iterations"] in (6, 12)
    assert content["paper_accuracy_percent"] == [98.7, 0.4]
    assert seconds == sum(float(row["seconds"]) for row in rows(folder))
    test = content["test"]
    assert (test["num_tasks"], test["inner_steps"], test["metric"]) == (8, 3, "accuracy")
    assert np.shape(test["values"]) == (8, 4)
    np.testing.assert_allclose(test["mean"], np.mean(test["values"], axis=0))
    assert f"{100 * test['mean'][-1]:.1f} ± " in done.stdout
    for name in ("learning_curve", "accuracy_against_steps", "task", "confusion"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "saved_model" / "1" / "saved_model.pb").exists()


@pytest.mark.omniglot
def test_best_is_the_best_epoch_on_validation(never_stopped):
    folder, _ = never_stopped
    accuracies = [float(row["val_accuracy"]) for row in rows(folder)]
    assert results(folder)[0]["best_iterations"] == 6 * (1 + int(np.argmax(accuracies)))


@pytest.mark.slow  # sine waves go through the same lines
@pytest.mark.omniglot
def test_interrupted_and_resumed_it_ends_with_the_same_bits(
    run_script, data_options, never_stopped, saved_arrays, tmp_path
):
    options = (*SMALL, *data_options, "--output", tmp_path / "run")
    # Ctrl-C in the middle of the second epoch.
    stopped = run_script("omniglot", *options, stop=("batch", 9, "SIGINT"), tiny=True)
    assert stopped.returncode == 130
    assert "The same command goes on" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert len(rows(tmp_path / "run")) == 1
    done = run_script("omniglot", *options, tiny=True)
    assert done.returncode == 0, done.stderr

    folder, _ = never_stopped
    for name in ("checkpoint.keras", "best.keras"):
        expected, received = (saved_arrays(f / name) for f in (folder, tmp_path / "run"))
        assert expected.keys() == received.keys()
        for key, array in expected.items():
            np.testing.assert_array_equal(received[key], array, err_msg=f"{name} {key}")
    assert [row["epoch"] for row in rows(tmp_path / "run")] == ["0", "1"]
    assert results(tmp_path / "run")[0] == results(folder)[0]
