"""The figures of Finn, Abbeel & Levine (2017), drawn from results of `maml_tf.evaluation`.

Every function returns a `matplotlib.figure.Figure` and changes nothing global: save it with
`figure.savefig(path)`, or show it in a notebook by naming it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from maml_tf import arguments
from maml_tf.plots import arguments as plot_arguments
from maml_tf.plots.canvas import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from maml_tf.evaluation import Result


# A band of lightness and hue that colour-blind readers tell apart (Okabe & Ito, 2008).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Characters of the longest name in a legend, with which so many columns fit under a figure.
_COLUMNS = {3: 24, 2: 40}
# Means that are further apart than this factor go onto a logarithmic axis.
_LOG_RANGE = 20


def error_against_steps(
    results: Mapping[str, Result],
    *,
    ylabel: str | None = None,
    title: str | None = None,
    references: Mapping[str, Mapping[int, float]] | None = None,
    chance: float | None = None,
) -> Figure:
    """Mean and 95 % interval of a metric after each inner step, one line a learner (figure 3).

    Works for errors and accuracies alike. The axis is logarithmic where positive means span more
    than a factor of 20; an accuracy is shown in per cent. A result without inner steps is a dashed
    line across. Where a mean is not finite the line ends, and the legend says so.

    Args:
        results: dict of `maml_tf.evaluation.Result` by name.
        ylabel: `str`; the name of the metric by default.
        title: `str`; by default over how many tasks was averaged.
        references: dict of dicts, `references[name][step]`: numbers to compare a line with, drawn
            as crosses of its colour.
        chance: number, the accuracy of guessing, such as `1 / ways`: a dotted line across.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: `results` is no dict of results, `references` no dict of dicts of numbers, or
            `chance` no number.
        ValueError: `results` is empty, or `references` names none of them.
    """
    plot_arguments.check_results(results, references)
    plot_arguments.check_chance(chance)
    figure = new_figure(7.2, 4.0)
    axes = figure.add_subplot()
    last = max(result.inner_steps for result in results.values())
    for i, (name, result) in enumerate(results.items()):
        colour, marker = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]
        steps, style = np.arange(result.inner_steps + 1), "-"
        mean, interval = _finite(result.mean), _finite(result.interval)
        if last and not result.inner_steps:
            steps, mean, interval = np.array([0, last]), mean.repeat(2), interval.repeat(2)
            # Where colours come round again, the dashes are others.
            marker, style = "", "--" if i < len(_COLOURS) else "-."
        label = name if np.isfinite(mean).all() else f"{name} (then not finite)"
        axes.plot(steps, mean, style, color=colour, marker=marker, markersize=4, label=label)
        axes.fill_between(
            steps, mean - interval, mean + interval, color=colour, alpha=0.2, linewidth=0
        )
        compared = (references or {}).get(name, {})
        if compared:
            axes.plot(
                list(compared),
                list(compared.values()),
                linestyle="none",
                marker="x",
                markersize=9,
                markeredgewidth=2,
                color=colour,
                label=f"{name}, paper",
            )
    _draw_chance(axes, chance)
    first = next(iter(results.values()))
    _scale(axes, [result.mean for result in results.values()], first.metric)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("inner gradient steps")
    axes.set_ylabel(ylabel or _readable(first.metric))
    axes.set_title(title or f"mean and 95 % interval over {first.num_tasks} tasks", fontsize=10)
    _legend_below(figure)
    return figure


@dataclasses.dataclass(frozen=True, eq=False)
class SinePanel:
    """One sine, the points a model adapted to, and what it predicted.

    Attributes:
        title: str.
        x: `[Q]`, where curves are drawn, in increasing order.
        truth: `[Q]`, the task's sine at `x`.
        path: `[k + 1, Q]`, predictions at `x` after 0 to k inner steps.
        support_x: `[S]`, the points adapted to.
        support_y: `[S]`, their values.
    """

    title: str
    x: np.ndarray
    truth: np.ndarray
    path: np.ndarray
    support_x: np.ndarray
    support_y: np.ndarray


def sine_adaptation(
    panels: Sequence[SinePanel], steps: Sequence[int] = (0, 1, 10), columns: int = 2
) -> Figure:
    """Predictions of one sine before and after inner steps (figure 2).

    Args:
        panels: list of `SinePanel`, drawn row by row on common axes.
        steps: which numbers of inner steps to draw.
        columns: `int`, panels in a row.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: `panels` are no `SinePanel`s, or a number is not an integer.
        ValueError: no panels, no steps, or a step that a panel has no prediction for.
    """
    plot_arguments.check_panels(panels, steps, SinePanel)
    columns = arguments.integer("columns", columns, 1)
    rows = -(-len(panels) // columns)
    figure = new_figure(4.2 * columns, 2.5 * rows + 0.6)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    styles = [(0, (1, 1.5)), (0, (5, 2)), "-"]
    shades = ("#56B4E9", "#E69F00", "#009E73")
    for axes, panel in zip(grid.flat, panels, strict=False):
        axes.plot(panel.x, panel.truth, color="#B0B0B0", linewidth=3.5, label="true sine")
        for i, step in enumerate(steps):
            axes.plot(
                panel.x,
                panel.path[step],
                color=shades[i % len(shades)],
                linestyle=styles[i % len(styles)],
                linewidth=1.8,
                label=_after(step),
            )
        axes.plot(
            panel.support_x,
            panel.support_y,
            linestyle="none",
            marker="^",
            markersize=7,
            color="#7B2D8B",
            label="points adapted to",
            zorder=5,
        )
        axes.set_title(panel.title, fontsize=10)
        axes.set_xlabel("x")
        axes.set_ylabel("y")
        axes.label_outer()
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(3, 2 * columns, len(labels)),  # a wider one would be cut off
        frameon=False,
        fontsize=9,
    )
    return figure


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
    if isinstance(rows, (str, dict)) or not all(isinstance(row, dict) for row in rows):
        raise TypeError(
            "Expected `rows` to be a list of dicts, one an epoch. Received: "
            f"{arguments.received('rows', rows)}. Give, for example, "
            '[{"epoch": 0, "loss": 1.0}].'
        )
    kinds = {
        metric: ("training, after adaptation", _COLOURS[0], "-"),
        f"val_{metric}": ("validation, after adaptation", _COLOURS[1], "-"),
        f"{metric}_before": ("training, before adaptation", _COLOURS[0], ":"),
        f"val_{metric}_before": ("validation, before adaptation", _COLOURS[1], ":"),
    }
    present = [name for name in kinds if rows and name in rows[0]]
    if not present:
        received = sorted(rows[0]) if rows else "no rows"
        raise ValueError(
            f"Expected `rows` with one of {list(kinds)}. Received: {received}. Give a `metric` "
            "that they have, or rows that have it."
        )
    for i, row in enumerate(rows):
        missing = [name for name in ("epoch", *present) if not arguments.is_number(row.get(name))]
        if missing:
            raise ValueError(
                f"Expected every row to have numbers for {['epoch', *present]}. Received: "
                f"rows[{i}]={row!r}, without {missing}. Add them, or leave the row out."
            )
    figure = new_figure(7.2, 4.0)
    axes = figure.add_subplot()
    iterations = [(row["epoch"] + 1) * epoch_iterations for row in rows]
    for name in present:
        label, colour, style = kinds[name]
        values = _finite([row[name] for row in rows])
        marker = "o" if len(rows) < 20 else None
        axes.plot(iterations, values, style, color=colour, marker=marker, label=label)
    for at, result in (tests or {}).items():
        _draw_test(axes, at, result)
    _draw_chance(axes, chance)
    _scale(axes, [[row[name] for row in rows] for name in present], metric)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("meta-iterations")
    axes.set_ylabel(ylabel or _readable(metric))
    if title:
        axes.set_title(title, fontsize=10)
    _legend_below(figure)
    return figure


def _draw_chance(axes, chance):
    if chance is not None:
        label = f"chance, {100 * chance:.3g} %"
        axes.axhline(chance, color="#808080", linestyle=":", linewidth=1.5, label=label, zorder=1)


def _draw_test(axes, iterations, result):
    """One point with its interval."""
    steps = result.inner_steps
    axes.errorbar(
        [iterations],
        _finite(result.mean[-1:]),
        _finite(result.interval[-1:]),
        fmt="D",
        color=_COLOURS[2],
        capsize=5,
        zorder=4,
        label=f"test, {_after(steps)}, 95 % interval" if steps else "test, 95 % interval",
    )


def _legend_below(figure):
    """The legend of all lines under the axes, where it takes nothing from a long title."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    longest = max(map(len, labels))
    columns = next((n for n, most in _COLUMNS.items() if longest <= most), 1)
    ncols = min(columns, len(labels))
    style = {"loc": "outside lower center", "frameon": False, "fontsize": 9}
    figure.legend(handles, labels, ncols=ncols, **style)


def _finite(values):
    """The values with NaN, which no line is drawn to, for what is not finite."""
    values = np.asarray(values, np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _scale(axes, curves, metric):
    """Per cent for an accuracy, a logarithmic axis for errors over a wide range; a light grid."""
    values = np.concatenate([np.asarray(curve, np.float64) for curve in curves])
    values = values[np.isfinite(values)]
    if "acc" in metric:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    elif values.size and values.min() > 0 and values.max() > _LOG_RANGE * values.min():
        axes.set_yscale("log", nonpositive="clip")
        # Not from the bands: their lower ends may be 0 or below.
        axes.set_ylim(values.min() / 1.6, values.max() * 1.6)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    elif values.size and values.min() >= 0:
        axes.set_ylim(bottom=0)
    axes.grid(True, which="major", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _readable(metric):
    return metric.replace("_", " ")


def _after(step):
    if step == 0:
        return "before adaptation"
    return f"after {step} step" + ("s" if step > 1 else "")
