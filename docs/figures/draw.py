"""Draws the explanatory figures of the handbook, the PNG files beside this one.

python docs/figures/draw.py

The sine figure shows the learner of `saved_models/sinusoid`; the others are computed from toys of
two weights, so that what they show is what the methods do and not a sketch of it.
"""

import pathlib

import keras
import matplotlib
import numpy as np
from matplotlib import pyplot as plt

import maml_tf

matplotlib.use("Agg")

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
BLUE, ORANGE, GREEN, GREY = "#1f5fa8", "#d9730d", "#2a8f4f", "#8a8a8a"
COLOURS = (BLUE, ORANGE, GREEN)

# Losses of three tasks of two weights: (w - optimum)' curvature (w - optimum) / 2.
OPTIMA = np.array([[0.5, 2.7], [3.5, 2.6], [2.3, 0.1]])
CURVATURES = [np.diag([0.55, 1.4]), np.diag([1.5, 0.45]), np.array([[1.0, 0.3], [0.3, 1.2]])]


def save(figure, name):
    """Writes one figure."""
    figure.savefig(HERE / f"{name}.png", dpi=110, bbox_inches="tight")
    plt.close(figure)


def task():
    """A 5-way 1-shot task: five labelled drawings, and queries of the same five characters."""
    _, _, test = maml_tf.tasks.glyphs(ways=5, shots=1, queries=2, meta_batch=1, seed=3)
    inputs, query_y = next(test.as_numpy_iterator())
    support_x, support_y = inputs["support_x"][0], inputs["support_y"][0]
    query_x, query_y = inputs["query_x"][0], query_y[0]
    figure, axes = plt.subplots(3, 5, figsize=(6.4, 4.3))
    for way in range(5):
        column = [support_x[support_y == way][0], *query_x[query_y == way]]
        for row, image in enumerate(column):
            axis = axes[row, way]
            axis.imshow(1 - image[..., 0], cmap="gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set_color(BLUE if row == 0 else ORANGE)
                spine.set_linewidth(2)
        axes[0, way].set_title(f"class {way}", fontsize=10)
    axes[0, 0].set_ylabel("support", color=BLUE, fontsize=10)
    axes[1, 0].set_ylabel("queries", color=ORANGE, fontsize=10)
    axes[2, 0].set_ylabel("queries", color=ORANGE, fontsize=10)
    save(figure, "task")


def inner_steps():
    """One new sine wave: the network before, and after one and five inner steps."""
    learner = keras.saving.load_model(ROOT / "saved_models" / "sinusoid" / "learner.keras")
    random = np.random.RandomState(1)
    amplitude, phase = 3.6, 1.1
    x = random.uniform(-5, 5, [5, 1]).astype("float32")
    y = amplitude * np.sin(x - phase)
    grid = np.linspace(-5, 5, 200, dtype="float32")[:, None]
    figure, axis = plt.subplots(figsize=(6.4, 3.4))
    axis.plot(
        grid, amplitude * np.sin(grid - phase), color=GREY, lw=6, alpha=0.35, label="the wave"
    )
    for steps, style in ((0, ":"), (1, "--"), (5, "-")):
        curve = learner.adapt(x, y, inner_steps=steps).predict(grid, verbose=0)
        after = "before adapting" if not steps else f"after {steps} inner step{'s'[: steps > 1]}"
        axis.plot(grid, curve, style, color=ORANGE if steps else BLUE, lw=2, label=after)
    axis.plot(x, y, "o", color="black", ms=7, label="support: five points", zorder=3)
    axis.set_xlabel("x")
    axis.set_ylabel("y")
    axis.legend(fontsize=8, loc="upper left", ncols=2)
    axis.set_ylim(-5.2, 7.2)
    save(figure, "inner_steps")


def gradient(t, weights):
    """The gradient of the loss of task t."""
    return CURVATURES[t] @ (weights - OPTIMA[t])


def steps_of(t, weights, rate, count):
    """The weights on the way of gradient descent, `[count + 1, 2]`; a rate may be two numbers."""
    path = [weights]
    for _ in range(count):
        path.append(path[-1] - np.asarray(rate) * gradient(t, path[-1]))
    return np.array(path)


def plane(title):
    """Axes with the contours of the tasks' losses."""
    figure, axis = plt.subplots(figsize=(4.6, 3.6))
    one, two = np.meshgrid(np.linspace(-0.4, 4.4, 150), np.linspace(-0.8, 3.6, 150))
    points = np.stack([one, two], -1)
    for t, colour in enumerate(COLOURS):
        off = points - OPTIMA[t]
        loss = np.einsum("...i,ij,...j->...", off, CURVATURES[t], off) / 2
        axis.contour(one, two, loss, levels=[0.05, 0.2], colors=colour, alpha=0.4, linewidths=1)
        axis.plot(*OPTIMA[t], "*", color=colour, ms=11)
    axis.set_title(title, fontsize=10)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_xlabel("one weight")
    axis.set_ylabel("another weight")
    return figure, axis


def arrow(axis, start, end, colour, **style):
    """An arrow from one point of the plane to another."""
    look = {"arrowstyle": "-|>", "color": colour, "lw": 1.8, "shrinkA": 0, "shrinkB": 0, **style}
    axis.annotate("", xy=end, xytext=start, arrowprops=look)


def draw_paths(axis, theta, rate, count):
    """What adapting to each task does from theta."""
    for t, colour in enumerate(COLOURS):
        path = steps_of(t, theta, rate, count)
        for start, end in zip(path[:-1], path[1:], strict=True):
            arrow(axis, start, end, colour)
    axis.plot(*theta, "o", color="black", ms=7, zorder=4)
    axis.text(theta[0] - 0.1, theta[1] - 0.32, "θ", fontsize=13)


def meta_gradient(theta, rate, first_order):
    """Of the mean loss after one step; without second derivatives where asked."""
    total = np.zeros(2)
    for t, curvature in enumerate(CURVATURES):
        after = steps_of(t, theta, rate, 1)[-1]
        through = np.eye(2) if first_order else np.eye(2) - rate * curvature
        total += through @ gradient(t, after)
    return total / len(CURVATURES)


def maml():
    """Initial weights from which one step goes a long way for every task."""
    theta = np.array([1.2, 0.6])
    rate = 0.55
    for _ in range(400):
        theta = theta - 0.2 * meta_gradient(theta, rate, first_order=False)
    figure, axis = plane("MAML: one inner step from θ serves each task (★)")
    draw_paths(axis, theta, rate, 1)
    save(figure, "maml")


def first_order():
    """The directions of the two outer steps from the same weights."""
    theta, rate = np.array([0.9, 0.9]), 0.62
    figure, axis = plane("The outer step's direction, with and without\nsecond derivatives")
    draw_paths(axis, theta, rate, 1)
    for order, colour, word, place in (
        (False, "black", "MAML", (-0.3, 0.12)),
        (True, GREY, "first order", (0.08, -0.02)),
    ):
        down = -meta_gradient(theta, rate, order)
        move = 1.2 * down / np.linalg.norm(down)
        arrow(axis, theta, theta + move, colour, lw=2.6)
        axis.text(*(theta + move + place), word, color=colour, fontsize=9)
    save(figure, "first_order")


def reptile():
    """The initial weights move to the middle of where the tasks end."""
    theta, rate = np.array([0.9, 0.9]), 0.3
    figure, axis = plane("Reptile: θ moves towards where the tasks end (×)")
    draw_paths(axis, theta, rate, 5)
    ends = np.array([steps_of(t, theta, rate, 5)[-1] for t in range(3)])
    for end, colour in zip(ends, COLOURS, strict=True):
        axis.plot(*end, "X", color=colour, ms=9, zorder=4)
    arrow(axis, theta, theta + 0.6 * (ends.mean(0) - theta), "black", lw=2.8)
    save(figure, "reptile")


def learned_rates():
    """One rate for both weights, and one for each."""
    theta = np.array([1.5, 1.2])
    figure, axis = plane("Learned rates: a step size for each weight")
    t, colour = 1, ORANGE
    arrow(axis, theta, steps_of(t, theta, 0.45, 1)[-1], GREY)
    arrow(axis, theta, steps_of(t, theta, [0.62, 2.0], 1)[-1], colour)
    axis.plot(*theta, "o", color="black", ms=7)
    axis.text(theta[0] - 0.1, theta[1] - 0.32, "θ", fontsize=13)
    axis.text(1.9, 1.05, "one rate for all", color=GREY, fontsize=9)
    axis.text(1.35, 1.95, "a rate each", color=colour, fontsize=9)
    save(figure, "learned_rates")


def prototypical():
    """Class means of embeddings, and the border between what is nearest to which."""
    random = np.random.RandomState(4)
    centres = np.array([[0.8, 2.6], [3.3, 2.3], [2.2, 0.6]])
    support = centres[:, None] + random.normal(0, 0.38, [3, 4, 2])
    means = support.mean(1)
    query = np.array([2.45, 1.75])
    figure, axis = plt.subplots(figsize=(4.6, 3.6))
    one, two = np.meshgrid(np.linspace(-0.4, 4.4, 300), np.linspace(-0.4, 3.6, 300))
    points = np.stack([one, two], -1)
    nearest = np.square(points[..., None, :] - means).sum(-1).argmin(-1)
    axis.contourf(one, two, nearest, levels=[-0.5, 0.5, 1.5, 2.5], colors=COLOURS, alpha=0.12)
    for mean, examples, colour in zip(means, support, COLOURS, strict=True):
        axis.plot(*examples.T, "o", color=colour, ms=6)
        axis.plot(*mean, "*", color=colour, ms=16, mec="black")
        axis.plot(*np.transpose([query, mean]), "--", color=GREY, lw=1)
    axis.plot(*query, "s", color="black", ms=8)
    axis.text(query[0] + 0.15, query[1] - 0.05, "query", fontsize=10)
    axis.set_title("Prototypical: the nearest class mean (★) answers", fontsize=10)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_xlabel("one number of the embedding")
    axis.set_ylabel("another")
    save(figure, "prototypical")


if __name__ == "__main__":
    for draw in (task, inner_steps, maml, first_order, reptile, learned_rates, prototypical):
        draw()
