"""Meta-learners, one method a file."""

from maml_tf.learners.base import Learner
from maml_tf.learners.gradient_learner import GradientLearner
from maml_tf.learners.maml import MAML

__all__ = ["MAML", "GradientLearner", "Learner"]
