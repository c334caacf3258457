"""Figures of one classification task: its pictures, and which class was taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from maml_tf import arguments
from maml_tf.plots import arguments as plot_arguments
from maml_tf.plots.canvas import displayed, new_figure, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_RIGHT, _WRONG, _BEFORE = "#00704F", "#C02000", "#707070"
_CELL, _WIDEST, _LINE = 1.3, 1.6, 0.15  # inches of a picture, of the largest, of a line of text
_FONT, _CHARACTERS = 7, 15.8  # of which so many fit an inch


def classification_task(
    support: tuple[Sequence | np.ndarray, Sequence | np.ndarray],
    query: tuple[Sequence | np.ndarray, Sequence | np.ndarray],
    before: Sequence | np.ndarray | None,
    after: Sequence | np.ndarray,
    *,
    names: Sequence[str] | None = None,
    columns: int = 10,
    title: str | None = None,
) -> Figure:
    """The images of one task, and how each query was classified before and after adaptation.

    The class stands above each image. Below a query stands which class it was taken for: at the
    initial weights in brackets, then after adaptation, with a tick where that is right and a cross
    where not.

    Args:
        support: `(images [S, height, width, channels], labels [S])`.
        query: the same for the queries.
        before: int `[Q]`, predicted labels at the initial weights; None where there are none.
        after: int `[Q]`, predicted labels after adaptation.
        names: sequence of str `[N]`, what the classes are called; their labels by default.
        columns: `int`, most images in a row.
        title: `str`, none by default.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: labels are not integers, `names` is one text, or `columns` is not an integer.
        ValueError: images of another rank, labels or predictions of another number, or fewer
            names than classes.
    """
    columns = arguments.integer("columns", columns, 1)
    support, query = (
        plot_arguments.labelled("support", support),
        plot_arguments.labelled("query", query),
    )
    given = {"after": after} if before is None else {"before": before, "after": after}
    told = {n: plot_arguments.check_labels(n, v, len(query[1])) for n, v in given.items()}
    highest = max(np.max(labels) for labels in (support[1], query[1], *told.values()))
    names = plot_arguments.check_names(names, highest + 1)
    columns = min(columns, max(len(support[1]), len(query[1])))
    # Names are longer than numbers: where pictures are few there is room for them.
    cell = min(_WIDEST, max(_CELL, 8 / columns))
    room = int(_CHARACTERS * cell)
    heights = [-(-len(part[1]) // columns) for part in (support, query)]
    inches = [
        rows * (cell + lines * _LINE) + 0.3
        for rows, lines in zip(heights, (1, 1 + len(told)), strict=True)
    ]
    figure = new_figure(max(5.0, cell * columns), sum(inches) + 0.3)
    parts = figure.subfigures(2, 1, height_ratios=inches, squeeze=False)[:, 0]
    below = "it takes them for" if before is None else "it took them for (before adapting), after"
    headings = ("support set, which it adapts to", f"queries, and what {below}")
    for part, (images, labels), height, heading in zip(
        parts, (support, query), heights, headings, strict=True
    ):
        part.suptitle(heading, fontsize=10)
        grid = part.subplots(height, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        # By label, so that a query stands under the pictures of its class.
        for axes, i in zip(grid.flat, np.argsort(labels, kind="stable"), strict=False):
            axes.imshow(displayed(np.asarray(images[i])), cmap="gray_r", vmin=0)
            name = shorten(names[labels[i]], room)
            axes.set_title(name, fontsize=_FONT, pad=2, parse_math=False)
            if part is parts[1]:
                answers = {n: int(predicted[i]) for n, predicted in told.items()}
                _tell(axes, answers, int(labels[i]), names, room)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _tell(axes, answers, label, names, room):
    """Below a query, a line of at most `room` characters for each of the answers."""
    for line, (when, answer) in enumerate(answers.items()):
        if when == "before":
            text, colour = f"({shorten(names[answer], room - 2)})", _BEFORE
        else:
            mark, colour = ("✓", _RIGHT) if answer == label else ("✗", _WRONG)
            text = f"{mark} {shorten(names[answer], room - 2)}"
        axes.annotate(
            text,
            (0.5, 0),
            (0, -2 - 1.2 * _FONT * line),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=_FONT,
            color=colour,
            parse_math=False,
        )


def confusion(
    support: tuple[Sequence | np.ndarray, Sequence | np.ndarray],
    labels: Sequence | np.ndarray,
    predicted: Sequence | np.ndarray,
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """How often queries of each class of one task were taken for each: a matrix of numbers.

    Args:
        support: `(images [S, height, width, channels], labels [S])`; the first image of a class
            stands for it at both axes.
        labels: int `[Q]`, true labels of the queries.
        predicted: int `[Q]`, predicted ones.
        names: sequence of str `[N]`, what the classes are called, to stand beside their images.
        title: `str`, none by default.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: labels are not integers, or `names` is one text.
        ValueError: images of another rank, labels below 0, or of another number, or fewer names
            than classes.
    """
    images, support_labels = plot_arguments.labelled("support", support)
    labels = plot_arguments.check_labels("labels", labels)
    predicted = plot_arguments.check_labels("predicted", predicted, len(labels))
    ways = int(max(np.max(support_labels), np.max(labels), np.max(predicted))) + 1
    if names is not None:
        names = [shorten(n, 20) for n in plot_arguments.check_names(names, ways)[:ways]]
    counts = np.zeros([ways, ways], int)
    np.add.at(counts, (np.asarray(labels), np.asarray(predicted)), 1)
    side = 0.45 * ways + 2.2 + (0.9 if names else 0)
    figure = new_figure(side, side)
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
    _examples(grid[0, 0], examples, 0, names, "true class (number of queries)")
    _examples(grid[1, 1], examples, 1, names, "predicted class")
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _examples(axes, images, along, names, heading):
    """An image of each class, downwards (`along` 0) or to the right (1), and its name."""
    axes.imshow(displayed(np.concatenate(images, axis=along)), cmap="gray_r", vmin=0, aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    if names:
        size = images[0].shape[along]
        ticks = {"ticks": size * (np.arange(len(images)) + 0.5) - 0.5, "labels": names}
        style = {"fontsize": _FONT, "parse_math": False}
        if along == 0:
            axes.set_yticks(**ticks, **style)
        else:
            axes.set_xticks(**ticks, **style, rotation=45, ha="right", rotation_mode="anchor")
        axes.tick_params(length=0)
    (axes.set_ylabel if along == 0 else axes.set_xlabel)(heading)
