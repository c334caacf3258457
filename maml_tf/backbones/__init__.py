"""Networks that have seen the world already, frozen, in front of a learner.

What a backbone makes of a data set never changes, so it is computed once and kept on disk
(`features`), and a learner is trained on tasks of such features: a meta-step takes milliseconds.
Afterwards `WithBackbone` puts both together again, and adapts and predicts from pictures, or from
whatever else stands at the beginning: a tokeniser is a backbone of sentences.
"""

from maml_tf.backbones.feature_tasks import features
from maml_tf.backbones.learner import WithBackbone
from maml_tf.backbones.networks import pretrained, split

__all__ = ["WithBackbone", "features", "pretrained", "split"]
