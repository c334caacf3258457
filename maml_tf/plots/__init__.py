"""The papers' figures; pictures of tasks are in `maml_tf.image_plots`."""

from maml_tf.plots.curves import learning_curve, learning_curves
from maml_tf.plots.figures import SinePanel, error_against_steps, sine_adaptation
from maml_tf.plots.task_figures import classification_task, confusion

__all__ = [
    "SinePanel",
    "classification_task",
    "confusion",
    "error_against_steps",
    "learning_curve",
    "learning_curves",
    "sine_adaptation",
]
