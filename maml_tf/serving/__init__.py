"""Exports of trained learners that adapt to a request."""

from maml_tf.serving.export import export

__all__ = ["export"]
