"""A training script that takes a second: what all of them do, with a network of two weights."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from maml_tf import files
from train import checkpoints, common, runs


@dataclasses.dataclass
class Settings:
    """As the scripts have them."""

    output: str = "runs/tiny"
    """Run directory."""
    epochs: int = 4
    """Each of four iterations."""
    fresh: bool = common.switch("Delete what the run directory holds and start anew.")


def make_learner():
    dense = keras.layers.Dense(1, "tanh", kernel_initializer="ones")
    model = keras.Sequential([keras.Input([1]), dense])
    model.compile(keras.optimizers.Adam(0.05), "mse")
    return model


def make_tasks(start):
    def batch(i):
        x = tf.random.stateless_uniform([8, 1], [3, tf.cast(i, tf.int32)])
        return x, tf.sin(3.0 * x)

    return tf.data.Dataset.range(start, 2**40).map(batch)


def validation():
    x = np.linspace(0, 1, 8, dtype=np.float32)[:, np.newaxis]
    # Worse with every epoch, so that the largest loss is the last one.
    return tf.data.Dataset.from_tensors((x, -np.sin(3 * x)))


def train(folder, iterations=16, patience=None):
    """All that the scripts ask of `common.train`."""
    return common.train(
        make_learner,
        make_tasks,
        folder,
        iterations=iterations,
        epoch_iterations=4,
        validation=validation(),
        best="val_loss",
        patience=patience,
    )


def main():
    settings = common.parse(Settings, "tiny", {})
    folder = runs.open_run(settings)
    train(folder, 4 * settings.epochs)
    best = checkpoints.load_best(folder)
    content = {"iterations": int(best.optimizer.iterations), "history": _history(folder)}
    results = {"settings": {}, "training_seconds": common.training_seconds(folder), **content}
    runs.write_json(folder / "results.json", results)
    with files.whole_folder(folder / "saved_model", replace=True) as beside:
        runs.write_json(beside / "1.json", content)
    runs.save_figure(_figure(), folder / "figure.png")


def _history(folder):
    return [[row["epoch"], row["loss"], row["val_loss"]] for row in common.read_history(folder)]


def _figure():
    from matplotlib.figure import Figure

    figure = Figure((1, 1))
    figure.subplots().plot([0, 1])
    return figure


if __name__ == "__main__":
    common.run(main)
