"""Figures of reinforcement learning (Finn et al., 2017, figure 4)."""

import numpy as np

from maml_tf.plots.canvas import new_figure


def navigation_paths(paths, masks, goal):
    """Paths in the plane before adapting and after each gradient step, one panel each.

    Args:
        paths: list of float arrays `[R, H, 2]`, positions; one for each number of steps.
        masks: list of float arrays `[R, H]`, 1 where a step belongs to its rollout.
        goal: float `[2]`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = new_figure(2.6 * len(paths), 3.0)
    panels = figure.subplots(1, len(paths), sharex=True, sharey=True, squeeze=False)[0]
    for k, (axes, path, mask) in enumerate(zip(panels, paths, masks, strict=True)):
        for positions, counted in zip(np.asarray(path), np.asarray(mask) > 0, strict=True):
            axes.plot(*positions[counted].T, linewidth=1, alpha=0.8)
        axes.plot(*goal, "*", color="black", markersize=12, label="goal")
        axes.plot(0, 0, "o", color="black", markersize=4, label="start")
        axes.set_title("before" if k == 0 else f"after {k} step" + "s" * (k > 1), fontsize=9)
        axes.set_xlabel("x position")
        axes.set_ylabel("y position")
        axes.label_outer()
        axes.set_aspect("equal")
        axes.set_xlim(-0.8, 0.8)
        axes.set_ylim(-0.8, 0.8)
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=7, loc="lower left")
    return figure
