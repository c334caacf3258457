"""Meta-learners, one method a file."""

from maml_tf.learners.base.embedding_learner import EmbeddingLearner
from maml_tf.learners.base.gradient_learner import GradientLearner
from maml_tf.learners.base.learner import Learner
from maml_tf.learners.maml import MAML
from maml_tf.learners.prototypical import Prototypical
from maml_tf.learners.reptile import Reptile

__all__ = ["MAML", "EmbeddingLearner", "GradientLearner", "Learner", "Prototypical", "Reptile"]
