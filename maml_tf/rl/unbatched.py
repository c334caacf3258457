"""What Keras' training loop does with batches of data, which a meta-policy is not given."""

import keras


class Unbatched(keras.Model):
    """A model that is trained in an environment alone: methods that take batches say so."""

    def evaluate(self, *args, **kwargs):
        """Not for a meta-policy: see `maml_tf.rl.evaluation.evaluate`."""
        raise _no_batches("evaluate", "`maml_tf.rl.evaluation.evaluate(learner, environment)`")

    def train_on_batch(self, *args, **kwargs):
        """Not for a meta-policy: see `fit`."""
        raise _no_batches("train_on_batch", "`learner.fit(environment, steps_per_epoch=1)`")

    def test_on_batch(self, *args, **kwargs):
        """Not for a meta-policy: see `maml_tf.rl.evaluation.evaluate`."""
        raise _no_batches("test_on_batch", "`maml_tf.rl.evaluation.evaluate(learner, environment)`")


def _no_batches(method, instead):
    return NotImplementedError(
        "Expected a method that draws rollouts in an environment: a meta-policy takes no batches "
        f"of data. Received: a call of `{method}`. Use {instead}."
    )
