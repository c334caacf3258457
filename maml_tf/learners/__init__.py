"""Meta-learners, one method a file."""

from maml_tf.learners.base import Learner
from maml_tf.learners.maml import MAML

__all__ = ["MAML", "Learner"]
