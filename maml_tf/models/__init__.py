"""The papers' networks, and a residual one of today: plain builders of `keras.Model`."""

from maml_tf.models.authors import from_authors
from maml_tf.models.embedding import embedding
from maml_tf.models.mini_imagenet import conv4_max_pool, resnet12
from maml_tf.models.omniglot import conv4, dense5
from maml_tf.models.sinusoid import sinusoid_mlp

__all__ = [
    "conv4",
    "conv4_max_pool",
    "dense5",
    "embedding",
    "from_authors",
    "resnet12",
    "sinusoid_mlp",
]
