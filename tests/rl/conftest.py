# First of all: TF-Agents can only be imported after this (see maml_tf/rl/_tf_agents.py).
import maml_tf.rl  # noqa: F401
