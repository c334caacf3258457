"""Model-agnostic meta-learning (MAML) for TensorFlow 2 and Keras 3."""

from maml_tf import (
    backbones,
    evaluation,
    image_plots,
    inner_loop,
    inner_optimizers,
    learners,
    models,
    plots,
    serving,
    tasks,
)
from maml_tf.learners import MAML, Learner, Prototypical, Reptile

__version__ = "0.1.0"
__all__ = [
    "MAML",
    "Learner",
    "Prototypical",
    "Reptile",
    "backbones",
    "evaluation",
    "image_plots",
    "inner_loop",
    "inner_optimizers",
    "learners",
    "models",
    "plots",
    "serving",
    "tasks",
]
