"""The paper's networks, plain builders of `keras.Model`."""

from maml_tf.models.omniglot import conv4, dense5
from maml_tf.models.sinusoid import sinusoid_mlp

__all__ = ["conv4", "dense5", "sinusoid_mlp"]
