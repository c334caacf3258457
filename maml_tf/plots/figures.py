"""The figures of Finn, Abbeel & Levine (2017), drawn from results of `maml_tf.evaluation`.

Every function returns a `matplotlib.figure.Figure` and changes nothing global: save it with
`figure.savefig(path)`, or show it in a notebook by naming it.
"""

import dataclasses

import numpy as np

from maml_tf import arguments
from maml_tf.plots import arguments as plot_arguments

# A band of lightness and hue that colour-blind readers tell apart (Okabe & Ito, 2008).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DPI = 150
# Means that are further apart than this factor go onto a logarithmic axis.
_LOG_RANGE = 20


def error_against_steps(results, *, ylabel=None, title=None, references=None):
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

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: `results` is no dict of results, or `references` no dict of dicts of numbers.
        ValueError: `results` is empty, or `references` names none of them.
    """
    plot_arguments.check_results(results, references)
    figure = _figure(7.2, 4.0)
    axes = figure.add_subplot()
    last = max(result.inner_steps for result in results.values())
    for i, (name, result) in enumerate(results.items()):
        colour, marker = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]
        steps, style = np.arange(result.inner_steps + 1), "-"
        mean, interval = _finite(result.mean), _finite(result.interval)
        if last and not result.inner_steps:
            steps, mean, interval = np.array([0, last]), mean.repeat(2), interval.repeat(2)
            marker, style = None, "--"
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
    first = next(iter(results.values()))
    _scale(axes, [result.mean for result in results.values()], first.metric)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("inner gradient steps")
    axes.set_ylabel(ylabel or _readable(first.metric))
    axes.set_title(title or f"mean and 95 % interval over {first.num_tasks} tasks", fontsize=10)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
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


def sine_adaptation(panels, steps=(0, 1, 10), columns=2):
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
    figure = _figure(4.2 * columns, 2.5 * rows + 0.6)
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
        ncols=min(3, len(labels)),
        frameon=False,
        fontsize=9,
    )
    return figure


def learning_curve(rows, metric="loss", *, epoch_iterations=1, ylabel=None, title=None):
    """A metric over meta-training: training and validation, before and after adaptation.

    Args:
        rows: list of dicts, one an epoch, as the scripts' `history.csv`: `epoch` (from 0) and
            whichever of `metric`, `val_<metric>`, `<metric>_before`, `val_<metric>_before`.
        metric: `str`.
        epoch_iterations: `int`, meta-iterations an epoch, for the horizontal axis.
        ylabel: `str`; the name of the metric by default.
        title: `str`, none by default.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: `rows` are no dicts, or `epoch_iterations` is not an integer.
        ValueError: there are no rows, or one of them lacks its epoch or the metric.
    """
    epoch_iterations = arguments.integer("epoch_iterations", epoch_iterations, 1)
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
    figure = _figure(7.2, 4.0)
    axes = figure.add_subplot()
    iterations = [(row["epoch"] + 1) * epoch_iterations for row in rows]
    for name in present:
        label, colour, style = kinds[name]
        values = _finite([row[name] for row in rows])
        marker = "o" if len(rows) < 20 else None
        axes.plot(iterations, values, style, color=colour, marker=marker, label=label)
    _scale(axes, [[row[name] for row in rows] for name in present], metric)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("meta-iterations")
    axes.set_ylabel(ylabel or _readable(metric))
    if title:
        axes.set_title(title, fontsize=10)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def classification_task(support, query, before, after, *, columns=10, title=None):
    """The images of one task, and how each query was classified before and after adaptation.

    Args:
        support: `(images [S, height, width, channels], labels [S])`.
        query: the same for the queries.
        before: int `[Q]`, predicted labels at the initial weights; None where there are none.
        after: int `[Q]`, predicted labels after adaptation.
        columns: `int`, most images in a row.
        title: `str`, none by default.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: labels are not integers, or `columns` is not an integer.
        ValueError: images of another rank, or labels or predictions of another number.
    """
    columns = arguments.integer("columns", columns, 1)
    support, query = (
        plot_arguments.labelled("support", support),
        plot_arguments.labelled("query", query),
    )
    after = plot_arguments.check_labels("after", after, len(query[1]))
    told = [f"{a}" for a in after]
    if before is not None:
        before = plot_arguments.check_labels("before", before, len(query[1]))
        told = [f"{b} → {a}" for b, a in zip(before, after, strict=True)]
    texts = [
        [(f"{label}", "black") for label in support[1]],
        [
            (f"{label},  {text}", "#00704F" if a == label else "#C02000")
            for label, text, a in zip(query[1], told, after, strict=True)
        ],
    ]
    columns = min(columns, max(len(support[1]), len(query[1])))
    heights = [-(-len(part[1]) // columns) for part in (support, query)]
    figure = _figure(max(5.0, 1.0 * columns), 1.25 * sum(heights) + 0.8)
    parts = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    prediction = "prediction" if before is None else "prediction before → after adapting"
    headings = ("support set and its labels", f"queries: label, {prediction}")
    for part, (images, labels), height, text, heading in zip(
        parts, (support, query), heights, texts, headings, strict=True
    ):
        part.suptitle(heading, fontsize=10)
        grid = part.subplots(height, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        # By label, so that a query stands under the drawings of its class.
        for axes, i in zip(grid.flat, np.argsort(labels, kind="stable"), strict=False):
            axes.imshow(_displayed(np.asarray(images[i])), cmap="gray_r", vmin=0)
            axes.set_title(text[i][0], color=text[i][1], fontsize=9, pad=2)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def confusion(support, labels, predicted, *, title=None):
    """How often queries of each class of one task were taken for each: a matrix of numbers.

    Args:
        support: `(images [S, height, width, channels], labels [S])`; the first image of a class
            stands for it at both axes.
        labels: int `[Q]`, true labels of the queries.
        predicted: int `[Q]`, predicted ones.
        title: `str`, none by default.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: labels are not integers.
        ValueError: images of another rank, labels below 0, or of another number.
    """
    images, support_labels = plot_arguments.labelled("support", support)
    labels = plot_arguments.check_labels("labels", labels)
    predicted = plot_arguments.check_labels("predicted", predicted, len(labels))
    ways = int(max(np.max(support_labels), np.max(labels), np.max(predicted))) + 1
    counts = np.zeros([ways, ways], int)
    np.add.at(counts, (np.asarray(labels), np.asarray(predicted)), 1)
    side = 0.45 * ways + 2.2
    figure = _figure(side, side)
    grid = figure.subplots(
        2,
        2,
        width_ratios=[1, ways],
        height_ratios=[ways, 1],
        gridspec_kw={"wspace": 0, "hspace": 0},
    )
    matrix = grid[0, 1]
    matrix.imshow(counts, cmap="Blues", vmin=0, aspect="auto")
    for i, j in np.argwhere(counts):
        shade = "white" if counts[i, j] > counts.max() / 2 else "black"
        matrix.text(j, i, counts[i, j], ha="center", va="center", color=shade, fontsize=9)
    matrix.set_xticks([])
    matrix.set_yticks([])
    grid[1, 0].set_axis_off()
    examples = [
        images[np.argmax(support_labels == n)] if n in support_labels else np.zeros_like(images[0])
        for n in range(ways)
    ]
    for axes, axis, name in ((grid[0, 0], 0, "true class"), (grid[1, 1], 1, "predicted class")):
        strip = np.concatenate(examples, axis=axis)
        axes.imshow(_displayed(strip), cmap="gray_r", vmin=0, aspect="auto")
        axes.set_xticks([])
        axes.set_yticks([])
        (axes.set_ylabel if axis == 0 else axes.set_xlabel)(name)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _displayed(image):
    """An image as `imshow` takes it: grey ones without their channel axis."""
    return image[..., 0] if image.shape[-1] == 1 else image


def _figure(width, height):
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"Figures are drawn with matplotlib, which could not be imported ({error}). Install "
            'it with: pip install "maml_tf[train]"'
        ) from error
    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def _finite(values):
    """The values with NaN, which no line is drawn to, for what is not finite."""
    values = np.asarray(values, np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _scale(axes, curves, metric):
    """Per cent for an accuracy, a logarithmic axis for errors over a wide range; a light grid."""
    from matplotlib.ticker import PercentFormatter

    values = np.concatenate([np.asarray(curve, np.float64) for curve in curves])
    values = values[np.isfinite(values)]
    if "acc" in metric:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
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
