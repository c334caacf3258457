"""Trained learners outside of Python: exports for TensorFlow Serving, and a client of it."""

from maml_tf.serving.client import Client
from maml_tf.serving.errors import ServingError
from maml_tf.serving.export import export
from maml_tf.serving.policy_client import PolicyClient

__all__ = ["Client", "PolicyClient", "ServingError", "export"]
