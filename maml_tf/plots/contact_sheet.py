"""A contact sheet: labelled pictures that a model adapted to, and its answers for others.

As in `maml_tf.plots`, a `matplotlib.figure.Figure` is returned and nothing global is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from maml_tf import arguments
from maml_tf.plots import arguments as plot_arguments
from maml_tf.plots.canvas import displayed, new_figure, printable, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_RIGHT, _WRONG, _UNKNOWN = "#00704F", "#C02000", "#606060"
_CELL = 1.15  # inches a column, of which the gap takes a share
_GAP = 0.12
_LINE = 0.13  # of text, in columns
_FONT, _SMALL = 7.5, 6
_CHARACTERS = 17  # of the larger font fit a column, of average width


def contact_sheet(
    support: tuple[Sequence | np.ndarray, Sequence | np.ndarray],
    queries: Sequence | np.ndarray,
    names: Sequence[str],
    predicted: Sequence | np.ndarray,
    probabilities: Sequence | np.ndarray,
    truth: Sequence | np.ndarray | None = None,
    *,
    captions: Sequence[str] | None = None,
    columns: int = 10,
    title: str | None = None,
) -> Figure:
    """Draws the support pictures by class and each query with the answer for it.

    An answer is green with a tick where it is right, red with a cross and the true class where it
    is wrong, grey where the truth is not known. Of a class with more than `columns` support
    pictures the first ones are drawn, and how many there are is written above them.

    Args:
        support: `(images, labels)`, `[S, height, width, channels]` (uint8, or floats in [0, 1]; 1
            or 3 channels) and int `[S]`, positions in `names`.
        queries: `[Q, height, width, channels]`, as the support images.
        names: sequence of str `[N]`, what the classes are called.
        predicted: int `[Q]`, positions in `names`.
        probabilities: `[Q]`, in [0, 1], of the predicted classes.
        truth: int `[Q]`, positions in `names`, or None where it is not known.
        captions: sequence of str `[Q]`, small print under each query, such as its file; or None.
        columns: `int`, most pictures in a row.
        title: `str`, none by default.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: labels or answers are not integers, or `names` is one text.
        ValueError: there are no queries, or not as many answers as queries; a label or an answer
            that is no position in `names`; a probability outside of [0, 1].

    Example:
        >>> images = np.random.randint(0, 256, [4, 8, 8, 3], np.uint8)
        >>> figure = maml_tf.image_plots.contact_sheet(
        ...     (images, [0, 0, 1, 1]), images[1:], ["cat", "dog"], [0, 1, 0], [0.9, 0.8, 0.6]
        ... )
        >>> figure.savefig("answers.png")
    """
    given = (queries, predicted, probabilities, truth, captions)
    counts = [len(values) for values in given if values is not None]
    if not counts[0] or len(set(counts)) > 1:
        raise ValueError(
            "Expected at least one query, and an answer for each. Received: "
            f"{counts[0]} queries, {counts[1]} predicted classes, {counts[2]} probabilities; "
            f"lengths with truth and captions, where given: {counts}. Give one answer a query."
        )
    columns = arguments.integer("columns", columns, 1)
    if isinstance(names, str) or not len(names):
        raise TypeError(
            "Expected `names` to be a sequence of names of classes. Received: "
            f"{arguments.received('names', names)}. Put them into a list."
        )
    images = plot_arguments.check_images("support", support[0])
    labels = plot_arguments.check_labels("support labels", support[1], len(images), len(names))
    queries = plot_arguments.check_images("queries", queries)
    predicted = plot_arguments.check_labels("predicted", predicted, len(queries), len(names))
    if truth is not None:
        truth = plot_arguments.check_labels("truth", truth, len(queries), len(names))
    for i, probability in enumerate(probabilities):
        # In float32 a softmax may add up to a little more than 1.
        rounded = np.round(probability, 5) if arguments.is_number(probability) else probability
        arguments.number(f"probabilities[{i}]", rounded, 0, 1)
    height, width = np.shape(queries)[1:3]
    sheet = _Sheet(columns, height / width, title)
    sheet.heading("Support pictures")
    for label, name in enumerate(names):
        own = images[labels == label]
        if len(own):
            sheet.block(own[:columns], name, len(own))
    sheet.heading("Queries and answers")
    for i, image in enumerate(queries):
        answer, colour = f"{100 * probabilities[i]:.0f} %", _UNKNOWN
        if truth is not None and predicted[i] == truth[i]:
            answer, colour = f"✓ {answer}", _RIGHT
        elif truth is not None:
            true = shorten(names[truth[i]], _CHARACTERS - len(answer) - 7)
            answer, colour = f"✗ {answer}, is {true}", _WRONG
        caption = None if captions is None else captions[i]
        sheet.answer(image, names[predicted[i]], answer, colour, caption)
    return sheet.figure()


class _Sheet:
    """Lays pictures out from left to right and top to bottom; a column is one unit."""

    def __init__(self, columns, proportion, title):
        self._columns = columns
        self._height = (1 - _GAP) * proportion
        self._x, self._y = 0, 0.1
        self._row = 0.0  # height of the row that is being filled
        self._texts, self._pictures = [], []
        if title:
            self._text(self._y, title, columns, fontsize=11)
            self._y += 0.26

    def heading(self, text):
        self._break()
        self._y += 0.05
        self._text(self._y, text, self._columns, fontsize=9, weight="bold", color="#404040")
        self._y += 0.22

    def block(self, images, name, count):
        """Pictures of one class side by side, its name above them."""
        shown = len(images)
        self._room(shown, _LINE + self._height + 0.08)
        more = f", {shown} of {count}" if count > shown else ""
        name = shorten(name, _CHARACTERS * shown - len(more))
        self._text(self._y, name + more, shown, weight="bold")
        for image in images:
            self._picture(image, "#C8C8C8")
            self._x += 1

    def answer(self, image, name, answer, colour, caption):
        """One query: the class above it, how sure and how right below it."""
        down = _LINE + self._height + 0.03
        self._room(1, down + (1 if caption is None else 2) * _LINE + 0.08)
        below = self._y + down
        self._text(self._y, shorten(name, _CHARACTERS - 2), 1, color=colour, weight="bold")
        self._picture(image, colour)
        self._text(below, answer, 1, color=colour)
        if caption is not None:
            # Of file names the ends differ.
            limit, caption = int(_CHARACTERS * _FONT / _SMALL), printable(caption)
            short = caption if len(caption) <= limit else f"…{caption[1 - limit :]}"
            self._text(below + _LINE, short, 1, color=_UNKNOWN, fontsize=_SMALL)
        self._x += 1

    def figure(self):
        from matplotlib.patches import Rectangle

        self._break()
        figure = new_figure(self._columns * _CELL, self._y * _CELL)
        figure.set_layout_engine("none")  # every place is known
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for x, y, image, colour in self._pictures:
            _draw(axes, image, (x, x + 1 - _GAP, y + self._height, y), colour)
        axes.set_xlim(0, self._columns)
        axes.set_ylim(self._y, 0)
        for x, y, text, columns, style in self._texts:
            # A name may hold dollar signs, which would be read as mathematics.
            drawn = axes.text(x, y, text, va="top", parse_math=False, clip_on=True, **style)
            # And characters wider than the average.
            room = Rectangle((x, y - 0.1), columns - _GAP / 2, 0.5, transform=axes.transData)
            drawn.set_clip_path(room)
        return figure

    def _room(self, cells, height):
        """Begins a new row where so many cells do not fit into this one."""
        if self._x + cells > self._columns:
            self._break()
        self._row = max(self._row, height)

    def _break(self):
        self._y += self._row
        self._x, self._row = 0, 0.0

    def _text(self, y, text, columns, **style):
        self._texts.append((self._x + _GAP / 2, y, text, columns, {"fontsize": _FONT} | style))

    def _picture(self, image, colour):
        self._pictures.append((self._x + _GAP / 2, self._y + _LINE, np.asarray(image), colour))


def _draw(axes, image, extent, colour):
    left, right, bottom, top = extent
    axes.imshow(
        displayed(image),
        cmap="gray",
        vmin=0,
        vmax=255 if image.dtype == np.uint8 else 1,
        extent=extent,
        aspect="auto",
    )
    axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=colour)
