"""The sine script: stopped and resumed, repeated, refused, and what it writes."""

import csv
import json
import math

import numpy as np
import pytest

from train import sinusoid

LEARNERS = ("maml", "maml_at_0.01", "first-order_maml", "pretrained", "oracle")
# Two calls of the compiled training function an epoch, two epochs.
SMALL = ("--quick", "--iterations", 80, "--epoch-iterations", 40)


@pytest.fixture(scope="module")
def never_stopped(run_script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sinusoid") / "run"
    done = run_script("sinusoid", *SMALL, "--output", folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def results(folder):
    content = json.loads((folder / "results.json").read_text())
    content["settings"].pop("output")
    seconds = content.pop("training_seconds")
    return content, seconds


def rows(folder):
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_results_figures_and_export(never_stopped):
    folder, done = never_stopped
    content, seconds = results(folder)
    assert content["iterations"] == 80
    assert list(content["test"]) == ["5"]
    assert all(seconds[name] > 0 for name in ("MAML", "first-order MAML", "pretrained", "oracle"))
    for name in ("MAML", "MAML at 0.01", "first-order MAML", "pretrained", "random", "oracle"):
        summary = content["test"]["5"][name]
        assert summary["num_tasks"] == 50
        for numbers in ("mean", "interval", "median", "non_finite"):
            assert len(summary[numbers]) == (1 if name == "oracle" else 11)
        # The table holds the very numbers of the JSON.
        step_size = summary["step_size"] or "–"
        assert f"| {name} | {step_size} | {summary['mean'][0]:.4f} ± " in done.stdout
    assert "0.67 / 0.38 / 0.35" in done.stdout
    # The variance of the tasks: 4.2 on average, before much is learned.
    assert 2 < content["test"]["5"]["random"]["mean"][0] < 6
    for name in ("figure2.png", "figure3_5_points.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    for name, learner in (("saved_model", "MAML"), ("saved_model_pretrained", "pretrained")):
        assert (folder / name / "1" / "saved_model.pb").exists()
        card = json.loads((folder / name / "1" / "card.json").read_text())
        assert card["inner_step_size"] == content["test"]["5"][learner]["step_size"]


def test_interrupted_it_ends_with_the_same_bits(run_script, never_stopped, saved_arrays, tmp_path):
    """The first learner is found finished, the second goes on after an epoch, the others begin.

    Ctrl-C is told in a line. Kills, at other moments, have `test_kills`.
    """
    options = (*SMALL, "--output", tmp_path / "run")
    # When the second learner's second checkpoint is written but not in its place, while its row of
    # the history is.
    stopped = run_script("sinusoid", *options, stop=("checkpoint", 4, "SIGINT"))
    assert stopped.returncode == 130
    assert "The same command goes on" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert (tmp_path / "run" / "maml" / "checkpoint.keras").exists()
    assert not (tmp_path / "run" / "maml_at_0.01" / "checkpoint.keras").exists()
    assert len(rows(tmp_path / "run" / "maml_at_0.01")) == 2
    done = run_script("sinusoid", *options)
    assert done.returncode == 0, done.stderr

    folder, _ = never_stopped
    for name in LEARNERS:
        expected = saved_arrays(folder / name / "checkpoint.keras")
        received = saved_arrays(tmp_path / "run" / name / "checkpoint.keras")
        assert len(expected) > 12  # weights and two moments of each
        assert expected.keys() == received.keys()
        for key, array in expected.items():
            np.testing.assert_array_equal(received[key], array, err_msg=f"{name} {key}")
        assert [row["epoch"] for row in rows(tmp_path / "run" / name)] == ["0", "1"]
        assert [row["loss"] for row in rows(tmp_path / "run" / name)] == [
            row["loss"] for row in rows(folder / name)
        ]
    assert results(tmp_path / "run")[0] == results(folder)[0]


def test_finished_run_is_evaluated_again_and_only_that(run_script, never_stopped):
    folder, done = never_stopped
    before, seconds = results(folder)
    again = run_script("sinusoid", *SMALL, "--output", folder)
    assert again.returncode == 0, again.stderr
    assert "Epoch" in done.stdout
    assert "Epoch" not in again.stdout
    assert results(folder) == (before, seconds)
    assert [p.name for p in (folder / "saved_model").iterdir()] == ["1"]


def test_other_settings_are_refused(run_script, never_stopped):
    folder, _ = never_stopped
    options = (*SMALL, "--output", folder, "--inner-step-size", 0.02)
    refused = run_script("sinusoid", *options)
    assert refused.returncode == 2
    assert "inner_step_size: 0.001 there, 0.02 here" in refused.stderr
    assert "--output" in refused.stderr
    assert "--fresh" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_help_names_the_papers_numbers(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sinusoid", "--help"])
    with pytest.raises(SystemExit):
        sinusoid.main()
    text = capsys.readouterr().out
    for word in ("--inner-step-size", "paper: 70,000", "0.01 in the paper's text", "--fresh"):
        assert word in " ".join(text.split())


def test_paper_numbers_of_the_table():
    assert sinusoid.PAPER["MAML"] == {1: 0.67, 5: 0.38, 10: 0.35}
    assert math.isclose(sinusoid.Settings().meta_learning_rate, 1e-3)
