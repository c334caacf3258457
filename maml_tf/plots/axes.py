"""What the figures of numbers have in common: colours, scales, a legend that hides nothing."""

import numpy as np

# A band of lightness and hue that colour-blind readers tell apart (Okabe & Ito, 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Characters of the longest name in a legend, with which so many columns fit under a figure.
_COLUMNS = {3: 24, 2: 40}
# Means that are further apart than this factor go onto a logarithmic axis.
_LOG_RANGE = 20


def draw_chance(axes, chance):
    """A dotted line at the accuracy of guessing, where there is one."""
    if chance is not None:
        label = f"chance, {100 * chance:.3g} %"
        axes.axhline(chance, color="#808080", linestyle=":", linewidth=1.5, label=label, zorder=1)


def legend_below(figure):
    """The legend of all lines under the axes, where it takes nothing from a long title."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    longest = max(map(len, labels))
    columns = next((n for n, most in _COLUMNS.items() if longest <= most), 1)
    ncols = min(columns, len(labels))
    style = {"loc": "outside lower center", "frameon": False, "fontsize": 9}
    figure.legend(handles, labels, ncols=ncols, **style)


def finite(values):
    """The values with NaN, which no line is drawn to, for what is not finite."""
    values = np.asarray(values, np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def scale(axes, curves, metric):
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


def readable(metric):
    """The name of a metric as one writes it."""
    return metric.replace("_", " ")


def after(step):
    """After how many inner steps, in words."""
    if step == 0:
        return "before adaptation"
    return f"after {step} step" + ("s" if step > 1 else "")
