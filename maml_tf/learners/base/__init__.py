"""The Keras shell: what all learners are, and those by gradients and by embedding."""
