"""The paper's protocol: many test tasks, a metric after every inner step, mean and 95 % interval.

Finn, Abbeel & Levine (2017) report the mean over 600 test tasks with mean +- 1.96 sd / sqrt(600).
Any learner is measured this way, and so is any ordinary Keras model: wrap it in a `maml_tf.MAML`
that is compiled and never fitted. `nearest_neighbour` and `nearest_class_mean` are what any of them
should beat, on groups of rows `support_mean`, `ridge` and `mean_residual`, and on series
`seasonal_naive`.
"""

from maml_tf.evaluation.baselines import nearest_class_mean, nearest_neighbour
from maml_tf.evaluation.protocol import evaluate
from maml_tf.evaluation.result import Result, number
from maml_tf.evaluation.simple import mean_residual, ridge, seasonal_naive, support_mean

__all__ = [
    "Result",
    "evaluate",
    "mean_residual",
    "nearest_class_mean",
    "nearest_neighbour",
    "number",
    "ridge",
    "seasonal_naive",
    "support_mean",
]
