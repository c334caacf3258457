"""Inner optimizers under their public name; see `maml_tf.inner.optimizers`."""

from maml_tf.inner.learned_rates import LearnedRates
from maml_tf.inner.optimizers import SGD, Adam, InnerOptimizer, build, get

__all__ = ["SGD", "Adam", "InnerOptimizer", "LearnedRates", "build", "get"]
