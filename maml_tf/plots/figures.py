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
from maml_tf.plots.axes import COLOURS, after, draw_chance, finite, legend_below, readable, scale
from maml_tf.plots.canvas import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from maml_tf.evaluation import Result


_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


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
        colour, marker = COLOURS[i % len(COLOURS)], _MARKERS[i % len(_MARKERS)]
        steps, style = np.arange(result.inner_steps + 1), "-"
        mean, interval = finite(result.mean), finite(result.interval)
        if last and not result.inner_steps:
            steps, mean, interval = np.array([0, last]), mean.repeat(2), interval.repeat(2)
            # Where colours come round again, the dashes are others.
            marker, style = "", "--" if i < len(COLOURS) else "-."
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
    draw_chance(axes, chance)
    first = next(iter(results.values()))
    scale(axes, [result.mean for result in results.values()], first.metric)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("inner gradient steps")
    axes.set_ylabel(ylabel or readable(first.metric))
    axes.set_title(title or f"mean and 95 % interval over {first.num_tasks} tasks", fontsize=10)
    legend_below(figure)
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
                label=after(step),
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
