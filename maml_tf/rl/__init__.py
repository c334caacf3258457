"""Reinforcement learning (Finn et al., 2017, section 5.3) on TF-Agents environments."""

# The modules of the second line are no part of `__all__`; who builds algorithms of their own from
# their parts finds them here, too.
from maml_tf.rl import (  # noqa: F401, I001
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

__all__ = ["MetaPolicy", "TrustRegion", "environments", "evaluation", "export", "policies"]
