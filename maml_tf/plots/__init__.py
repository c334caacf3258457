"""The papers' figures; pictures of tasks are in `maml_tf.image_plots`."""

from maml_tf.plots.figures import (
    SinePanel,
    classification_task,
    confusion,
    error_against_steps,
    learning_curve,
    sine_adaptation,
)

__all__ = [
    "SinePanel",
    "classification_task",
    "confusion",
    "error_against_steps",
    "learning_curve",
    "sine_adaptation",
]
