"""Reinforcement learning (Finn et al., 2017, section 5.3) on TF-Agents environments."""

from maml_tf.rl import (
    advantages,
    environments,
    evaluation,
    objectives,
    policies,
    sampling,
    trust_region,
)
from maml_tf.rl.export import export
from maml_tf.rl.meta_policy import MetaPolicy
from maml_tf.rl.trust_region import TrustRegion

# The other modules are there for those who build algorithms of their own from their parts.
__all__ = ["MetaPolicy", "TrustRegion", "environments", "evaluation", "export", "policies"]
