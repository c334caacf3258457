"""Inner optimizers under their public name; see `maml_tf.inner.optimizers`."""

from maml_tf.inner.learned_rates import LearnedRates
from maml_tf.inner.optimizers import SGD, Adagrad, Adam, InnerOptimizer, RMSprop, build, get

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "InnerOptimizer",
    "LearnedRates",
    "RMSprop",
    "build",
    "get",
]
