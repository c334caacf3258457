"""What a long training says while it runs: lines a minute apart, with times that add up."""

import re

import keras
import numpy as np
import pytest

from tests.train import tiny
from train import common, progress


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def epochs(told, clock, step, between, first=0, last=2, size=100, trace=30):
    """Calls the callback as `fit` does: steps of so many seconds, pauses between epochs."""
    told.on_train_begin()
    for epoch in range(first, last):
        told.on_epoch_begin(epoch)
        for batch in range(size):
            clock.now += trace if (epoch, batch) == (first, 0) else step
            told.on_train_batch_end(batch, {"loss": 1.23456, "accuracy": 0.5, "loss_before": 3.0})
        clock.now += between
        told.on_epoch_end(epoch, {})


def printed(capsys, terminal=False, first=0, **options):
    clock = Clock()
    told = progress.Progress(1000, 100, terminal, clock=clock)
    epochs(told, clock, first=first, **options)
    return capsys.readouterr().out.splitlines()


def test_a_line_a_minute_and_the_estimate_at_the_start(capsys):
    lines = printed(capsys, step=2.0, between=50.0)
    estimate, *lines = lines
    # After the traced step and three more, of two seconds each: 996 are left.
    assert estimate == (
        "The 996 iterations left take about 33 min, 2 s each, and validation beside."
    )
    assert lines[0] == (
        "iteration 34 of 1,000: loss 1.235, accuracy 0.5; 2 s an iteration, about 32 min left"
    )
    # Thirty steps after the estimate and after each other, and after the line of an epoch.
    at = [int(re.match(r"iteration (\d+) of", line)[1]) for line in lines]
    assert at == [34, 64, 94, 130, 160, 190]
    # In the second epoch what lies between epochs counts: 810 steps of 2 s, 9 pauses of 50 s.
    assert lines[-1].endswith("2 s an iteration, about 34 min left")


def test_a_terminal_has_the_bar_and_only_the_estimate(capsys):
    assert printed(capsys, terminal=True, step=2.0, between=50.0) == [
        "",
        "The 996 iterations left take about 33 min, 2 s each, and validation beside.",
    ]


def test_a_short_run_and_its_epochs_are_silent(capsys):
    assert printed(capsys, step=0.01, between=1.0) == []


def test_a_resumed_run_counts_what_was_done(capsys):
    estimate, *_ = printed(capsys, step=2.0, between=0.0, first=5, last=6)
    assert estimate.startswith("The 496 iterations left take about 17 min")


def test_several_steps_in_one_call(capsys):
    """`steps_per_execution` of 10: a call tells of its last step."""
    clock = Clock()
    told = progress.Progress(100_000, 1000, False, clock=clock)
    told.on_train_begin()
    told.on_epoch_begin(0)
    for call in range(20):
        clock.now += 5.0
        told.on_train_batch_end(10 * call + 9, {"loss": 1.0})
    assert "0.5 s each" in capsys.readouterr().out


def test_validation_is_no_silence(capsys):
    clock = Clock()
    told = progress.Progress(1000, 100, False, clock=clock)
    told.on_train_begin()
    for batch in range(100):
        clock.now += 1.5
        told.on_test_batch_end(batch, {"loss": 0.5})
    assert capsys.readouterr().out.splitlines() == [
        "validation, 40 batches of tasks so far: loss 0.5",
        "validation, 80 batches of tasks so far: loss 0.5",
    ]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.2, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (89 * 60, "89 min"),
        (90 * 60, "1 h 30 min"),
        (47 * 3600 + 300, "47 h 5 min"),
        (75 * 3600 + 2000, "3 days 4 h"),
    ],
)
def test_durations_in_words(seconds, expected):
    assert progress.words(seconds) == expected


@pytest.mark.parametrize("terminal", [False, True])
def test_a_training_speaks_where_keras_draws_no_bar(tmp_path, monkeypatch, capsys, terminal):
    """Whose every step takes a minute by this clock; Keras' own clock is another one."""
    clock = Clock()

    def tick():
        clock.now += 60
        return clock.now

    made = []

    class Told(progress.Progress):
        def __init__(self, *arguments):
            super().__init__(*arguments, clock=tick)
            made.append(arguments)

    monkeypatch.setattr(progress, "in_terminal", lambda: terminal)
    monkeypatch.setattr(progress, "Progress", Told)
    keras.utils.set_random_seed(0)
    trained = tiny.train(tmp_path, iterations=8)
    out = capsys.readouterr().out
    assert made == [(8, 4, terminal)]
    assert ("iteration 2 of 8: loss" in out) is not terminal
    assert np.isfinite(trained.get_weights()[0]).all()
    assert len(common.read_history(tmp_path)) == 2
