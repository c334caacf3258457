"""Asks the trained Omniglot model to tell printed characters apart: no training.

python -m train.serve_example                            in this process, no server needed
python -m train.serve_example --server localhost:8500    from a TensorFlow Serving (docs/serving.md)

The characters are drawn from fonts (`maml_tf.tasks.glyphs`); the model has seen handwriting only.
Prints what it answered before and after adapting to one drawing of each.
"""

import dataclasses
import pathlib
import sys

import numpy as np

import maml_tf
from maml_tf import plots
from train import common, picture_models, runs


@dataclasses.dataclass
class Settings:
    """Whom to ask, and what."""

    server: str | None = None
    """Address of a TensorFlow Serving, localhost:8500 (gRPC) or http://localhost:8501 (REST)."""
    name: str = "omniglot"
    """Name of the model on the server."""
    model: str = "saved_models/omniglot"
    """The exported model, where no server is given."""
    shots: int = 1
    """Drawings of each character to adapt to."""
    queries: int = 4
    """Drawings of each character to answer."""
    inner_steps: int = 3
    """Gradient steps of adaptation."""
    seed: int = 0
    """Which characters are drawn."""
    output: str = "runs/serve-example"
    """Folder for task.png."""


def main():
    """Draws a task, asks, prints and plots."""
    least = {"inner_steps": 0}
    settings = common.parse(Settings, "python -m train.serve_example", {}, least=least)
    try:
        sets = maml_tf.tasks.glyphs(
            shots=settings.shots, test_queries=settings.queries, meta_batch=1, seed=settings.seed
        )
        inputs, query_y = next(sets[2].as_numpy_iterator())
        task = {name: part[0] for name, part in inputs.items()}
        before, after = (answers(settings, task, steps) for steps in (0, settings.inner_steps))
    except (ValueError, ImportError, OSError, maml_tf.serving.ServingError) as error:
        sys.exit(str(error))
    report(settings, task, query_y[0], before, after, sets.class_names("test")[0])


def answers(settings, task, steps):
    """Probabilities `[Q, 5]` of each drawing after so many steps."""
    parts = task["support_x"], task["support_y"], task["query_x"]
    if settings.server:
        client = maml_tf.serving.Client(settings.server, settings.name)
        logits = client.adapt_and_predict(*parts, inner_steps=steps)
    else:
        logits = picture_models.open_model(settings.model, steps).answer(*parts)
    scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True)


def report(settings, task, query_y, before, after, names):
    """Prints a row a drawing, and draws them all."""
    width = max(map(len, names))
    head = ["drawing of", "before adapting", "after"]
    print("  ".join(text.ljust(width) for text in head) + "  probability")
    for i in np.argsort(query_y, kind="stable"):
        first, then = before[i].argmax(), after[i].argmax()
        cells = (names[label].ljust(width) for label in (query_y[i], first, then))
        mark = "" if then == query_y[i] else "  wrong"
        print("  ".join(cells) + f"  {100 * after[i].max():9.0f} %{mark}")
    right = [np.sum(scores.argmax(axis=-1) == query_y) for scores in (before, after)]
    print(
        f"\n{right[0]} of {len(query_y)} right before adapting, {right[1]} after "
        f"{settings.inner_steps} steps on {len(task['support_y'])} drawings."
    )
    folder = pathlib.Path(settings.output)
    folder.mkdir(parents=True, exist_ok=True)
    figure = plots.classification_task(
        (task["support_x"], task["support_y"]),
        (task["query_x"], query_y),
        before.argmax(axis=-1),
        after.argmax(axis=-1),
        names=names,
        title="printed characters, to a model that has seen handwriting only",
    )
    runs.save_figure(figure, folder / "task.png")
    print(f"The drawings are in {folder / 'task.png'}.")


if __name__ == "__main__":
    common.run(main, resumes=False)
