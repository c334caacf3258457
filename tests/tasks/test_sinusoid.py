import math

import numpy as np
import pytest

from maml_tf import tasks


def batches(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def fit(x, y):
    """Amplitude and phase of each task in closed form: y = (A cos p) sin x - (A sin p) cos x."""
    basis = np.concatenate([np.sin(x), np.cos(x)], axis=-1).astype(np.float64)
    coefficients = np.linalg.pinv(basis) @ y
    residual = np.max(np.abs(basis @ coefficients - y))
    sine, cosine = coefficients[:, 0, 0], -coefficients[:, 1, 0]
    return np.hypot(sine, cosine), np.arctan2(cosine, sine), residual


def all_points(batch):
    inputs, query_y = batch
    x = np.concatenate([inputs["support_x"], inputs["query_x"]], axis=1)
    return x, np.concatenate([inputs["support_y"], query_y], axis=1)


def test_each_task_lies_on_one_sine_in_range():
    for dataset in tasks.sinusoid(seed=3):
        for batch in batches(dataset, 4):
            amplitude, phase, residual = fit(*all_points(batch))
            assert residual < 1e-5
            assert np.all((amplitude > 0.1 - 1e-4) & (amplitude < 5 + 1e-4))
            # The phase of the smallest amplitudes is ill-determined in float32.
            assert np.all((phase > -1e-4) & (phase < math.pi + 1e-4))


def test_distributions():
    train, _, _ = tasks.sinusoid(meta_batch=2000, support=20, query=20)
    amplitudes, phases, xs = [], [], []
    for batch in batches(train, 5):
        x, y = all_points(batch)
        amplitude, phase, _ = fit(x, y)
        amplitudes.append(amplitude), phases.append(phase), xs.append(x.ravel())
    for values, low, high in ((amplitudes, 0.1, 5), (phases, 0, math.pi), (xs, -5, 5)):
        values = np.sort(np.concatenate(values))
        assert values[0] > low - 1e-4
        assert values[-1] < high + 1e-4
        # Kolmogorov-Smirnov at a level of about 1e-4.
        expected = np.linspace(low, high, values.size)
        assert np.max(np.abs(values - expected)) / (high - low) < 2.2 / math.sqrt(values.size)


def test_amplitude_phase_and_x_are_independent():
    train, _, _ = tasks.sinusoid(meta_batch=2000)
    x, y = all_points(batches(train, 1)[0])
    amplitude, phase, _ = fit(x, y)
    correlations = np.corrcoef([amplitude, phase, x[:, 0, 0], x[:, 1, 0]]) - np.eye(4)
    assert np.max(np.abs(correlations)) < 4 / math.sqrt(2000)


def test_oracle_sees_amplitude_and_phase():
    for plain, oracle in zip(tasks.sinusoid(), tasks.sinusoid(oracle=True), strict=True):
        x, y = all_points(batches(plain, 1)[0])
        seen, y_again = all_points(batches(oracle, 1)[0])
        np.testing.assert_array_equal(seen[..., :1], x)
        np.testing.assert_array_equal(y_again, y)
        np.testing.assert_allclose(seen[..., 1:2] * np.sin(x - seen[..., 2:]), y, atol=1e-5)
        assert np.all(np.ptp(seen[..., 1:], axis=1) == 0)


@pytest.mark.parametrize("start", [255, 300])
def test_resumes_within_and_across_blocks(start):
    train, _, _ = tasks.sinusoid()
    resumed, _, _ = tasks.sinusoid(start=start)
    for expected, batch in zip(batches(train.skip(start), 2), batches(resumed, 2), strict=True):
        for one, other in zip(all_points(expected), all_points(batch), strict=True):
            np.testing.assert_array_equal(one, other)


def test_more_validation_tasks_begin_with_the_same_ones():
    _, few, _ = tasks.sinusoid(validation_tasks=50)
    _, many, _ = tasks.sinusoid(validation_tasks=100)
    for expected, batch in zip(batches(few, 2), batches(many.take(2), 2), strict=True):
        np.testing.assert_array_equal(all_points(expected)[1], all_points(batch)[1])


def test_sizes_at_test_are_their_own():
    train, validation, test = tasks.sinusoid(support=5, query=7, test_support=3, test_query=9)
    assert train.element_spec[0]["query_x"].shape == [25, 7, 1]
    for dataset in (validation, test):
        assert dataset.element_spec[0]["support_x"].shape == [25, 3, 1]
        assert dataset.element_spec[1].shape == [25, 9, 1]


def test_a_meta_batch_larger_than_a_block():
    train, _, _ = tasks.sinusoid(meta_batch=7000, start=3)
    assert batches(train, 1)[0][1].shape == (7000, 10, 1)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"support": 0}, ValueError, r"`support` to be an integer of at least 1.*support=0"),
        ({"test_query": -1}, ValueError, r"`test_query`.*at least 1.*test_query=-1"),
        ({"meta_batch": 2.5}, TypeError, r"`meta_batch` to be an integer.*2\.5.*float"),
        ({"start": -1}, ValueError, r"`start`.*at least 0.*start=-1"),
        ({"validation_tasks": None}, TypeError, r"`validation_tasks`.*None"),
        ({"seed": 2**63}, ValueError, r"`seed`.*that fits 64 bits, signed"),
        ({"seed": "a"}, TypeError, r"`seed` to be an integer.*'a'"),
    ],
)
def test_wrong_settings(settings, error, message):
    with pytest.raises(error, match=message):
        tasks.sinusoid(**settings)


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63 - 1, np.int32(7)])
def test_any_integer_is_a_seed(seed):
    assert np.all(np.isfinite(batches(tasks.sinusoid(seed=seed)[0], 1)[0][1]))
