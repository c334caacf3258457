"""Trained learners outside of Python: exports for TensorFlow Serving and LiteRT, and a client."""

from maml_tf.serving.client import Client
from maml_tf.serving.errors import ServingError
from maml_tf.serving.export import export
from maml_tf.serving.litert.export import export_litert
from maml_tf.serving.policy_client import PolicyClient

__all__ = ["Client", "PolicyClient", "ServingError", "export", "export_litert"]
