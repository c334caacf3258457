"""The figure of several runs, from what they keep of themselves."""

import json

import numpy as np
import pytest

from tests.wrong_calls import check_refusal
from train import common, curves


@pytest.fixture
def runs(tmp_path):
    """Two runs of three epochs of 100 and 50 iterations."""
    for name, each, seconds in (("second", 100, 120), ("first", 50, 30)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"epoch_iterations": each}))
        rows = [f"{epoch},{seconds},{0.2 + epoch / 10}" for epoch in range(3)]
        (folder / "history.csv").write_text(
            "\n".join(["epoch,processor_seconds,val_accuracy", *rows, ""])
        )
    return tmp_path


def drawn(monkeypatch, runs, *options):
    """The figure, as it is handed to the file."""
    figures = []
    monkeypatch.setattr(curves.runs, "save_figure", lambda *given: figures.append(given))
    words = [str(runs / "second"), str(runs / "first"), *options]
    monkeypatch.setattr("sys.argv", ["curves", *words])
    curves.main()
    return figures[0]


def test_each_run_has_its_own_iterations_and_its_own_time(runs, monkeypatch, capsys):
    names = ["--names", "second order", "first order", "--chance", "0.2"]
    figure, path = drawn(monkeypatch, runs, *names, "--output", "here.svg")
    left, right = figure.axes
    second, first, chance = left.lines
    assert [one.get_label() for one in (second, first)] == ["second order", "first order"]
    assert chance.get_ydata()[0] == 0.2
    np.testing.assert_array_equal(second.get_xdata(), [100, 200, 300])
    np.testing.assert_array_equal(first.get_xdata(), [50, 100, 150])
    np.testing.assert_array_equal(right.lines[0].get_xdata(), [2, 4, 6])
    np.testing.assert_array_equal(right.lines[1].get_xdata(), [0.5, 1, 1.5])
    np.testing.assert_allclose(second.get_ydata(), [0.2, 0.3, 0.4])
    assert str(path) == "here.svg"
    assert "here.svg" in capsys.readouterr().out


def test_runs_are_called_as_their_folders(runs, monkeypatch):
    figure, _ = drawn(monkeypatch, runs)
    assert [one.get_label() for one in figure.axes[0].lines] == ["second", "first"]


def test_a_column_that_is_not_there_is_named(runs, monkeypatch):
    with pytest.raises(SystemExit, match=r"'val_loss'.*without \['val_loss'\]"):
        drawn(monkeypatch, runs, "--metric", "val_loss")


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ("{runs}", ("{runs}", "run directory", "config.json")),
        ("{runs}/first --output figure", ("--output figure", ".png")),
        ("{runs}/first --names one two", ("--names one two", "1 runs")),
        ("{runs}/first {runs}/second --names one one", ("--names one one", "of its own")),
        ("", ("RUN",)),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_line(options, fragments, runs, monkeypatch, capsys):
    fragments = [fragment.format(runs=runs) for fragment in fragments]
    words = options.format(runs=runs).split()
    check_refusal(lambda: common.run(curves.main), words, fragments, monkeypatch, capsys)
