"""Meta-learners, one method a file."""

from maml_tf.learners.base import Learner
from maml_tf.learners.embedding_learner import EmbeddingLearner
from maml_tf.learners.gradient_learner import GradientLearner
from maml_tf.learners.maml import MAML
from maml_tf.learners.prototypical import Prototypical
from maml_tf.learners.reptile import Reptile

__all__ = ["MAML", "EmbeddingLearner", "GradientLearner", "Learner", "Prototypical", "Reptile"]
