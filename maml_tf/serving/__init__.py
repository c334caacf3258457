"""Trained learners outside of Python: exports for TensorFlow Serving, and a client of it."""

from maml_tf.serving.client import Client, ServingError
from maml_tf.serving.export import export

__all__ = ["Client", "ServingError", "export"]
