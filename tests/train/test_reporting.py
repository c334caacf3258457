"""What the image scripts say of an accuracy: what to hold it against, and whether to train on."""

import numpy as np
import pytest

from maml_tf.evaluation import Result
from train import classification, reporting


def made(paper=(98.7, 0.4), steps=3):
    columns = np.array([0.2, 0.5, 0.6, 0.7])[: 1 if steps is None else steps + 1]
    values = columns + np.array([[0.1], [-0.1], [0.1], [-0.1]])
    return reporting.Report(
        title="glyphs, 5-way 1-shot",
        method="maml",
        result=Result("accuracy", values),
        baseline=Result("accuracy", np.array([[0.4], [0.5]])),
        ways=5,
        iterations=3000,
        seconds=1020.0,
        steps=steps,
        paper=paper,
    )


def test_an_accuracy_stands_beside_what_it_should_beat():
    assert made().lines() == [
        "glyphs, 5-way 1-shot, maml: test accuracy after 3 steps 70.0 ± 9.8 % (mean and 95 % "
        "interval over 4 tasks).",
        "To compare: chance 20.0 %, nearest neighbour on pixels 45.0 ± 6.9 %, paper: 98.7 ± 0.4 %.",
        "Training took 3,000 meta-iterations and 17.0 minutes.",
    ]
    first, second, _ = made(paper=(98.2, None), steps=None).lines()
    assert "maml: test accuracy 20.0 ± 9.8 %" in first
    assert second.endswith("paper: 98.2 %.")
    first, second, _ = made(paper=None, steps=1).lines()
    assert "after 1 step 50.0" in first
    assert second.endswith("6.9 %.")


def noisy(mean, scatter=0.01):
    return list(np.asarray(mean) + scatter * np.random.default_rng(0).normal(size=len(mean)))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (np.linspace(0.3, 0.6, 30), (0.3 * 9 / 29, 10)),  # the last third
        (np.linspace(0.3, 0.5, 5), (0.2, 5)),
        ([0.3, 0.4, 0.5], (0.2, 3)),
        ([0.3, 0.5], None),  # two epochs tell nothing
        ([], None),
        ([0.5] * 12, None),
        (np.linspace(0.6, 0.3, 12), None),
        (np.linspace(0.6, 0.604, 12), None),  # less than half a point
        ([*np.linspace(0.3, 0.6, 20), *[0.6] * 10], None),  # it did rise, before
        (noisy([0.5] * 30), None),
    ],
)
def test_whether_validation_accuracy_still_rises(scores, expected):
    received = reporting.still_rising(list(scores))
    if expected is None:
        assert received is None
    else:
        assert received == (pytest.approx(expected[0]), expected[1])


def test_noise_is_told_from_a_rise():
    """Of a hundred plateaus few are taken for a rise, of a hundred rises most."""
    random = np.random.default_rng(1)
    flat = random.normal(0.6, 0.01, [100, 30])
    rising = flat + np.linspace(0, 0.2, 30)
    assert sum(reporting.still_rising(list(row)) is not None for row in flat) <= 2
    assert sum(reporting.still_rising(list(row)) is not None for row in rising) >= 95


def test_the_advice_is_a_command_that_goes_on():
    settings = classification.Settings(iterations=60_000, epoch_iterations=500)
    assert reporting.advice(settings, (0.0341, 40)) == (
        "Validation accuracy was still rising: by 3.4 points over the last 40 epochs. Train on "
        "with --iterations 90000."
    )
    settings = classification.Settings(iterations=1500, epoch_iterations=500, schedule="cosine")
    assert reporting.advice(settings, (0.1, 3)).endswith("--iterations 2500 and another --output.")


@pytest.mark.parametrize(("right", "total"), [(0, 10), (3, 10), (10, 10), (77, 200)])
def test_the_interval_of_a_share_solves_its_equation(right, total):
    """Its ends are the shares p with |right / total - p| = 1.96 sqrt(p (1 - p) / total)."""
    for p in reporting.interval_of_share(right, total):
        expected = 1.96 * np.sqrt(p * (1 - p) / total) if 1e-9 < p < 1 - 1e-9 else 0.0
        assert abs(right / total - p) == pytest.approx(expected, abs=1e-9)


def test_the_interval_of_a_share_in_numbers():
    # Newcombe (1998), table I: 81 of 263.
    assert reporting.interval_of_share(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
