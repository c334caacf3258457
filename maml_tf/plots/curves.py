"""Meta-training as curves: one run, or several beside each other."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from maml_tf import arguments
from maml_tf.plots import arguments as plot_arguments
from maml_tf.plots.axes import COLOURS, after, draw_chance, finite, legend_below, readable, scale
from maml_tf.plots.canvas import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from maml_tf.evaluation import Result

_TIMES = {"processor_seconds": "all cores' time together", "seconds": "the clock"}


def learning_curve(
    rows: Sequence[Mapping[str, float]],
    metric: str = "loss",
    *,
    epoch_iterations: int = 1,
    ylabel: str | None = None,
    title: str | None = None,
    chance: float | None = None,
    tests: Mapping[str, tuple[int, Result]] | None = None,
) -> Figure:
    """A metric over meta-training: training and validation, before and after adaptation.

    Args:
        rows: list of dicts, one an epoch, as the scripts' `history.csv`: `epoch` (from 0) and
            whichever of `metric`, `val_<metric>`, `<metric>_before`, `val_<metric>_before`.
        metric: `str`.
        epoch_iterations: `int`, meta-iterations an epoch, for the horizontal axis.
        ylabel: `str`; the name of the metric by default.
        title: `str`, none by default.
        chance: number, the accuracy of guessing, such as `1 / ways`: a dotted line across.
        tests: dict of `maml_tf.evaluation.Result` of test tasks by the meta-iterations that their
            learner was trained for: points after the last inner step, with their 95 % intervals.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: `rows` are no dicts, `epoch_iterations` is not an integer, `chance` no number, or
            `tests` no dict of results by number.
        ValueError: there are no rows, or one of them lacks its epoch or the metric.
    """
    epoch_iterations = arguments.integer("epoch_iterations", epoch_iterations, 1)
    plot_arguments.check_chance(chance)
    plot_arguments.check_tests(tests)
    _check_rows("rows", rows)
    kinds = {
        metric: ("training, after adaptation", COLOURS[0], "-"),
        f"val_{metric}": ("validation, after adaptation", COLOURS[1], "-"),
        f"{metric}_before": ("training, before adaptation", COLOURS[0], ":"),
        f"val_{metric}_before": ("validation, before adaptation", COLOURS[1], ":"),
    }
    present = [name for name in kinds if rows and name in rows[0]]
    if not present:
        received = sorted(rows[0]) if rows else "no rows"
        raise ValueError(
            f"Expected `rows` with one of {list(kinds)}. Received: {received}. Give a `metric` "
            "that they have, or rows that have it."
        )
    _check_numbers("rows", rows, ("epoch", *present))
    figure = new_figure(7.2, 4.0)
    axes = figure.add_subplot()
    iterations = [(row["epoch"] + 1) * epoch_iterations for row in rows]
    for name in present:
        label, colour, style = kinds[name]
        values = finite([row[name] for row in rows])
        marker = "o" if len(rows) < 20 else None
        axes.plot(iterations, values, style, color=colour, marker=marker, label=label)
    for at, result in (tests or {}).items():
        _draw_test(axes, at, result)
    draw_chance(axes, chance)
    scale(axes, [[row[name] for row in rows] for name in present], metric)
    _count(axes)
    axes.set_xlabel("meta-iterations")
    axes.set_ylabel(ylabel or readable(metric))
    if title:
        axes.set_title(title, fontsize=10)
    legend_below(figure)
    return figure


def learning_curves(
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    metric: str = "val_accuracy",
    *,
    epoch_iterations: int | Mapping[str, int] = 1,
    time: str = "processor_seconds",
    ylabel: str | None = None,
    title: str | None = None,
    chance: float | None = None,
) -> Figure:
    """One metric of several runs: on the left against meta-iterations, on the right against time.

    What one run does in fewer iterations another may do in less time, such as first order beside
    second order.

    Args:
        histories: dict of lists of dicts by the name of a run, one dict an epoch, as the scripts'
            `history.csv`: `epoch` (from 0), `metric` and `time`.
        metric: `str`.
        epoch_iterations: `int`, meta-iterations an epoch, or a dict of such by the name of a run.
        time: `str`, which of their numbers is the time of an epoch, in seconds.
        ylabel: `str`; the name of the metric by default.
        title: `str`, none by default.
        chance: number, the accuracy of guessing, such as `1 / ways`: a dotted line across.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: `histories` is no dict of lists of dicts, `epoch_iterations` not an integer, or
            `chance` no number.
        ValueError: there are no runs or no rows, or a row lacks one of the numbers.
    """
    plot_arguments.check_chance(chance)
    if not isinstance(histories, Mapping) or not histories:
        raise (ValueError if isinstance(histories, Mapping) else TypeError)(
            "Expected `histories` to be a dict of lists of rows by the name of a run. Received: "
            f"{arguments.received('histories', histories)}. Give, for example, "
            '{"first order": rows}.'
        )
    if not isinstance(epoch_iterations, Mapping):
        epoch_iterations = dict.fromkeys(histories, epoch_iterations)
    for name, rows in histories.items():
        _check_rows(f"histories[{name!r}]", rows)
        _check_numbers(f"histories[{name!r}]", rows, ("epoch", metric, time))
    marker = "o" if max(map(len, histories.values())) < 20 else "."
    figure = new_figure(9.6, 4.0)
    by_iterations, by_time = figure.subplots(1, 2, sharey=True)
    for (name, rows), colour in zip(histories.items(), itertools.cycle(COLOURS)):
        each = arguments.integer("epoch_iterations", epoch_iterations.get(name), 1)
        values = finite([row[metric] for row in rows])
        style = {"color": colour, "label": name, "marker": marker}
        by_iterations.plot([(row["epoch"] + 1) * each for row in rows], values, **style)
        minutes = [seconds / 60 for seconds in itertools.accumulate(row[time] for row in rows)]
        by_time.plot(minutes, values, **style)
    for axes in (by_iterations, by_time):
        draw_chance(axes, chance)
        scale(axes, [[row[metric] for row in rows] for rows in histories.values()], metric)
        axes.set_xlim(left=0)
    _count(by_iterations)
    by_iterations.set_xlabel("meta-iterations")
    by_time.set_xlabel("minutes of " + _TIMES.get(time, readable(time)))
    by_iterations.set_ylabel(ylabel or readable(metric.replace("val_", "validation ", 1)))
    if title:
        figure.suptitle(title, fontsize=10)
    legend_below(figure)
    return figure


def _check_rows(name, rows):
    if isinstance(rows, (str, dict)) or not all(isinstance(row, dict) for row in rows):
        raise TypeError(
            f"Expected `{name}` to be a list of dicts, one an epoch. Received: "
            f"{arguments.received(name, rows)}. Give, for example, "
            '[{"epoch": 0, "loss": 1.0}].'
        )


def _check_numbers(name, rows, needed):
    if not rows:
        raise ValueError(
            f"Expected `{name}` to have one row at least. Received: {rows!r}. Train an epoch."
        )
    for i, row in enumerate(rows):
        missing = [key for key in needed if not arguments.is_number(row.get(key))]
        if missing:
            raise ValueError(
                f"Expected every row to have numbers for {list(needed)}. Received: "
                f"{name}[{i}]={row!r}, without {missing}. Add them, or leave the row out."
            )


def _count(axes):
    """Whole numbers along the horizontal axis."""
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _draw_test(axes, iterations, result):
    """One point with its interval."""
    steps = result.inner_steps
    axes.errorbar(
        [iterations],
        finite(result.mean[-1:]),
        finite(result.interval[-1:]),
        fmt="D",
        color=COLOURS[2],
        capsize=5,
        zorder=4,
        label=f"test, {after(steps)}, 95 % interval" if steps else "test, 95 % interval",
    )
