# First of all: TF-Agents can only be imported after this (see maml_tf/rl/_tf_agents.py).
from tests.conftest import HAS_TF_AGENTS

if HAS_TF_AGENTS:
    import maml_tf.rl  # noqa: F401
