"""The inner loop under its public name; see `maml_tf.inner.loop`."""

from maml_tf.inner.description import InnerLoop
from maml_tf.inner.loop import (
    Adapted,
    adapt,
    adapt_in_loop,
    adaptable_weights,
    gradient_step,
    initial_slots,
    weight_constraints,
)

__all__ = [
    "Adapted",
    "InnerLoop",
    "adapt",
    "adapt_in_loop",
    "adaptable_weights",
    "gradient_step",
    "initial_slots",
    "weight_constraints",
]
