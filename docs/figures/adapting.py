"""Draws docs/figures/adapting.gif, the README's picture: python -m docs.figures.adapting.

Two saved learners adapt to one new task each, a gradient step after the other: a sine wave from
five points, and five printed characters from one example each, by a learner that has only seen
handwriting.
"""

import pathlib

import keras
import matplotlib
import numpy as np
import tensorflow as tf

matplotlib.use("Agg")
import matplotlib.animation
import matplotlib.pyplot as plt

import maml_tf

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 5
BLUE, RED, GREY = "#1f6fb2", "#c8452d", "#8a8f98"


def sine_task():
    """Support points of one wave, and the wave: batches of one task, and `[200]` arrays."""
    x = np.linspace(-5, 5, 200, dtype=np.float32)
    support_x = np.array([-4.2, -2.4, -0.3, 1.9, 4.1], np.float32)

    def wave(x):
        return 3.5 * np.sin(x - 0.6)

    task = {"support_x": support_x, "support_y": wave(support_x), "query_x": x}
    return {name: part.reshape(1, -1, 1) for name, part in task.items()}, wave(x)


def sine_path():
    """Predictions `[steps + 1, 200]` of the saved learner after each inner step."""
    learner = keras.saving.load_model(ROOT / "saved_models/sinusoid/learner.keras")
    return learner.predict_path(sine_task()[0], STEPS).numpy()[0, :, :, 0]


def character_task(seed=3):
    """One task of printed characters: images `[5, 28, 28]` of support and one query a class."""
    tasks = maml_tf.tasks.glyphs(ways=5, shots=1, queries=1, test_tasks=1, meta_batch=1, seed=seed)
    inputs, answers = next(tasks[2].as_numpy_iterator())
    return inputs, answers[0]


def character_path(inputs):
    """Probabilities `[steps + 1, 5, 5]` that each query is of each class."""
    learner = keras.saving.load_model(ROOT / "saved_models/omniglot/learner.keras")
    return tf.nn.softmax(learner.predict_path(inputs, STEPS)[0]).numpy()


def draw():
    """The figure and what changes in it from frame to frame."""
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(9, 3.6), dpi=90, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    grid = figure.add_gridspec(1, 2, width_ratios=[1.15, 1])
    task, truth = sine_task()
    path = sine_path()
    axes = figure.add_subplot(grid[0])
    x = task["query_x"][0, :, 0]
    axes.plot(x, truth, color=GREY, linestyle=":", label="the new wave")
    axes.plot(x, path[0], color=GREY, linewidth=1, label="before adapting")
    (line,) = axes.plot(x, path[0], color=RED, linewidth=2, label="after adapting")
    axes.plot(*(task[n][0, :, 0] for n in ("support_x", "support_y")), "^", color=BLUE, ms=8)
    axes.set(ylim=(-5.5, 5.5))
    axes.legend(loc="lower left", ncols=3, frameon=False, fontsize=8)

    inputs, answers = character_task()
    scores = character_path(inputs)
    inner = grid[1].subgridspec(6, 6, wspace=0.1, hspace=0.1)
    order = np.argsort(inputs["support_y"][0])
    _picture(figure.add_subplot(inner[0, 0]), None, "query")
    for column, i in enumerate(order):
        _picture(figure.add_subplot(inner[0, column + 1]), inputs["support_x"][0, i], "", BLUE)
    for row in range(5):
        _picture(figure.add_subplot(inner[row + 1, 0]), inputs["query_x"][0, row])
    table = figure.add_subplot(inner[1:, 1:])
    image = table.imshow(scores[0], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    table.set(xticks=[], yticks=[])
    for row, answer in enumerate(answers):
        table.add_patch(
            plt.Rectangle((answer - 0.47, row - 0.47), 0.94, 0.94, fill=False, ec=RED, lw=1.5)
        )
    texts = [
        [table.text(c, r, "", ha="center", va="center", fontsize=9) for c in range(5)]
        for r in range(5)
    ]

    def show(step):
        line.set_ydata(path[step])
        image.set_data(scores[step])
        for row in range(5):
            for column in range(5):
                value = scores[step, row, column]
                texts[row][column].set_text(f"{100 * value:.0f}")
                texts[row][column].set_color("white" if value > 0.5 else GREY)
        word = "step" if step == 1 else "steps"
        figure.suptitle(f"after {step} gradient {word}", fontweight="bold")
        return ()

    axes.set_xlabel("a sine wave, seen at five points")
    table.set_xlabel("scores of five queries in %, right ones framed")
    return figure, show


def _picture(axes, pixels, title="", frame=GREY):
    if pixels is not None:
        axes.imshow(1 - pixels[..., 0], cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=pixels is not None, color=frame)
    axes.set_title(title, fontsize=8, y=0)


def main():
    """Writes the animation: two seconds on the first and on the last frame."""
    figure, show = draw()
    frames = [0, 0, *range(STEPS), STEPS, STEPS, STEPS]
    animation = matplotlib.animation.FuncAnimation(figure, show, frames=frames)
    animation.save(ROOT / "docs/figures/adapting.gif", writer="pillow", fps=1.25)


if __name__ == "__main__":
    main()
